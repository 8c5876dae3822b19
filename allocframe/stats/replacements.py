"""Replacements: which allocation follows which, rebuilt from links and slots."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ._per_cluster import per_cluster
from ._source import Array, Source, are_among, has_table, look_up, pandas_table, rank_texts
from .vocabulary import FINISHED_STATUSES, LOST_STATUSES, NODE_BOUND_JOB_TYPES, STOPPING_STATUSES

SLOT_COLUMNS = (
    "alloc_id", "namespace", "name", "job_id", "task_group", "job_type", "node_id", "client_status",
    "desired_status", "created_at", "previous_alloc_id",
)  # fmt: skip
"""Columns of `allocations` that a slot is made of."""


def slots(allocations: pd.DataFrame) -> pd.Series[Any]:
    """Return the slot of each allocation, as sorted categories: the instance of its job that it is.

    A slot is a namespace, job, group and index, written as namespace and name (``default/web.app[0]``), with
    the node if the job runs on every node. The job is added only where two jobs have equal names
    (``web``/``api.x`` and ``web.api``/``x``). Allocations that are wanted and run in one slot at the same
    time are instances of their own, ``default/web.app[0] #2``.
    """
    table = allocations.reindex(columns=[*SLOT_COLUMNS]).reset_index(drop=True)
    # all allocations of a system job are called job.group[0]; the node tells them apart
    table["everywhere"] = table["job_type"].isin(NODE_BOUND_JOB_TYPES)
    table["node_id"] = table["node_id"].where(table["everywhere"])
    kind, first = _kinds(table[["namespace", "name", "job_id", "task_group", "everywhere", "node_id"]])
    text = _slot_texts(table.iloc[first])
    code = np.append(pd.factorize(text)[0], -1)[kind]
    numbered = pd.DataFrame({"kind": kind, "lane": _lanes(table, code)})
    which, first = _kinds(numbered)
    different = numbered.iloc[first]
    text = text.iloc[different["kind"]].reset_index(drop=True)
    suffix = " #" + (different["lane"].reset_index(drop=True) + 1).astype("str")
    text = text.mask(different["lane"].to_numpy() > 0, text + suffix)
    return _categories(text, which, allocations.index)


def _kinds(rows: pd.DataFrame) -> tuple[Array, Array]:
    """Return the number of each row among the different ones, and where each of those is first."""
    kind = np.zeros(len(rows), dtype=np.int64)
    for name in rows:
        codes = pd.factorize(rows[name])[0].astype(np.int64) + 1
        kind = pd.factorize(kind * (codes.max(initial=0) + 1) + codes)[0]
    first = np.empty(kind.max(initial=-1) + 1, dtype=np.int64)
    first[kind[::-1]] = np.arange(len(kind) - 1, -1, -1)
    return kind, first


def _slot_texts(table: pd.DataFrame) -> pd.Series[Any]:
    """Return the slot of rows as a text, without the number of instances that share it."""
    # What is missing is one value among others, or its rows would have no slot.
    name = table["namespace"].astype("str").fillna("") + "/" + table["name"].astype("str")
    job = table["job_id"].astype("str").fillna("")
    code = pd.factorize(name)[0]
    pair = pd.factorize(job + "\0" + table["task_group"].astype("str"))[0]
    first_pair = np.zeros(code.max(initial=-1) + 2, dtype="int64")
    first_pair[code[::-1]] = pair[::-1]
    several = np.bincount(code + 1, weights=pair != first_pair[code], minlength=1)[code + 1] > 0
    name = name.mask(several & (code >= 0), name + " of " + job)
    return name.mask(table["everywhere"], name + "@" + table["node_id"].astype("str"))


def _categories(texts: pd.Series[Any], kind: Array, index: pd.Index[Any]) -> pd.Series[Any]:
    """Return the text of each row, by its number, as sorted categories."""
    different = pd.Categorical(texts)
    codes = np.append(different.codes, -1)[kind]
    slot = pd.Categorical.from_codes(codes, categories=different.categories)
    return pd.Series(slot, index=index, name="slot")


def _lanes(table: pd.DataFrame, slot: Array) -> Array:
    """Return how many allocations of the same slot, older and no predecessor, still run and are wanted.

    A canary and the allocation that it may replace are such a pair. `slot` is a number for each row, -1 for
    an allocation without a name, which shares its slot with no other.
    """
    lost = table["client_status"].isin(LOST_STATUSES)
    live = ~table["client_status"].isin(FINISHED_STATUSES) & ~lost
    blocks = live & ~table["desired_status"].isin(STOPPING_STATUSES)
    lanes = np.zeros(len(table), dtype=np.int64)
    several = np.bincount(slot + 1, minlength=1) > 1
    blocked = np.bincount(slot + 1, blocks, minlength=1) > 0
    shared = (slot >= 0) & several[slot + 1] & blocked[slot + 1]
    if not shared.any():  # the rule: one allocation for each slot
        return lanes
    order = table[shared].assign(slot=slot[shared], blocks=blocks[shared].astype("int64"))
    order = order.sort_values(["slot", "created_at"], kind="stable")
    before = order.groupby("slot", sort=False)["blocks"].cumsum() - order["blocks"]
    replaces_live = are_among(order["previous_alloc_id"], table["alloc_id"].astype("str")[blocks])
    lanes[order.index] = (before - replaces_live.astype("int64")).clip(lower=0)
    return lanes


_REPLACEMENT_COLUMNS = tuple(dict.fromkeys([*SLOT_COLUMNS, "next_alloc_id"]))


def replacements(source: Source) -> pd.Series[Any]:
    """Return the ID of the allocation that replaced each one, in the order of the table; missing if none did.

    Links come first: `next_alloc_id` (servers from 1.6 on), then the replacement's `previous_alloc_id`. If
    Nomad dropped both, the next allocation in the same slot counts, provided that this one was stopped or has
    ended.
    """
    allocations = pandas_table(source, "allocations", *_REPLACEMENT_COLUMNS)
    linked = allocations["next_alloc_id"].astype("str")
    back = allocations.dropna(subset=["previous_alloc_id"]).drop_duplicates("previous_alloc_id", keep="last")
    by_back_link = back.set_index(back["previous_alloc_id"].astype("str"))["alloc_id"].astype("str")
    linked = linked.fillna(look_up(allocations["alloc_id"], by_back_link))
    order = allocations.assign(slot=slots(allocations)).sort_values(["slot", "created_at"], kind="stable")
    next_in_slot = (
        order.groupby("slot", sort=False, observed=True)["alloc_id"]
        .shift(-1)
        .reindex(allocations.index)
        .astype("str")
    )
    ended = allocations["client_status"].isin([*FINISHED_STATUSES, *LOST_STATUSES])
    stopping = allocations["desired_status"].isin(STOPPING_STATUSES)
    return linked.fillna(next_in_slot.where(ended | stopping)).rename("replaced_by")


@per_cluster
def reschedule_chains(source: Source) -> pd.DataFrame:
    """Rebuild the chains of reschedules and replacements.

    Parameters
    ----------
    source : Snapshot or mapping of tables
        With the table `allocations`, and `reschedules` if there is one.

    Returns
    -------
    pandas.DataFrame
        One row for each allocation, by chain and position: alloc_id, namespace, job_id, task_group, name,
        client_status, created_at, and

        chain_id : str
            ID of the chain's oldest known allocation.
        position, length : int
            Place in the chain, from 0, and number of known allocations.
        linked_by : str
            How the predecessor was found: "link", or "slot" (same name and next in time); missing for the
            first.
        broken : bool
            The named predecessor is not in the table: Nomad has removed it, and the chain was longer.

    Raises
    ------
    TypeError
        `source` holds no `allocations`.

    Examples
    --------
    >>> chains = af.stats.reschedule_chains(snap)
    >>> int(chains["length"].max()) > 1
    True
    """
    allocations = pandas_table(source, "allocations", *_REPLACEMENT_COLUMNS).reset_index(drop=True)
    ids = allocations["alloc_id"].astype("str")
    row_of_id = pd.Series(np.arange(len(ids)), index=ids.to_numpy())
    row_of_id = row_of_id[~row_of_id.index.duplicated()]
    named = allocations["previous_alloc_id"].astype("str").fillna(_predecessors_by_tracker(source, ids))
    replaced_by = replacements({"allocations": allocations, "events": None})
    predecessors = pd.Series(ids.to_numpy(), index=replaced_by.to_numpy())
    predecessors = predecessors[predecessors.index.notna()]
    is_known = are_among(named, row_of_id.index)
    previous = named.where(is_known, look_up(ids, predecessors))
    linked = is_known | are_among(ids, allocations["next_alloc_id"].dropna().astype("str"))
    parent = look_up(previous, row_of_id).fillna(-1).astype("int64").to_numpy()
    root, position = _roots(np.where(parent == np.arange(len(parent)), -1, parent))
    chains = allocations[
        ["alloc_id", "namespace", "job_id", "task_group", "name", "client_status", "created_at"]
    ].assign(
        chain_id=ids.to_numpy()[root],
        position=position,
        linked_by=pd.Series(np.where(linked, "link", "slot"), dtype="str").where(parent >= 0),
        broken=named.notna().to_numpy() & ~is_known,
    )
    chains["length"] = chains.groupby("chain_id")["alloc_id"].transform("size")
    return chains.sort_values(["chain_id", "position"], kind="stable").reset_index(drop=True)


def count_broken_links(source: Source) -> int:
    """Return how many allocations name a predecessor that Nomad has removed: the sum of `broken` above."""
    allocations = pandas_table(source, "allocations", "alloc_id", "previous_alloc_id")
    ids = allocations["alloc_id"].astype("str")
    named = allocations["previous_alloc_id"].astype("str").fillna(_predecessors_by_tracker(source, ids))
    return int((named.notna().to_numpy() & ~are_among(named, ids)).sum())


def _predecessors_by_tracker(source: Source, ids: pd.Series[Any]) -> pd.Series[Any]:
    """Return the last predecessor that each allocation's reschedule tracker names."""
    if not has_table(source, "reschedules"):
        return pd.Series(np.nan, index=ids.index, dtype="str")
    rows = pandas_table(source, "reschedules", "alloc_id", "seq", "prev_alloc_id")
    alloc = rank_texts(rows["alloc_id"])
    order = np.lexsort((rows["seq"].to_numpy(dtype="int64"), alloc))
    last = rows.take(order[np.append(np.diff(alloc[order]) != 0, np.ones(min(len(rows), 1), dtype=bool))])
    by_id = last.set_index(last["alloc_id"].astype("str"))["prev_alloc_id"]
    return look_up(ids, by_id.astype("str"))


def _roots(parent: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the root of each row, and its distance.

    Pointer doubling: each round replaces a row's ancestor by that one's ancestor, so that log2(n) rounds
    reach every root. Links that form a ring, as damaged data may hold, end after the same number of rounds.
    """
    root = np.where(parent < 0, np.arange(len(parent)), parent)
    position = (parent >= 0).astype("int64")
    for _ in range(max(len(parent), 2).bit_length()):
        position = position + position[root] * (root != np.arange(len(root)))
        root = root[root]
    return root, np.minimum(position, len(parent))
