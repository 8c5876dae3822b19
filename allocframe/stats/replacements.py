"""Chains of replacements: which allocation follows which, rebuilt from links and slot names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ._per_cluster import apart
from ._source import Source, has_table, looked_up, pandas_table

_EVERYWHERE = ("system", "sysbatch")


OF_SLOT = ("namespace", "name", "job_type", "node_id")
"""The columns of allocations that a slot is made of."""


def slots(allocations: pd.DataFrame) -> pd.Series[Any]:
    """Return the slot of each allocation as text: namespace and name, with the node for jobs that run on every node."""
    name = allocations["namespace"].astype("str") + "/" + allocations["name"].astype("str")
    everywhere = allocations["job_type"].isin(_EVERYWHERE)
    return name.mask(everywhere, name + "@" + allocations["node_id"].astype("str")).rename("slot")


_OF_REPLACEMENT = (
    "alloc_id", "next_alloc_id", "previous_alloc_id", "created_at", "client_status", "desired_status",
)  # fmt: skip


def replacements(source: Source) -> pd.Series[Any]:
    """Return the allocation that replaced each one, in the order of the table; missing where none did.

    Links come first: `next_alloc_id` (servers from 1.6 on) and the replacement's `previous_alloc_id`. Where Nomad dropped them,
    the next allocation in the same slot is taken, if it was created after this one was stopped or ended.
    """
    allocations = pandas_table(source, "allocations", *OF_SLOT, *_OF_REPLACEMENT)
    linked = allocations["next_alloc_id"].astype("str")
    back = allocations.dropna(subset=["previous_alloc_id"]).drop_duplicates("previous_alloc_id", keep="last")
    by_back = back.set_index(back["previous_alloc_id"].astype("str"))["alloc_id"].astype("str")
    linked = linked.fillna(looked_up(allocations["alloc_id"], by_back))
    order = allocations.assign(slot=slots(allocations)).sort_values(["slot", "created_at"], kind="stable")
    following = (
        order.groupby("slot", sort=False)["alloc_id"].shift(-1).reindex(allocations.index).astype("str")
    )
    ended = allocations["client_status"].isin(["complete", "failed", "lost", "unknown"])
    stopped = allocations["desired_status"].isin(["stop", "evict"])
    return linked.fillna(following.where(ended | stopped)).rename("replaced_by")


@apart
def reschedule_chains(source: Source) -> pd.DataFrame:
    """Rebuild the chains of reschedules and replacements.

    Parameters
    ----------
    source : Snapshot or mapping
        With the `allocations` table, and `reschedules` where there is one.

    Returns
    -------
    pandas.DataFrame
        One row for each allocation, in the order of chains and positions.

        chain_id : str
            The oldest allocation of the chain that is known.
        position, length : int
            Place in the chain, from 0, and how many are known.
        linked_by : str
            How the predecessor was found: "link", "slot" (same name and next in time), or missing for the first.
        broken : bool
            A predecessor is named that is not in the table: Nomad has removed it, and the chain is longer than it looks.

    Examples
    --------
    >>> chains = af.stats.reschedule_chains(snap)
    >>> int(chains["length"].max()) > 1
    True
    """
    allocations = pandas_table(source, "allocations").reset_index(drop=True)
    ids = allocations["alloc_id"].astype("str")
    position = pd.Series(np.arange(len(ids)), index=ids.to_numpy())
    position = position[~position.index.duplicated()]
    named = allocations["previous_alloc_id"].astype("str").fillna(_from_tracker(source, ids))
    follower = replacements({"allocations": allocations, "events": None})
    told = pd.Series(ids.to_numpy(), index=follower.to_numpy()).loc[lambda found: found.index.notna()]
    by_slot = looked_up(ids, told)
    previous = named.where(named.isin(position.index), by_slot)
    linked = named.isin(position.index) | ids.isin(allocations["next_alloc_id"].dropna().astype("str"))
    parent = looked_up(previous, position).fillna(-1).astype("int64").to_numpy()
    root, place = _walked(np.where(parent == np.arange(len(parent)), -1, parent))
    found = allocations[
        ["alloc_id", "namespace", "job_id", "task_group", "name", "client_status", "created_at"]
    ].assign(
        chain_id=ids.to_numpy()[root],
        position=place,
        linked_by=pd.Series(np.where(linked, "link", "slot"), dtype="str").where(parent >= 0),
        broken=(named.notna() & ~named.isin(position.index)).to_numpy(),
    )
    found["length"] = found.groupby("chain_id")["alloc_id"].transform("size")
    return found.sort_values(["chain_id", "position"], kind="stable").reset_index(drop=True)


def _from_tracker(source: Source, ids: pd.Series[Any]) -> pd.Series[Any]:
    """Return the predecessor that the tracker names last."""
    if not has_table(source, "reschedules"):
        return pd.Series(np.nan, index=ids.index, dtype="str")
    tracked = pandas_table(source, "reschedules").sort_values("seq").drop_duplicates("alloc_id", keep="last")
    by_id = tracked.set_index(tracked["alloc_id"].astype("str"))["prev_alloc_id"]
    return looked_up(ids, by_id.astype("str"))


def _walked(parent: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the root of each row and its distance, by doubling the steps; a ring of links ends where it began."""
    root = np.where(parent < 0, np.arange(len(parent)), parent)
    place = (parent >= 0).astype("int64")
    for _ in range(max(len(parent), 2).bit_length()):
        place = place + place[root] * (root != np.arange(len(root)))
        root = root[root]
    return root, np.minimum(place, len(parent))
