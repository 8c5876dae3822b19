"""Instances that do not start, or do not become healthy, for longer than those before them took."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ._attempts import ENDS
from ._blocked_starts import PULL, find_blocked_starts
from ._changes import Ledger
from ._failures import Case
from ._groups import ONGOING, Jobs
from ._others import alloc_keys, make
from ._slow_health import find_not_healthy
from ._tables import NEVER, Array
from ._usual import by_version, how_slow, job_of, numbers_of, usual_of
from .finding import Thresholds
from .incident import Cause, Evidence, Hypothesis, Incident

_PROGRESS = {"Downloading Artifacts": "artifact", "Driver": "driver", "Template": "template"}
"""Events of a start under way, by what it waits for."""


def find_slow_starts(
    case: Case, jobs: Jobs, in_groups: Array, limits: Thresholds, history: Any, ledger: Ledger
) -> Iterator[Incident]:
    """Yield the jobs of which instances have not started, or have not become healthy, for too long.

    `in_groups` says which allocations belong to incidents of failures already.
    """
    rows = case.evidence.allocations
    alive = rows["desired_status"].eq("run").to_numpy(dtype=bool) & case.instances.final & ~in_groups
    alive &= (rows["created_at"].to_numpy() != NEVER) & ~case.instances.lost
    status = rows["client_status"].astype("str").to_numpy(dtype=object)
    yield from _not_started(case, jobs, alive & (status == "pending"), limits, ledger)
    runs = alive & (status == "running")
    for incident, alloc in find_blocked_starts(case, runs, limits, ledger):
        runs[alloc] = False
        yield incident
    yield from find_not_healthy(case, jobs, runs, limits, history, ledger)


def _times_to_start(case: Case) -> Array:
    """Return how long each allocation took until its first task started; -1 where that is not known."""
    tasks, created = case.evidence.tasks, case.evidence.allocations["created_at"].to_numpy()
    first = np.full(len(created), np.iinfo(np.int64).max)
    # after a restart the state of a task has the time of its last start
    known = tasks["restarts"].eq(0).to_numpy() & (tasks["started"].to_numpy() != NEVER)
    np.minimum.at(first, tasks["alloc"].to_numpy()[known], tasks["started"].to_numpy()[known])
    unknown = (first == np.iinfo(np.int64).max) | (created == NEVER)
    return np.where(unknown, -1, np.maximum(first - np.where(unknown, 0, created), 0))


def _not_started(
    case: Case, jobs: Jobs, waits: Array, limits: Thresholds, ledger: Ledger
) -> Iterator[Incident]:
    """Yield the jobs with allocations that have waited for their start for too long, without any failure."""
    since, again = _waits_since(case)
    age = case.now - since
    usual = usual_of(case, _times_to_start(case))
    stuck = age > pd.Timedelta(limits.start_overdue).value
    told = (age > pd.Timedelta(limits.template_wait).value) & _lacks_data(case)
    slow, far = how_slow(age, usual, limits)
    for alloc in by_version(case, np.flatnonzero(waits & (stuck | told | slow))):
        kind, step, text = _waits_for(case, alloc)
        pulls = kind == "driver"
        is_far = far[alloc] & (age[alloc] > PULL.value) if pulls else far[alloc]
        loud = stuck[alloc] | told[alloc] | is_far
        facts = {
            "waiting": len(alloc),
            **numbers_of(case, jobs, alloc, age, usual),
            "message": text,
            "step": step,
            "again": int(again[alloc].sum()),
        }
        confidence = "unknown" if kind == "unknown" else "likely" if text else "possible"
        evidence = Evidence("never started", facts, alloc_keys(case, alloc))
        cause = Cause(kind, kind if kind != "unknown" else None, job_of(case, alloc), confidence, [evidence])
        half = limits.critical_share * max(facts["instances_wanted"], 1)
        severity = "critical" if int(stuck[alloc].sum()) >= half else "warning" if loud.any() else "info"
        incident = make(case, alloc, cause, severity, ONGOING, since[alloc], facts)
        yield replace(incident, hypotheses=[cause, *_of_version(case, alloc, kind, facts, ledger)])


def _waits_since(case: Case) -> tuple[Array, Array]:
    """Return since when each allocation waits, if it does, and whether a task that waits had run before.

    One that has run waits from the end of its last run on, not from its creation.
    """
    created = case.evidence.allocations["created_at"].to_numpy()
    tasks, alloc = case.evidence.tasks, case.evidence.tasks["alloc"].to_numpy()
    ended = tasks["finished"].to_numpy().copy()
    over = case.attempts[case.attempts["end"].ne(ENDS.index("running")).to_numpy(dtype=bool)]
    np.maximum.at(ended, over["owner"].to_numpy(), over["at"].to_numpy())
    ran = tasks["started"].to_numpy() != NEVER
    since, again = created.copy(), np.zeros(len(created), dtype=bool)
    known = ran & (created[alloc] != NEVER)
    np.maximum.at(since, alloc[known], ended[known])
    again[alloc[ran & tasks["state"].eq("pending").to_numpy(dtype=bool)]] = True
    return since, again


def _of_version(
    case: Case, alloc: Array, kind: str, facts: dict[str, Any], ledger: Ledger
) -> Iterator[Hypothesis]:
    """Yield the version that changed what these allocations wait for, if it did."""
    job, version = case.instances.families[int(case.instances.family[alloc[0]])], facts["job_version"]
    fields = ledger.fields_touching(job, version, kind) if version is not None else []
    if fields:
        evidence = Evidence("change touches", {"job_version": version, "fields": fields})
        yield Hypothesis(
            "job version", kind, job_of(case, alloc) | {"job_version": version}, "possible", [evidence]
        )


def _lacks_data(case: Case) -> Array:
    """Return which allocations have a task whose last word is that its template misses something."""
    events = case.evidence.events
    # what its deployment says of it is not an event of its start
    of_start = np.flatnonzero(~events["type"].eq("Alloc Unhealthy").to_numpy(dtype=bool))
    owner = events["owner"].to_numpy()[of_start]
    last = events.iloc[of_start[np.append(owner[1:] != owner[:-1], True)[: len(owner)]]]
    last = last[last["type"].eq("Template")]
    missing = last[last["text"].astype("str").str.startswith("Missing")]
    result = np.zeros(len(case.evidence.allocations), dtype=bool)
    result[case.evidence.tasks["alloc"].to_numpy()[missing["owner"]]] = True
    return result


def _waits_for(case: Case, alloc: Array) -> tuple[str, str | None, str | None]:
    """Return what the last event of these allocations says of the start under way: kind, type and words."""
    owners = np.flatnonzero(np.isin(case.evidence.tasks["alloc"].to_numpy(), alloc))
    events = case.evidence.events
    mine = events[np.isin(events["owner"].to_numpy(), owners)]
    last = mine[~mine["type"].eq("Alloc Unhealthy")].drop_duplicates("owner", keep="last")
    if last.empty:
        return "unknown", None, None
    types = last["type"].astype("str")
    kinds = types.map(_PROGRESS).dropna()
    if kinds.empty:
        return "unknown", str(types.mode().iloc[0]), None
    kind = str(kinds.mode().iloc[0])
    texts = last["text"].astype("str")[types.map(_PROGRESS).eq(kind) & last["text"].notna()]
    return kind, str(types[types.map(_PROGRESS).eq(kind)].iloc[0]), str(texts.iloc[0]) if len(texts) else None
