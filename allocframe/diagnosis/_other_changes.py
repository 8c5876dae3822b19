"""What somebody did to other jobs when an incident began, or was over: it may need what was changed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..tables.run_ids import is_run
from ._tables import Array, Job

BEFORE_ONSET = pd.Timedelta("1min")
"""What was done to another job this long before an incident is shown with it."""

_AROUND_END = (pd.Timedelta("10s"), pd.Timedelta("30s"))
"""So long before and after the last failure something may have ended it: restarts wait for their delay."""

_MOST, _MOST_AT_END = 5, 2
"""In a large cluster somebody changes some job every few seconds: the nearest are shown."""

Columns = dict[str, Array]


@dataclass(frozen=True)
class Change:
    """What somebody did to a job: the kind of row of the ledger, the new version if any, and when."""

    job: Job
    kind: str
    version: int | None
    at: int


class OtherChanges:
    """The rows of a change ledger by which somebody stopped, started, scaled or changed a job, by time."""

    def __init__(self, columns: Columns, at: Array, known: list[int]) -> None:
        self._columns, self._at = columns, at
        purged: set[Job] = set()
        in_order = sorted(known, key=at.__getitem__)
        places = [place for place in in_order if _is_telling(columns, place, purged)]
        self._places = np.array(places, dtype=np.int64)
        self._times = at[self._places] if places else np.zeros(0, dtype=np.int64)

    def at_onset(self, jobs: set[Job], onset: int, begin: int) -> list[int]:
        """Return the rows of other jobs in the minute before an incident, the nearest first.

        It began between `onset` and `begin`. Those of its namespaces come before others.
        """
        near = self._between(jobs, onset - BEFORE_ONSET.value, begin)
        namespaces = {namespace for namespace, _ in jobs}
        near.sort(
            key=lambda place: (self._namespace(place) not in namespaces, abs(int(self._at[place]) - onset))
        )
        return near[:_MOST]

    def at_end(self, jobs: set[Job], last: int) -> list[int]:
        """Return the rows of other jobs about when an incident was over, the nearest first."""
        before, after = _AROUND_END
        near = self._between(jobs, last - before.value, last + after.value)
        near.sort(key=lambda place: abs(int(self._at[place]) - last))
        return near[:_MOST_AT_END]

    def last_before(self, jobs: set[Job], time: int, within: int) -> Change | None:
        """Return what was last done to another job within a span before a time."""
        near = self._between(jobs, time - within, time)
        if not near:
            return None
        kind = str(self._columns["kind"][near[-1]])
        version = self._columns["version_after"][near[-1]] if kind == "job version" else None
        number = None if pd.isna(version) else int(version)
        return Change(self._job(near[-1]), kind, number, int(self._at[near[-1]]))

    def count_since(self, jobs: set[Job], since: int) -> Counter[Job]:
        """Return how many times each other job was changed since a time."""
        last = int(self._times[-1]) if len(self._times) else since
        return Counter(self._job(place) for place in self._between(jobs, since, last))

    def _job(self, place: int) -> Job:
        return self._namespace(place), str(self._columns["job_id"][place])

    def _between(self, jobs: set[Job], first: int, last: int) -> list[int]:
        begin, end = np.searchsorted(self._times, first), np.searchsorted(self._times, last, side="right")
        places = self._places[begin:end].tolist()
        return [each for each in places if self._job(each) not in jobs]

    def _namespace(self, place: int) -> str:
        return str(self._columns["namespace"][place])


def _is_telling(columns: Columns, place: int, purged: set[Job]) -> bool:
    """Return whether a row is what somebody did to a job that was there before; note what was purged."""
    job_id, kind = columns["job_id"][place], columns["kind"][place]
    if pd.isna(job_id) or is_run(str(job_id)):
        return False
    job = str(columns["namespace"][place]), str(job_id)
    if kind in ("operator stop", "purge"):
        if kind == "purge":
            purged.add(job)
        return True
    version = columns["version_after"][place] if "version_after" in columns else None
    # a first version changes nothing, unless it brings back what was purged
    is_new = pd.notna(version) and (version > 0 or job in purged)
    return bool(kind in ("job version", "scale") and is_new)
