"""The plot of headroom: what tasks use of what they reserve."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .._utils.prose import count
from ._style import BLUE, GREY, RED, axes, draw_empty, label, require_table, strip_frame, write_title

MAX_ROWS = 25
_NAMES = {"memory": "memory", "cpu": "CPU"}


def headroom(
    table: pd.DataFrame, resource: Literal["memory", "cpu"] = "memory", *, ax: Axes | None = None
) -> Axes:
    """Draw what tasks use as a share of what they reserve: a line from median to maximum, a dot at the p95.

    Parameters
    ----------
    table : pandas.DataFrame
        What `stats.headroom` returns. The 25 rows with the least headroom are drawn.
    resource : str
        "memory" or "cpu".
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
        Red rows use more than they reserve.

    Raises
    ------
    ValueError
        `resource` is neither "memory" nor "cpu".

    Examples
    --------
    >>> af.plots.headroom(af.stats.headroom(client.usage(snap).samples)).get_xlabel()
    'share of the reservation used'
    """
    require_table(table, "headroom", "headroom")
    if resource not in _NAMES:
        raise ValueError(f"resource must be 'memory' or 'cpu', got {resource!r}")
    measured = table.dropna(subset=[f"{resource}_headroom"])
    measured = measured.sort_values(f"{resource}_headroom", kind="stable")
    shown = measured.head(MAX_ROWS)
    ax = axes(ax, max(2.5, 0.3 * len(shown) + 1.2))
    if shown.empty:
        return draw_empty(ax, f"no {resource} was measured")
    y = np.arange(len(shown))[::-1]
    p50, p95, maximum = (shown[f"{resource}_{name}_share"].to_numpy(float) for name in ("p50", "p95", "max"))
    over = maximum > 1
    for rows, colour in ((~over, BLUE), (over, RED)):
        ax.hlines(y[rows], p50[rows], maximum[rows], color=colour, linewidth=2)
        ax.scatter(p95[rows], y[rows], color=colour, s=24, zorder=3)
    ax.axvline(1, color=GREY, linewidth=1)
    ax.set_yticks(y, [label(name) for name in _row_names(shown)], fontsize=8)
    ax.set_xlim(0, max(1.05, 1.05 * float(maximum.max())))
    ax.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.set_xlabel("share of the reservation used")
    hidden = len(measured) - len(shown)
    spent = int((measured[f"{resource}_max_share"] > 1).sum())
    idle = int((measured[f"{resource}_p95_share"] < 0.25).sum())
    answer = (
        f"{spent:,} of {len(measured):,} rows use more {_NAMES[resource]} than they reserve, "
        f"{idle:,} less than a quarter"
    )
    write_title(ax, answer, f"{count(hidden, 'rows')} with more headroom" if hidden else "")
    strip_frame(ax)
    return ax


def _row_names(table: pd.DataFrame) -> list[str]:
    """Return the names of the groups, which stand in the columns before the counts."""
    keys = list(table.columns[: list(table.columns).index("tasks")])
    return [
        " / ".join(str(row[key]) for key in keys if key != "namespace") for row in table.to_dict("records")
    ]
