"""Whether failures keep to the clock or to the age of what fails: something outside it, or the program.

A signal, a dependency and a node hit all instances in one moment, however long each has run. A program that
fails by itself fails so long after its own start. Instances that started together also end together in the
second case, so that one moment says little: what tells is the spread of the ages against that of the moments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..stats import _distributions as distributions
from ._failures import Case
from ._groups import SECOND
from ._investigation import length_of
from ._tables import NEVER, Array
from .incident import Evidence


@dataclass(frozen=True)
class Rhythm:
    """How several instances ended, several times.

    Attributes
    ----------
    by_clock : bool
        They ended in the same moments, at different ages; else at the same age, in different moments.
    p : float
        Probability of spreads that differ so much, if the moments follow the ages (or the ages the moments).
    instances, ends, rounds : int
        Instances that ended together, how many ends these are, and in how many moments.
    apart : int
        The longest time between the first and the last end of a moment.
    youngest, oldest : int
        How long the runs had lasted.
    """

    by_clock: bool
    p: float
    instances: int
    ends: int
    rounds: int
    apart: int
    youngest: int
    oldest: int


_MOMENT = SECOND
"""Ends within this time of each other are of one moment: a signal is sent to one process after another."""

_TOGETHER = 0.8
"""At least this share of the ends must share a moment with others; the rest may have another cause."""

_CLEARLY = 10
"""The ages at two moments must differ by this many times the spread of the ends within a moment."""

_ALIKE = 0.1
"""Ages that differ by a smaller part are one age."""


def compare_rhythm(case: Case, rows: Array, level: float) -> Rhythm | None:
    """Return how some failures of one job came, None if neither clock nor age stands out.

    Of ends that follow their own starts, the moments are at least as spread as the ages, for the starts are
    spread as well. So the variance of all ages, over that of the ends within their moments, is at most F
    distributed; and the other way round for ends that follow the clock.
    """
    alloc, owner, at, started = (case.failures[name].to_numpy()[rows] for name in _COLUMNS)
    known = (owner >= 0) & (at != NEVER) & (started != NEVER) & (at >= started)
    alloc, owner, at, started = (each[known] for each in (alloc, owner, at, started))
    order = np.argsort(at, kind="stable")
    alloc, owner, at, started = (each[order] for each in (alloc, owner, at, started))
    number = _moments(at, owner)
    # tasks of one allocation end together whatever happens, so a moment needs several allocations
    moments = np.unique(np.stack([number, alloc]), axis=1)[0]
    together = np.bincount(moments)[number] > 1 if len(number) else np.zeros(0, dtype=bool)
    if not together.any() or together.mean() < _TOGETHER:
        return None
    alloc, at, started = alloc[together], at[together], started[together]
    _, number = np.unique(number[together], return_inverse=True)
    ages = at - started
    ends, rounds = len(at), int(number.max()) + 1
    if rounds < 2:
        return None
    clock, own = _spread(at, number), float(np.std(ages, ddof=1))
    begins = np.flatnonzero(np.diff(number)) + 1
    by_moment = np.split(ages, begins)
    apart = [float(np.ptp(each)) for each in np.split(at, begins)]
    if own > clock:
        middle = [float(np.median(each)) for each in by_moment]
        vary = float(np.ptp(middle)) > max(_CLEARLY * max(apart), _ALIKE * float(np.median(ages)))
        # of runs whose length has changed for all of them, the ends still follow the starts in each moment
        own_ways = float(np.median([np.ptp(each) for each in by_moment])) > 2 * float(np.median(apart))
        telling, freedom = vary and own_ways, (ends - 1, ends - rounds)
    else:
        telling = float(np.ptp(ages)) <= _ALIKE * float(np.median(ages))
        freedom = (ends - rounds, ends - 1)
    p = distributions.f_sf((max(clock, own, 1.0) / max(min(clock, own), 1.0)) ** 2, *freedom)
    if not telling or p >= level:
        return None
    instances = len(np.unique(case.instances.lane[alloc]))
    youngest, oldest = int(ages.min()), int(ages.max())
    return Rhythm(own > clock, p, instances, ends, rounds, int(max(apart)), youngest, oldest)


_COLUMNS = ("alloc", "owner", "at", "started")


def _moments(at: Array, owner: Array) -> Array:
    """Return the moment that each of some ends, which are in order of time, belongs to."""
    number = np.zeros(len(at), dtype=np.int64)
    begin, seen, moment = NEVER, set[int](), -1
    for place, (time, task) in enumerate(zip(at.tolist(), owner.tolist(), strict=True)):
        # one task ends once in a moment
        if begin == NEVER or time - begin > _MOMENT or task in seen:
            begin, seen, moment = time, set(), moment + 1
        seen.add(task)
        number[place] = moment
    return number


def _spread(times: Array, number: Array) -> float:
    """Return the standard deviation of times within the moments that they belong to."""
    count = np.bincount(number)
    low = times.min()  # nanoseconds since 1970 would lose their digits
    mean = np.bincount(number, times - low) / count
    return float(np.sqrt(np.sum((times - low - mean[number]) ** 2) / (len(times) - len(count))))


def as_evidence(rhythm: Rhythm, *, from_first: bool = False) -> Evidence:
    """Return that ends keep to the clock, or to their own age, as evidence."""
    numbers = {
        "instances": rhythm.instances, "ends": rhythm.ends, "times": rhythm.rounds, "p": rhythm.p,
        "apart": length_of(rhythm.apart), "youngest": length_of(rhythm.youngest),
        "oldest": length_of(rhythm.oldest), "from_first": from_first,
    }  # fmt: skip
    return Evidence("ends by clock" if rhythm.by_clock else "ends by age", numbers)
