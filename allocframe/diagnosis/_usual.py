"""How long what is under way has taken, against those of the same task group before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ._failures import Case
from ._groups import Jobs
from ._tables import Array, categories, numbers
from .finding import Thresholds


@dataclass(frozen=True)
class Usual:
    """How long the earlier ones of each allocation's task group took: how many they are, and the longest."""

    earlier: Array
    longest: Array


def usual_of(case: Case, took: Array) -> Usual:
    """Return how long others of the same task group took, from the times that are known (else -1)."""
    group, names = categories(case.evidence.allocations["task_group"])
    key = case.instances.family * len(names) + group
    size = int(key.max()) + 1 if len(key) else 0
    known = took >= 0
    longest = np.full(size, -1, dtype=np.int64)
    np.maximum.at(longest, key[known], took[known])
    return Usual(np.bincount(key[known], minlength=size)[key], longest[key])


def how_slow(age: Array, usual: Usual, limits: Thresholds) -> tuple[Array, Array]:
    """Return which take longer than usual, and which far longer; without a measure, which are slow."""
    slow = pd.Timedelta(limits.slow_start).value
    some = usual.earlier > 0
    longer = (age > limits.slow_start_factor * usual.longest) & (
        age > pd.Timedelta(limits.template_wait).value
    )
    return np.where(some, longer, age > slow), some & (age > limits.outlier_factor * usual.longest) & (
        age > slow
    )


def by_version(case: Case, places: Array) -> Iterator[Array]:
    """Yield allocations by their job and its version."""
    family = case.instances.family[places]
    version = numbers(case.evidence.allocations["job_version"].iloc[places], -1)
    for each in sorted(set(zip(family.tolist(), version.tolist(), strict=True))):
        yield places[(family == each[0]) & (version == each[1])]


def by_family(case: Case, places: Array) -> Iterator[Array]:
    """Yield allocations by their job."""
    family = case.instances.family[places]
    for each in np.unique(family):
        yield places[family == each]


def numbers_of(case: Case, jobs: Jobs, alloc: Array, age: Array, usual: Usual) -> dict[str, Any]:
    """Return the numbers that all who wait have: for how long, how long others took, what serves."""
    rows, instances = case.evidence.allocations, case.instances
    family = int(instances.family[alloc[0]])
    version = int(numbers(rows["job_version"].iloc[alloc[:1]], -1)[0])
    others = instances.family == family
    several = bool(np.any(numbers(rows["job_version"], -1)[others] != version))
    others &= instances.wanted & rows["client_status"].eq("running").to_numpy(dtype=bool)
    others[alloc] = False
    longest = int(alloc[np.argmax(age[alloc])])
    return {
        "instances_wanted": int(jobs.wanted[family]),
        "longest": _length(age[longest]),
        "earlier": int(usual.earlier[longest]),
        "earlier_longest": _length(usual.longest[longest]) if usual.earlier[longest] else None,
        "job_version": version if several else None,
        "running": int(others.sum()),
    }


def job_of(case: Case, alloc: Array) -> dict[str, Any]:
    namespace, job = case.instances.families[int(case.instances.family[alloc[0]])]
    return {"namespace": namespace, "job_id": job}


def _length(nanoseconds: Any) -> pd.Timedelta:
    return pd.Timedelta(int(nanoseconds), unit="ns")
