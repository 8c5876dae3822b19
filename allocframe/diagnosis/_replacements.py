"""Failed allocations that are to be replaced, although no evaluation for it is on record yet."""

from __future__ import annotations

import numpy as np

from ._failures import Case
from ._tables import NEVER, Array, numbers

_AS_LONG = 1.25
"""A pause that has lasted less than this many times the longest before it is not over."""

_SERVERS_TAKE = 60 * 10**9
"""However long the pauses are: servers make the evaluation for the next one within this time."""


def awaits_replacement(case: Case) -> Array:
    """Return which failed allocations are to be replaced: by an evaluation, or by the pace of their job.

    While a deployment is under way, the evaluation comes only moments later: what is missing for less than
    the pause that followed the failures before it, in any instance of its job, is no sign of an end.
    """
    rows, instances = case.evidence.allocations, case.instances
    followed: Array = rows["followup_eval_id"].notna().to_numpy(dtype=bool, copy=True)
    failed = rows["client_status"].eq("failed").to_numpy(dtype=bool)
    open_ends = failed & ~followed & (instances.successor < 0)
    if not open_ends.any():
        return followed
    last = np.full(len(rows), NEVER, dtype=np.int64)
    np.maximum.at(last, case.failures["alloc"].to_numpy(), case.failures["at"].to_numpy())
    created, version = rows["created_at"].to_numpy(), numbers(rows["job_version"], -1)
    after = np.maximum(instances.successor, 0)
    # what no evaluation had followed was replaced on request
    known = failed & followed & (instances.successor >= 0) & (version[after] == version)
    known &= (last != NEVER) & (created[after] > last)
    pause = np.zeros(len(instances.families), dtype=np.int64)
    np.maximum.at(pause, instances.family[known], (created[after] - last)[known])
    soon = case.now - last < np.minimum(_AS_LONG * pause[instances.family], _SERVERS_TAKE)
    followed |= open_ends & (last != NEVER) & soon
    return followed
