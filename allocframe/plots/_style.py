"""What the plots share: colours and marks that colour-blind readers can tell apart, and time axes."""

from __future__ import annotations

from typing import Any

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from .._utils.text import visible
from ..stats import vocabulary

# Okabe and Ito's palette (jfly.uni-koeln.de/color); marks differ as well, so that neither is needed alone.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#999999",
)  # fmt: skip
CYCLE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)

LEGEND: dict[str, Any] = {
    "loc": "upper left",
    "bbox_to_anchor": (1.0, 1.0),
    "frameon": False,
    "fontsize": 8,
}
"""Where a legend stands beside its plot."""

_LIGHT = {
    "ink": "#1b1f24", "soft": "#57606a", "paper": "#ffffff", "grid": "#e5e5e5", "run": "#dbe9f4",
    "shade": "#fbeee6", "unwatched": "#e8e8e8", "lost": "#d0d0d0", "map": "YlOrBr",
}  # fmt: skip
_DARK = {
    "ink": "#f0f3f6", "soft": "#9aa5b1", "paper": "#101418", "grid": "#30363d", "run": "#24384d",
    "shade": "#3a241c", "unwatched": "#2b2f36", "lost": "#4a4f57", "map": "YlOrBr_r",
}  # fmt: skip


def theme(ax: Axes) -> dict[str, str]:
    """Return the colours that depend on the paper: light, or dark as in matplotlib's dark_background."""
    return _DARK if sum(to_rgb(ax.get_facecolor())) < 1.5 else _LIGHT


KIND_STYLES = {
    "failure": (RED, "X"),
    "out of memory": (PURPLE, "D"),
    "failed start": (ORANGE, "s"),
    "killed as failed": (SKY, "p"),
    "health check": (GREEN, "P"),
    "on request": (BLUE, "^"),
    vocabulary.CAUSE_KINDS[vocabulary.LOST]: ("ink", "v"),
    "other": (GREY, "o"),
}
"""Colour and mark of each kind of cause in `vocabulary.CAUSE_KINDS`, in the order of the legend.

"ink" is black on white paper, and white on black.
"""


def axes(ax: Axes | None, height: float = 4.0) -> Axes:
    """Return the axes to draw on: those given, or new ones as wide as a notebook; `height` is in inches."""
    if ax is not None:
        return ax
    _, new = plt.subplots(figsize=(10, height), layout="constrained")
    return new


def use_time_axis(ax: Axes) -> None:
    """Make the horizontal axis a time axis in UTC."""
    locator = mdates.AutoDateLocator(tz="UTC")
    formatter = mdates.ConciseDateFormatter(
        locator,
        tz="UTC",
        formats=["%Y", "%b", "%-d %b", "%H:%M", "%H:%M", "%S.%f"],
        zero_formats=["", "%Y", "%b", "%-d %b", "%H:%M", "%H:%M"],
        offset_formats=["", "%Y", "%Y", "%-d %b %Y", "%-d %b %Y", "%-d %b %Y"],
    )
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(formatter)
    ax.set_xlabel("time (UTC)")


def write_title(ax: Axes, answer: str, not_shown: str = "") -> None:
    """Write the title, which answers; below it, what the plot leaves out, such as "3 smaller rows"."""
    ax.set_title(answer + (f"\n{not_shown} not shown" if not_shown else ""), loc="left", fontsize=11)


def format_seconds(seconds: float) -> str:
    """Return a duration for ticks and titles, with three digits at most."""
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms" if seconds else "0"
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{seconds / 3600:.3g} h"


def strip_frame(ax: Axes, *, grid: str = "x") -> None:
    """Remove the frame's top and right, and draw a pale grid below the data."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.grid(axis=grid, color=theme(ax)["grid"], linewidth=0.8)  # type: ignore[arg-type]
    ax.set_axisbelow(True)


def days(times: Any) -> Any:
    """Return times as matplotlib's date numbers (days)."""
    # date2num drops the offset of a time, so it must get UTC
    return mdates.date2num(pd.DatetimeIndex(times).tz_convert("UTC").tz_localize(None).to_numpy())


def label(value: object, longest: int = 42) -> str:
    """Return a name as a label that neither a terminal nor mathtext interprets, shortened if long."""
    text = visible(value).replace("$", r"\$")
    return text if len(text) <= longest else text[: longest // 2 - 1] + "…" + text[-longest // 2 :]


def colours_of_curves(ax: Axes) -> tuple[str, ...]:
    """Return the colours of curves, all of which can be seen on this paper."""
    return (*CYCLE[:-1], theme(ax)["ink"])


def joined(table: pd.DataFrame, keys: list[str]) -> pd.Series[Any]:
    """Return the columns of each row as one text; by column, since there may be a million rows."""
    texts = [table[key].astype("str") for key in keys]
    if not texts:
        return pd.Series("all", index=table.index)
    whole: pd.Series[Any] = texts[0]
    for text in texts[1:]:
        whole = whole + " " + text
    return whole


def with_cluster(table: pd.DataFrame, name: str) -> pd.Series[Any]:
    """Return a column as text, with its cluster if there are several: equal names in two are unrelated."""
    values = table[name].astype("str")
    return table["cluster"].astype("str") + ": " + values if "cluster" in table.columns else values


def require_table(table: object, plot: str, statistic: str) -> None:
    """Refuse anything but a statistic's table, such as the snapshot itself."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(
            f"plots.{plot} draws what stats.{statistic} returns, got a {type(table).__name__}. "
            f"Use plots.{plot}(stats.{statistic}(snap))"
        )


def require_one_cluster(table: pd.DataFrame, plot: str) -> None:
    """Refuse to draw rows of several clusters as if they were of one."""
    clusters = sorted(set(table["cluster"].astype("str"))) if "cluster" in table.columns else []
    if len(clusters) > 1:
        raise ValueError(
            f"{plot} must be drawn for one cluster, got {', '.join(clusters)}. "
            "Select one by the column 'cluster' or by .clusters[...]"
        )


def shade_unwatched(ax: Axes, source: Any) -> None:
    """Shade the times that nobody watched, which the snapshot of an archive knows."""
    info = getattr(source, "info", None)  # a method, if the source is a DataFrame
    for number, gap in enumerate(info.get("gaps", []) if isinstance(info, dict) else []):
        left, right = days([pd.Timestamp(gap["since"]), pd.Timestamp(gap["until"])])
        legend = "_" if number else "nobody watched"  # matplotlib leaves labels with "_" out of the legend
        ax.axvspan(left, right, color=theme(ax)["unwatched"], zorder=0, linewidth=0, label=legend)


def draw_empty(ax: Axes, message: str) -> Axes:
    """Write on empty axes why there is nothing to draw."""
    ax.text(0.5, 0.5, message, ha="center", va="center", transform=ax.transAxes, color=GREY)
    ax.set_xticks([])
    ax.set_yticks([])
    for side in ax.spines.values():
        side.set_visible(False)
    return ax
