"""``allocframe recover``: what the servers still hold, from their Raft log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from ..recovery.recover import recover as recover_paths
from ..reports import report as write_report
from ._app import app
from ._summary import check_output, print_summary, write_snapshot
from .fetch import Output
from .report import Job


@app.command()
def recover(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...",
            help="A server's data folder or snapshot, printed logs or states, debug bundles: in any mix.",
            show_default=False,
        ),
    ],
    output: Output = None,
    archive: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Add what was recovered to this archive.")
    ] = None,
    postmortem: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a postmortem: NAME.html, or NAME.md with its pictures."),
    ] = None,
    job: Job = None,
    nomad: Annotated[
        Path | None, typer.Option(help="The nomad program that reads folders; by default, the one on PATH.")
    ] = None,
) -> None:
    """Recover what Nomad's servers still hold: purged jobs, collected allocations and events beyond ten.

    A server's folder is copied first, and only the copy is read. Without the nomad program, print the log
    where there is one: nomad operator raft logs COPY > logs.ndjson.

    Example: allocframe recover /opt/nomad/data -o outage.allocframe --postmortem outage.html
    """
    check_output(output)
    if job is not None and postmortem is None:
        raise ConfigError("--job needs --postmortem: everything that is known is recovered")
    if archive is not None and archive.is_file():
        raise ConfigError(f"--archive {archive} must be a folder, and is a file")
    with recover_paths(*paths, nomad=nomad) as snap:
        print_summary(snap)
        if output is not None:
            write_snapshot(snap, output)
        if postmortem is not None:
            print(f"\nwritten to {write_report(snap, 'postmortem', output=postmortem, job=job)}")
        if archive is not None:
            from ..archive.archive import Archive

            Archive(archive).append(snap)
            history = ", with what had changed in jobs and nodes" if snap.history is not None else ""
            print(f"\nadded to {archive}{history}")
