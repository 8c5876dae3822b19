"""Nodes that went away for a moment and came back: what ended there at once, and cannot start again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ._attempts import ENDS
from ._groups import SECOND
from ._investigation import Investigation, keys_of, length_of
from ._tables import NEVER, Array, moment
from .incident import Evidence, Hypothesis

_AT_ONCE = 2 * SECOND
"""What ends with a node ends within moments, by the clock of that node."""

_BACK = pd.Timedelta("2min").value
"""A node that is up again says so within this time: a client restarts in seconds, a machine in a minute."""


def ended_before(look: Investigation, node: int, members: list[int], taken: set[int]) -> list[int]:
    """Return the kills on a node after which the same allocations could not start there again.

    They and the failed starts are one thing: the node lost what ran on it, and came back without what it
    needs.
    """
    allocs = np.unique(_allocs(look, members))
    start = {int(alloc): _first(look, members, int(alloc)) for alloc in allocs}
    found = []
    for index, group in enumerate(look.groups):
        if index in taken or index in members or group.kind not in ("killed", "crash"):
            continue
        its, at = look.failures["alloc"][group.rows], look.failures["at"][group.rows]
        on_node = (look.case.nodes[its] == node) & np.isin(its, allocs)
        before = [NEVER < t <= start[a] for a, t in zip(its[on_node].tolist(), at[on_node], strict=True)]
        if on_node.all() and all(before) and len(group.rows) == len(group.lanes):
            found.append(index)
    at = _times(look, found)
    return found if len(at) and int(at.max() - at.min()) <= _AT_ONCE else []


def killed_with_nodes(look: Investigation, taken: set[int]) -> Iterator[tuple[int, list[int]]]:
    """Yield each node on which all that ran, of several jobs, was killed at once, and then came up.

    One of the two alone may be somebody's `kill`, or the restart of a client whose tasks run on.
    """
    by_node: dict[int, list[int]] = {}
    for index, group in enumerate(look.groups):
        on = np.unique(look.case.nodes[look.failures["alloc"][group.rows]])
        if (
            index not in taken
            and group.kind == "killed"
            and len(on) == 1
            and len(group.rows) == len(group.lanes)
        ):
            by_node.setdefault(int(on[0]), []).append(index)
    for node, members in by_node.items():
        at = _times(look, members)
        several = len({look.groups[index].family for index in members}) > 1
        if (
            not several
            or NEVER in at
            or not look.case.node_names[node]
            or not np.any(look.case.nodes != node)
        ):
            continue
        together = int(at.max() - at.min()) <= _AT_ONCE
        if together and _back(look, node, int(at.max())) is not None and _nothing_ran_on(look, node, at):
            yield node, members


def evidence_of_return(look: Investigation, node: int, members: list[int]) -> list[Evidence]:
    """Return that instances ended at once on a node, and when it was up again, if that is on record."""
    at = _times(look, members)
    name = look.case.node_names[node]
    rows = np.concatenate([look.groups[index].rows for index in members])
    numbers = {
        "node_name": name,
        "instances": len(rows),
        "jobs": len({look.groups[index].family for index in members}),
        "apart": length_of(int(at.max() - at.min())),
    }
    found = [Evidence("ended with node", numbers, keys_of(look, rows))]
    if back := _back(look, node, int(at.max())):
        numbers = {"node_name": name, "at": moment(back), "after": length_of(back - int(at.max()))}
        found.append(Evidence("node back", numbers))
    return found


def by_return(look: Investigation, node: int, members: list[int]) -> Hypothesis:
    """Return that a node went away with all that ran on it, and came back."""
    evidence = evidence_of_return(look, node, members)
    return Hypothesis("node", "killed", {"node_name": look.case.node_names[node]}, "likely", evidence)


def _allocs(look: Investigation, members: list[int]) -> Array:
    allocs: Array = look.failures["alloc"][np.concatenate([look.groups[index].rows for index in members])]
    return allocs


def _times(look: Investigation, members: list[int]) -> Array:
    rows = [look.groups[index].rows for index in members]
    at: Array = look.failures["at"][np.concatenate(rows)] if rows else np.zeros(0, dtype=np.int64)
    return at


def _first(look: Investigation, members: list[int], alloc: int) -> int:
    """Return when an allocation failed first in some groups."""
    rows = np.concatenate([look.groups[index].rows for index in members])
    return int(look.failures["at"][rows[look.failures["alloc"][rows] == alloc]].min())


def _back(look: Investigation, node: int, time: int) -> int | None:
    """Return when a node became ready, if that was just after a time: its status is of whole seconds."""
    since = look.ledger.ready_since.get(look.case.node_names[node], NEVER)
    return since if since != NEVER and -SECOND <= since - time <= _BACK else None


def _nothing_ran_on(look: Investigation, node: int, at: Array) -> bool:
    """Return whether all runs that were under way on a node ended at once."""
    runs = look.case.attempts
    on_node = look.case.nodes[runs["alloc"].to_numpy()] == node
    started, end = runs["started"].to_numpy(), runs["at"].to_numpy()
    end = np.where(runs["end"] == ENDS.index("running"), NEVER, end)
    first, last = int(at.min()) - _AT_ONCE, int(at.max()) + _AT_ONCE
    over = (end != NEVER) & (end < first)
    under_way = on_node & (started != NEVER) & (started < first) & ~over
    return bool(np.all((end[under_way] >= first) & (end[under_way] <= last)))
