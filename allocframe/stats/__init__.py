"""Statistics of allocations and task events: pure functions from tables to tidy tables."""

from __future__ import annotations

from .meaning import explain_events, explain_stops
from .rates import failed_starts, failure_share, failures, oom_kills, restarts
from .rescheduling import chains
from .runs import availability, mtbf, outages, runs, time_to_recover
from .survival import cumulative_incidence, kaplan_meier, laplace, logrank, mean_cumulative

__all__ = [
    "availability",
    "chains",
    "cumulative_incidence",
    "explain_events",
    "explain_stops",
    "failed_starts",
    "failure_share",
    "failures",
    "kaplan_meier",
    "laplace",
    "logrank",
    "mean_cumulative",
    "mtbf",
    "oom_kills",
    "outages",
    "restarts",
    "runs",
    "time_to_recover",
]
