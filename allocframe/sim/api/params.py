"""Query parameters as real servers parse them, and their error responses."""

from __future__ import annotations

import re
from typing import Any

from ..cluster.alloc import SIMPLE_FIELDS
from .filter import FilterSelectorError, FilterSyntaxError, parse

TRUE = {"1", "t", "T", "TRUE", "true", "True"}
FALSE = {"0", "f", "F", "FALSE", "false", "False"}
_GO_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h))+")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Refusal(Exception):
    """An error response: status and text, as recorded from real servers."""

    def __init__(self, status: int, text: str, *, with_index: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.with_index = with_index


def go_seconds(text: str | None) -> float | None:
    """Return the seconds of a Go duration."""
    if not text:
        return None
    if not _GO_DURATION.fullmatch(text):
        raise Refusal(400, "Invalid wait time")
    return sum(float(n) * _UNITS[unit] for n, unit in re.findall(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", text))


def go_bool(query: Any, name: str, *, default: bool) -> bool:
    text = query.get(name, "")
    if not text:
        return default
    if text not in TRUE | FALSE:
        detail = f'strconv.ParseBool: parsing "{text}": invalid syntax'
        raise Refusal(500, f'Failed to parse value of "{name}" ({text}) as a bool: {detail}')
    return text in TRUE


def checked_prefix(prefix: str, words: str = "alloc lookup failed: ") -> str:
    """Return the start of an ID as servers take it; `words` begin the error of its table."""
    digits = prefix.replace("-", "")
    if len(digits) % 2:
        raise Refusal(500, f"{words}index error: Input (without hyphens) must be even length")
    for character in digits:
        if character not in "0123456789abcdefABCDEF":
            detail = f"encoding/hex: invalid byte: U+{ord(character):04X} '{character}'"
            raise Refusal(500, f"{words}index error: Invalid UUID: {detail}")
    return prefix.lower()


def reachable(state: Any, identity: str) -> Any:
    """Return an allocation whose node can be reached."""
    if len(identity) != 36:
        raise Refusal(500, "alloc lookup failed: index error: UUID must be 36 characters")
    alloc = state.allocs.get(identity)
    if alloc is None:
        raise Refusal(404, f'Unknown allocation "{identity}"')
    if alloc.node.status == "down":
        raise Refusal(404, "No path to node")
    return alloc


def page_size(text: str | None, version: str) -> int:
    if not text:
        return 0
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    # 1.3.1 silently ignores a page size that is not a number.
    if version == "1.3.1":
        return 0
    raise Refusal(400, "Expect a number for `per_page` query string parameter")


def numeric(token: str) -> tuple[int, str]:
    """Return a page token as servers since 1.10.2 compare it: the index as a number."""
    head, _, rest = token.partition(".")
    return (int(head), rest) if head.isdigit() else (2**64, token)


def compiled(expression: str | None) -> Any:
    """Return the predicate of a filter expression, or None."""
    if not expression:
        return None
    try:
        return parse(expression)
    except FilterSyntaxError as error:
        detail = f"failed to read filter expression: {error}"
        raise Refusal(400, f"failed to create result paginator: {detail}") from None


def passes(predicate: Any, item: Any, version: str) -> bool:
    """Return whether an object passes a filter. It is rendered only if simple fields are not enough."""
    fields: dict[str, Any] = {}

    def lookup(name: str) -> Any:
        if name in SIMPLE_FIELDS and hasattr(item, "field"):
            return item.field(name)
        if not fields:
            fields.update(item.struct(version))
        return fields[name]

    try:
        return bool(predicate(lookup))
    except FilterSelectorError as error:
        raise Refusal(400, f"failed to read result page: {error}") from None
