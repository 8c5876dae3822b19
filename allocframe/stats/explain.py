"""What each event means: exit meaning, out of memory or not, failure or not, and the cause of an end or restart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from ..snapshot.snapshot import Snapshot
from . import _classify, vocabulary
from ._derived import facts
from ._per_cluster import apart
from ._source import TASK, Source, collected, looked_up, pandas_table
from .replacements import replacements

_KEY = ("namespace", "alloc_id", "task", "seq")


@apart
def explain_events(source: Source) -> Any:
    """Add to the events what they mean.

    Parameters
    ----------
    source : Snapshot or events table
        A pandas DataFrame, a DuckDB relation, or a Spark DataFrame with the columns of the `events` table.

    Returns
    -------
    pandas.DataFrame, or a frame of the engine that was given
        The events and these columns; what is not known is "unknown", what does not apply is missing.

        attempt : int
            Number of the attempt within the events at hand, from 0; a restart begins the next one.
        exit_meaning : str
            Of `Terminated`: "ok", "error", "out of memory", "kill timeout exceeded", "killed by SIGSEGV", ...
        oom : str
            Of `Terminated`: "confirmed" by the driver, "suspected" (SIGKILL from elsewhere than Nomad), or "no".
        failure : bool
            A run that failed by itself or by its health check, or a start that failed.
        decision : str
            Of `Restarting` and `Not Restarting`: what the restart policy decided ("within policy", "within policy, delayed",
            "given up: ..."), or "on request" where somebody or something asked for it.
        cause : str
            Why the attempt ended or restarts, one of `meanings.CAUSES`: "failure", "out of memory", "operator", ...

    Notes
    -----
    Display messages are not parsed; two of Nomad's constants that are sent nowhere else are compared as a whole.
    Exit code 137 after `Killing` is a kill timeout; without it, and without the driver's word, it may be an OOM kill
    that the driver did not see (docker with cgroup v2, others before 1.7).

    Examples
    --------
    >>> explained = af.stats.explain_events(snap)
    >>> set(explained.loc[explained["failure"], "cause"]) >= {"failure", "out of memory"}
    True
    """
    known = facts(source)
    if isinstance(source, Snapshot):
        return _beside(source.events, collected(known.events.select(*_classify.TOLD)))
    found = known.events
    helpers = [
        name for name in found.collect_schema().names() if name.startswith("_") or name.endswith("_us")
    ]
    native = found.drop(*helpers, TASK, strict=False)
    if known.given.eager:
        return native.collect(backend="pandas").to_native().astype(dict.fromkeys(_classify.TEXTS, "str"))
    return native.to_native()


@apart
def explained(
    snapshot: Snapshot, column: str, values: Sequence[Any], *, latest: int | None = None
) -> pd.DataFrame:
    """Return the rows of `explain_events` that have one of `values` in a column; of a large snapshot it makes no others.

    Of many, only the `latest` so many, the last one first.
    """
    known = collected(
        facts(snapshot).events.select(*_classify.TOLD, *_KEY, "time_us", _wanted=nw.col(column))
    )
    places = np.flatnonzero(known["_wanted"].isin(list(values)).to_numpy(dtype=bool))
    if latest is not None:
        times = known["time_us"].iloc[places].fillna(0).to_numpy(dtype=np.int64)
        places = places[np.argsort(-times, kind="stable")[:latest]]
    found = known.iloc[places]
    return _beside(snapshot._events_at(places, found[list(_KEY)]), found[list(_classify.TOLD)])


def _beside(events: pd.DataFrame, told: pd.DataFrame) -> pd.DataFrame:
    """Put what events mean beside them, row by row."""
    plain = told.astype(dict.fromkeys(_classify.TEXTS, "str")).set_axis(events.index)
    return events.assign(**{str(name): values for name, values in plain.items()})


@apart
def explain_stops(source: Source, evaluations: pd.DataFrame | None = None) -> pd.DataFrame:
    """Add to the allocations why the servers stopped them.

    Parameters
    ----------
    source : Snapshot or mapping
        With the `allocations` table.
    evaluations : pandas.DataFrame, optional
        What `Client.evaluations` returned. Nomad says "migrated" of a drained node and of ``nomad alloc stop`` alike;
        the evaluation that placed the replacement tells them apart.

    Returns
    -------
    pandas.DataFrame
        The allocations, with `stop_reason`: missing where nothing was to stop, "unknown" where a description is not
        one of the scheduler's, else one of `meanings.STOP_REASONS` and `meanings.MIGRATIONS`.

    Examples
    --------
    >>> stops = af.stats.explain_stops(snap, client.evaluations(namespace="*"))
    >>> "node down" in set(stops["stop_reason"])
    True
    """
    found = pandas_table(source, "allocations").copy()
    described = found["desired_description"].astype("str")
    reason = described.map(vocabulary.STOP_REASONS)
    stopped = found["desired_status"].isin(["stop", "evict"])
    reason = reason.where(described.notna(), "no reason given").where(stopped).astype("str")
    reason = reason.mask(
        stopped & described.notna() & ~described.isin(list(vocabulary.STOP_REASONS)), "unknown"
    )
    reason = reason.mask(stopped & found["preempted_by"].notna(), "preempted")
    if evaluations is not None:
        trigger = _replacement_trigger(found, evaluations)
        told = reason.eq("migrated") & trigger.isin(list(vocabulary.MIGRATIONS))
        reason = reason.mask(told, trigger.map(vocabulary.MIGRATIONS))
    return found.assign(stop_reason=reason)


def _replacement_trigger(allocations: pd.DataFrame, evaluations: pd.DataFrame) -> pd.Series[Any]:
    """Return what triggered the evaluation that placed the replacement of each allocation."""
    triggers = evaluations.drop_duplicates("eval_id").set_index("eval_id")["triggered_by"].astype("str")
    by_id = allocations.drop_duplicates("alloc_id").set_index("alloc_id")["eval_id"]
    following = replacements({"allocations": allocations, "events": None})
    return looked_up(looked_up(following, by_id), triggers)
