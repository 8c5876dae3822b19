"""Checks of arguments."""

from __future__ import annotations

import math

import pytest

from allocframe._utils.validate import check_count, check_name, check_seconds
from allocframe.errors import ConfigError


def test_valid_values_are_returned() -> None:
    assert check_count("per_page", 5) == 5
    assert check_seconds("timeout", 2) == 2.0
    assert check_seconds("timeout", 0, zero=True) == 0.0
    assert check_name("eu-west.1") == "eu-west.1"


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "5", None])
def test_a_count_is_a_whole_number_of_at_least_1(value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^per_page must be a whole number of at least 1, got {value!r}$"):
        check_count("per_page", value)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "5", None])
def test_seconds_are_finite_and_above_0(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^timeout must be a number of seconds above 0, got "):
        check_seconds("timeout", value)


@pytest.mark.parametrize("name", ["", "a b", "../up", ".hidden", "x" * 101, "a/b", 5, None, "é"])
def test_a_name_of_a_cluster_can_be_that_of_a_folder(name: object) -> None:
    with pytest.raises(ConfigError, match="the name of a cluster must be"):
        check_name(name)
