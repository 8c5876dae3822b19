"""Where failures show: in which datacenter, and in which of a job's instances. Facts, and no causes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..stats import vocabulary
from ._changes import AFTER
from ._groups import Group
from ._investigation import Investigation
from ._tables import NEVER, Array, moment
from .incident import Evidence


def where_it_shows(look: Investigation, groups: list[Group]) -> Iterator[Evidence]:
    """Yield what the failed allocations have in common that those which run well have not."""
    failed = np.zeros(len(look.case.nodes), dtype=bool)
    failed[look.failures["alloc"][np.concatenate([group.rows for group in groups])]] = True
    families = {group.family for group in groups}
    mine = np.isin(look.case.instances.family, list(families))
    rows = look.case.evidence.allocations
    well = (
        mine & ~failed & look.case.instances.wanted
        & rows["client_status"].isin(["running", "complete"]).to_numpy(dtype=bool)
    )  # fmt: skip
    if well.any():
        yield from _one_datacenter(look, failed, well)
        yield from _some_nodes(look, groups, failed, well)
        if len(families) == 1:
            yield from _only_new_ones(look, failed, well)


def _one_datacenter(look: Investigation, failed: Array, well: Array) -> Iterator[Evidence]:
    def datacenters(mask: Array) -> set[str | None]:
        names = (look.case.node_names[each] for each in np.unique(look.case.nodes[mask]))
        return {look.ledger.datacenters.get(name) for name in names}

    bad, good = datacenters(failed), datacenters(well)
    if len(bad) == 1 and None not in bad | good and not bad & good:
        numbers = {"datacenter": bad.pop(), "failed": int(failed.sum()), "well": int(well.sum())}
        yield Evidence("only in datacenter", {**numbers, "well_in": sorted(map(str, good))})


def _some_nodes(look: Investigation, groups: list[Group], failed: Array, well: Array) -> Iterator[Evidence]:
    """Yield that the jobs fail on some nodes and run well on others. One node may be a cause of its own."""
    bad, good = (np.unique(look.case.nodes[mask]) for mask in (failed, well))
    names = look.case.node_names
    alone = len(bad) == 1 and sum(len(group.rows) for group in groups) >= look.limits.loop_restarts
    if not np.isin(bad, good).any() and not alone and (failed.sum() > len(bad) or _everywhere(look, failed)):
        numbers = {"failed": int(failed.sum()), "nodes": sorted(names[each] for each in bad)}
        well_on = sorted(names[each] for each in good)
        yield Evidence("only on nodes", {**numbers, "well": int(well.sum()), "well_on": well_on})


def _everywhere(look: Investigation, failed: Array) -> bool:
    """Return whether these jobs run on every node: then each node tells."""
    types = look.case.evidence.allocations["job_type"][failed]
    return bool(types.isin(vocabulary.NODE_BOUND_JOB_TYPES).all())


def _only_new_ones(look: Investigation, failed: Array, well: Array) -> Iterator[Evidence]:
    """Yield that all instances which fail were placed after all that run well: more of a job is too much."""
    created = look.case.evidence.allocations["created_at"].to_numpy()
    lane, number = look.case.instances.lane, look.case.evidence.allocations["job_version"]
    bad = np.unique(lane[failed])
    # an instance is as old as its first allocation
    first = np.full(int(lane.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, lane, np.where(created == NEVER, np.iinfo(np.int64).max, created))
    since, before = int(first[bad].min()), int(first[np.unique(lane[well])].max())
    one_version = number[failed | well].nunique() == 1
    later = before + AFTER.value < since != np.iinfo(np.int64).max
    if one_version and len(bad) > 1 and later:
        numbers = {"new": len(bad), "old": len(np.unique(lane[well])), "since": moment(since)}
        yield Evidence("only new ones", numbers)
