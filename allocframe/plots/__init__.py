"""Plots: each draws what a statistic returns, on the axes given or on new ones, and returns the axes."""

from __future__ import annotations

from .headroom import headroom
from .nodes import funnel
from .restarts import heatmap, pareto
from .survival import cumulative_restarts, survival
from .timeline import timeline
from .trends import daily
from .waterfall import waterfall

__all__ = [
    "cumulative_restarts",
    "daily",
    "funnel",
    "headroom",
    "heatmap",
    "pareto",
    "survival",
    "timeline",
    "waterfall",
]
