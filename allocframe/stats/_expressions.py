"""The part of narwhals' expressions that the rules are written in, computed by narwhals or on arrays.

On pandas, narwhals makes a Series for each step of an expression: a small table takes ten times as long as on
plain arrays (`_arrays`), and a large one twice the memory. So the rules build their expressions with this
module in the place of narwhals, and the frame that they are given says what computes them. Names and meanings
are those of narwhals, by which the rules' types are checked.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import narwhals

if TYPE_CHECKING:
    import narwhals as nw
else:
    nw = sys.modules[__name__]

__all__ = ["Expr", "InEngine", "nw"]

Int64 = narwhals.Int64
String = narwhals.String


def _method(name: str) -> Any:
    return lambda expression, *values: _call(expression, name, *values)


class Expr:
    """An expression that is made when it is known on what: `make` takes narwhals, or a frame of arrays."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make

    def __getattr__(self, method: str) -> Callable[..., Expr]:
        if method.startswith("_"):  # Python asks for some of its own
            raise AttributeError(method)
        return lambda *values, **options: _call(self, method, *values, **options)

    @property
    def str(self) -> Expr:
        """The methods of text."""
        return Expr(lambda on: self.make(on).str)

    __eq__ = _method("__eq__")
    __ne__ = _method("__ne__")
    __lt__ = _method("__lt__")
    __le__ = _method("__le__")
    __gt__ = _method("__gt__")
    __ge__ = _method("__ge__")
    __and__ = _method("__and__")
    __or__ = _method("__or__")
    __invert__ = _method("__invert__")
    __add__ = _method("__add__")
    __sub__ = _method("__sub__")
    __mul__ = _method("__mul__")
    __mod__ = _method("__mod__")

    __hash__ = None  # type: ignore[assignment]


def _call(of: Expr, method: str, *values: Any, **options: Any) -> Expr:
    return Expr(lambda on: getattr(of.make(on), method)(*_made(values, on), **options))


def _made(values: Any, on: Any) -> list[Any]:
    return [value.make(on) if isinstance(value, Expr) else value for value in values]


def _function(name: str) -> Callable[..., Expr]:
    def build(*values: Any) -> Expr:
        return Expr(lambda on: getattr(on, name)(*_made(values, on)))

    return build


col, lit, when, coalesce, max_horizontal = map(
    _function, ("col", "lit", "when", "coalesce", "max_horizontal")
)
len = _function("len")  # noqa: A001 - narwhals' name


class InEngine:
    """A frame that narwhals computes in its engine."""

    def __init__(self, frame: narwhals.LazyFrame[Any]) -> None:
        self.frame = frame

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*values: Any, **options: Any) -> Any:
            given = [
                value.frame if isinstance(value, InEngine) else value for value in _made(values, narwhals)
            ]
            named = dict(zip(options, _made(options.values(), narwhals), strict=True))
            result = getattr(self.frame, method)(*given, **named)
            return result if method == "collect_schema" else InEngine(result)

        return call
