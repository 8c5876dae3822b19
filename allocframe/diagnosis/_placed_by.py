"""The version that placed each allocation, as far as the allocations themselves tell."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ._failures import Case
from ._tables import NEVER, Array, numbers


def placed_by(case: Case) -> Array:
    """Return the version that placed each allocation; its own one, if nothing else is on record.

    What a version does not change is updated in place, and has its number from then on. An allocation that
    came with the first ones of an older version, in one plan, was placed by that one: servers give all of a
    plan the same time.
    """
    version = numbers(case.evidence.allocations["job_version"], -1)
    table = pd.DataFrame(
        {
            "family": case.instances.family,
            "at": case.evidence.allocations["created_at"].to_numpy(),
            "version": version,
        }
    )
    known = table[(table["version"] >= 0) & (table["at"] != NEVER)]
    first = known.groupby(["family", "version"])["at"].min().reset_index()
    # the oldest version of several that one plan seems to have placed
    first = first.sort_values("version").drop_duplicates(["family", "at"])
    older = table.merge(first, on=["family", "at"], how="left", suffixes=("", "_first"))["version_first"]
    placer = older.fillna(-1).to_numpy(dtype=np.int64)
    result: Array = np.where((placer >= 0) & (placer < version), placer, version)
    return result
