"""Nomad's filter expressions (the go-bexpr language), with its error texts."""

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
    """The expression cannot be parsed. The text is that of Nomad's parser."""


class FilterSelectorError(Exception):
    """The expression names a field that does not exist."""


@dataclass(frozen=True)
class Operator:
    """A comparison: its words, its test, and its result for a missing map key (`absent`)."""

    words: tuple[str, ...]
    decide: Callable[[Any, str], bool]
    absent: bool = False
    takes_value: bool = True


def _equals(field: Any, value: str) -> bool:
    if isinstance(field, bool):
        return value in (
            {"true", "1", "t", "T", "TRUE", "True"} if field else {"false", "0", "f", "F", "FALSE", "False"}
        )
    if isinstance(field, int | float):
        return bool(re.fullmatch(r"-?\d+(\.\d+)?", value)) and float(value) == float(field)
    return isinstance(field, str) and field == value


def _contains(field: Any, value: str) -> bool:
    if isinstance(field, str):
        return value in field
    if isinstance(field, list):
        return any(_equals(item, value) for item in field)
    return isinstance(field, dict) and value in field


def _matches(field: Any, value: str) -> bool:
    return isinstance(field, str) and re.search(value, field) is not None


_OPERATORS = (
    Operator(("==",), _equals),
    Operator(("!=",), lambda field, value: not _equals(field, value), absent=True),
    Operator(("contains",), _contains),
    Operator(("not", "contains"), lambda field, value: not _contains(field, value), absent=True),
    Operator(("matches",), _matches),
    Operator(("not", "matches"), lambda field, value: not _matches(field, value), absent=True),
    Operator(("is", "empty"), lambda field, value: not field, absent=True, takes_value=False),
    Operator(("is", "not", "empty"), lambda field, value: bool(field), takes_value=False),
)
_IN = Operator(("in",), _contains)
_NOT_IN = Operator(("not", "in"), lambda field, value: not _contains(field, value), absent=True)


def _find(lookup: Lookup, path: tuple[str, ...]) -> Any:
    pointer = "/" + "/".join(path)
    value: Any = None
    for part, name in enumerate(path):
        try:
            value = lookup(name) if part == 0 else value[name]
        except (KeyError, TypeError):
            if part and (path[part - 1] in _MAPS or value is None):
                return _ABSENT
            detail = f'{pointer} at part {part}: couldn\'t find key: struct field with name "{name}"'
            raise FilterSelectorError(f"error finding value in datum: {detail}") from None
    return value


class _Parser:
    """A recursive descent parser with backtracking.

    It tries the alternatives in the order of Nomad's grammar. For the error text, it remembers the furthest
    position and what was expected there, as the generated parser of go-bexpr does.
    """

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
        if match := re.compile(pattern).match(self.text, self.at):
            self.at = match.end()
            return match.group()
        self.fail(pattern)
        return None

    def space(self, *, needed: bool = False) -> bool:
        start = self.at
        while self.pattern(_SPACE):
            pass
        return self.at > start or not needed

    def expression(self) -> Predicate:
        self.space()
        predicate = self.disjunction()
        if predicate is not None:
            self.space()
            if self.at == len(self.text):
                return predicate
            self.fail("EOF")
        raise FilterSyntaxError(self.error_text())

    def error_text(self) -> str:
        before = self.text[: self.furthest]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        names = sorted(self.expected)
        expected = ", ".join(names[:-1]) + f" or {names[-1]}" if len(names) > 1 else "".join(names)
        return f"{line}:{column} ({self.furthest}): no match found, expected: {expected}"

    def disjunction(self) -> Predicate | None:
        return self.chain(
            "or", self.conjunction, lambda left, right: lambda lookup: left(lookup) or right(lookup)
        )

    def conjunction(self) -> Predicate | None:
        return self.chain(
            "and", self.negation, lambda left, right: lambda lookup: left(lookup) and right(lookup)
        )

    def chain(
        self,
        word: str,
        operand: Callable[[], Predicate | None],
        combine: Callable[[Predicate, Predicate], Predicate],
    ) -> Predicate | None:
        left = operand()
        if left is None:
            return None
        start = self.at
        if self.space(needed=True) and self.literal(word) and self.space(needed=True):
            right = self.chain(word, operand, combine)
            if right is not None:
                return combine(left, right)
        self.at = start
        return left

    def negation(self) -> Predicate | None:
        start = self.at
        if self.literal("not") and self.space(needed=True):
            inner = self.negation()
            if inner is not None:
                return lambda lookup: not inner(lookup)
        self.at = start
        return self.group() or self.comparison()

    def group(self) -> Predicate | None:
        start = self.at
        if self.literal("("):
            self.space()
            inner = self.disjunction()
            if inner is not None and (self.space() and self.literal(")")):
                return inner
        self.at = start
        return None

    def comparison(self) -> Predicate | None:
        start = self.at
        predicate = self.selector_first()
        if predicate is None:
            self.at = start
            predicate = self.value_first()
        return predicate

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
        match = re.compile(r'"((?:[^"\\]|\\.)*)"|`([^`]*)`').match(self.text, self.at)
        if match is None:
            self.fail('"\\""')
            self.fail('"`"')
            return None
        self.at = match.end()
        if match.group(2) is not None:
            return match.group(2)
        return re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m.group(1), m.group(1)), match.group(1))


def _predicate(path: tuple[str, ...], operator: Operator, value: str) -> Predicate:
    if operator.words[-1] == "matches":
        try:
            re.compile(value)
        except re.error as error:
            raise FilterSyntaxError(f"error parsing regexp: {error}") from None

    def decide(lookup: Lookup) -> bool:
        field = _find(lookup, path)
        return operator.absent if field is _ABSENT else operator.decide(field, value)

    return decide


@lru_cache(maxsize=256)
def parse(expression: str) -> Predicate:
    """Return the predicate of a filter expression.

    Raises
    ------
    FilterSyntaxError
        If it cannot be parsed.
    """
    return _Parser(expression).expression()
