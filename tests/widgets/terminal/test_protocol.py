"""What a terminal's views are sent, and what is believed of what they say: rules without I/O."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocframe.widgets.terminal import protocol
from allocframe.widgets.terminal.protocol import (
    KEPT,
    MAX_VIEWS,
    MESSAGE,
    REPLAY,
    SILENT,
    WINDOW,
    Output,
    Typed,
    checked,
)


def taken(output: Output, now: float = 0.0) -> bytes:
    """Take all that may be sent; every piece must begin where the one before it ended."""
    parts, at = [], output.sent
    while (piece := output.take(now)) is not None:
        assert piece[0] == at
        assert len(piece[1]) <= MESSAGE
        parts.append(piece[1])
        at += len(piece[1])
    return b"".join(parts)


@given(st.lists(st.binary(max_size=300)))
def test_a_view_gets_everything_once_and_in_order(written: list[bytes]) -> None:
    output, got = Output(), b""
    output.attached("a", 0.0)
    for data in written:
        output.add(data)
        got += taken(output)
        output.acknowledged("a", output.sent, 0.0)
    assert got == b"".join(written)
    assert output.total == len(got)


def test_no_more_than_a_window_is_sent_before_the_slowest_view_has_drawn() -> None:
    output = Output()
    output.attached("fast", 0.0)
    output.attached("slow", 0.0)
    output.add(b"x" * (WINDOW + 1000))
    assert len(taken(output)) == WINDOW
    output.acknowledged("fast", output.sent, 0.0)
    assert output.take(0.0) is None
    output.acknowledged("slow", 600, 0.0)
    assert len(taken(output)) == 600


def test_a_view_that_falls_silent_does_not_hold_the_others_up_and_begins_again_when_it_speaks() -> None:
    output = Output()
    output.attached("open", 0.0)
    output.attached("gone", 0.0)
    output.add(b"x" * WINDOW)
    taken(output)
    output.acknowledged("open", WINDOW, SILENT + 1)
    output.add(b"more")
    assert taken(output, SILENT + 1) == b"more"
    assert not output.acknowledged("gone", WINDOW, SILENT + 1)


def test_without_a_view_output_is_kept_and_never_waits() -> None:
    output = Output()
    output.add(b"x" * (3 * WINDOW))
    assert output.unsent == 0
    assert output.attached("a", 0.0) == protocol.Replay(b"x" * REPLAY, 3 * WINDOW)


def test_a_view_that_appears_late_finds_the_modes_that_are_on() -> None:
    output = Output()
    output.add(b"\x1b[?10")
    output.add(b"49h\x1b[?25l\x1b[?25h" + b"x" * (REPLAY + 100))
    assert output.full_screen
    replay = output.attached("a", 0.0)
    assert replay is not None
    assert replay.data.startswith(b"\x1b[?1049h\x1b[?25hx")
    output.add(b"\x1b[?1049l")
    assert not output.full_screen


def test_memory_is_bounded_under_yes_and_the_transcript_says_what_is_gone() -> None:
    output = Output()
    for _ in range(300):
        output.add(b"y\r\n" * 20_000)
    assert len(output._kept) <= 2 * KEPT
    text = output.transcript()
    assert text.startswith(f"[{300 * 60_000 - KEPT:,} earlier bytes are not kept]\n")
    assert text.endswith("y\ny\ny\n")


def test_a_view_that_lost_what_was_dropped_sees_a_gap() -> None:
    output = Output()
    output.attached("a", 0.0)
    output.add(b"x" * (2 * KEPT + 10))
    piece = output.take(0.0)
    assert piece is not None
    assert piece[0] == KEPT + 10


def test_the_transcript_is_plain_text() -> None:
    output = Output()
    output.add("\x1b[1;31mrot é\x1b[0m\r\n\x1b]0;title\x07a\x1b(Bb\x07\tc\x1bPq#0\x1b\\d".encode())
    assert output.transcript() == "rot é\nab\tcd"


def test_the_number_of_views_is_bounded() -> None:
    output = Output()
    assert all(output.attached(f"v{n}", 0.0) for n in range(MAX_VIEWS))
    assert output.attached("one too many", 0.0) is None
    output.detached("v0")
    assert output.attached("now there is room", 0.0) is not None


@given(st.permutations(list(range(12))))
def test_input_is_put_back_into_its_order(order: list[int]) -> None:
    typed = Typed()
    assert b"".join(typed.arrived("a", n, b"%d," % n, 0.0) for n in order) == b"0,1,2,3,4,5,6,7,8,9,10,11,"


def test_input_that_never_comes_is_not_waited_for_for_ever() -> None:
    typed = Typed()
    assert typed.arrived("a", 1, b"b", 0.0) == b""
    assert typed.arrived("a", 2, b"c", 0.5) == b""
    assert typed.arrived("a", 3, b"d", 1.6) == b"bcd"
    assert typed.arrived("a", 0, b"late", 1.7) == b""
    assert typed.arrived("other", 0, b"x", 1.7) == b"x"


@pytest.mark.parametrize(
    "forged",
    [
        None, [], "attach", {}, {"type": "exec"}, {"type": "attach"}, {"type": "attach", "view": "a", "rows": "24", "cols": 80},
        {"type": "attach", "view": "", "rows": 24, "cols": 80}, {"type": "attach", "view": "a" * 65, "rows": 24, "cols": 80},
        {"type": "resize", "view": "a", "rows": 0, "cols": 80}, {"type": "resize", "view": "a", "rows": 24, "cols": 10**9},
        {"type": "resize", "view": "a", "rows": True, "cols": 80}, {"type": "ack", "view": "a", "offset": -1},
        {"type": "input", "view": "a"}, {"type": ["attach"]}, {"type": "ack", "view": 5, "offset": 1},
    ],
)  # fmt: skip
def test_row_comm_what_is_no_message_of_a_view_is_none(forged: Any) -> None:
    assert checked(forged) is None


NAMES = st.sampled_from(["type", "view", "rows", "cols", "offset", "number"]) | st.text()
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["attach", "ack", "input"]),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner),
)


@given(ANYTHING)
def test_row_comm_no_message_breaks_the_check(content: Any) -> None:
    assert checked(content) is None or content["type"] in protocol._NEEDS
