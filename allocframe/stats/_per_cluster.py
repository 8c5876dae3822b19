"""The one place that keeps clusters apart: of several together, a statistic is made for each by itself.

Equal names and IDs in different clusters have nothing to do with each other, so nothing may be grouped or joined across them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import narwhals as nw
import pandas as pd
from pandas.api.types import union_categoricals

from ..snapshot.snapshot import Snapshot
from ._source import Source, collected, names

CLUSTER = "cluster"

P = ParamSpec("P")
R = TypeVar("R")


def apart(statistic: Callable[P, R]) -> Callable[P, R]:
    """Make a statistic, of tables first, keep clusters apart: one after the other, with the column `cluster` first.

    Where it takes `by`, ``"cluster"`` may stand there too, and says nothing new. Of other tables with that column, each gets its part.
    """
    signature = inspect.signature(statistic)
    first = next(iter(signature.parameters))

    @functools.wraps(statistic)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs)
        parts = by_cluster(given.arguments[first])
        if parts is None:
            return statistic(*args, **kwargs)
        given.apply_defaults()
        by = given.arguments.get("by")
        if by is not None and CLUSTER in names(by):
            given.arguments["by"] = [name for name in names(by) if name != CLUSTER]
        beside = {
            name: rows
            for name, rows in given.arguments.items()
            if name != first and isinstance(rows, pd.DataFrame) and CLUSTER in rows.columns
        }
        found: dict[str, Any] = {}
        for name, part in parts.items():
            given.arguments |= {first: part, **{other: part_of(rows, name) for other, rows in beside.items()}}
            found[name] = statistic(*given.args, **given.kwargs)
        stacked: Any = _stacked(found)
        return stacked  # type: ignore[no-any-return]

    return told


def by_cluster(source: Source) -> Mapping[str, Source] | None:
    """Return the part of each cluster by its name; None where `source` is of one cluster.

    Raises
    ------
    TypeError
        Some of its tables say which cluster a row is of, and others do not.
    """
    if isinstance(source, Snapshot):
        return source.clusters or None
    tables = {name: frame for name, frame in _tables(source).items() if frame is not None}
    told = [name for name, frame in tables.items() if CLUSTER in _columns(frame)]
    if not told:
        return None
    if len(told) < len(tables):
        silent = ", ".join(sorted(set(tables) - set(told)))
        raise TypeError(f"the tables {', '.join(told)} have a column {CLUSTER!r}, and {silent} has none")
    clusters = sorted({name for frame in tables.values() for name in _names(frame)}) or [""]
    if not isinstance(source, Mapping):
        return {cluster: part_of(source, cluster) for cluster in clusters}
    return {
        cluster: {name: part_of(frame, cluster) for name, frame in tables.items()} for cluster in clusters
    }


def _tables(source: Source) -> Mapping[str, Any]:
    return source if isinstance(source, Mapping) else {"events": source}


def _columns(frame: Any) -> list[str]:
    return list(nw.from_native(frame).lazy().collect_schema().names())


def _names(frame: Any) -> list[str]:
    lazy = nw.from_native(frame).lazy().select(nw.col(CLUSTER).cast(nw.String)).unique()
    return [str(name) for name in collected(lazy)[CLUSTER].dropna()]


def part_of(frame: Any, cluster: str) -> Any:
    """Return the rows of one cluster, without its name."""
    if isinstance(frame, pd.DataFrame):
        return frame[(frame[CLUSTER] == cluster).to_numpy(bool)].drop(columns=CLUSTER)
    return nw.from_native(frame).lazy().filter(nw.col(CLUSTER) == cluster).drop(CLUSTER).to_native()


def _stacked(found: Mapping[str, Any]) -> Any:
    """Return frames, of pandas or another engine, one below the other."""
    frames = list(found.values())
    if not isinstance(frames[0], pd.DataFrame):
        lazy = [
            nw.from_native(frame).lazy().select(nw.lit(cluster).alias(CLUSTER), nw.all())
            for cluster, frame in found.items()
        ]
        return nw.concat(lazy, how="vertical").to_native()
    repeated = [
        name
        for name in frames[0].columns
        if all(isinstance(frame[name].dtype, pd.CategoricalDtype) for frame in frames)
    ]
    whole = {
        name: union_categoricals([frame[name] for frame in frames], sort_categories=True) for name in repeated
    }
    plain = [frame.drop(columns=repeated) for frame in frames if len(frame)] or [
        frames[0].drop(columns=repeated)
    ]
    both: pd.DataFrame = pd.concat(plain, ignore_index=True)
    places = [place for place, frame in enumerate(frames) for _ in range(len(frame))]
    whole[CLUSTER] = pd.Categorical.from_codes(places, categories=pd.Index(list(found), dtype="str"))
    return both.assign(**whole)[[CLUSTER, *frames[0].columns]]
