"""The diagnosis of one cluster: evidence in, incidents out, and what of it nothing explains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from .._utils.memory import give_back
from ._absent import find_absent
from ._causes import find_causes
from ._changes import Ledger, attach_changes
from ._deployments import find_failed_deployments
from ._failures import Case
from ._gone import find_gone
from ._groups import GAVE_UP, ONGOING, describe_jobs, group_failures
from ._held_room import join_hung_runs
from ._others import find_others
from ._placement import find_waiting
from ._quiet import find_quiet
from ._requests import find_requests
from ._slow_health import under_way
from ._tables import moment
from .finding import SEVERITIES, Thresholds
from .incident import STATES, Incident


@dataclass(frozen=True)
class Account:
    """What had to be explained, and how much of it is: the all-clear needs a balance of zero.

    Attributes
    ----------
    allocations, failed_allocations, lost_allocations, failed_tasks, restarts : int
        Counted from the tables.
    unexplained : int
        How many of them belong to no incident and no request, or to one of unknown cause.
    unreadable : int
        Allocations without an ID, of which nothing can be said.
    under_way : tuple of tuple
        Namespace, job and version of each deployment that is under way.
    """

    allocations: int = 0
    failed_allocations: int = 0
    lost_allocations: int = 0
    failed_tasks: int = 0
    restarts: int = 0
    unexplained: int = 0
    unreadable: int = 0
    under_way: tuple[tuple[str, str, int], ...] = ()

    def plus(self, other: Account) -> Account:
        """Return the sum of two clusters' accounts."""
        return Account(**{name: value + getattr(other, name) for name, value in self.__dict__.items()})


def investigate(
    case: Case,
    history: Any,
    evaluations: pd.DataFrame | None,
    limits: Thresholds,
) -> tuple[list[Incident], Account]:
    """Return the incidents of one cluster, the worst first, and the account of what they explain."""
    jobs = describe_jobs(case)
    give_back(len(case.evidence.events))
    groups = group_failures(case, jobs, limits)
    give_back(len(case.evidence.events))
    in_groups = np.zeros(len(case.evidence.allocations), dtype=bool)
    hit = np.unique(case.instances.lane[case.failures["alloc"].to_numpy()])
    in_groups[np.isin(case.instances.lane, hit)] = True
    ledger = Ledger(case, history)
    incidents = find_causes(case, jobs, groups, limits, ledger)
    fail_now = np.zeros(len(in_groups), dtype=bool)
    for group in groups:
        if group.state in (ONGOING, GAVE_UP):
            fail_now[case.failures["alloc"].to_numpy()[group.rows]] = True
    incidents += find_others(case, jobs, in_groups, fail_now, limits, ledger)
    incidents += find_requests(case, ledger)
    incidents += find_waiting(case, evaluations, getattr(history, "nodes", None), ledger, limits)
    incidents += find_quiet(case, jobs, in_groups, history, evaluations, incidents, limits, ledger)
    incidents = join_hung_runs(case, incidents)
    incidents += find_failed_deployments(case, history, incidents, limits)
    incidents += find_absent(case, history, ledger, incidents, limits)
    incidents += find_gone(case, history, ledger, limits)
    incidents = attach_changes(ledger, incidents)
    observed = moment(case.now)
    incidents = [replace(incident, observed_at=observed) for incident in incidents]
    incidents.sort(key=_rank)
    account = replace(_settle(case, incidents), under_way=under_way(history))
    give_back(len(case.evidence.events))
    return incidents, account


def _rank(incident: Incident) -> tuple[int, int, int, int]:
    began = 0 if incident.began_at is None else incident.began_at.value
    state = STATES.index(incident.state)
    return SEVERITIES.index(incident.severity), state, -len(incident.jobs), began


def _settle(case: Case, incidents: list[Incident]) -> Account:
    """Add up what had to be explained, and what is not."""
    rows, tasks = case.evidence.allocations, case.evidence.tasks
    failed = rows["client_status"].eq("failed").to_numpy(dtype=bool)
    failed_tasks = tasks["failed"].to_numpy(dtype=bool)
    unexplained_kinds = [each for each in incidents if each.cause.kind == "unknown"]
    in_unknown = rows["alloc_id"].astype("str").isin(
        {alloc for incident in unexplained_kinds for alloc in incident.alloc_ids}
    ).to_numpy(dtype=bool)  # fmt: skip
    explained = np.zeros(len(rows), dtype=bool)
    explained[case.failures["alloc"].to_numpy()] = True
    explained |= case.instances.lost
    alone = failed & (~explained | in_unknown)
    alloc = tasks["alloc"].to_numpy()
    lonely_tasks = failed_tasks & (~explained[alloc] | in_unknown[alloc]) & ~alone[alloc]
    # a restart that the ring shows has its end; one that only the counter knows needs failures besides
    owners = case.failures["owner"].to_numpy()
    has_failure = np.zeros(len(tasks), dtype=bool)
    has_failure[owners[owners >= 0]] = True
    lost = case.lost_restarts.copy()
    lost[has_failure & ~in_unknown[alloc]] = 0
    return Account(
        len(rows),
        int(failed.sum()),
        int(case.instances.lost.sum()),
        int(failed_tasks.sum()),
        int(tasks["restarts"].sum()),
        int(alone.sum() + lonely_tasks.sum() + lost.sum()),
        case.evidence.unreadable,
    )
