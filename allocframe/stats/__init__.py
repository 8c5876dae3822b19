"""Statistics of allocations and task events: pure functions from tables to tidy tables."""

from __future__ import annotations

from . import vocabulary as meanings
from .crash_loops import crash_loops
from .estimators import cumulative_incidence, kaplan_meier, laplace, logrank, mean_cumulative
from .explain import explain_events, explain_stops
from .headroom import headroom
from .nodes import blast_radius, concentration, lemon_nodes
from .placement import placement_failures
from .rates import failed_starts, failure_share, failures, oom_kills, restarts
from .replacements import chains
from .restart_storms import failure_clustering, restart_storms
from .rollouts import rollouts
from .runs import availability, mtbf, outages, runs, time_to_recover
from .survival import cumulative_restarts, ends, survival
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
