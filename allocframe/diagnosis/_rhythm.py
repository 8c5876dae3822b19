"""Whether failures keep to the clock or to the age of what fails: something outside it, or the program.

A signal, a dependency and a node hit all instances in one moment, however long each has run. A program that
fails by itself fails so long after its own start. Instances that started together also end together in the
second case, so that one moment says little: what tells is the spread of the ages against that of the moments.
Something outside may also take one instance after the other, at an even pace: ends that come by themselves
are not evenly spaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..stats import _distributions as distributions
from ._failures import Case
from ._groups import SECOND
from ._investigation import Investigation, length_of
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
    pace : int
        If they ended in turn: the usual time from one moment to the next; else 0.
    once : bool
        If they ended in turn: each of them ended once.
    calm : int
        If each ended once: how long none has ended since.
    moments : tuple of int
        When each moment began, if they ended in the same moments.
    """

    by_clock: bool
    p: float
    instances: int
    ends: int
    rounds: int
    apart: int
    youngest: int
    oldest: int
    pace: int = 0
    once: bool = False
    calm: int = 0
    moments: tuple[int, ...] = ()


_MOMENT = SECOND
"""Ends within this time of each other are of one moment: a signal is sent to one process after another."""

_TOGETHER = 0.8
"""At least this share of the ends must share a moment with others; the rest may have another cause."""

_CLEARLY = 10
"""The ages at two moments must differ by this many times the spread of the ends within a moment."""

_DISTINCT = 2
"""Moments must be this many times as far from each other as the ends within one: they may be chance."""

_ALIKE = 0.1
"""Ages that differ by a smaller part are one age."""


_TURNS = 4
"""Moments that make a row: of three, two gaps are soon alike."""


def rhythm_of(look: Investigation, index: int) -> Rhythm | None:
    """Return how all failures of a group came; computed once."""
    if index not in look.rhythms:
        rows = look.groups[index].rows
        look.rhythms[index] = compare_rhythm(look.case, rows, look.limits.significance_level)
    found: Rhythm | None = look.rhythms[index]
    return found


def compare_rhythm(case: Case, rows: Array, level: float) -> Rhythm | None:
    """Return how some failures of one job came, None if neither clock nor age stands out."""
    ends = _known_ends(case, rows)
    return _in_moments(case, ends, level) or _in_turn(case, ends, level)


def _known_ends(case: Case, rows: Array) -> tuple[Array, ...]:
    """Return allocation, task, time and start of the ends that have both times, in order of time."""
    alloc, owner, at, started = (case.failures[name].to_numpy()[rows] for name in _COLUMNS)
    known = np.flatnonzero((owner >= 0) & (at != NEVER) & (started != NEVER) & (at >= started))
    order = known[np.argsort(at[known], kind="stable")]
    return tuple(each[order] for each in (alloc, owner, at, started))


def _in_turn(case: Case, ends: tuple[Array, ...], level: float) -> Rhythm | None:
    """Return that instances ended one after the other, or some at a time, at an even pace; None if not.

    Of ends that come by themselves after their starts, all gaps are at least a share s of their mean with
    the probability (1 - s)^(k - 1), where k is the number of gaps (uniform spacings). Ends that follow starts
    at an even pace are of one age, or of ages that differ less than the starts do.
    """
    alloc, owner, at, started = ends
    if len(at) < _TURNS:
        return None
    lane = case.instances.lane[alloc]
    first = np.zeros(len(at), dtype=bool)
    first[np.unique(lane, return_index=True)[1]] = True
    whole = not case.lost_restarts[owner].any()
    chosen = [first] if whole else []
    # what ends again and again at one age does that by itself, whatever took it the first time
    if (again := (at - started)[~first]).size and np.subtract(*np.quantile(again, [0.75, 0.25])) > (
        _ALIKE * float(np.median(again))
    ):
        chosen.append(np.ones(len(at), dtype=bool))
    tests = [row for part in chosen for row in _rows_of(alloc[part], owner[part], at[part], started[part])]
    best = min(tests, key=lambda row: row.p, default=None)
    if best is None or best.p * len(tests) >= level:
        return None
    once = whole and bool(first.all())
    calm = int(case.now - at[-1]) if once else 0
    instances = len(np.unique(case.instances.lane[best.alloc]))
    if instances < _TURNS:
        return None
    return Rhythm(
        True, min(1.0, best.p * len(tests)), instances, len(best.alloc), best.turns, best.apart,
        int(best.ages.min()), int(best.ages.max()), best.pace, once, calm,
    )  # fmt: skip


@dataclass(frozen=True)
class _Row:
    """Ends at an even pace: of which allocations and ages, in how many turns, and the longest turn."""

    p: float
    alloc: Array
    ages: Array
    turns: int
    pace: int
    apart: int


def _rows_of(alloc: Array, owner: Array, at: Array, started: Array) -> Iterator[_Row]:
    """Yield some ends as a row, one by one and several at a time, if their ages differ enough for one."""
    ages = at - started
    # tasks of one allocation end together
    by_alloc = np.append(True, (alloc[1:] != alloc[:-1]) | (np.diff(at) > _MOMENT))
    by_moment = np.append(True, np.diff(_moments(at, owner)) > 0)
    for begins, least in ((by_alloc, 0), (by_moment, _MOMENT)):
        # moments are no closer than that because they are made so: it says nothing
        gaps = np.maximum(np.diff(at[begins]) - least, 0)
        pace = int(np.median(np.diff(at[begins]))) if len(gaps) else 0
        spread, differ = float(np.std(ages)), float(np.ptp(ages))
        if len(gaps) + 1 < _TURNS or spread < pace or differ <= _ALIKE * float(np.median(ages)):
            continue
        share = min(float(gaps.min() * len(gaps) / max(gaps.sum(), 1)), 1.0)
        apart = max(int(np.ptp(each)) for each in np.split(at, np.flatnonzero(begins)[1:]))
        yield _Row((1 - share) ** (len(gaps) - 1), alloc, ages, len(gaps) + 1, pace, apart)


def _in_moments(case: Case, known: tuple[Array, ...], level: float) -> Rhythm | None:
    """Return how ends of several instances at a time came, None if neither clock nor age stands out.

    Of ends that follow their own starts, the moments are at least as spread as the ages, for the starts are
    spread as well. So the variance of all ages, over that of the ends within their moments, is at most F
    distributed; and the other way round for ends that follow the clock.
    """
    alloc, owner, at, started = known
    number = _moments(at, owner)
    # tasks of one allocation end together whatever happens, so a moment needs several allocations
    of_allocs = np.unique(np.stack([number, alloc]), axis=1)[0]
    together = np.bincount(of_allocs)[number] > 1 if len(number) else np.zeros(0, dtype=bool)
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
        # of ends as close as moments are long, some share a moment whatever happens
        distinct = (at[begins] - at[begins - 1]).min() > _DISTINCT * max(apart)
        telling, freedom = vary and own_ways and distinct, (ends - 1, ends - rounds)
    else:
        telling = float(np.ptp(ages)) <= _ALIKE * float(np.median(ages))
        freedom = (ends - rounds, ends - 1)
    p = distributions.f_sf((max(clock, own, 1.0) / max(min(clock, own), 1.0)) ** 2, *freedom)
    if not telling or p >= level:
        return None
    instances = len(np.unique(case.instances.lane[alloc]))
    youngest, oldest = int(ages.min()), int(ages.max())
    moments = tuple(at[np.append(0, begins)].tolist()) if own > clock else ()
    return Rhythm(
        own > clock, p, instances, ends, rounds, int(max(apart)), youngest, oldest, moments=moments
    )  # fmt: skip


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


def joined(rhythms: list[Rhythm]) -> Rhythm:
    """Return how the instances of several jobs ended that did so in the same moments."""
    spans = [
        (min(times), max(time + each.apart for time, each in zip(times, rhythms, strict=True)))
        for times in zip(*(each.moments for each in rhythms), strict=True)
    ]
    return Rhythm(
        True, max(each.p for each in rhythms), sum(each.instances for each in rhythms),
        sum(each.ends for each in rhythms), len(spans), max(last - first for first, last in spans),
        min(each.youngest for each in rhythms), max(each.oldest for each in rhythms),
    )  # fmt: skip


def as_evidence(rhythm: Rhythm, *, from_first: bool = False) -> Evidence:
    """Return that ends keep to the clock, or to their own age, as evidence."""
    numbers = {
        "instances": rhythm.instances, "ends": rhythm.ends, "times": rhythm.rounds, "p": rhythm.p,
        "apart": length_of(rhythm.apart), "youngest": length_of(rhythm.youngest),
        "oldest": length_of(rhythm.oldest), "from_first": from_first,
    }  # fmt: skip
    if rhythm.pace:
        turns = {"pace": length_of(rhythm.pace), "once": rhythm.once, "calm": length_of(rhythm.calm)}
        numbers |= turns
        return Evidence("ends in turn", numbers)
    return Evidence("ends by clock" if rhythm.by_clock else "ends by age", numbers)
