"""How often ends that come by themselves are taken for ends from outside, in worlds that are made here."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from allocframe.diagnosis._rhythm import _in_moments, _in_turn

SECOND = 10**9
WORLDS = 400
LEVEL = 0.01

World = Callable[[np.random.Generator, int], tuple[Any, Any]]


def all_started_at_once(rng: np.random.Generator, instances: int) -> tuple[Any, Any]:
    started = np.sort(rng.uniform(0, 2, instances))
    return started, started + rng.uniform(5, 300, instances)


def crashing_at_random(rng: np.random.Generator, instances: int) -> tuple[Any, Any]:
    started = rng.uniform(0, 60, instances)
    return started, started + 1 + rng.exponential(60, instances)


def rolled_out_at_an_even_pace(rng: np.random.Generator, instances: int) -> tuple[Any, Any]:
    started = 10 * np.arange(instances) + rng.normal(0, 0.2, instances) + 10
    return started, started + rng.uniform(2, 40, instances)


def killed_one_after_the_other(rng: np.random.Generator, instances: int) -> tuple[Any, Any]:
    started = rng.uniform(0, 60, instances)
    return started, 100 + 3 * np.arange(instances) + rng.normal(0, 0.1, instances)


def share_in_turn(world: World, instances: int) -> float:
    rng = np.random.default_rng(instances)
    found = 0
    for _ in range(WORLDS):
        started, at = ((each * SECOND).astype(np.int64) for each in world(rng, instances))
        order = np.argsort(at)
        case: Any = SimpleNamespace(
            instances=SimpleNamespace(lane=np.arange(instances)),
            lost_restarts=np.zeros(instances, dtype=np.int64),
            now=int(at.max()) + 60 * SECOND,
        )
        found += _in_turn(case, (order, order, at[order], started[order]), LEVEL) is not None
    return found / WORLDS


@pytest.mark.parametrize("instances", [4, 8, 16])
@pytest.mark.parametrize("world", [all_started_at_once, crashing_at_random, rolled_out_at_an_even_pace])
def test_ends_that_come_by_themselves_are_hardly_ever_taken_for_a_row(world: World, instances: int) -> None:
    assert share_in_turn(world, instances) <= 0.03


@pytest.mark.parametrize(("instances", "least"), [(4, 0.5), (8, 0.99), (16, 0.99)])
def test_ends_that_somebody_makes_one_after_the_other_are_found(instances: int, least: float) -> None:
    assert share_in_turn(killed_one_after_the_other, instances) >= least


def share_by_clock(moments: Callable[[np.random.Generator], Any], instances: int, mean: float) -> float:
    """Return how often four ends of each instance are said to keep to the clock."""
    rng = np.random.default_rng(instances)
    found = 0
    for _ in range(WORLDS):
        at = moments(rng)
        if at is None:  # each ends at an age of its own, and starts again
            ages = 0.2 + rng.exponential(mean, (instances, 4))
            at = rng.uniform(0, 2, (instances, 1)) + np.cumsum(ages + 1, axis=1)
            started = at - ages
        else:
            at = at + rng.uniform(0, 0.02, (instances, 4))
            again = at[:, :-1] + rng.uniform(1, 1.25, (instances, 3))  # Nomad delays restarts by so much
            started = np.column_stack([rng.uniform(-60, 0, instances), again])
        owner = np.repeat(np.arange(instances), 4)
        times, starts = ((each.ravel() * SECOND).astype(np.int64) for each in (at, started))
        order = np.argsort(times)
        case: Any = SimpleNamespace(instances=SimpleNamespace(lane=np.arange(instances)))
        rhythm = _in_moments(case, (owner[order], owner[order], times[order], starts[order]), LEVEL)
        found += rhythm is not None and rhythm.by_clock
    return found / WORLDS


@pytest.mark.parametrize("mean", [1.0, 4.0, 20.0])
@pytest.mark.parametrize("instances", [2, 3, 6])
def test_ends_at_random_ages_hardly_ever_share_their_moments(instances: int, mean: float) -> None:
    assert share_by_clock(lambda rng: None, instances, mean) <= 0.01


@pytest.mark.parametrize(("instances", "least"), [(2, 0.9), (6, 0.99)])
def test_what_somebody_kills_at_once_again_and_again_keeps_to_the_clock(instances: int, least: float) -> None:
    assert share_by_clock(lambda rng: np.cumsum(rng.uniform(8, 30, 4)), instances, 0) >= least
