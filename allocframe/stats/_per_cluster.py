"""The one place that keeps clusters apart: a statistic of several clusters is computed for each of them.

Equal names and IDs in two clusters are unrelated, so nothing may be grouped or joined across clusters.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import narwhals as nw
import pandas as pd
from pandas.api.types import union_categoricals

from .._utils.memory import return_memory
from ..snapshot.snapshot import Snapshot
from ._derived import share_derived
from ._source import Source, collect, column_names, names

CLUSTER = "cluster"

P = ParamSpec("P")
R = TypeVar("R")


def per_cluster(statistic: Callable[P, R]) -> Callable[P, R]:
    """Make a statistic, whose first parameter is a source, run once for each cluster.

    For several clusters its table begins with the column `cluster`. Other arguments that are tables with a
    column `cluster` are split, too. ``"cluster"`` is accepted in `by`, and changes nothing.
    """
    signature = inspect.signature(statistic)
    first = next(iter(signature.parameters))

    @functools.wraps(statistic)
    def for_each_cluster(*args: P.args, **kwargs: P.kwargs) -> R:
        source = args[0] if args else kwargs.get(first)
        events = source._counts["events"] if isinstance(source, Snapshot) else 0
        # what a large one leaves would come on top of the next statistic
        with return_memory(events), share_derived():
            return split(*args, **kwargs)

    def split(*args: P.args, **kwargs: P.kwargs) -> R:
        call = signature.bind(*args, **kwargs)
        sources = split_clusters(call.arguments[first])
        if sources is None:
            return statistic(*args, **kwargs)
        call.apply_defaults()
        by = call.arguments.get("by")
        if by is not None and CLUSTER in names(by):
            call.arguments["by"] = [name for name in names(by) if name != CLUSTER]
        other_tables = {
            name: rows
            for name, rows in call.arguments.items()
            if name != first and isinstance(rows, pd.DataFrame) and CLUSTER in rows.columns
        }
        results: dict[str, Any] = {}
        for cluster, source in sources.items():
            parts = {name: part_of(rows, cluster) for name, rows in other_tables.items()}
            call.arguments |= {first: source, **parts}
            results[cluster] = statistic(*call.args, **call.kwargs)
        stacked: Any = _stack(results)
        return stacked  # type: ignore[no-any-return]

    return for_each_cluster


def split_clusters(source: Source) -> Mapping[str, Source] | None:
    """Return the part of each cluster by its name; None if `source` holds one cluster.

    Raises
    ------
    TypeError
        Some of its tables have a column `cluster`, and others have none.
    """
    if isinstance(source, Snapshot):
        return source.clusters or None
    tables = {name: frame for name, frame in _tables(source).items() if frame is not None}
    with_cluster = [name for name, frame in tables.items() if CLUSTER in column_names(frame)]
    if not with_cluster:
        return None
    if len(with_cluster) < len(tables):
        without = ", ".join(sorted(set(tables) - set(with_cluster)))
        raise TypeError(
            f"all tables must have a column {CLUSTER!r}, or none of them. It is missing in: {without}"
        )
    clusters = sorted({name for frame in tables.values() for name in _cluster_names(frame)}) or [""]
    if not isinstance(source, Mapping):
        return {cluster: part_of(source, cluster) for cluster in clusters}
    return {
        cluster: {name: part_of(frame, cluster) for name, frame in tables.items()} for cluster in clusters
    }


def _tables(source: Source) -> Mapping[str, Any]:
    return source if isinstance(source, Mapping) else {"events": source}


def _cluster_names(frame: Any) -> list[str]:
    lazy = nw.from_native(frame).lazy().select(nw.col(CLUSTER).cast(nw.String)).unique()
    return [str(name) for name in collect(lazy)[CLUSTER].dropna()]


def part_of(frame: Any, cluster: str) -> Any:
    """Return the rows of one cluster, without the column `cluster`."""
    if isinstance(frame, pd.DataFrame):
        return frame[(frame[CLUSTER] == cluster).to_numpy(bool)].drop(columns=CLUSTER)
    return nw.from_native(frame).lazy().filter(nw.col(CLUSTER) == cluster).drop(CLUSTER).to_native()


def _stack(results: Mapping[str, Any]) -> Any:
    """Return the frames of all clusters, of pandas or another engine, one below the other."""
    frames = list(results.values())
    if not isinstance(frames[0], pd.DataFrame):
        lazy = [
            nw.from_native(frame).lazy().select(nw.lit(cluster).alias(CLUSTER), nw.all())
            for cluster, frame in results.items()
        ]
        return nw.concat(lazy, how="vertical").to_native()
    # pd.concat turns categories that differ into plain text, which takes far more memory
    categorical = [
        name
        for name in frames[0].columns
        if all(isinstance(frame[name].dtype, pd.CategoricalDtype) for frame in frames)
    ]
    columns = {
        name: union_categoricals([frame[name] for frame in frames], sort_categories=True)
        for name in categorical
    }
    # an empty frame would change the dtypes of the others
    filled = [frame for frame in frames if len(frame)] or frames[:1]
    stacked: pd.DataFrame = pd.concat(
        [frame.drop(columns=categorical) for frame in filled], ignore_index=True
    )
    positions = [position for position, frame in enumerate(frames) for _ in range(len(frame))]
    columns[CLUSTER] = pd.Categorical.from_codes(positions, categories=pd.Index(list(results), dtype="str"))
    return stacked.assign(**columns)[[CLUSTER, *frames[0].columns]]
