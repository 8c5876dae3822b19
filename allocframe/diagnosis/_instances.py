"""Instances: the places of a job that allocations fill one after the other, and how each is now.

An allocation that is rescheduled ten times is one instance. A slot is (namespace, job, group, index), and
for system jobs the node, because they run everywhere under one name. Two allocations that run in one slot at
once (a canary, or a name given twice) are two instances.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..stats import vocabulary
from ..stats._source import find_texts
from ._tables import LOST_DESCRIPTIONS, Array, categories

_INDEX = re.compile(r"\[(\d+)\]$")
_RESCHEDULED = "alloc was rescheduled because it failed"


@dataclass(frozen=True)
class Instances:
    """Which instance each allocation fills.

    Attributes
    ----------
    family : numpy.ndarray
        Number of the job of each allocation; the runs of a periodic or parameterized job are of their parent.
    families : list of tuple
        Namespace and job of each family.
    has_runs : numpy.ndarray
        Whether the family is a periodic or parameterized job.
    run : numpy.ndarray
        Number of the run (the job itself, where it has no parent).
    lane : numpy.ndarray
        Number of the instance.
    successor : numpy.ndarray
        Row of the next allocation in the same instance, -1 for none.
    lost : numpy.ndarray
        Whether the allocation was lost with its node, or is out of reach with it.
    wanted : numpy.ndarray
        Whether the servers want the allocation to run now, or to be replaced.
    final : numpy.ndarray
        Whether it is the last one of its instance.
    """

    family: Array
    families: list[tuple[str, str]]
    has_runs: Array
    run: Array
    lane: Array
    successor: Array
    lost: Array
    wanted: Array
    final: Array

    def first_of_lanes(self, alloc: Array) -> Array:
        """Return the first of some allocations in each instance: later ones replaced what had failed."""
        alloc = np.unique(alloc)  # in order of creation
        _, first = np.unique(self.lane[alloc], return_index=True)
        chosen: Array = alloc[first]
        return chosen


def find_instances(rows: pd.DataFrame) -> Instances:
    """Put the allocations into their instances."""
    count = len(rows)
    (namespace, job, parent), texts = _number_texts(rows, "namespace", "job_id", "parent_job_id")
    is_run = parent != texts.index("")
    base = np.where(is_run, parent, job)
    family, run = _number(namespace, base), _number(namespace, job)
    _, first = np.unique(family, return_index=True)
    has_runs = np.zeros(len(first), dtype=bool)
    has_runs[family[is_run]] = True
    lost = rows["client_status"].isin(vocabulary.LOST_STATUSES).to_numpy(dtype=bool)
    runs = rows["client_status"].eq("running") & rows["desired_status"].eq("run")
    described = rows["desired_description"].isin(LOST_DESCRIPTIONS) & ~runs
    lost = lost | described.to_numpy(dtype=bool)
    lane, successor = _lanes(rows, run)
    final = successor < 0
    return Instances(
        family,
        [(texts[namespace[row]], texts[base[row]]) for row in first.tolist()],
        has_runs,
        run,
        lane,
        successor,
        lost,
        _wanted(rows, run, final, lost) if count else np.zeros(0, dtype=bool),
        final,
    )


def _number_texts(rows: pd.DataFrame, *names: str) -> tuple[list[Array], list[str]]:
    """Return the number of each text of several columns, and the texts; a missing text is ""."""
    known: dict[str, int] = {"": 0}
    columns = []
    for name in names:
        codes, texts = categories(rows[name])
        columns.append(np.array([known.setdefault(text, len(known)) for text in texts])[codes])
    return columns, list(known)


def _number(*columns: Array) -> Array:
    """Return a number for each combination of numbers, in the order in which they come.

    pandas would make a tuple of each to number them.
    """
    found = np.zeros(len(columns[0]), dtype=np.int64)
    for column in columns:
        least = int(column.min(initial=0))
        found = pd.factorize(found * (int(column.max(initial=0)) - least + 1) + (column - least))[0]
    return found.astype(np.int64)


def _lanes(rows: pd.DataFrame, run: Array) -> tuple[Array, Array]:
    """Return the instance of each allocation and the allocation after it."""
    count = len(rows)
    name_codes, names = categories(rows["name"])
    index = np.array([_index(name) for name in names], dtype=np.int64)[name_codes]
    group, _ = categories(rows["task_group"])
    everywhere = rows["job_type"].isin(vocabulary.NODE_BOUND_JOB_TYPES).to_numpy(dtype=bool)
    node, _ = categories(rows["node_id"])
    node = np.where(everywhere, node, -1)
    # without an index each allocation stands for itself
    index = np.where(index < 0, -1 - np.arange(count), index)
    slot = _number(run, group, index, node)
    # each follows the one it replaces, else the one before it in its slot, unless that one lives on
    previous = find_texts(rows["previous_alloc_id"], rows["alloc_id"])[:-1]
    linked = (previous >= 0) & (slot[previous] == slot)
    alive = (rows["client_status"].isin(["running", "pending"]) & rows["desired_status"].eq("run")).to_numpy(
        dtype=bool
    )
    canary = rows["canary"].astype("boolean").fillna(False).to_numpy(dtype=bool)
    lane = np.arange(count, dtype=np.int64)
    successor = np.full(count, -1, dtype=np.int64)
    latest: dict[int, int] = {}
    created = rows["created_at"].to_numpy()
    order = np.lexsort((created, slot))
    for row, place in zip(order.tolist(), slot[order].tolist(), strict=True):
        before = int(previous[row]) if linked[row] and successor[previous[row]] < 0 else latest.get(place, -1)
        # a canary runs beside the instance whose name it has
        if before >= 0 and not alive[before] and (linked[row] or not (canary[row] or canary[before])):
            lane[row], successor[before] = lane[before], row
        if not canary[row] or alive[row] or place not in latest:
            latest[place] = row
    return lane, successor


def _index(name: str) -> int:
    found = _INDEX.search(name)
    return int(found[1]) if found else -1


def _wanted(rows: pd.DataFrame, run: Array, final: Array, lost: Array) -> Array:
    """Return which allocations the servers want to run, or to be replaced."""
    runs = ~rows["desired_status"].isin(vocabulary.STOPPING_STATUSES).to_numpy(dtype=bool)
    job_wanted = np.zeros(int(run.max()) + 1, dtype=bool)
    job_wanted[run[runs]] = True
    failed = rows["client_status"].eq("failed").to_numpy(dtype=bool)
    described = rows["desired_description"].eq(_RESCHEDULED).to_numpy(dtype=bool)
    silent = rows["desired_description"].isna().to_numpy(dtype=bool)
    followed = rows["followup_eval_id"].notna().to_numpy(dtype=bool)
    # stopped in order to be replaced: 2.0.5 does not say so, but names the evaluation that will do it
    rescheduling = failed & (described | (silent & followed))
    everywhere = rows["job_type"].isin(vocabulary.NODE_BOUND_JOB_TYPES).to_numpy(dtype=bool)
    replaced: Array = runs | (final & ~runs & job_wanted[run] & (rescheduling | (lost & ~everywhere)))
    return replaced
