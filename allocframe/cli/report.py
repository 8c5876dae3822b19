"""``allocframe report``: a postmortem or a report on the cluster, as a file to send."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from .._errors import ConfigError
from ..client import Client
from ..reports import report as written
from ..snapshot import Snapshot, load, read_json
from ._app import app

commands = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(
    commands, name="report", help="Write a postmortem or a report on the cluster, as HTML or Markdown."
)

Source = Annotated[
    Path | None,
    typer.Option(
        "--from", help="Evidence that fetch kept, or JSON from curl; the cluster of NOMAD_ADDR otherwise."
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", help="NAME.html: one file. NAME.md: Markdown, its pictures in NAME_files."
    ),
]
Job = Annotated[str | None, typer.Option(help="Only the allocations of this job.")]
Redact = Annotated[
    bool,
    typer.Option(
        "--redact", help="Replace names, addresses, IDs and messages, the same by the same, for sharing."
    ),
]


@commands.command()
def postmortem(
    output: Output = Path("postmortem.html"),
    source: Source = None,
    since: Annotated[
        str | None, typer.Option(help="Start of the window, such as 2026-11-24T09:15 (UTC).")
    ] = None,
    until: Annotated[str | None, typer.Option(help="End of the window.")] = None,
    job: Job = None,
    redact: Redact = False,
    logs: Annotated[
        bool, typer.Option("--logs", help="Ask the cluster of NOMAD_ADDR for the log lines around failures.")
    ] = False,
) -> None:
    """Tell what happened: since when, to whom, why as far as the evidence goes, and what is not known.

    Example: allocframe report postmortem --from outage.allocframe -o outage.html
    """
    with _opened(source) as snap, Client() if logs else contextlib.nullcontext() as client:
        path = written(
            snap, "postmortem", output=output, job=job, since=since, until=until, redact=redact, client=client
        )
    print(f"written to {path}")


@commands.command()
def cluster(
    output: Output = Path("cluster.html"), source: Source = None, job: Job = None, redact: Redact = False
) -> None:
    """Tell how the cluster does: failure rates, nodes, crash loops, rollouts, restarts, and how good the data are.

    Example: allocframe report cluster --from monday.allocframe -o monday.html
    """
    with _opened(source) as snap:
        path = written(snap, "cluster", output=output, job=job, redact=redact)
    print(f"written to {path}")


@contextlib.contextmanager
def _opened(source: Path | None) -> Iterator[Snapshot]:
    if source is None:
        with Client() as client, client.snapshot(namespace="*") as snap:
            yield snap
        return
    if not source.is_file():
        raise ConfigError(f"--from {source}: there is no such file")
    with load(source) if source.suffix == ".allocframe" else read_json(source) as snap:
        yield snap
