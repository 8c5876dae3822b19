"""What is bad and makes no noise: nothing failed, and something is stuck."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ._changes import Ledger
from ._failures import Case
from ._groups import Jobs
from ._missing import find_missing
from ._slow_runs import find_slow_runs
from ._slow_starts import find_slow_starts
from ._tables import NEVER, Array
from ._waiting_deployments import find_waiting_deployments
from .finding import Thresholds
from .incident import Incident


def find_quiet(
    case: Case,
    jobs: Jobs,
    in_groups: Array,
    history: Any,
    evaluations: pd.DataFrame | None,
    incidents: list[Incident],
    limits: Thresholds,
    ledger: Ledger,
) -> list[Incident]:
    """Return what is stuck: starts, runs, deployments, and instances that nobody makes.

    `in_groups` says which allocations belong to the incidents of failures already; `incidents` are those that
    are known without what is quiet.
    """
    if case.now == NEVER:
        return []
    slow = list(find_slow_starts(case, jobs, in_groups, limits, history, ledger))
    return [
        *slow,
        *find_slow_runs(case, in_groups, limits, history, ledger),
        *find_waiting_deployments(case, history, incidents, ledger),
        *find_missing(case, history, evaluations, [*incidents, *slow], limits, ledger),
    ]
