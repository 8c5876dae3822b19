"""What a terminal sends to its views, and which of their messages it believes. Without I/O."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocframe.widgets.terminal import protocol
from allocframe.widgets.terminal.protocol import (
    MAX_MESSAGE,
    MAX_VIEWS,
    REPLAY_SIZE,
    TRANSCRIPT_SIZE,
    VIEW_TIMEOUT,
    WINDOW,
    InputOrder,
    Output,
    parse_message,
)


def take_all(output: Output, now: float = 0.0) -> bytes:
    """Take all that can be sent. Every message must begin where the one before it ended."""
    parts, position = [], output.sent
    while (message := output.take(now)) is not None:
        offset, data = message
        assert offset == position
        assert len(data) <= MAX_MESSAGE
        parts.append(data)
        position += len(data)
    return b"".join(parts)


@given(st.lists(st.binary(max_size=300)))
def test_a_view_gets_everything_once_and_in_order(written: list[bytes]) -> None:
    output, received = Output(), b""
    output.attach("a", 0.0)
    for data in written:
        output.add(data)
        received += take_all(output)
        output.acknowledge("a", output.sent, 0.0)
    assert received == b"".join(written)
    assert output.total == len(received)


def test_at_most_a_window_is_sent_before_the_slowest_view_has_drawn() -> None:
    output = Output()
    output.attach("fast", 0.0)
    output.attach("slow", 0.0)
    output.add(b"x" * (WINDOW + 1000))
    assert len(take_all(output)) == WINDOW
    output.acknowledge("fast", output.sent, 0.0)
    assert output.take(0.0) is None
    output.acknowledge("slow", 600, 0.0)
    assert len(take_all(output)) == 600


def test_a_silent_view_does_not_hold_up_the_others_and_must_attach_again() -> None:
    output = Output()
    output.attach("open", 0.0)
    output.attach("gone", 0.0)
    output.add(b"x" * WINDOW)
    take_all(output)
    output.acknowledge("open", WINDOW, VIEW_TIMEOUT + 1)
    output.add(b"more")
    assert take_all(output, VIEW_TIMEOUT + 1) == b"more"
    assert not output.acknowledge("gone", WINDOW, VIEW_TIMEOUT + 1)


def test_without_a_view_output_does_not_wait() -> None:
    output = Output()
    output.add(b"x" * (3 * WINDOW))
    assert output.unsent == 0
    assert output.attach("a", 0.0) == protocol.Replay(b"x" * REPLAY_SIZE, 3 * WINDOW)


def test_a_new_view_gets_the_active_modes() -> None:
    output = Output()
    output.add(b"\x1b[?10")
    output.add(b"49h\x1b[?25l\x1b[?25h" + b"x" * (REPLAY_SIZE + 100))
    assert output.full_screen
    replay = output.attach("a", 0.0)
    assert replay is not None
    assert replay.data.startswith(b"\x1b[?1049h\x1b[?25hx")
    output.add(b"\x1b[?1049l")
    assert not output.full_screen


def test_memory_is_bounded_and_the_transcript_says_what_was_dropped() -> None:
    output = Output()
    for _ in range(300):
        output.add(b"y\r\n" * 20_000)
    assert len(output._buffer) <= 2 * TRANSCRIPT_SIZE
    text = output.transcript()
    assert text.startswith(f"[{300 * 60_000 - TRANSCRIPT_SIZE:,} earlier bytes were dropped]\n")
    assert text.endswith("y\ny\ny\n")


def test_a_view_sees_a_gap_where_output_was_dropped() -> None:
    output = Output()
    output.attach("a", 0.0)
    output.add(b"x" * (2 * TRANSCRIPT_SIZE + 10))
    message = output.take(0.0)
    assert message is not None
    assert message[0] == TRANSCRIPT_SIZE + 10


def test_the_transcript_is_plain_text() -> None:
    output = Output()
    output.add("\x1b[1;31mrot é\x1b[0m\r\n\x1b]0;title\x07a\x1b(Bb\x07\tc\x1bPq#0\x1b\\d".encode())
    assert output.transcript() == "rot é\nab\tcd"


def test_the_number_of_views_is_bounded() -> None:
    output = Output()
    assert all(output.attach(f"v{n}", 0.0) for n in range(MAX_VIEWS))
    assert output.attach("one too many", 0.0) is None
    output.detach("v0")
    assert output.attach("now there is room", 0.0) is not None


@given(st.permutations(list(range(12))))
def test_input_is_put_into_order(order: list[int]) -> None:
    pending = InputOrder()
    assert b"".join(pending.add("a", n, b"%d," % n, 0.0) for n in order) == b"0,1,2,3,4,5,6,7,8,9,10,11,"


def test_missing_input_is_not_awaited_forever() -> None:
    pending = InputOrder()
    assert pending.add("a", 1, b"b", 0.0) == b""
    assert pending.add("a", 2, b"c", 0.5) == b""
    assert pending.add("a", 3, b"d", 1.6) == b"bcd"
    assert pending.add("a", 0, b"late", 1.7) == b""
    assert pending.add("other", 0, b"x", 1.7) == b"x"


@pytest.mark.parametrize(
    "forged",
    [
        None,
        [],
        "attach",
        {},
        {"type": "exec"},
        {"type": "attach"},
        {"type": "attach", "view": "a", "rows": "24", "cols": 80},
        {"type": "attach", "view": "", "rows": 24, "cols": 80},
        {"type": "attach", "view": "a" * 65, "rows": 24, "cols": 80},
        {"type": "resize", "view": "a", "rows": 0, "cols": 80},
        {"type": "resize", "view": "a", "rows": 24, "cols": 10**9},
        {"type": "resize", "view": "a", "rows": True, "cols": 80},
        {"type": "ack", "view": "a", "offset": -1},
        {"type": "input", "view": "a"},
        {"type": ["attach"]},
        {"type": "ack", "view": 5, "offset": 1},
    ],
)
def test_row_comm_invalid_messages_of_a_view_are_rejected(forged: Any) -> None:
    assert parse_message(forged) is None


NAMES = st.sampled_from(["type", "view", "rows", "cols", "offset", "number"]) | st.text()
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["attach", "ack", "input"]),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner),
)


@given(ANYTHING)
def test_row_comm_no_message_breaks_the_check(content: Any) -> None:
    assert parse_message(content) is None or content["type"] in protocol._FIELDS
