"""How often ends that come by themselves are taken for ends in turn, in worlds that are made here."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from allocframe.diagnosis._rhythm import _in_turn

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
