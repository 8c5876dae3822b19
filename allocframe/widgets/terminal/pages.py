"""What a terminal says in words: why a session cannot start, and the copy for saved notebooks."""

from __future__ import annotations

import html
from typing import Any

from ..._utils.text import escaped, visible

MOST_LINES = 300
"""Lines of the transcript that a saved notebook keeps."""

_MOST_CHARACTERS = 60_000
_ENDED = ("complete", "failed", "lost")


def refusal(alloc: dict[str, Any], task: str) -> str | None:
    """Return why no command can run in a task, with what to choose instead; None if nothing is against it."""
    name, status = visible(alloc.get("Name") or alloc.get("ID")), alloc.get("ClientStatus")
    if status in _ENDED:
        return f"Allocation {name} is {status}; choose one that runs."
    states = alloc.get("TaskStates") or {}
    if not states:
        return None  # nothing has been reported yet
    running = sorted(
        visible(each) for each, state in states.items() if (state or {}).get("State") == "running"
    )
    instead = f"choose a running one: {', '.join(running)}" if running else "none of its tasks runs now"
    if task not in states:
        return f"Allocation {name} has no task {visible(task)}; {instead}."
    state = (states[task] or {}).get("State")
    if state == "running":
        return None
    told = "has ended" if state == "dead" else f"is {visible(state)}"
    return f"Task {visible(task)} {told}; {instead}."


def saved_page(title: str, message: str, transcript: str) -> str:
    """Return the transcript as HTML, the last lines of it."""
    lines = transcript[-_MOST_CHARACTERS:].splitlines()
    hidden = max(len(lines) - MOST_LINES, 0) or len(transcript) > _MOST_CHARACTERS
    note = f"<p>Only the last {min(len(lines), MOST_LINES)} lines are kept here.</p>" if hidden else ""
    # A transcript no longer has control characters; `escaped` would cut it.
    text = html.escape("\n".join(lines[-MOST_LINES:]))
    return (
        f"<p><b>Terminal</b>: {escaped(title)} · {escaped(message)}. It works while its kernel runs.</p>"
        f"{note}<pre>{text}</pre>"
    )
