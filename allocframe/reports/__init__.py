"""Postmortems and reports: the story of a snapshot, for people who were not there."""

from __future__ import annotations

from ..diagnosis.data_quality import evidence
from .cluster import Trends, overview, trends
from .postmortem import Postmortem, postmortem
from .render import readable
from .report import NOTEBOOKS, missing, report

__all__ = [
    "NOTEBOOKS",
    "Postmortem",
    "Trends",
    "evidence",
    "missing",
    "overview",
    "postmortem",
    "readable",
    "report",
    "trends",
]
