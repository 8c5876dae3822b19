"""What incidents cost: instances hit, time down, availability; and when each one was over.

An instance is a place of a job that allocations fill one after the other, as in the diagnosis. It is down
while a task of it that should run does not. Batch jobs have no availability: they run to an end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..diagnosis._instances import find_instances
from ..diagnosis._tables import read_rows
from ..diagnosis.disturbances import disturbances
from ..diagnosis.incident import Incident
from ..snapshot.snapshot import Snapshot
from ..stats._source import look_up
from ..stats._timeline import instance_tasks, segments, union_length
from ..stats.runs import build_runs
from ..stats.vocabulary import LOST

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
    """The instances of a snapshot, and when each was up."""

    def __init__(self, snapshot: Snapshot) -> None:
        rows = read_rows(snapshot)
        found = find_instances(rows)
        allocations = rows.allocations
        self.families: list[tuple[str, str]] = found.families
        self.allocations: pd.DataFrame = pd.DataFrame(
            {
                "family": found.family,
                "instance": found.lane,
                "wanted": found.wanted & found.final,
                "final": found.final,
                "has_runs": found.has_runs[found.family],
                "batch": allocations["job_type"].isin(_BATCH).to_numpy(dtype=bool),
                "node": allocations["node_name"].astype("str").to_numpy(dtype=object),
                "version": pd.to_numeric(allocations["job_version"]).to_numpy(
                    dtype="float64", na_value=np.nan
                ),
            },
            index=pd.Index(allocations["alloc_id"].astype("str"), name="alloc_id"),
        )
        self._tasks = instance_tasks(snapshot)
        self._parts = segments(self._tasks, build_runs(snapshot))
        # an allocation without an ID belongs to nothing
        known = look_up(self._tasks["alloc_id"], self.allocations["instance"]).fillna(-1)
        self._parts["instance"] = known.to_numpy(dtype="int64")[self._parts["owner"].to_numpy()]
        self._disturbances = disturbances(snapshot)

    def of(self, incident: Incident) -> set[int]:
        """Return the instances that an incident hit."""
        rows = self.allocations.reindex(incident.alloc_ids).dropna(subset=["instance"])
        return set(rows["instance"].astype("int64"))

    def job_of(self, instance: int) -> Job:
        """Return the job of an instance."""
        return self.families[int(self._families()[instance])]

    def _families(self) -> pd.Series[Any]:
        return self.allocations.drop_duplicates("instance").set_index("instance")["family"]

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
        families += [n for n, job in enumerate(self.families) if job in named and n not in families]
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

    def _uptimes(self, begin: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
        """Return microseconds wanted, down and unknown of each instance in a window."""
        first, last = begin.value // 1000, end.value // 1000
        parts = self._parts
        parts = parts[(parts["instance"] >= 0) & (parts["end"] > first) & (parts["begin"] < last)]
        low, high = parts["begin"].clip(lower=first).to_numpy(), parts["end"].clip(upper=last).to_numpy()
        numbers, instances = pd.factorize(parts["instance"])
        unknown, up = parts["unknown"].to_numpy(dtype=bool), parts["up"].to_numpy(dtype=bool)
        sums = {
            name: union_length(numbers[rows], low[rows], high[rows], len(instances))
            if rows.any()
            else np.zeros(len(instances))
            for name, rows in (("wanted", ~unknown), ("down", ~up & ~unknown), ("unknown", unknown))
        }
        return pd.DataFrame(sums, index=pd.Index(instances))

    def all_hit_at(self, incident: Incident) -> pd.Timestamp | None:
        """Return when the last of its instances failed for the first time, if it took some seconds."""
        if incident.began_before or incident.began_at is None or "lost" in incident.facts:
            return None
        rows = self._disturbances_of(incident)
        instance = self.allocations["instance"].reindex(rows["alloc_id"].astype("str")).to_numpy()
        first = rows.groupby(instance)["at"].min()
        if len(first) < 2 or len(first) < len(self.of(incident)):
            return None
        last = first.max()
        return last if last - incident.began_at >= _SOME_TIME else None

    def _disturbances_of(self, incident: Incident) -> pd.DataFrame:
        """Return the failures of an incident, or its losses, from its beginning to its end."""
        rows = self._disturbances
        lost = incident.cause.kind == "node" and incident.cause.mechanism == "lost"
        rows = rows[rows["alloc_id"].isin(incident.alloc_ids) & ((rows["cause"] == LOST) == lost)]
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
        lanes = self._tasks[["alloc_id", "task", "lane"]]
        whole = rows["task"].isna() | (rows["cause"] == LOST)
        hit = pd.concat(
            [
                rows[~whole].merge(lanes, on=["alloc_id", "task"]),
                rows[whole].drop(columns="task").merge(lanes, on="alloc_id"),
            ]
        )
        if hit.empty:
            return pd.Series(dtype="float64")
        hit = hit.assign(us=hit["at"].astype("datetime64[us, UTC]").astype("int64"))
        last = hit.sort_values("us").drop_duplicates("lane", keep="last")
        parts = self._parts.merge(last[["lane", "us"]], on="lane")
        # clocks of events and of the table of runs agree to the microsecond
        after = parts[parts["up"] & (parts["begin"] >= parts["us"] - 1)].groupby("lane")["begin"].min()
        over = parts.groupby("lane")["end"].max()  # it is no longer desired
        back = after.reindex(last["lane"]).fillna(over).to_numpy()
        instance = self.allocations["instance"].reindex(last["alloc_id"]).to_numpy()
        known = pd.Series(np.fmax(back, last["us"].to_numpy()), index=instance).dropna()
        return known.groupby(level=0).max()


def _sum(times: pd.DataFrame, instances: Any) -> Uptime:
    mine = times[times.index.isin(instances)].sum()
    lengths = (np.timedelta64(int(mine[name]), "us") for name in ("wanted", "down", "unknown"))
    return Uptime(*map(pd.Timedelta, lengths))


def minutes(length: pd.Timedelta) -> str:
    """Return time of instances in minutes, such as 45.7 or 1,203."""
    value = length / pd.Timedelta("1min")
    if 0 < value < 0.1:
        return "under 0.1"
    return f"{value:,.0f}" if value >= 100 or value == 0 else f"{value:.1f}"
