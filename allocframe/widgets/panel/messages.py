"""The messages of the panel's page: checked for type and size before anything is done with them."""

from __future__ import annotations

from dataclasses import dataclass

from .confirmation import ALL, RUNNING, TASK

MOST_IDS = 20_000
_LONGEST = 1024
_ACTIONS = ("stop", "restart", "signal", "exec")
_SCOPES = (RUNNING, ALL, TASK)


@dataclass(frozen=True)
class Message:
    """A message of a page. Fields that its kind does not have are empty."""

    kind: str
    alloc_ids: tuple[str, ...] = ()
    alloc_id: str = ""
    action: str = ""
    number: int = -1
    scope: str = ""
    task: str = ""
    signal: str = ""
    flag: bool = False


def parse(content: object) -> Message | None:
    """Return the message, or None if it is none that a page sends."""
    if not isinstance(content, dict):
        return None
    kind = content.get("type")
    if kind in ("hello", "cancel", "refresh", "give up"):
        return Message(str(kind))
    if kind == "ping":
        return Message("ping", number=number) if (number := _number(content)) is not None else None
    if kind == "choose":
        ids = content.get("ids")
        if isinstance(ids, list) and len(ids) <= MOST_IDS and all(map(_is_text, ids)):
            return Message("choose", alloc_ids=tuple(ids))
    if kind == "details" and _is_text(content.get("id")):
        return Message("details", alloc_id=str(content["id"]))
    if kind == "ask" and content.get("action") in _ACTIONS:
        return Message("ask", action=str(content["action"]))
    if kind == "confirm" and (number := _number(content)) is not None:
        return Message("confirm", number=number)
    if kind in ("dry run", "auto") and isinstance(content.get("on"), bool):
        return Message(str(kind), flag=content["on"])
    if kind == "signal" and _is_text(content.get("signal")):
        return Message("signal", signal=str(content["signal"]))
    if kind == "tasks" and content.get("scope") in _SCOPES and _is_text(content.get("task")):
        return Message("tasks", scope=str(content["scope"]), task=str(content["task"]))
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST


def _number(content: dict[object, object]) -> int | None:
    number = content.get("number")
    is_number = isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 53
    return number if is_number and isinstance(number, int) else None
