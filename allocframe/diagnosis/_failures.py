"""Failures, losses and requests: everything that has to be explained, one row each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from .._utils.memory import give_back
from ..snapshot.snapshot import Snapshot
from ._attempts import ENDS, FAILURES, kind_of_text, read_attempts
from ._clocks import set_clocks
from ._instances import Instances, find_instances
from ._tables import NEVER, Array, Rows, categories, read_rows

UNKNOWN = FAILURES.index("unknown")


@dataclass(frozen=True)
class Case:
    """The evidence of one cluster, put in order.

    Attributes
    ----------
    evidence, instances
        Its rows, and what they are instances of.
    attempts : pandas.DataFrame
        See `_attempts.read_attempts`, with `alloc` (row of the allocation) and `run` (length, -1 if unknown).
    failures : pandas.DataFrame
        One row per failure: alloc, owner (row of the task, -1 if the allocation failed before its tasks),
        kind (position in `FAILURES`), started, at, text, code, signal, told, run, gave_up.
    lost_restarts : numpy.ndarray
        Restarts of each task that its counter knows and its ring no longer shows.
    onset : numpy.ndarray
        When the failures of each task began: the first one, or before it as often as the counter says.
    earliest : numpy.ndarray
        The earliest that they can have begun: equal to `onset` where the ring shows all of them.
    texts : list of str
        Nomad's words, by their number.
    """

    evidence: Rows
    instances: Instances
    attempts: pd.DataFrame
    failures: pd.DataFrame
    lost_restarts: Array
    onset: Array
    earliest: Array
    texts: list[str]

    @property
    def now(self) -> int:
        """When the snapshot was taken."""
        return self.evidence.now

    @cached_property
    def nodes(self) -> Array:
        """The number of the node of each allocation, a position in `node_names`."""
        return self._named_nodes[0]

    @cached_property
    def healthy(self) -> Array:
        """Whether the deployment of each allocation has called it healthy."""
        known = self.evidence.allocations["deployment_healthy"].astype("boolean").fillna(False)
        result: Array = known.to_numpy(dtype=bool)
        return result

    @cached_property
    def first_started(self) -> Array:
        """When each task started first; `NEVER` if it never did, or if its event history lacks that start."""
        first = np.full(len(self.evidence.tasks), NEVER, dtype=np.int64)
        owner, index = np.unique(self.attempts["owner"].to_numpy(), return_index=True)
        first[owner] = self.attempts["started"].to_numpy()[index]
        result: Array = np.where(self.lost_restarts > 0, NEVER, first)
        return result

    @cached_property
    def node_names(self) -> list[str]:
        """The names of the nodes; "" is none."""
        return self._named_nodes[1]

    @cached_property
    def _named_nodes(self) -> tuple[Array, list[str]]:
        return categories(self.evidence.allocations["node_name"])


def build_case(snapshot: Snapshot) -> Case:
    """Read a snapshot of one cluster and find everything in it that has to be explained."""
    events = snapshot._counts["events"]
    evidence = read_rows(snapshot)
    give_back(events)
    set_clocks(evidence.allocations, evidence.tasks, evidence.events)
    instances = find_instances(evidence.allocations)
    attempts = read_attempts(evidence)
    give_back(events)
    for name in _OF_ATTEMPTS:
        del evidence.events[name]
    attempts["alloc"] = _of_tasks(evidence, attempts["owner"].to_numpy())
    attempts["run"] = _run_lengths(evidence, attempts)
    del attempts["first"]
    _fill_starts(evidence, attempts)
    _, texts = categories(evidence.events["text"])
    failures = attempts[attempts["end"] < len(FAILURES)]
    failures = failures.assign(kind=failures["end"], gave_up=failures["decision"].eq(2))
    told = attempts[attempts["end"] != ENDS.index("cut")]
    seen = np.bincount(told["owner"], told["restarts"], minlength=len(evidence.tasks))
    lost_restarts = np.maximum(evidence.tasks["restarts"].to_numpy() - seen.astype(np.int64), 0)
    silent_failures, texts = _failures_without_events(evidence, instances, failures, texts)
    columns = [
        "alloc", "owner", "kind", "started", "at", "text", "code", "signal", "told", "run", "gave_up",
    ]  # fmt: skip
    failures = pd.concat([failures[columns], silent_failures[columns]], ignore_index=True)
    onset, earliest = _onsets(evidence, failures, lost_restarts)
    give_back(events)
    return Case(evidence, instances, attempts, failures, lost_restarts, onset, earliest, texts)


_OF_ATTEMPTS = (
    "restart_reason", "task_signal", "exit_code", "signal", "fails_task", "oom", "told",
)  # fmt: skip
"""Columns of events that nothing but attempts is made of."""


def _of_tasks(evidence: Rows, owner: Array) -> Array:
    alloc: Array = evidence.tasks["alloc"].to_numpy()[owner] if len(owner) else owner
    return alloc


def _fill_starts(evidence: Rows, attempts: pd.DataFrame) -> None:
    """Take the last start of each task from its events, where its state does not say it."""
    seen = np.full(len(evidence.tasks), NEVER, dtype=np.int64)
    np.maximum.at(seen, attempts["owner"].to_numpy(), attempts["started"].to_numpy())
    started = evidence.tasks["started"].to_numpy()
    evidence.tasks["started"] = np.where(started == NEVER, seen, started)


def _run_lengths(evidence: Rows, attempts: pd.DataFrame) -> Array:
    """Return how long each attempt ran; at least so long, where its start is lost; -1 if it never ran."""
    started, first, at = (attempts[name].to_numpy() for name in ("started", "first", "at"))
    end = attempts["end"].to_numpy()
    exited = attempts["code"].to_numpy() != -1
    begin = np.where(started != NEVER, started, np.where(exited, first, NEVER))
    stop = np.where(end == ENDS.index("running"), evidence.now, at)
    # an exit alone, with its start lost, tells nothing of the run before it
    known = (begin != NEVER) & (stop != NEVER) & ((started != NEVER) | (stop > begin))
    length: Array = np.where(known, np.maximum(stop - np.where(known, begin, stop), 0), -1)
    return length


def ends_before_starts(case: Case) -> pd.DataFrame:
    """Return the runs that end before they start, by the clock of their node."""
    attempts = case.attempts
    over = ~attempts["end"].isin([ENDS.index(name) for name in ("running", "interrupted")])
    known = (attempts["started"] != NEVER) & (attempts["at"] != NEVER)
    skewed = attempts[over & known & (attempts["at"] < attempts["started"])]
    rows = case.evidence.allocations.iloc[skewed["alloc"]]
    return pd.DataFrame(
        {
            "alloc_id": rows["alloc_id"].astype("str").to_numpy(dtype=object),
            "task": case.evidence.tasks["task"].to_numpy()[skewed["owner"]],
            "node_name": rows["node_name"].astype("str").to_numpy(dtype=object),
            "started_at": pd.to_datetime(skewed["started"].to_numpy(), utc=True),
            "ended_at": pd.to_datetime(skewed["at"].to_numpy(), utc=True),
        }
    )


def _failures_without_events(
    evidence: Rows, instances: Instances, failures: pd.DataFrame, texts: list[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Return a failure for each failed allocation and each failed task whose events show none."""
    rows = evidence.allocations
    explained = np.zeros(len(rows), dtype=bool)
    explained[failures["alloc"]] = True
    failed = rows["client_status"].eq("failed").to_numpy(dtype=bool)
    by_task = np.zeros(len(rows), dtype=bool)
    by_task[evidence.tasks["alloc"][evidence.tasks["failed"].to_numpy(dtype=bool)]] = True
    silent = np.flatnonzero((failed | by_task) & ~explained & ~instances.lost)
    words, descriptions = categories(rows["client_description"])
    kinds = np.array([_kind_of_description(text) for text in descriptions], dtype=np.int64)
    finished = np.full(len(rows), NEVER, dtype=np.int64)
    np.maximum.at(finished, evidence.tasks["alloc"], evidence.tasks["finished"])
    at = np.where(finished == NEVER, rows["modified_at"], finished)
    frame = pd.DataFrame(
        {
            "alloc": silent,
            "owner": np.full(len(silent), -1),
            "kind": kinds[words][silent],
            "started": NEVER,
            "at": at[silent],
            "text": words[silent] + len(texts),
            "code": -1,
            "signal": -1,
            "told": False,
            "run": -1,
            "gave_up": True,
        }
    )
    return frame, [*texts, *descriptions]


_SAYS_NOTHING = ("", "Failed tasks", "All tasks have completed", "Tasks are running", "No tasks have started")


def _kind_of_description(text: str) -> int:
    return UNKNOWN if text in _SAYS_NOTHING else FAILURES.index(kind_of_text(text))


_ALIKE = 1.25
"""Paces that differ by this factor at most are one: restarts have a delay of their own policy, and jitter."""


def _pooled(paces: Array) -> Array:
    """Return, for each pace, the median of those that are about the same."""
    known = np.sort(paces[paces > 0])
    if not len(known):
        return paces
    low = np.searchsorted(known, paces / _ALIKE, side="left")
    high = np.searchsorted(known, paces * _ALIKE, side="right")
    middle = np.minimum((low + high) // 2, len(known) - 1)
    return np.where(paces > 0, known[middle], paces)


def _seen_healthy(evidence: Rows, failures: pd.DataFrame, created: Array) -> Array:
    """Return when each task's allocation was called healthy, if that was not between two of its failures.

    What ends right after each start now did not when its deployment saw it live for its healthy time.
    """
    alloc = evidence.tasks["alloc"].to_numpy()
    healthy = evidence.allocations["deployment_healthy"].astype("boolean").fillna(False)
    at = np.where(healthy, evidence.allocations["deployment_health_at"].to_numpy(), NEVER)[alloc]
    run = failures["run"].clip(lower=0).groupby(failures["owner"].to_numpy()).median()
    typical = run.reindex(np.arange(len(alloc))).fillna(0).to_numpy()
    return np.where((created != NEVER) & (typical < _TOO_SHORT), at, NEVER)


_TOO_SHORT = 10**9
"""Nobody calls a task healthy that lives for less than a second: the default is ten."""

_JITTER = 1.25
"""Nomad delays each restart by up to a quarter more than its policy says."""


def _onsets(evidence: Rows, failures: pd.DataFrame, lost_restarts: Array) -> tuple[Array, Array]:
    """Return when the failures of each task began, and the earliest that they can have; `NEVER` for none.

    A ring shows the last few. The counter says how many more there were; they are taken to have come at the
    pace of those that the ring shows, and not before the allocation was created. Over twenty failures a small
    error of the pace is half a minute. So at the earliest all came at the slowest pace on record; and tasks
    that fail at about the same pace are given the same, so that what began together is seen to have.
    """
    tasks = evidence.tasks
    known = failures[(failures["owner"] >= 0) & (failures["at"] != NEVER)].sort_values(["owner", "at"])
    slowest = known["at"].diff().where(known["owner"].diff().eq(0)).groupby(known["owner"]).max()
    by_task = known.groupby("owner")["at"].agg(["min", "max", "size"])
    first = np.full(len(tasks), NEVER, dtype=np.int64)
    pace, most = np.zeros((2, len(tasks)), dtype=np.int64)
    owner = by_task.index.to_numpy(dtype=np.int64)
    first[owner] = by_task["min"]
    between: pd.Series[int] = (by_task["max"] - by_task["min"]) // np.maximum(by_task["size"] - 1, 1)
    pace[owner] = _pooled(between.to_numpy())
    most[owner] = (slowest.fillna(0).to_numpy() * _JITTER).astype(np.int64)
    created = evidence.allocations["created_at"].to_numpy()[tasks["alloc"].to_numpy()]
    created = np.maximum(created, _seen_healthy(evidence, failures, created))
    floor = np.minimum(np.where(created == NEVER, first, created), first)
    # a single failure in the ring: the others are spread evenly over the time before it
    alone = (first != NEVER) & (pace == 0) & (created != NEVER)
    spread = (first - np.where(alone, created, first)) // (lost_restarts + 1)
    pace = np.where(alone, np.maximum(spread, 0), pace)
    onset = np.maximum(first - pace * lost_restarts, floor)
    earliest = np.maximum(first - np.maximum(most, pace) * lost_restarts, floor)
    earliest = np.where(alone & (lost_restarts > 0), floor, earliest)
    return tuple(np.where(first == NEVER, NEVER, each) for each in (onset, earliest))  # type: ignore[return-value]
