"""What is found in a snapshot: the rules, over each cluster by itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from ..snapshot.snapshot import Snapshot
from ..stats._per_cluster import CLUSTER, part_of
from .finding import SEVERITIES, Finding, Findings, Thresholds
from .rules import RULES, reserved, unplaced


def findings(
    snapshot: Snapshot,
    *,
    evaluations: pd.DataFrame | None = None,
    usage: pd.DataFrame | None = None,
    thresholds: Thresholds | None = None,
) -> Findings:
    """Return what a colleague would point at.

    Parameters
    ----------
    snapshot : Snapshot
    evaluations : pandas.DataFrame, optional
        What `Client.evaluations` returned; with it, placement failures are found too. Of several clusters, with a column ``cluster``.
    usage : pandas.DataFrame, optional
        What `Client.usage` returned as ``samples``; with it, too little and too much reserved is found.
    thresholds : Thresholds, optional
        From when on something counts.

    Examples
    --------
    >>> found = af.findings(snap)
    >>> found[0].severity
    'critical'
    >>> {"AF201", "AF202", "AF301"} <= {one.code for one in found}
    True
    """
    limits = thresholds or Thresholds()
    told = _of_one if not snapshot.clusters else _of_several
    found = Findings(told(snapshot, evaluations, usage, limits))
    found.sort(key=lambda one: (SEVERITIES.index(one.severity), one.code))
    return found


def _of_one(
    snapshot: Snapshot, evaluations: pd.DataFrame | None, usage: pd.DataFrame | None, limits: Thresholds
) -> Iterator[Finding]:
    for rule in RULES:
        yield from rule(snapshot, limits)
    if evaluations is not None:
        yield from unplaced(evaluations)
    if usage is not None:
        yield from reserved(usage, limits)


def _of_several(
    snapshot: Snapshot, evaluations: pd.DataFrame | None, usage: pd.DataFrame | None, limits: Thresholds
) -> Iterator[Finding]:
    """Yield what is found in each cluster by itself: what has the same name in two of them is not the same."""
    for name, one in snapshot.info["clusters"].items():
        if one["error"]:
            yield Finding("AF102", "warning", f"{name} is missing: {one['error']}", {"cluster": name})
    for name, member in snapshot.clusters.items():
        parts = [None if rows is None else _rows_of(rows, name) for rows in (evaluations, usage)]
        for one in _of_one(member, parts[0], parts[1], limits):
            evidence = one.evidence.copy()
            if len(evidence.columns):
                evidence.insert(0, "cluster", name)
            yield replace(
                one, summary=f"{name}: {one.summary}", about={"cluster": name, **one.about}, evidence=evidence
            )


def _rows_of(rows: pd.DataFrame, cluster: str) -> pd.DataFrame:
    if CLUSTER not in rows.columns:
        raise ValueError(
            "of several clusters, evaluations and usage need a column 'cluster' that says which one each row is of"
        )
    found: pd.DataFrame = part_of(rows, cluster)
    return found
