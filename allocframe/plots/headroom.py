"""What is used of what was given."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ._style import BLUE, GREY, RED, axes, label, nothing, plain

_MOST = 25
_TITLES = {"memory": "Memory used of what is reserved", "cpu": "CPU used of what is reserved"}


def headroom(
    table: pd.DataFrame, resource: Literal["memory", "cpu"] = "memory", *, ax: Axes | None = None
) -> Axes:
    """Draw what tasks use as a share of what they reserve: a line from the median to the most, the 95th percentile as a dot.

    Parameters
    ----------
    table : pandas.DataFrame
        What `stats.headroom` returns. The 25 rows with the least headroom are drawn.
    resource : str
        "memory" or "cpu".
    ax : matplotlib Axes, optional

    Examples
    --------
    >>> af.plots.headroom(af.stats.headroom(client.usage(snap).samples)).get_xlabel()
    'used, as a share of what is reserved'
    """
    if resource not in _TITLES:
        raise ValueError(f'resource must be "memory" or "cpu", not {resource!r}')
    known = table.dropna(subset=[f"{resource}_headroom"]).sort_values(f"{resource}_headroom", kind="stable")
    shown = known.head(_MOST)
    ax = axes(ax, max(2.5, 0.3 * len(shown) + 1.2))
    if shown.empty:
        return nothing(ax, f"no {resource} was measured")
    place = np.arange(len(shown))[::-1]
    p50, p95, most = (shown[f"{resource}_{name}_share"].to_numpy(float) for name in ("p50", "p95", "max"))
    over = most > 1
    for part, colour in ((~over, BLUE), (over, RED)):
        ax.hlines(place[part], p50[part], most[part], color=colour, linewidth=2)
        ax.scatter(p95[part], place[part], color=colour, s=24, zorder=3)
    ax.axvline(1, color=GREY, linewidth=1)
    ax.set_yticks(place, [label(name) for name in _names(shown)], fontsize=8)
    ax.set_xlim(0, max(1.05, 1.05 * float(most.max())))
    ax.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.set_xlabel("used, as a share of what is reserved")
    left_out = (
        f", {len(known) - len(shown):,} with more headroom not shown" if len(known) > len(shown) else ""
    )
    ax.set_title(_TITLES[resource] + left_out, loc="left")
    plain(ax)
    return ax


def _names(table: pd.DataFrame) -> list[str]:
    """Return what a row is of: the columns before its counts."""
    keys = list(table.columns[: list(table.columns).index("tasks")])
    return [
        " / ".join(str(row[key]) for key in keys if key != "namespace") for row in table.to_dict("records")
    ]
