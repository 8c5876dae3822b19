"""Numbers, times and counts as people write them."""

from __future__ import annotations

import pandas as pd


def clock(moment: pd.Timestamp, after: pd.Timestamp | None = None) -> str:
    """Return a moment as a sentence says it, without the day where that is the one of `after`."""
    same_day = after is not None and after.date() == moment.date()
    return f"{moment:%H:%M}" if same_day else f"{moment:%Y-%m-%d %H:%M}"


def count(amount: int, what: str) -> str:
    """Return a number with its noun, in the singular for one."""
    return (
        f"{amount:,} {what}"
        if amount != 1
        else f"1 {what.removesuffix('es' if what.endswith('shes') else 's')}"
    )


def number(value: float) -> str:
    """Return a number with three digits that count."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def span(length: pd.Timedelta) -> str:
    """Return a duration in the unit that suits it."""
    seconds = length.total_seconds()
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
