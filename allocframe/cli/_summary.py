"""What commands print and write of a snapshot."""

from __future__ import annotations

import numbers
from pathlib import Path

import pandas as pd

from .. import stats
from .._utils.prose import one_line
from .._utils.text import visible
from ..diagnosis.diagnose import findings
from ..errors import ConfigError
from ..snapshot.snapshot import Snapshot
from ..stats.explain import explained


def check_output(output: Path | None) -> None:
    if output is None:
        return
    if output.suffix not in (".allocframe", ".parquet", ".csv"):
        raise ConfigError(f"--output {output}: end the name with .allocframe, .parquet or .csv")
    if not output.parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent}")


def write(snap: Snapshot, output: Path) -> None:
    write = {".allocframe": snap.save, ".parquet": snap.to_parquet, ".csv": snap.to_csv}[output.suffix]
    print(f"\nsaved to {write(output)}")


def summary(snap: Snapshot) -> None:
    print(snap)
    if not len(snap):
        print("\nThe cluster has no allocations that this query and token can see.")
        return
    status = snap.sql(
        "SELECT client_status AS 'client status', count(*) AS allocations FROM allocations GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    print_table("Allocations by status", status.dropna())
    if not snap.sql("SELECT 1 FROM events LIMIT 1").size:
        return
    restarts = stats.restarts(snap, by=["namespace", "job_id"])
    of = ["cluster"] if snap.clusters else []
    looped = restarts.loc[
        restarts["counter"] > 0, [*of, "namespace", "job_id", "counter", "count", "lost_to_ring"]
    ]
    looped = looped.sort_values("counter", ascending=False, kind="stable").head(10)
    looped.columns = [*of, "namespace", "job_id", "restarts", "in the events", "lost to the ring"]
    print_table("Restarts by job (of the allocations that Nomad still knows)", looped)
    failed = explained(snap, "failure", [True], latest=8)
    failed = failed.sort_values("time", ascending=False, kind="stable").head(8)
    shown = failed[["time", *of, "job_id", "task", "node_name", "cause", "message"]].assign(
        time=failed["time"].dt.strftime("%Y-%m-%d %H:%M:%S")
    )
    print_table("Latest failures (UTC)", shown)
    found = findings(snap)
    print("\nFindings" if found else "\nFindings: none")
    for one in found:
        print(f"  {one.code} {one.severity:8}  {one_line(one.summary)}")


def print_table(title: str, frame: pd.DataFrame) -> None:
    print(f"\n{title}")
    if frame.empty:
        print("  none")
        return
    cells = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    widths = [max(len(name), *(len(row[n]) for row in cells)) for n, name in enumerate(frame.columns)]
    for row in [list(frame.columns), *cells]:
        print("  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    text = f"{value:,}" if isinstance(value, numbers.Integral) else "" if pd.isna(value) else visible(value)  # type: ignore[call-overload]
    return text if len(text) <= 70 else text[:69] + "…"
