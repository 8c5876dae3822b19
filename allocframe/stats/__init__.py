"""Statistics of allocations and task events: pure functions from tables to tidy tables."""

from __future__ import annotations

from . import meanings
from .headroom import headroom
from .lifetimes import cumulative_restarts, ends, survival
from .loops import crash_loops
from .meaning import explain_events, explain_stops
from .nodes import blast_radius, concentration, lemon_nodes
from .placement import placement_failures
from .rates import failed_starts, failure_share, failures, oom_kills, restarts
from .rescheduling import chains
from .rollouts import rollouts
from .runs import availability, mtbf, outages, runs, time_to_recover
from .storms import failure_clustering, restart_storms
from .survival import cumulative_incidence, kaplan_meier, laplace, logrank, mean_cumulative
from .trends import daily, failure_change

__all__ = [
    "availability",
    "blast_radius",
    "chains",
    "concentration",
    "crash_loops",
    "cumulative_incidence",
    "cumulative_restarts",
    "daily",
    "ends",
    "explain_events",
    "explain_stops",
    "failed_starts",
    "failure_change",
    "failure_clustering",
    "failure_share",
    "failures",
    "headroom",
    "kaplan_meier",
    "laplace",
    "lemon_nodes",
    "logrank",
    "mean_cumulative",
    "meanings",
    "mtbf",
    "oom_kills",
    "outages",
    "placement_failures",
    "restart_storms",
    "restarts",
    "rollouts",
    "runs",
    "survival",
    "time_to_recover",
]
