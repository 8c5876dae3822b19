"""Postmortems and reports: the story of a snapshot, for people who were not there."""

from __future__ import annotations

from ._evidence import evidence
from ._overview import overview
from ._trends import Trends, trends
from .page import readable
from .run import NOTEBOOKS, missing, report
from .telling import Postmortem, postmortem

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
