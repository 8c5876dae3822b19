"""Print a summary of a snapshot, and write it to files."""

from __future__ import annotations

import numbers
from pathlib import Path
from typing import Any

import pandas as pd

from .._utils.prose import one_line
from .._utils.text import visible
from ..errors import ConfigError
from ..snapshot.snapshot import Snapshot


def check_output(output: Path | None) -> None:
    """Check the name of an output before the work begins."""
    if output is None:
        return
    if output.suffix not in (".allocframe", ".parquet", ".csv"):
        raise ConfigError(f"--output must end with .allocframe, .parquet or .csv, got {output}")
    if not output.parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent}")


def write_snapshot(snap: Snapshot, output: Path | None) -> str | None:
    """Write a snapshot in the format of the file name's suffix; return where, or None without a name."""
    if output is None:
        return None
    write = {".allocframe": snap.save, ".parquet": snap.to_parquet, ".csv": snap.to_csv}[output.suffix]
    return str(write(output))


def summarize(snap: Snapshot) -> dict[str, Any]:
    """Return what `print_summary` prints, and more, as plain JSON."""
    from ..diagnosis.diagnose import diagnose

    statuses = snap.sql("SELECT client_status, count(*) AS n FROM allocations GROUP BY 1 ORDER BY 2 DESC, 1")
    return {
        "info": snap.info,
        "rows": {name: count for name, count in snap._counts.items() if name != "truncated"},
        "statuses": {str(row[0]): int(row[1]) for row in statuses.dropna().itertuples(index=False)},
        "history_notes": [] if snap.history is None else list(snap.history.notes),
        "diagnosis": diagnose(snap).to_dict(),
    }


def print_summary(snap: Snapshot) -> None:
    """Print statuses, restarts, failures and findings of a snapshot."""
    print(snap)
    if not len(snap):
        print("\nNo allocations are visible to this query and token (NOMAD_TOKEN).")
        return
    statuses = snap.sql(
        "SELECT client_status AS 'client status', count(*) AS allocations"
        " FROM allocations GROUP BY 1 ORDER BY 2 DESC, 1"
    )
    print_table("Allocations by status", statuses.dropna())
    if not snap.sql("SELECT 1 FROM events LIMIT 1").size:
        return
    cluster = ["cluster"] if snap.clusters else []
    print_table("Restarts by job (allocations that Nomad still has)", _restarts(snap, cluster))
    print_table("Latest failures (UTC)", _latest_failures(snap, cluster))
    from ..diagnosis.diagnose import diagnose

    print("\nDiagnosis")
    for line in diagnose(snap).lines():
        print(f"  {one_line(line)}")


def _restarts(snap: Snapshot, cluster: list[str]) -> pd.DataFrame:
    from .. import stats

    restarts = stats.restarts(snap, by=["namespace", "job_id"])
    columns = [*cluster, "namespace", "job_id", "counter", "count", "lost_to_ring"]
    top = restarts.loc[restarts["counter"] > 0, columns]
    top = top.sort_values("counter", ascending=False, kind="stable").head(10)
    top.columns = [*cluster, "namespace", "job_id", "restarts", "in the events", "lost to the ring"]
    return top


def _latest_failures(snap: Snapshot, cluster: list[str]) -> pd.DataFrame:
    from ..stats.explain import select_explained_events

    failures = select_explained_events(snap, "failure", [True], latest=8)
    failures = failures.sort_values("time", ascending=False, kind="stable").head(8)
    times = failures["time"].dt.strftime("%Y-%m-%d %H:%M:%S")
    return failures[["time", *cluster, "job_id", "task", "node_name", "cause", "message"]].assign(time=times)


def print_table(title: str, frame: pd.DataFrame) -> None:
    """Print a frame with aligned columns."""
    print(f"\n{title}")
    if frame.empty:
        print("  none")
        return
    cells = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
    widths = [max(len(name), *(len(row[n]) for row in cells)) for n, name in enumerate(frame.columns)]
    for row in [list(frame.columns), *cells]:
        print("  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    text = "" if pd.isna(value) else visible(value)  # type: ignore[call-overload]
    return text if len(text) <= 70 else text[:69] + "…"
