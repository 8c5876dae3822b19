"""Draw time and memory against the number of allocations, from the figures of benchmarks/size.py."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import pandas as pd

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from allocframe.plots._style import CYCLE

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "benchmarks" / "size.json"
MARKS = "oXsDP^v"


def lines(axes: Axes, rows: pd.DataFrame, column: str, title: str) -> None:
    several = rows[rows.groupby("step")["allocations"].transform("size") > 1]  # one size makes no line
    for place, (step, part) in enumerate(several.groupby("step", sort=False)):
        axes.plot(part["allocations"], part[column], label=step, color=CYCLE[place], marker=MARKS[place])
    axes.set_xscale("log")
    axes.set_xlabel("allocations")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.3)


def main() -> None:
    rows = pd.DataFrame(json.loads(FIGURES.read_text())["rows"])
    rows["memory"] = rows["peak"] / 1e9
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    lines(left, rows, "cpu", "CPU seconds of each step")
    left.set_yscale("log")
    lines(right, rows, "memory", "Peak memory of the process, GB")
    right.axhline(4, color="0.5", linestyle=":", linewidth=1)
    right.annotate(
        "4 GB",
        (rows["allocations"].min(), 4),
        xytext=(0, -4),
        textcoords="offset points",
        color="0.4",
        va="top",
    )
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(ROOT / "docs" / "pictures" / "size.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
