"""What the plots share: colours that colour-blind readers tell apart, marks, and axes of time."""

from __future__ import annotations

from typing import Any

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from .._utils.text import visible

# Okabe and Ito's palette (jfly.uni-koeln.de/color), and a mark for each colour, so that neither is needed alone.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#999999",
)  # fmt: skip
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)

UNWATCHED = "#e8e8e8"

CAUSES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "failure": (RED, "X", ("failure",)),
    "out of memory": (PURPLE, "D", ("out of memory",)),
    "failed start": (ORANGE, "s", ("artifact", "setup", "driver", "validation", "hook")),
    "health check": (GREEN, "P", ("health check",)),
    "on request": (BLUE, "^", ("operator", "template", "vault")),
    "lost with its node": (BLACK, "v", ("lost",)),
    "other": (GREY, "o", ()),
}
"""Colour and mark of each kind of cause, and the causes that it stands for."""


def axes(ax: Axes | None, height: float = 4.0) -> Axes:
    """Return the axes to draw on: those given, or new ones as wide as a notebook."""
    if ax is not None:
        return ax
    _, made = plt.subplots(figsize=(10, height), layout="constrained")
    return made


def in_time(ax: Axes) -> None:
    """Make the horizontal axis one of time, in UTC."""
    locator = mdates.AutoDateLocator(tz="UTC")
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator, tz="UTC"))
    ax.set_xlabel("time (UTC)")


def plain(ax: Axes, *, grid: str = "x") -> None:
    """Take away what carries nothing."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.grid(axis=grid, color="#e5e5e5", linewidth=0.8)  # type: ignore[arg-type]
    ax.set_axisbelow(True)


def days(times: Any) -> Any:
    """Return times as matplotlib's numbers."""
    return mdates.date2num(pd.DatetimeIndex(times).tz_convert("UTC").tz_localize(None).to_numpy())


def label(value: object, longest: int = 42) -> str:
    """Return a name as a label: nothing in it is obeyed by a terminal or by matplotlib's mathematics."""
    text = visible(value).replace("$", r"\$")
    return text if len(text) <= longest else text[: longest // 2 - 1] + "…" + text[-longest // 2 :]


def with_cluster(table: pd.DataFrame, name: str) -> pd.Series[Any]:
    """Return a column as text, after the cluster of its row where there are several: equal names in two are two things."""
    own = table[name].astype("str")
    return table["cluster"].astype("str") + ": " + own if "cluster" in table.columns else own


def one_cluster(table: pd.DataFrame, what: str) -> None:
    """Refuse to draw rows of several clusters as if they were of one."""
    clusters = sorted(set(table["cluster"].astype("str"))) if "cluster" in table.columns else []
    if len(clusters) > 1:
        raise ValueError(
            f"{what} is of one cluster, and there are {', '.join(clusters)}: choose one by its column 'cluster'"
        )


def unwatched(ax: Axes, source: Any) -> None:
    """Shade the times in which, as a snapshot of an archive knows, nobody watched."""
    info = getattr(source, "info", None)  # of a DataFrame it is a method
    for number, gap in enumerate(info.get("gaps", []) if isinstance(info, dict) else []):
        left, right = days([pd.Timestamp(gap["since"]), pd.Timestamp(gap["until"])])
        ax.axvspan(
            left, right, color=UNWATCHED, zorder=0, linewidth=0, label="_" if number else "nobody watched"
        )


def nothing(ax: Axes, said: str) -> Axes:
    """Say on empty axes that there is nothing to draw."""
    ax.text(0.5, 0.5, said, ha="center", va="center", transform=ax.transAxes, color=GREY)
    ax.set_xticks([])
    ax.set_yticks([])
    return ax
