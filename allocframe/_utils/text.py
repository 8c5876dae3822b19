"""Make text from a cluster safe to show: whoever may submit a job chooses these names and messages."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_MAX_LENGTH = 200


def visible(value: object) -> str:
    """Return `value` as one line of at most 200 characters, with control and direction characters escaped."""
    text = str(value)
    start = _HIDDEN.sub(
        lambda match: match.group().encode("unicode_escape", "surrogatepass").decode(), text[:_MAX_LENGTH]
    )
    return start if len(text) <= _MAX_LENGTH else f"{start}… ({len(text)} characters)"


def escaped(value: object) -> str:
    """Return `value` as HTML that is safe in an element and in a quoted attribute."""
    return html.escape(visible(value), quote=True)


def without_formula(column: pd.Series[Any]) -> pd.Series[Any]:
    """Put an apostrophe before text that a spreadsheet would run as a formula."""
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.cat.categories.dtype)
    if not isinstance(column.dtype, pd.StringDtype):
        return column
    # Texts repeat, so only the different ones are looked at.
    codes, labels = pd.factorize(column)
    texts = pd.Series(labels, dtype=column.dtype)
    risky = texts.str.match(_FORMULA, na=False)
    if not risky.any():
        return column
    safe = texts.where(~risky, "'" + texts).take(codes).set_axis(column.index)
    return safe.where(pd.Series(codes >= 0, index=column.index))


_FORMULA = r"[\s ]*[=+\-@\t\r\n＝＋－＠]"
