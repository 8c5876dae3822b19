"""The command line: parsing and printing only."""

from __future__ import annotations

import contextlib
import numbers
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from . import stats
from ._display import visible
from ._errors import AllocframeError, ConfigError
from ._rules import findings
from ._version import __version__
from .client import Client
from .snapshot import Snapshot

app = typer.Typer(
    name="allocframe",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Nomad allocations as tables: fetch a cluster, keep the evidence, see what happened. "
    "The cluster is the one that the Nomad CLI would use: NOMAD_ADDR, NOMAD_TOKEN and so on.",
)

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="NAME.allocframe: one file of evidence. NAME.parquet, NAME.csv: a folder of tables.",
    ),
]


def run() -> int:
    """Run one command; 0 is done, 1 is a failure told in one line, 2 is a wrong command line."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        app(standalone_mode=False)
    except typer.Exit as done:
        return done.exit_code
    except ConfigError as error:
        return _told(error, 2)
    except (AllocframeError, OSError) as error:
        return _told(error, 1)
    except KeyboardInterrupt:
        return _told("interrupted; nothing was written", 1)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return _told(f"{error.format_message()} (see: allocframe --help)", 2)
    return 0


def _told(error: object, code: int) -> int:
    print(f"allocframe: {' '.join(str(error).split())}", file=sys.stderr)
    return code


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def fetch(
    output: Output = None,
    namespace: Annotated[str, typer.Option(help="Namespace, or * for all that the token may read.")] = "*",
    prefix: Annotated[
        str | None, typer.Option(help="Start of the allocations' IDs, an even number of digits.")
    ] = None,
    filter: Annotated[  # noqa: A002 - Nomad's name for it
        str | None, typer.Option(help="Nomad's filter expression, such as 'ClientStatus == \"failed\"'.")
    ] = None,
    newest: Annotated[int | None, typer.Option(help="Only the newest N allocations.")] = None,
    task_states: Annotated[bool, typer.Option(help="Fetch tasks and their events.")] = True,
    resources: Annotated[bool, typer.Option(help="Fetch resources and ports too.")] = False,
    stale: Annotated[bool, typer.Option(help="Let any server answer; works without a leader.")] = False,
    address: Annotated[str | None, typer.Option(help="Where Nomad answers; NOMAD_ADDR otherwise.")] = None,
) -> None:
    """Fetch every allocation of the cluster, print what happened there, and keep the evidence.

    Example: allocframe fetch -o outage.allocframe, and in Python af.load("outage.allocframe").
    """
    _check_output(output)
    with (
        Client(address) as client,
        client.snapshot(
            namespace=namespace,
            prefix=prefix,
            filter=filter,
            newest=newest,
            task_states=task_states,
            resources=resources,
            stale=stale,
        ) as snap,
    ):
        _summary(snap)
        if output is not None:
            _write(snap, output)


@app.command()
def demo(
    story: Annotated[str, typer.Option(help="What happens in the simulated cluster.")] = "mixed",
    allocations: Annotated[
        int, typer.Option(help="How large it is, from 10 to 1,000,000.", min=10, max=1_000_000)
    ] = 400,
    seed: Annotated[int, typer.Option(help="The same seed gives the same cluster.")] = 7,
    nomad: Annotated[str, typer.Option(help="Behave as this version: 1.3.1 or 2.0.5.")] = "2.0.5",
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the evidence goes.")] = Path(
        "demo.allocframe"
    ),
) -> None:
    """Start a simulated cluster, fetch it, and print what happened there. Needs no Nomad."""
    _check_output(output)
    with _simulated(story, allocations, seed, nomad) as (address, token):
        print(f"a simulated Nomad {nomad} answers at {address}\n", file=sys.stderr)
        with Client(address, token=token) as client, client.snapshot(namespace="*", progress=True) as snap:
            _summary(snap)
            _write(snap, output)
    print(
        "\nThe same against your own cluster:\n"
        "  export NOMAD_ADDR=https://nomad.example:4646 NOMAD_TOKEN=...\n"
        "  .venv/bin/allocframe fetch -o outage.allocframe\n"
        "or in Python:\n"
        "  import allocframe as af\n"
        '  snap = af.Client().snapshot(namespace="*")      # snap.allocations, snap.events, ...\n'
        f'  snap = af.load("{output}")'
    )


@contextlib.contextmanager
def _simulated(story: str, allocations: int, seed: int, version: str) -> Iterator[tuple[str, str]]:
    from allocframe import sim

    try:
        cluster = sim.Cluster(story, allocations=allocations, seed=seed, version=version)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    with cluster:
        yield cluster.address, cluster.token


def _check_output(output: Path | None) -> None:
    if output is None:
        return
    if output.suffix not in (".allocframe", ".parquet", ".csv"):
        raise ConfigError(f"--output {output}: end the name with .allocframe, .parquet or .csv")
    if not output.parent.is_dir():
        raise ConfigError(f"--output {output}: there is no folder {output.parent}")


def _write(snap: Snapshot, output: Path) -> None:
    write = {".allocframe": snap.save, ".parquet": snap.to_parquet, ".csv": snap.to_csv}[output.suffix]
    print(f"\nsaved to {write(output)}")


def _summary(snap: Snapshot) -> None:
    print(snap)
    if not len(snap):
        print("\nThe cluster has no allocations that this query and token can see.")
        return
    status = (
        snap.allocations["client_status"]
        .value_counts()
        .rename_axis("client status")
        .reset_index(name="allocations")
    )
    _print_table("Allocations by status", status[status["allocations"] > 0])
    if snap.events.empty:
        return
    restarts = stats.restarts(snap, by=["namespace", "job_id"])
    looped = restarts.loc[
        restarts["counter"] > 0, ["namespace", "job_id", "counter", "count", "lost_to_ring"]
    ]
    looped = looped.sort_values("counter", ascending=False, kind="stable").head(10)
    looped.columns = ["namespace", "job_id", "restarts", "in the events", "lost to the ring"]
    _print_table("Restarts by job (of the allocations that Nomad still knows)", looped)
    events = stats.explain_events(snap)
    failed = events[events["failure"]].sort_values("time", ascending=False).head(8)
    shown = failed[["time", "job_id", "task", "node_name", "cause", "message"]].assign(
        time=failed["time"].dt.strftime("%Y-%m-%d %H:%M:%S")
    )
    _print_table("Latest failures (UTC)", shown)
    found = findings(snap)
    print("\nFindings" if found else "\nFindings: none")
    for one in found:
        print(f"  {one.code} {one.severity:8}  {visible(one.summary)}")


def _print_table(title: str, frame: pd.DataFrame) -> None:
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
