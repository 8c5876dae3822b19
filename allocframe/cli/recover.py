"""``allocframe recover``: what the servers still hold, from their Raft log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from ._app import AsJson, app, print_json
from ._summary import check_output, print_summary, summarize, write_snapshot
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
    as_json: AsJson = False,
) -> None:
    """Recover what Nomad's servers still hold: purged jobs, collected allocations and events beyond ten.

    A server's folder is copied first, and only the copy is read. Without the nomad program, print the log
    on a machine that has it: nomad operator raft logs COPY > logs.ndjson.

    Example: allocframe recover /opt/nomad/data -o outage.allocframe --postmortem outage.html
    """
    from ..recovery.recover import recover as recover_paths
    from ..reports import report as write_report

    check_output(output)
    if job is not None and postmortem is None:
        raise ConfigError("--job needs --postmortem: everything that is known is recovered")
    if archive is not None and archive.is_file():
        raise ConfigError(f"--archive {archive} must be a folder, got a file")
    with recover_paths(*paths, nomad=nomad) as snap:
        if not as_json:
            print_summary(snap)
        saved = write_snapshot(snap, output)
        if saved and not as_json:
            print(f"\nsaved to {saved}")
        written = None if postmortem is None else write_report(snap, output=postmortem, job=job)
        if written and not as_json:
            print(f"\nwritten to {written}")
        if archive is not None:
            from ..archive.archive import Archive

            Archive(archive).append(snap)
            history = ", with what had changed in jobs and nodes" if snap.history is not None else ""
            if not as_json:
                print(f"\nadded to {archive}{history}")
        if as_json:
            facts = summarize(snap)
            places = {"saved_to": saved, "postmortem": written, "archive": archive}
            print_json({**facts, **{name: place and str(place) for name, place in places.items()}})
