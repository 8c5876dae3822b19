"""Times and numbers in sentences."""

from __future__ import annotations

import pandas as pd

from allocframe._utils.prose import clock, count


def test_a_time_has_no_date_after_one_of_the_same_day() -> None:
    noon = pd.Timestamp("2026-11-26 12:00", tz="UTC")
    assert clock(noon) == "2026-11-26 12:00"
    assert clock(noon, noon - pd.Timedelta("3h")) == "12:00"
    assert clock(noon, noon - pd.Timedelta("1D")) == "2026-11-26 12:00"
    assert clock(noon, pd.NaT) == "2026-11-26 12:00"
    assert clock(pd.NaT) == "an unknown time"


def test_one_thing_is_told_in_the_singular() -> None:
    assert [count(1, "crashes"), count(1, "jobs"), count(2, "jobs")] == ["1 crash", "1 job", "2 jobs"]
