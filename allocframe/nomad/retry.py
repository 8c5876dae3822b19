"""When a request is worth repeating, and how long to wait before the next try. No I/O."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_RETRY_AFTER = 60.0
"""Longest Retry-After that is obeyed, in seconds."""

# Nomad answers 500 both for a cluster in trouble and for bad input. Only the text tells them apart.
_NOT_APPLIED = re.compile(
    # "failed to get conn": the server that was asked could not reach the one that decides.
    r"No cluster leader|node is not the leader|no servers|failed to get conn"
)
_MAYBE_APPLIED = re.compile(
    r"leadership lost while committing log|\bEOF\b|stream closed|session shutdown"
    r"|connection reset|broken pipe|i/o (?:timeout|deadline)",
    re.IGNORECASE,
)
_TRANSIENT = re.compile(
    rf"{_NOT_APPLIED.pattern}|{_MAYBE_APPLIED.pattern}|Not ready to serve consistent reads"
    r"|leadership transfer in progress|connection refused|remote end is not accepting connections",
    re.IGNORECASE,
)

_JITTER = random.Random()  # noqa: S311 - jitter, not a secret


def is_transient(status: int, text: str) -> bool:
    """Return whether a read that failed this way may succeed when it is repeated."""
    return status in (429, 502, 503, 504) or (status == 500 and bool(_TRANSIENT.search(text)))


def was_not_applied(status: int, text: str) -> bool:
    """Return whether a refused change was certainly not applied, so that it is safe to repeat."""
    return status == 429 or (status == 500 and bool(_NOT_APPLIED.search(text)))


def may_be_applied(status: int, text: str) -> bool:
    """Return whether a change may have been applied although the answer is an error."""
    if status in (502, 503, 504):
        return True
    return bool(_MAYBE_APPLIED.search(text)) and not was_not_applied(status, text)


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After header asks for, at most `MAX_RETRY_AFTER`.

    The header holds seconds or a date. Returns None if it is missing or unreadable.
    """
    if not value:
        return None
    if re.fullmatch(r"\d+", text := value.strip(), re.ASCII):
        return min(float(text), MAX_RETRY_AFTER)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    seconds = (date - (now or datetime.now(UTC))).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def backoff(
    attempt: int,
    rng: random.Random = _JITTER,
    *,
    first: float = 0.25,
    longest: float = 8.0,
    jitter: float = 1.0,
) -> float:
    """Return the seconds to wait before retry number `attempt`, counted from 1.

    Parameters
    ----------
    attempt : int
        The bound doubles with each attempt.
    rng : random.Random
        Source of the jitter.
    first, longest : float
        Bound of the first retry, and the bound that is never exceeded, in seconds.
    jitter : float
        Share of the bound that is random: 1 is full jitter, 0 is none.
    """
    # The exponent is capped because 2.0 ** 1024 overflows: a recorder may fail for weeks.
    bound = min(first * 2.0 ** min(attempt - 1, 30), longest)
    return rng.uniform((1.0 - jitter) * bound, bound)
