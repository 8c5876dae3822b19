"""Plots: each draws what a statistic returns, on the axes given or on new ones, and returns the axes."""

from __future__ import annotations

from .budgets import error_budget
from .deployments import deployments
from .headroom import headroom
from .latency import start_latency
from .nodes import funnel
from .restarts import heatmap, pareto
from .runs_of_jobs import job_runs
from .survival import cumulative_restarts, survival
from .timeline import timeline
from .trends import daily
from .waterfall import waterfall

__all__ = [
    "cumulative_restarts",
    "daily",
    "deployments",
    "error_budget",
    "funnel",
    "headroom",
    "heatmap",
    "job_runs",
    "pareto",
    "start_latency",
    "survival",
    "timeline",
    "waterfall",
]
