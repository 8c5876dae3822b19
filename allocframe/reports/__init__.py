"""Postmortems and cluster reports, for people who were not there."""

from __future__ import annotations

from .cluster import Trends, cluster_summary, trends
from .postmortem import Postmortem, postmortem
from .render import format_table
from .report import missing_packages, report

__all__ = [
    "Postmortem",
    "Trends",
    "cluster_summary",
    "format_table",
    "missing_packages",
    "postmortem",
    "report",
    "trends",
]
