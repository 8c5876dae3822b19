"""Statistics of allocations and task events: functions from a snapshot, or its tables, to tidy tables."""

from __future__ import annotations

from . import vocabulary
from .availability import availability, error_budget, outages, time_to_recover
from .changepoints import changepoints
from .common_onsets import common_onsets
from .crash_loops import crash_loops
from .deployments import change_failure_rate, deployments
from .estimators import cumulative_incidence, kaplan_meier, laplace, logrank, mean_cumulative
from .explain import explain_events, explain_stops
from .headroom import headroom
from .job_runs import job_runs, wasted_time
from .nodes import blast_radius, failure_ranking, lemon_nodes
from .placement import placement_failures
from .rates import failed_starts, failure_share, failures, oom_kills, restarts
from .reliability import mtbf
from .replacements import reschedule_chains
from .restart_storms import failure_clustering, restart_storms
from .rollouts import rollouts
from .runs import runs
from .start_latency import clock_offset, start_latency
from .survival import cumulative_restarts, end_causes, survival
from .trends import compare_periods, daily

__all__ = [
    "availability",
    "blast_radius",
    "change_failure_rate",
    "changepoints",
    "clock_offset",
    "common_onsets",
    "compare_periods",
    "crash_loops",
    "cumulative_incidence",
    "cumulative_restarts",
    "daily",
    "deployments",
    "end_causes",
    "error_budget",
    "explain_events",
    "explain_stops",
    "failed_starts",
    "failure_clustering",
    "failure_ranking",
    "failure_share",
    "failures",
    "headroom",
    "job_runs",
    "kaplan_meier",
    "laplace",
    "lemon_nodes",
    "logrank",
    "mean_cumulative",
    "mtbf",
    "oom_kills",
    "outages",
    "placement_failures",
    "reschedule_chains",
    "restart_storms",
    "restarts",
    "rollouts",
    "runs",
    "start_latency",
    "survival",
    "time_to_recover",
    "vocabulary",
    "wasted_time",
]
