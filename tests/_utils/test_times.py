"""Times that people give."""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd
import pytest

from allocframe._utils.times import to_utc
from allocframe.errors import ConfigError


@pytest.mark.parametrize(
    "moment",
    [
        "2026-11-24T09:30",
        "2026-11-24 10:30+01:00",
        datetime(2026, 11, 24, 9, 30, tzinfo=UTC),
        datetime(2026, 11, 24, 9, 30),
        pd.Timestamp("2026-11-24 04:30", tz="America/New_York"),
    ],
)
def test_a_time_is_taken_in_utc_unless_it_has_an_offset(moment: str | datetime | pd.Timestamp) -> None:
    assert to_utc(moment) == pd.Timestamp("2026-11-24 09:30", tz="UTC")
    assert str(to_utc(moment).tz) == "UTC"


NOW = pd.Timestamp("2026-11-24T09:30", tz="UTC")


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2h", "2026-11-24T07:30"),
        ("1h30m", "2026-11-24T08:00"),
        ("1h 30m ago", "2026-11-24T08:00"),
        ("90 minutes ago", "2026-11-24T08:00"),
        ("1.5 hours", "2026-11-24T08:00"),
        ("45s", "2026-11-24T09:29:15"),
        ("7d", "2026-11-17T09:30"),
        ("2 weeks ago", "2026-11-10T09:30"),
        ("now", "2026-11-24T09:30"),
        ("today", "2026-11-24"),
        ("Yesterday", "2026-11-23"),
        ("yesterday 14:00", "2026-11-23T14:00"),
        ("8:05", "2026-11-24T08:05"),
        ("2026-11", "2026-11-01"),
    ],
)
def test_a_time_may_be_relative_to_now(moment: str, expected: str) -> None:
    assert to_utc(moment, now=NOW) == pd.Timestamp(expected, tz="UTC")


@pytest.mark.parametrize("moment", ["2h", "1 day ago"])
def test_durations_are_counted_back_from_the_present(moment: str) -> None:
    assert pd.Timedelta(0) < pd.Timestamp.now(tz="UTC") - to_utc(moment) < pd.Timedelta("2D")


NO_TIMES = [
    "soon", "", None, pd.NaT, "9999999-01-01", [], float("nan"), 5, 2.5, True, "0001-01-01", "9999-01-01",
    "2", "h", "2x", "25:00", "yesterday 2h", "2h yesterday", "999999999w", "2026-13-01", "2 months ago",
    datetime(1, 1, 1), "1" * 5000 + "h",
]  # fmt: skip


@pytest.mark.parametrize("moment", NO_TIMES)
def test_what_is_not_a_time_is_an_error_that_names_the_argument(moment: object) -> None:
    with pytest.raises(ConfigError, match="since must be a time such as 2026-11-24T09:30, 'yesterday 14:00'"):
        to_utc(moment, "since")  # type: ignore[arg-type]
