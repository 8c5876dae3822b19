"""The funnel plot of nodes."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ._style import (
    BLUE,
    GREY,
    RED,
    axes,
    draw_empty,
    label,
    require_table,
    strip_frame,
    theme,
    with_cluster,
    write_title,
)

_MAX_NAMED = 8


def funnel(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw observed over expected failures of each node against the expected ones, with limits of chance.

    Parameters
    ----------
    table : pandas.DataFrame
        What `stats.lemon_nodes` returns.
    ax : matplotlib Axes, optional

    Returns
    -------
    matplotlib Axes
        Nodes above the solid line fail more than their jobs explain. They are named, and so are others above
        the dashed line: eight at most.

    References
    ----------
    Spiegelhalter, Statistics in Medicine 24, 2005.

    Examples
    --------
    >>> af.plots.funnel(af.stats.lemon_nodes(snap)).get_xlabel()
    'failed tasks expected from the mix of jobs'
    """
    require_table(table, "funnel", "lemon_nodes")
    nodes = table[table["expected"].notna() & ((table["expected"] > 0) | (table["observed"] > 0))]
    ax = axes(ax, 4.5)
    if nodes.empty:
        return draw_empty(ax, "no failures on any node")
    # where nothing failed on other nodes the ratio is infinite: such nodes are drawn at the top
    finite = nodes["ratio"].astype(float).replace(np.inf, np.nan)
    top = max(1.3 * float(finite.max()), 5.0) if finite.notna().any() else 5.0
    nodes = nodes.assign(
        expected=nodes["expected"].clip(lower=0.1),
        ratio=nodes["ratio"].astype(float).fillna(0.0).clip(upper=0.95 * top),
    )
    expected = np.linspace(nodes["expected"].min() * 0.8, nodes["expected"].max() * 1.1 + 0.1, 200)
    lemon_limit = 1 - 0.01 / max(len(table), 1)  # Bonferroni, as in stats.lemon_nodes
    for probability, style, legend in (
        (0.975, "--", "95 % of nodes by chance"),
        (0.025, "--", None),
        (lemon_limit, "-", "limit for a lemon"),
    ):
        limit = _poisson_quantile(expected, probability) / expected
        ax.plot(expected, limit, color=GREY, linestyle=style, linewidth=1, label=legend)
    lemons, others = nodes[nodes["lemon"]], nodes[~nodes["lemon"]]
    for part, colour, noun in ((others, BLUE, "node"), (lemons, RED, "lemon")):
        if len(part):
            ax.scatter(
                part["expected"],
                part["ratio"].astype(float),
                s=26,
                c=colour,
                alpha=0.9 if len(part) < 100 else 0.4,
                linewidths=0,
                label=f"{len(part):,} {noun if len(part) == 1 else noun + 's'}",
                zorder=3,
            )
    upper = _poisson_quantile(nodes["expected"].to_numpy(float), 0.975) / nodes["expected"].to_numpy(float)
    outliers = nodes[nodes["lemon"].astype(bool) | (nodes["ratio"].to_numpy(float) > upper)]
    named = outliers.assign(name=with_cluster(outliers, "node_name"))
    named = named.sort_values(["lemon", "observed"], ascending=False, kind="stable").head(_MAX_NAMED)
    for row in named.to_dict("records"):
        ax.annotate(
            label(row["name"]),
            (row["expected"], row["ratio"]),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=8,
        )
    ax.axhline(1, color=theme(ax)["ink"], linewidth=0.8)
    ax.set_ylim(-0.1, top)
    ax.set_xlabel("failed tasks expected from the mix of jobs")
    ax.set_ylabel("observed / expected")
    write_title(ax, _answer(named, outliers))
    strip_frame(ax, grid="both")
    ax.legend(frameon=False, fontsize=8)
    return ax


def _answer(named: pd.DataFrame, outliers: pd.DataFrame) -> str:
    """Return which nodes fail more than their jobs explain."""
    lemons = named[named["lemon"].astype(bool)]
    names = ", ".join(label(name) for name in lemons["name"].head(3))
    more = int(outliers["lemon"].sum()) - min(len(lemons), 3)
    if len(lemons):
        and_more = f" and {more:,} more" if more else ""
        verb = "fails" if len(lemons) + more == 1 else "fail"
        return f"{names}{and_more} {verb} more than the mix of jobs and chance explain"
    if len(outliers):
        return f"No lemon; {len(outliers):,} of the nodes stand out, as a few do by chance"
    return "No node fails more than its jobs and chance explain"


def _poisson_quantile(mean: Any, probability: float) -> Any:
    """Return Byar's approximation of a Poisson quantile. Exact ones jump and would draw stairs.

    Source: Breslow and Day, Statistical Methods in Cancer Research II, 1987, 2.2.
    """
    z = NormalDist().inv_cdf(probability)
    return mean * np.maximum(1 - 1 / (9 * mean) + z / (3 * np.sqrt(mean)), 0) ** 3
