"""Columns as plain arrays, with the methods of narwhals' expressions that the rules use, in numpy.

A value that is missing stays missing in a comparison or a sum, as in SQL. A constant has one row, which numpy
takes for all.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ._expressions import Int64
from ._source import Array

if TYPE_CHECKING:
    from ._arrays import Arrays

NEVER: Any = np.False_
"""For `missing`: every row has a value."""


def _operator(compute: Callable[[Any, Any], Any]) -> Any:
    def compare_or_count(self: Values, value: Any) -> Values:
        other = value if isinstance(value, Values) else self.of.lit(value)
        one, other = _alike(self, other)
        return self._like(compute(one.data, other.data), one.missing | other.missing)

    return compare_or_count


class Column(NamedTuple):
    """What a frame holds of a column: a value for each row, which are missing (or `NEVER`), and labels.

    It does not refer to the frame that it was computed on, or the arrays of all frames before would be freed
    late: a frame and its columns in a circle wait for Python's cycle collection.
    """

    data: Any
    missing: Any
    labels: Any

    def take(self, rows: Array) -> Column:
        """Return the values of these rows; -1 is missing."""
        none = rows < 0
        known = self.missing is NEVER and not none.any()
        padded = self.data if len(self.data) else np.zeros(1, dtype=self.data.dtype)
        full = np.broadcast_to(self.missing, len(self.data))
        missing = NEVER if known else none | np.append(full, True)[rows]
        return Column(padded[rows], missing, self.labels)


class Values:
    """A column to compute with: numbers, flags, or texts as their labels' numbers, and what is missing."""

    def __init__(self, of: Arrays, data: Any, missing: Any = NEVER, labels: Any = None) -> None:
        self.of = of
        self.data = data
        self.missing = missing
        self.labels = labels
        self.name = ""

    def _like(self, data: Any, missing: Any = NEVER, labels: Any = None) -> Values:
        return Values(self.of, data, missing, labels)

    def full(self) -> Values:
        """Return them with a value for each row."""
        data, missing = (np.broadcast_to(array, self.of.rows) for array in (self.data, self.missing))
        return self._like(data, missing, self.labels)

    def column(self) -> Column:
        """Return them as a frame holds them."""
        full = self.full()
        return Column(full.data, NEVER if self.missing is NEVER else full.missing, self.labels)

    def _other(self, value: Any) -> Values:
        return value if isinstance(value, Values) else self.of.lit(value)

    __eq__ = _operator(operator.eq)
    __ne__ = _operator(operator.ne)
    __lt__ = _operator(operator.lt)
    __le__ = _operator(operator.le)
    __gt__ = _operator(operator.gt)
    __ge__ = _operator(operator.ge)
    __add__ = _operator(operator.add)
    __sub__ = _operator(operator.sub)
    __mul__ = _operator(operator.mul)
    __mod__ = _operator(operator.mod)

    def __and__(self, other: Any) -> Values:
        other = self._other(other)
        no = (~self.data & ~self.missing) | (~other.data & ~other.missing)  # whatever the other one is
        return self._like(self.data & other.data & ~no, (self.missing | other.missing) & ~no)

    def __or__(self, other: Any) -> Values:
        other = self._other(other)
        yes = (self.data & ~self.missing) | (other.data & ~other.missing)
        return self._like(yes, (self.missing | other.missing) & ~yes)

    def __invert__(self) -> Values:
        return self._like(~self.data, self.missing)

    __hash__ = None  # type: ignore[assignment]

    def alias(self, name: str) -> Values:
        named = copy.copy(self)
        named.name = name
        return named

    def is_null(self) -> Values:
        return self._like(self.missing)

    def fill_null(self, value: Any) -> Values:
        filled = put(self, self.missing, self._other(value))
        return self._like(filled.data, labels=filled.labels)

    def is_in(self, values: Iterable[Any]) -> Values:
        wanted = list(values)
        if isinstance(wanted[0], str):
            text = self.str
            return text._by_label([label in wanted for label in text.labels])
        return self._like(np.isin(numbers(self), wanted), self.missing)

    def replace_strict(self, old: list[Any], new: list[Any], **_: Any) -> Values:
        """Return for each value the new one in its place; missing where it is not among the old ones."""
        labels = sorted(set(new)) if isinstance(new[0], str) else None
        values = np.array([labels.index(one) for one in new] if labels else new)
        if isinstance(old[0], str):
            text, position = self.str, {label: place for place, label in enumerate(old)}
            found = text._by_label([position.get(label, -1) for label in text.labels], -1).data
        else:
            data, order = numbers(self), np.argsort(old)
            known = np.asarray(old)[order]
            at = np.minimum(np.searchsorted(known, data), len(old) - 1)
            found = np.where(known[at] == data, order[at], -1)
        return self._like(values[found], self.missing | (found < 0), as_labels(labels))

    def cast(self, kind: Any) -> Values:
        """Return flags as numbers; texts are texts already."""
        return self._like(self.data.astype(np.int64), self.missing) if kind is Int64 else self

    def starts_with(self, text: str) -> Values:
        return self._by_label([label.startswith(text) for label in self.labels])

    def contains(self, text: str, *, literal: bool) -> Values:
        return self._by_label([text in label for label in self.labels])

    def replace_all(self, pattern: str, text: str) -> Values:
        changed: Any = pc.replace_substring_regex(pa.array(self.labels, pa.large_string()), pattern, text)
        encoded = changed.dictionary_encode()
        labels = np.asarray(encoded.dictionary.to_pylist(), dtype=object)
        return self._like(np.append(encoded.indices.to_numpy(), 0)[self.data], self.missing, labels)

    def _by_label(self, values: list[Any], otherwise: Any = False) -> Values:
        """Return the value of each row's label."""
        of_rows = np.array([*values, otherwise])[np.where(self.missing, -1, self.data)]
        return self._like(of_rows, self.missing)

    def then(self, value: Any) -> Values:
        """Return `value` where these flags are true. `when` and `otherwise` decide on the other rows."""
        chosen = self.data & ~self.missing
        value = self._other(value)
        found = value._like(value.data, value.missing | ~chosen, value.labels)
        return _Cases(found, ~chosen, value.missing is NEVER)

    def min(self) -> Reduced:
        return Reduced(self, "min")

    def max(self) -> Reduced:
        return Reduced(self, "max")

    def sum(self) -> Reduced:
        return Reduced(self, "sum")

    def cum_max(self) -> Reduced:
        return Reduced(self, "cum_max")

    def cum_sum(self) -> Reduced:
        return Reduced(self, "cum_sum")

    def shift(self, rows: int) -> Reduced:
        return Reduced(self, "shift", rows)

    @property
    def str(self) -> Values:  # at the end, since it hides the type of text
        if self.labels is None and not np.all(self.missing):
            raise TypeError("a column must hold text")
        if self.labels is not None:
            return self
        return self._like(np.zeros(1, dtype=np.int32), self.missing, as_labels([]))


class _Cases(Values):
    """The value of the first condition that is true."""

    def __init__(self, chosen: Values, left: Array, known: bool) -> None:
        super().__init__(chosen.of, chosen.data, chosen.missing, chosen.labels)
        self.left = left
        """Rows for which no condition was true so far."""
        self.known = known
        """No value that was given is missing."""

    def when(self, condition: Values) -> _Open:
        return _Open(self, condition)

    def otherwise(self, value: Any) -> Values:
        value = self._other(value)
        found = put(self, self.left, value)
        known = self.known and value.missing is NEVER
        return found._like(found.data, NEVER if known else found.missing, found.labels)


class _Open:
    """Further conditions, and the cases before them."""

    def __init__(self, cases: _Cases, condition: Values) -> None:
        self.cases = cases
        self.chosen = cases.left & condition.data & ~condition.missing

    def then(self, value: Any) -> Values:
        value = self.cases._other(value)
        known = self.cases.known and value.missing is NEVER
        return _Cases(put(self.cases, self.chosen, value), self.cases.left & ~self.chosen, known)


class Reduced:
    """A value of each group, or of each row within its group."""

    def __init__(self, values: Values, how: str, rows: int = 0) -> None:
        self.values = values
        self.how = how
        self.rows = rows
        self.name = ""

    def alias(self, name: str) -> Reduced:
        self.name = name
        return self

    def over(self, *keys: str, order_by: str | None = None) -> Values:
        """Return the value for each row."""
        values, groups = self.values.full(), self.values.of.groups(keys, order_by)
        data, missing = groups.sort(values.data), groups.sort(values.missing)
        if self.how == "shift":
            data, missing = _shifted(data, missing, groups, self.rows)
        elif self.how == "cum_max":
            data = _running_max(data, groups)
        elif self.how == "cum_sum":
            total = np.cumsum(data)
            before = np.append(0, total)[groups.starts]
            data = total - np.repeat(before, groups.sizes)
        else:
            data, missing = reduce_groups(data, missing, groups, self.how)
            data, missing = np.repeat(data, groups.sizes), np.repeat(missing, groups.sizes)
        known = self.values.missing is NEVER and self.how != "shift"
        return values._like(groups.unsort(data), NEVER if known else groups.unsort(missing), values.labels)


def _shifted(data: Array, missing: Array, groups: Groups, rows: int) -> tuple[Array, Array]:
    """Return the value `rows` before, within each group."""
    at = np.arange(len(data)) - rows
    inside = (at >= 0) & (at < len(data))
    at = np.where(inside, at, 0)
    inside &= groups.number[at] == groups.number
    return data[at], missing[at] | ~inside


def _running_max(data: Array, groups: Groups) -> Array:
    """Return the largest value so far, within each group."""
    # each group is lifted above the one before it
    lift = groups.number * (int(data.max(initial=0)) - int(data.min(initial=0)) + 1)
    found: Array = np.maximum.accumulate(data + lift) - lift
    return found


_NEUTRAL = {"min": np.iinfo(np.int64).max, "max": np.iinfo(np.int64).min, "sum": 0}
_REDUCE = {"min": np.minimum, "max": np.maximum, "sum": np.add}


def reduce_groups(data: Array, missing: Array, groups: Groups, how: str) -> tuple[Array, Array]:
    """Return the smallest, largest or sum of the values of each group, and which groups have none."""
    if not len(data):
        return data, missing
    neutral = _NEUTRAL[how] if data.dtype.kind == "i" else _NEUTRAL[how] * 1.0
    found = _REDUCE[how].reduceat(np.where(missing, neutral, data), groups.starts)
    none = np.logical_and.reduceat(missing, groups.starts)
    return np.where(none, 0, found), none


class Groups:
    """The rows of a frame by some keys, and in an order within them."""

    def __init__(self, keys: list[Array], order_by: Array | None) -> None:
        count = len(keys[0])
        by = [*keys, *([order_by] if order_by is not None else [])]
        self.order: Array | None = None if _is_sorted(by) else np.lexsort(by[::-1])
        begins = np.zeros(count, dtype=bool)
        begins[:1] = True
        for key in keys:
            ordered = self.sort(key)
            begins[1:] |= ordered[1:] != ordered[:-1]
        self.starts = np.flatnonzero(begins)
        self.sizes = np.diff(np.append(self.starts, count))
        self.number = np.cumsum(begins) - 1

    def sort(self, values: Array) -> Array:
        return values if self.order is None else values[self.order]

    def unsort(self, values: Array) -> Array:
        if self.order is None:
            return values
        found = np.empty_like(values)
        found[self.order] = values
        return found

    @property
    def first(self) -> Array:
        """The row of the first of each group."""
        return self.starts if self.order is None else self.order[self.starts]


def _is_sorted(keys: list[Array]) -> bool:
    equal: Any = np.True_
    for key in keys:
        if np.any(equal & (key[1:] < key[:-1])):
            return False
        equal = equal & (key[1:] == key[:-1])
    return True


def put(base: Values, where: Any, value: Values) -> Values:
    """Return `base` with the rows of `where` replaced by those of `value`."""
    if where is NEVER:
        return base
    base, value = _alike(base, value)
    data = np.where(where, value.data, base.data)
    return base._like(data, np.where(where, value.missing, base.missing), base.labels)


def _alike(one: Values, other: Values) -> tuple[Values, Values]:
    """Return both as numbers, or both as texts with the same labels. A column of nothing may be either."""
    if (one.labels is None) != (other.labels is None):
        if np.all(one.missing):
            one = one._like(np.zeros(1, dtype=other.data.dtype), one.missing, other.labels)
        elif np.all(other.missing):
            other = other._like(np.zeros(1, dtype=one.data.dtype), other.missing, one.labels)
        else:
            raise TypeError("text cannot be compared with numbers")
    if one.labels is other.labels:
        return one, other
    known = {label: place for place, label in enumerate(one.labels)}
    for label in other.labels:
        known.setdefault(label, len(known))
    labels, renumbered = as_labels(list(known)), other._by_label([known[label] for label in other.labels], -1)
    return one._like(one.data, one.missing, labels), other._like(renumbered.data, other.missing, labels)


def as_labels(texts: list[str] | None) -> Any:
    return None if texts is None else np.array(texts, dtype=object)


def numbers(values: Values) -> Any:
    """Return numbers as they are. A column of text without any value may be one of numbers."""
    if values.labels is not None and not np.all(values.missing):
        raise TypeError("a column must hold numbers")
    return values.data
