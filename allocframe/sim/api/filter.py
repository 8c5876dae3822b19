"""Filter expressions as Nomad takes them (the go-bexpr language), with its error texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Lookup = Callable[[str], Any]
Predicate = Callable[[Lookup], bool]

_SPACE = "[ \\t\\r\\n]"
_WORD = "[a-zA-Z0-9_/]"
_MAPS = frozenset(
    [
        "TaskStates",
        "Tasks",
        "Meta",
        "Details",
        "NodesAvailable",
        "ClassFiltered",
        "ConstraintFiltered",
        "ClassExhausted",
        "DimensionExhausted",
        "TaskLifecycles",
        "TaskResources",
    ]
)
_ABSENT = object()


class FilterSyntaxError(Exception):
    """The expression cannot be parsed; the text is the parser's."""


class FilterSelectorError(Exception):
    """The expression names a field that does not exist."""


@dataclass(frozen=True)
class Operator:
    """A comparison: how it is written, what it decides, and what it says of a missing map key."""

    words: tuple[str, ...]
    decide: Callable[[Any, str], bool]
    absent: bool = False
    takes_value: bool = True


def _same(field: Any, value: str) -> bool:
    if isinstance(field, bool):
        return value in (
            {"true", "1", "t", "T", "TRUE", "True"} if field else {"false", "0", "f", "F", "FALSE", "False"}
        )
    if isinstance(field, int | float):
        return bool(re.fullmatch(r"-?\d+(\.\d+)?", value)) and float(value) == float(field)
    return isinstance(field, str) and field == value


def _holds(field: Any, value: str) -> bool:
    if isinstance(field, str):
        return value in field
    if isinstance(field, list):
        return any(_same(item, value) for item in field)
    return isinstance(field, dict) and value in field


def _matches(field: Any, value: str) -> bool:
    return isinstance(field, str) and re.search(value, field) is not None


_OPERATORS = (
    Operator(("==",), _same),
    Operator(("!=",), lambda field, value: not _same(field, value), absent=True),
    Operator(("contains",), _holds),
    Operator(("not", "contains"), lambda field, value: not _holds(field, value), absent=True),
    Operator(("matches",), _matches),
    Operator(("not", "matches"), lambda field, value: not _matches(field, value), absent=True),
    Operator(("is", "empty"), lambda field, value: not field, absent=True, takes_value=False),
    Operator(("is", "not", "empty"), lambda field, value: bool(field), takes_value=False),
)
_IN = Operator(("in",), _holds)
_NOT_IN = Operator(("not", "in"), lambda field, value: not _holds(field, value), absent=True)


def _find(lookup: Lookup, path: tuple[str, ...]) -> Any:
    pointer = "/" + "/".join(path)
    value: Any = None
    for part, name in enumerate(path):
        try:
            value = lookup(name) if part == 0 else value[name]
        except (KeyError, TypeError):
            if part and (path[part - 1] in _MAPS or value is None):
                return _ABSENT
            said = f'{pointer} at part {part}: couldn\'t find key: struct field with name "{name}"'
            raise FilterSelectorError(f"error finding value in datum: {said}") from None
    return value


class _Parser:
    """A parser that tries alternatives in order and remembers what it expected at the furthest place."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.furthest = 0
        self.expected: set[str] = set()

    def fail(self, expected: str) -> None:
        if self.at > self.furthest:
            self.furthest, self.expected = self.at, set()
        if self.at == self.furthest:
            self.expected.add(expected)

    def literal(self, text: str) -> bool:
        if self.text.startswith(text, self.at):
            self.at += len(text)
            return True
        self.fail(f'"{text}"')
        return False

    def pattern(self, pattern: str) -> str | None:
        if found := re.compile(pattern).match(self.text, self.at):
            self.at = found.end()
            return found.group()
        self.fail(pattern)
        return None

    def space(self, *, needed: bool = False) -> bool:
        start = self.at
        while self.pattern(_SPACE):
            pass
        return self.at > start or not needed

    def whole(self) -> Predicate:
        self.space()
        found = self.either()
        if found is not None:
            self.space()
            if self.at == len(self.text):
                return found
            self.fail("EOF")
        raise FilterSyntaxError(self.complaint())

    def complaint(self) -> str:
        before = self.text[: self.furthest]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        names = sorted(self.expected)
        said = ", ".join(names[:-1]) + f" or {names[-1]}" if len(names) > 1 else "".join(names)
        return f"{line}:{column} ({self.furthest}): no match found, expected: {said}"

    def either(self) -> Predicate | None:
        return self.chain("or", self.both, lambda left, right: lambda lookup: left(lookup) or right(lookup))

    def both(self) -> Predicate | None:
        return self.chain(
            "and", self.negated, lambda left, right: lambda lookup: left(lookup) and right(lookup)
        )

    def chain(
        self,
        word: str,
        operand: Callable[[], Predicate | None],
        joined: Callable[[Predicate, Predicate], Predicate],
    ) -> Predicate | None:
        left = operand()
        if left is None:
            return None
        start = self.at
        if self.space(needed=True) and self.literal(word) and self.space(needed=True):
            right = self.chain(word, operand, joined)
            if right is not None:
                return joined(left, right)
        self.at = start
        return left

    def negated(self) -> Predicate | None:
        start = self.at
        if self.literal("not") and self.space(needed=True):
            inner = self.negated()
            if inner is not None:
                return lambda lookup: not inner(lookup)
        self.at = start
        return self.grouped() or self.match()

    def grouped(self) -> Predicate | None:
        start = self.at
        if self.literal("("):
            self.space()
            inner = self.either()
            if inner is not None and (self.space() and self.literal(")")):
                return inner
        self.at = start
        return None

    def match(self) -> Predicate | None:
        start = self.at
        found = self.selector_first()
        if found is None:
            self.at = start
            found = self.value_first()
        return found

    def selector_first(self) -> Predicate | None:
        path = self.selector()
        if path is None:
            return None
        after = self.at
        for operator in _OPERATORS:
            self.at = after
            if not self.operator(operator):
                continue
            if not operator.takes_value:
                return _predicate(path, operator, "")
            value = self.value()
            if value is not None:
                return _predicate(path, operator, value)
        return None

    def value_first(self) -> Predicate | None:
        start = self.at
        for operator in (_IN, _NOT_IN):
            self.at = start
            value = self.value()
            if value is not None and self.operator(operator):
                path = self.selector()
                if path is not None:
                    return _predicate(path, operator, value)
        self.at = start
        return None

    def operator(self, operator: Operator) -> bool:
        symbol = operator.words[0] in ("==", "!=")
        if not self.space(needed=not symbol):
            return False
        for number, word in enumerate(operator.words):
            if (number and not self.space(needed=True)) or not self.literal(word):
                return False
        return self.space(needed=not symbol) if operator.takes_value else True

    def selector(self) -> tuple[str, ...] | None:
        if self.text.startswith('"/', self.at):
            pointer = self.quoted()
            return tuple(pointer[1:].split("/")) if pointer else None
        name = self.identifier()
        if name is None:
            return None
        path = [name]
        while True:
            start = self.at
            if self.literal("."):
                more = self.identifier()
            elif self.literal("["):
                self.space()
                more = self.quoted()
                more = more if more is not None and self.space() and self.literal("]") else None
            else:
                return tuple(path)
            if more is None:
                self.at = start
                return tuple(path)
            path.append(more)

    def identifier(self) -> str | None:
        first = self.pattern("[a-zA-Z]")
        if first is None:
            return None
        name = [first]
        while (more := self.pattern(_WORD)) is not None:
            name.append(more)
        return "".join(name)

    def value(self) -> str | None:
        if (text := self.quoted()) is not None:
            return text
        if (number := self.pattern(r"-?[0-9]+(?:\.[0-9]+)?")) is not None:
            return number
        path = self.selector()
        return ".".join(path) if path else None

    def quoted(self) -> str | None:
        found = re.compile(r'"((?:[^"\\]|\\.)*)"|`([^`]*)`').match(self.text, self.at)
        if found is None:
            self.fail('"\\""')
            self.fail('"`"')
            return None
        self.at = found.end()
        if found.group(2) is not None:
            return found.group(2)
        return re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m.group(1), m.group(1)), found.group(1))


def _predicate(path: tuple[str, ...], operator: Operator, value: str) -> Predicate:
    if operator.words[-1] == "matches":
        try:
            re.compile(value)
        except re.error as error:
            raise FilterSyntaxError(f"error parsing regexp: {error}") from None

    def decide(lookup: Lookup) -> bool:
        found = _find(lookup, path)
        return operator.absent if found is _ABSENT else operator.decide(found, value)

    return decide


@lru_cache(maxsize=256)
def parse(expression: str) -> Predicate:
    """Return the predicate that an expression stands for.

    Raises
    ------
    FilterSyntaxError
        It is no filter expression.
    """
    return _Parser(expression).whole()
