"""When requests are repeated, and how long they wait."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from allocframe.nomad import retry


@pytest.mark.parametrize(
    ("status", "text", "again"),
    [
        (500, "No cluster leader", True),
        (500, "rpc error: Not ready to serve consistent reads", True),
        (500, "alloc lookup failed: index error: UUID must be 36 characters", False),
        (500, 'Unknown allocation "x"', False),
        (502, "", True), (503, "", True), (504, "", True), (429, "", True), (403, "", False),
        (400, "EOF", False),
    ],
)  # fmt: skip
def test_a_500_is_final_unless_its_text_is_transient(status: int, text: str, again: bool) -> None:
    assert retry.is_transient(status, text) is again


TRANSIENT = [
    "No cluster leader", "Not ready to serve consistent reads", "no servers", "node is not the leader",
    "leadership transfer in progress", "EOF", "eof", "unexpected EOF", "stream closed", "session shutdown",
    "failed to get conn: dial tcp 192.0.2.1:4647: connect: connection refused",
    "failed to get conn: rpc error: lead thread didn't get connection",
    "read tcp 192.0.2.1:4647: connection reset by peer", "write: broken pipe", "read tcp: i/o timeout",
    "remote end is not accepting connections",
]  # fmt: skip


@pytest.mark.parametrize("text", TRANSIENT)
def test_a_read_is_repeated_after_each_of_these_texts(text: str) -> None:
    assert retry.is_transient(500, f"rpc error: {text}") is True
    assert retry.is_transient(501, text) is False
    assert retry.is_transient(499, text) is False


@pytest.mark.parametrize(
    ("status", "text", "not_applied", "perhaps_applied"),
    [
        (500, "No cluster leader", True, False), (500, "node is not the leader", True, False),
        (500, "no servers", True, False), (429, "", True, False), (501, "No cluster leader", False, False),
        (499, "no servers", False, False),
        (500, "leadership lost while committing log", False, True), (500, "EOF", False, True),
        (502, "", False, True), (503, "", False, True), (504, "", False, True), (400, "bad", False, False),
        (403, "", False, False),
        (500, "Not ready to serve consistent reads", False, False),
        (500, "rpc error: failed to get conn: dial tcp 192.0.2.1:4647: i/o timeout", True, False),
        (500, "rpc error: stream closed", False, True), (500, "rpc error: eof", False, True),
        (500, "rpc error: session shutdown", False, True), (500, "geofence", False, False),
    ],
)  # fmt: skip
def test_of_a_refused_change_it_is_known_whether_it_may_have_been_made(
    status: int, text: str, not_applied: bool, perhaps_applied: bool
) -> None:
    assert retry.was_not_applied(status, text) is not_applied
    assert retry.may_be_applied(status, text) is perhaps_applied


def test_a_retry_after_without_a_zone_is_in_utc_and_one_with_a_zone_is_not() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry.retry_after("Thu, 01 Jan 2026 00:00:20 -0000", now) == 20.0
    assert retry.retry_after("Thu, 01 Jan 2026 01:00:20 +0100", now) == 20.0
    assert retry.retry_after("") is None
    assert retry.retry_after("60") == 60.0
    assert retry.retry_after("61") == 60.0
    soon = retry.retry_after(format_datetime(datetime.now(UTC) + timedelta(seconds=30)))
    assert soon is not None
    assert 0 < soon <= 30


def test_pauses_double_from_a_quarter_second_to_eight() -> None:
    class Most(random.Random):
        def uniform(self, a: float, b: float) -> float:
            assert a == 0.0
            return b

    assert [retry.backoff(n, Most()) for n in range(1, 8)] == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0]


def test_retry_after_is_obeyed_in_both_forms_up_to_a_minute() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry.retry_after("3") == 3.0
    assert retry.retry_after("1000000000") == 60.0
    assert retry.retry_after(format_datetime(now + timedelta(seconds=20)), now) == 20.0
    assert retry.retry_after(format_datetime(now - timedelta(hours=1)), now) == 0.0
    assert retry.retry_after("soon") is None
    assert retry.retry_after(None) is None


def test_backoff_stays_under_a_doubling_bound() -> None:
    rng = random.Random(1)
    for attempt in range(1, 12):
        assert all(0 <= retry.backoff(attempt, rng) <= min(0.25 * 2 ** (attempt - 1), 8.0) for _ in range(50))


@pytest.mark.parametrize(("jitter", "lowest"), [(1.0, 0.0), (0.5, 3.0), (0.25, 4.5), (0.0, 6.0)])
def test_jitter_is_the_random_share_of_the_bound(jitter: float, lowest: float) -> None:
    class Least(random.Random):
        def uniform(self, a: float, b: float) -> float:
            assert b == 6.0
            return a

    assert retry.backoff(3, Least(), first=1.5, longest=60.0, jitter=jitter) == lowest
