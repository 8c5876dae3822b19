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


@pytest.mark.parametrize("moment", ["soon", "", None, pd.NaT, "9999999-01-01", [], float("nan")])
def test_what_is_no_time_is_an_error_that_names_the_argument(moment: object) -> None:
    with pytest.raises(ConfigError, match="since must be a time such as 2026-11-24T09:30, got"):
        to_utc(moment, "since")  # type: ignore[arg-type]
