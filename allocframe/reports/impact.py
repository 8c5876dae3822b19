"""What incidents cost: instances hit, time down, availability; and when each one was over.

An instance is a place of a job that allocations fill one after the other, as in the diagnosis. It is down
while a task of it that should run does not. Batch jobs have no availability: they run to an end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .._utils.memory import give_back, return_memory
from ..diagnosis._instances import find_instances
from ..diagnosis._tables import Array, read_allocations
from ..diagnosis.disturbances import disturbances
from ..diagnosis.incident import Incident
from ..snapshot.snapshot import Snapshot
from ..stats._derived import PART_ROWS, share_derived
from ..stats._source import find_texts, take_rows
from ..stats._timeline import instance_tasks, segments, union_length
from ..stats.runs import build_runs

Job = tuple[str, str]
_CLOCKS, _SOME_TIME = pd.Timedelta("1s"), pd.Timedelta("5s")
_BATCH = ("batch", "sysbatch")
_NONE = pd.Timedelta(0).as_unit("us")
"""No time. In nanoseconds, the time of a hundred thousand instances would not fit: 292 years are the most."""
_BUDGET_DAYS = pd.Timedelta("30D").as_unit("us")
"""Error budgets are kept by the month."""


@dataclass(frozen=True)
class Uptime:
    """How long instances were up and down.

    Attributes
    ----------
    wanted, down, unknown : pandas.Timedelta
        Time of instances: in which they should have run; of it, down; and that no event tells about.
    """

    wanted: pd.Timedelta = _NONE
    down: pd.Timedelta = _NONE
    unknown: pd.Timedelta = _NONE

    @property
    def availability(self) -> float | None:
        """Share of the wanted time that they were up; None without any."""
        return 1 - self.down / self.wanted if self.wanted > _NONE else None

    def is_enough_before(self, during: Uptime) -> bool:
        """Return whether a time before is long enough to compare with: a tenth, and a minute at least."""
        return self.wanted >= max(during.wanted / 10, pd.Timedelta("1min"))

    def plus(self, other: Uptime) -> Uptime:
        """Return the sum of two jobs' times."""
        return Uptime(self.wanted + other.wanted, self.down + other.down, self.unknown + other.unknown)

    def budget_used(self, target: float, window: pd.Timedelta | None = None) -> float | None:
        """Return which share of an error budget the downtime is; None without any wanted time.

        The budget is that of the wanted time or, if `window` says how long that was looked at, of 30 days.
        """
        if self.wanted <= _NONE or (window is not None and window <= _NONE):
            return None
        if window is None:
            return self.down / (self.wanted * (1 - target))
        instances = (self.wanted + self.unknown) / window
        return self.down / (instances * _BUDGET_DAYS * (1 - target))


@dataclass(frozen=True)
class JobImpact:
    """What happened to one job.

    Attributes
    ----------
    job : tuple
        Namespace and job.
    instances, hit : int
        Instances that it wants (or wanted last), and how many of them incidents hit.
    has_runs : bool
        Periodic or parameterized: its instances are runs.
    during, before : Uptime or None
        From the beginning of the incidents to their end, and before; None for batch jobs.
    """

    job: Job
    instances: int
    hit: int
    has_runs: bool
    during: Uptime | None
    before: Uptime | None


@dataclass(frozen=True)
class Course:
    """When an incident was mitigated and over.

    Attributes
    ----------
    mitigated_at : Timestamp or None
        From then on at most half of the instances that it hit were down.
    recovered_at : Timestamp or None
        From then on none was.
    """

    mitigated_at: pd.Timestamp | None = None
    recovered_at: pd.Timestamp | None = None


class Instances:
    """The instances of a snapshot, and when each was up.

    Everything knows its allocation by the row in `allocations`: of a million, their IDs take a gigabyte if
    each table has them.
    """

    def __init__(self, snapshot: Snapshot, incidents: Sequence[Incident] = ()) -> None:
        events = snapshot._counts["events"]
        allocations = read_allocations(snapshot)
        found = find_instances(allocations)
        self.families: list[tuple[str, str]] = found.families
        self._ids: pd.Series[str] = allocations["alloc_id"]
        self._incidents: list[Incident] = []
        self._rows: dict[int, Array] = {}
        self.allocations: pd.DataFrame = pd.DataFrame(
            {
                "family": found.family,
                "instance": found.lane,
                "wanted": found.wanted & found.final,
                "final": found.final,
                "has_runs": found.has_runs[found.family],
                "batch": allocations["job_type"].isin(_BATCH).to_numpy(dtype=bool),
                "namespace": allocations["namespace"],
                "node": allocations["node_name"],
                "version": pd.to_numeric(allocations["job_version"]).to_numpy(
                    dtype="float64", na_value=np.nan
                ),
                "created": allocations["created_at"],
            }
        )
        del allocations, found
        # each step leaves memory that would come on top of the next one
        give_back(events)
        with return_memory(events), share_derived():
            tasks = instance_tasks(snapshot)[
                ["alloc_id", "task", "lane", "wanted_us", "unwanted_us", "known_us"]
            ]
            give_back(events)
            self._parts = segments(tasks, build_runs(snapshot))
        alloc = self._rows_of_ids(tasks["alloc_id"])
        # an allocation without an ID belongs to nothing
        known = np.append(self.allocations["instance"].to_numpy(), -1)[alloc]
        self._parts["instance"] = known[self._parts.pop("owner").to_numpy()].astype(np.int32)
        self._parts = take_rows(self._parts, np.argsort(self._parts["instance"].to_numpy(), kind="stable"))
        self._tasks = pd.DataFrame({"alloc": alloc, "task": tasks["task"], "lane": tasks["lane"]})
        del tasks
        self._find(incidents)
        give_back(events)
        rows = disturbances(snapshot)
        rows["alloc"] = self._rows_of_ids(rows.pop("alloc_id"))
        self._disturbances = rows[rows["alloc"] >= 0]
        del rows
        give_back(events)

    def _rows_of_ids(self, ids: pd.Series[Any]) -> Array:
        """Return the row of each allocation in `allocations`, of categories; -1 if it is not there."""
        rows: Array = find_texts(ids.cat.categories, self._ids)[ids.cat.codes.to_numpy()]
        return rows

    def _find(self, incidents: Sequence[Incident]) -> None:
        """Find the rows of all allocations of some incidents at once: there may be a thousand."""
        ids = [alloc_id for incident in incidents for alloc_id in incident.alloc_ids]
        rows = find_texts(pd.Series(ids, dtype="str"), self._ids)[:-1]
        ends = np.cumsum([len(incident.alloc_ids) for incident in incidents], dtype=np.int64)
        for incident, part in zip(incidents, np.split(rows, ends), strict=False):  # the last part is empty
            self._incidents.append(incident)  # kept, or its identity could become another's
            self._rows[id(incident)] = part[part >= 0]

    def _rows_of(self, incident: Incident) -> Array:
        """Return the rows of an incident's allocations."""
        if id(incident) not in self._rows:
            self._find([incident])
        return self._rows[id(incident)]

    def of(self, incident: Incident) -> set[int]:
        """Return the instances that an incident hit."""
        return set(self.allocations["instance"].to_numpy()[self._rows_of(incident)].tolist())

    def newest(self, incident: Incident) -> dict[str, str]:
        """Return the newest allocation of an incident: its alloc_id, namespace and node_name."""
        rows = np.sort(self._rows_of(incident))
        created = self.allocations["created"].to_numpy()[rows]
        row = rows[len(rows) - 1 - int(np.argmax(created[::-1]))]
        namespace, node = (str(self.allocations[name].iloc[row]) for name in ("namespace", "node"))
        return {"alloc_id": str(self._ids.iloc[row]), "namespace": namespace, "node_name": node}

    def impact(
        self,
        incidents: list[Incident],
        first: pd.Timestamp,
        begin: pd.Timestamp,
        end: pd.Timestamp,
    ) -> list[JobImpact]:
        """Return what happened to each job from `begin` to `end`, the worst hit first.

        `first` is where the evidence begins: the time before is from there to `begin`.
        """
        hit = set().union(*(self.of(incident) for incident in incidents)) if incidents else set()
        rows = self.allocations
        hit_rows = rows[rows["instance"].isin(hit)]
        families = list(dict.fromkeys(hit_rows["family"].tolist()))
        named = {job for incident in incidents for job in incident.jobs}
        seen = set(families)
        families += [n for n, job in enumerate(self.families) if job in named and n not in seen]
        during, before = self._uptimes(begin, end), self._uptimes(first, begin)
        found = []
        for family in families:
            mine = rows[rows["family"] == family]
            wanted = mine[mine["wanted"]] if mine["wanted"].any() else mine[mine["final"]]
            count = len(set(wanted["instance"]) | (hit & set(mine["instance"])))
            steady = not mine["batch"].all() and not mine["has_runs"].any()
            numbers = mine["instance"].unique()
            found.append(
                JobImpact(
                    self.families[family],
                    count,
                    len(hit & set(numbers)),
                    bool(mine["has_runs"].any()),
                    _sum(during, numbers) if steady else None,
                    _sum(before, numbers) if steady else None,
                )
            )
        return sorted(
            found, key=lambda each: (-(each.during.down if each.during else _NONE), -each.hit, each.job)
        )

    def uptime_by_job(self, begin: pd.Timestamp, end: pd.Timestamp) -> dict[Job, tuple[int, Uptime]]:
        """Return instances and uptime of each job that is not a batch job."""
        times = self._uptimes(begin, end)
        rows = self.allocations[~self.allocations["batch"] & ~self.allocations["has_runs"]]
        found = {}
        for family, part in rows.groupby("family", sort=False):
            wanted = part[part["wanted"]] if part["wanted"].any() else part[part["final"]]
            uptime = _sum(times, part["instance"].unique())
            found[self.families[int(str(family))]] = (wanted["instance"].nunique(), uptime)
        return found

    def _uptimes(self, begin: pd.Timestamp, end: pd.Timestamp) -> Array:
        """Return microseconds wanted, down and unknown (rows) of each instance (columns) in a window."""
        first, last = begin.value // 1000, end.value // 1000
        count = int(self.allocations["instance"].max()) + 1 if len(self.allocations) else 0
        sums = np.zeros((3, count))
        for low in range(0, count, PART_ROWS):
            edges = np.searchsorted(self._parts["instance"], [low, min(low + PART_ROWS, count)])
            parts = self._parts.iloc[slice(*edges)]
            parts = parts[(parts["end"] > first) & (parts["begin"] < last)]
            unknown, up = parts["unknown"].to_numpy(dtype=bool), parts["up"].to_numpy(dtype=bool)
            for number, chosen in enumerate((~unknown, ~up & ~unknown, unknown)):
                rows = parts[chosen]
                if len(rows):
                    begins, ends = rows["begin"].clip(lower=first), rows["end"].clip(upper=last)
                    instance = rows["instance"].to_numpy() - low
                    lengths = union_length(instance, begins.to_numpy(), ends.to_numpy(), PART_ROWS)
                    sums[number, low : low + PART_ROWS] = lengths[: count - low]
        return sums

    def all_hit_at(self, incident: Incident) -> pd.Timestamp | None:
        """Return when the last of its instances failed for the first time, if it took some seconds."""
        if incident.began_before or incident.began_at is None or "lost" in incident.facts:
            return None
        rows = self._disturbances_of(incident)
        first = rows.groupby(self.allocations["instance"].to_numpy()[rows["alloc"]])["at"].min()
        if len(first) < 2 or len(first) < len(self.of(incident)):
            return None
        last = first.max()
        return last if last - incident.began_at >= _SOME_TIME else None

    def _disturbances_of(self, incident: Incident) -> pd.DataFrame:
        """Return the failures of an incident, or its losses, from its beginning to its end."""
        rows = _with(self._disturbances, "alloc", self._rows_of(incident))
        lost = incident.cause.kind == "node" and incident.cause.mechanism == "lost"
        rows = rows[rows["lost"] == lost]
        if incident.began_at is not None:
            rows = rows[rows["at"] >= incident.began_at - _CLOCKS]
        if incident.last_at is not None:
            rows = rows[rows["at"] <= incident.last_at + _CLOCKS]
        return rows

    def course(self, incident: Incident) -> Course:
        """Return when an incident was mitigated and over, as far as the events tell."""
        if incident.state not in ("recovered", "stopped"):
            return Course()
        back = self._back(self._disturbances_of(incident))
        hit = len(self.of(incident))
        if not hit or len(back) < hit:
            return Course()
        times = sorted(back.to_numpy(dtype="float64").tolist())
        at = [pd.Timestamp(int(time) * 1000, tz="UTC") for time in (times[hit - hit // 2 - 1], times[-1])]
        return Course(*at)

    def _back(self, rows: pd.DataFrame) -> pd.Series[Any]:
        """Return when each instance was back after its last disturbance, in microseconds."""
        lanes = _with(self._tasks, "alloc", rows["alloc"].to_numpy()).astype({"task": "str"})
        rows = rows.astype({"task": "str"})
        whole = rows["task"].isna() | rows["lost"]
        hit = pd.concat(
            [
                rows[~whole].merge(lanes, on=["alloc", "task"]),
                rows[whole].drop(columns="task").merge(lanes, on="alloc"),
            ]
        )
        if hit.empty:
            return pd.Series(dtype="float64")
        hit = hit.assign(us=hit["at"].astype("datetime64[us, UTC]").astype("int64"))
        last = hit.sort_values("us").drop_duplicates("lane", keep="last")
        parts = _with(self._parts, "lane", last["lane"].to_numpy()).merge(last[["lane", "us"]], on="lane")
        # clocks of events and of the table of runs agree to the microsecond
        after = parts[parts["up"] & (parts["begin"] >= parts["us"] - 1)].groupby("lane")["begin"].min()
        over = parts.groupby("lane")["end"].max()  # it is no longer desired
        back = after.reindex(last["lane"]).fillna(over).to_numpy()
        instance = self.allocations["instance"].to_numpy()[last["alloc"]]
        known = pd.Series(np.fmax(back, last["us"].to_numpy()), index=instance).dropna()
        return known.groupby(level=0).max()


def _with(table: pd.DataFrame, column: str, numbers: Array) -> pd.DataFrame:
    """Return the rows whose number, 0 or more, is one of some; quicker than looking each one up."""
    values = table[column].to_numpy()
    chosen = np.zeros(max(int(values.max(initial=0)), int(numbers.max(initial=0))) + 1, dtype=bool)
    chosen[numbers] = True
    rows: pd.DataFrame = table[chosen[values] & (values >= 0)]
    return rows


def _sum(times: Array, instances: Array) -> Uptime:
    lengths = (np.timedelta64(int(total), "us") for total in times[:, instances].sum(axis=1))
    return Uptime(*map(pd.Timedelta, lengths))


def minutes(length: pd.Timedelta) -> str:
    """Return time of instances in minutes, such as 45.7 or 1,203."""
    value = length / pd.Timedelta("1min")
    if 0 < value < 0.1:
        return "under 0.1"
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.1f}"
