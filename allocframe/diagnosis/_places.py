"""Where failures show: in which datacenter, and in which of a job's instances. Facts, and no causes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ._changes import AFTER
from ._groups import Group
from ._investigation import Investigation, describe
from ._tables import Array, moment
from .incident import Evidence


def where_it_shows(look: Investigation, groups: list[Group]) -> Iterator[Evidence]:
    """Yield what the failed allocations have in common that those which run well have not."""
    failed = np.unique(look.failures["alloc"][np.concatenate([group.rows for group in groups])])
    families = sorted({group.family for group in groups})
    others = np.setdiff1d(np.concatenate([look.of_family(each) for each in families]), failed)
    well = others[look.runs_well[others]]
    if len(well):
        yield from _one_datacenter(look, failed, well)
        yield from _some_nodes(look, groups, failed, well)
        if len(families) == 1:
            yield from _only_new_ones(look, failed, well)
            yield from _one_everywhere(look, groups[0], failed)


def _one_datacenter(look: Investigation, failed: Array, well: Array) -> Iterator[Evidence]:
    def datacenters(allocs: Array) -> set[str | None]:
        names = (look.case.node_names[each] for each in np.unique(look.case.nodes[allocs]))
        return {look.ledger.datacenters.get(name) for name in names}

    bad, good = datacenters(failed), datacenters(well)
    if len(bad) == 1 and None not in bad | good and not bad & good:
        numbers = {"datacenter": bad.pop(), "failed": len(failed), "well": len(well)}
        yield Evidence("only in datacenter", {**numbers, "well_in": sorted(map(str, good))})


def _some_nodes(look: Investigation, groups: list[Group], failed: Array, well: Array) -> Iterator[Evidence]:
    """Yield that the jobs fail on some nodes and run well on others. One node may be a cause of its own."""
    bad, good = (np.unique(look.case.nodes[allocs]) for allocs in (failed, well))
    names = look.case.node_names
    alone = len(bad) == 1 and sum(len(group.rows) for group in groups) >= look.limits.loop_restarts
    # jobs that run on every node: then each node tells
    everywhere = bool(look.everywhere[failed].all())
    if not np.isin(bad, good).any() and not alone and (len(failed) > len(bad) or everywhere):
        numbers = {"failed": len(failed), "nodes": sorted(names[each] for each in bad)}
        well_on = sorted(names[each] for each in good)
        yield Evidence("only on nodes", {**numbers, "well": len(well), "well_on": well_on})


def _one_everywhere(look: Investigation, group: Group, failed: Array) -> Iterator[Evidence]:
    """Yield that one instance alone fails, in several versions or on several nodes: it is that one."""
    versions = np.unique(look.made_by[failed])
    nodes = [look.case.node_names[each] for each in np.unique(look.case.nodes[failed])]
    name = describe(look, group)["instance"]
    if name and (len(versions) > 1 or len(nodes) > 1):
        yield Evidence("one instance", {"name": name, "versions": versions.tolist(), "nodes": sorted(nodes)})


def _only_new_ones(look: Investigation, failed: Array, well: Array) -> Iterator[Evidence]:
    """Yield that all instances which fail were placed after all that run well: more of a job is too much."""
    lane = look.case.instances.lane
    bad, good = np.unique(lane[failed]), np.unique(lane[well])
    # an instance is as old as its first allocation
    since, before = int(look.first_created[bad].min()), int(look.first_created[good].max())
    one_version = len(np.unique(look.versions_of[np.concatenate([failed, well])])) == 1
    later = before + AFTER.value < since != np.iinfo(np.int64).max
    if one_version and len(bad) > 1 and later:
        numbers = {"new": len(bad), "old": len(good), "since": moment(since)}
        yield Evidence("only new ones", numbers)
