"""The funnel plot of nodes."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ._style import BLUE, GREY, RED, axes, label, nothing, plain, with_cluster


def funnel(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw observed over expected failures of each node against the expected, with the limits of chance.

    Parameters
    ----------
    table : pandas.DataFrame
        What `stats.lemon_nodes` returns. Nodes above the outer line fail more than their jobs explain; they are named.
    ax : matplotlib Axes, optional

    Examples
    --------
    >>> af.plots.funnel(af.stats.lemon_nodes(snap)).get_xlabel()
    'failed tasks expected from the mix of jobs'
    """
    known = table[table["expected"] > 0]
    ax = axes(ax, 4.5)
    if known.empty:
        return nothing(ax, "no failures on any node")
    expected = np.linspace(known["expected"].min() * 0.8, known["expected"].max() * 1.1 + 0.1, 200)
    limit = 1 - 0.01 / max(len(table), 1)
    for chance, style, said in (
        (0.975, "--", "95 % of nodes by chance"),
        (0.025, "--", ""),
        (limit, "-", "limit for a lemon"),
    ):
        ax.plot(
            expected,
            _quantile(expected, chance) / expected,
            color=GREY,
            linestyle=style,
            linewidth=1,
            label=said or None,
        )
    for lemon, colour in ((False, BLUE), (True, RED)):
        part = known[known["lemon"] == lemon]
        if len(part):
            said = (
                f"{len(part):,} nodes"
                if not lemon
                else f"{len(part):,} lemon" + ("s" if len(part) > 1 else "")
            )
            alpha = 0.9 if len(part) < 100 else 0.4
            ax.scatter(
                part["expected"],
                part["ratio"].astype(float),
                s=26,
                c=colour,
                alpha=alpha,
                linewidths=0,
                label=said,
                zorder=3,
            )
    lemons = known[known["lemon"]]
    for row in lemons.assign(name=with_cluster(lemons, "node_name")).head(8).to_dict("records"):
        ax.annotate(
            label(row["name"]),
            (row["expected"], row["ratio"]),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=8,
        )
    ax.axhline(1, color="black", linewidth=0.8)
    ax.set_ylim(-0.1, max(1.3 * float(known["ratio"].max()), 5.0))
    ax.set_xlabel("failed tasks expected from the mix of jobs")
    ax.set_ylabel("observed over expected")
    ax.set_title("Failed tasks by node", loc="left")
    plain(ax, grid="both")
    ax.legend(frameon=False, fontsize=8)
    return ax


def _quantile(mean: Any, chance: float) -> Any:
    """Return Byar's smooth approximation of a Poisson quantile (Breslow and Day, 1987)."""
    z = NormalDist().inv_cdf(chance)
    return mean * np.maximum(1 - 1 / (9 * mean) + z / (3 * np.sqrt(mean)), 0) ** 3
