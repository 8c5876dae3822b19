"""What a terminal says in words."""

from __future__ import annotations

from typing import Any

import pytest

from allocframe.widgets.terminal.pages import MOST_LINES, refusal, saved_page


def alloc(status: str = "running", **states: str) -> dict[str, Any]:
    return {
        "Name": "web.app[0]",
        "ClientStatus": status,
        "TaskStates": {task: {"State": state} for task, state in states.items()},
    }


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (
            alloc(web="dead", server="running", sidecar="running"),
            "Task web has ended; choose a running one: server, sidecar.",
        ),
        (alloc(web="pending", server="running"), "Task web is pending; choose a running one: server."),
        (alloc(web="dead"), "Task web has ended; none of its tasks runs now."),
        (alloc(server="running"), "Allocation web.app[0] has no task web; choose a running one: server."),
        (alloc("complete", web="dead"), "Allocation web.app[0] is complete; choose one that runs."),
        (alloc(web="running"), None),
        (alloc(), None),
    ],
)
def test_a_refusal_says_what_to_choose_instead(read: dict[str, Any], expected: str | None) -> None:
    assert refusal(read, "web") == expected


def test_names_in_a_refusal_are_made_visible() -> None:
    told = refusal(alloc(**{"a\x1b[31m": "running"}), "web\u202e")
    assert told == "Allocation web.app[0] has no task web\\u202e; choose a running one: a\\x1b[31m."


def test_a_saved_transcript_is_escaped_and_says_what_it_leaves_out() -> None:
    assert "<pre># ls\n&lt;img&gt;</pre>" in saved_page("web", "connected", "# ls\n<img>")
    page = saved_page("web", "connected", "\n".join(f"line {n}" for n in range(1000)))
    assert f"Only the last {MOST_LINES} lines are kept here." in page
    assert "line 999" in page
    assert "line 699\n" not in page
    assert "Only the last" in saved_page("web", "connected", "x" * 100_000)
