"""``allocframe report``: a postmortem or a report on the cluster, as a file to send."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .._utils.text import visible
from ..client.client import Client
from ..errors import ConfigError
from ..reports import report as written
from ..snapshot.io import load, read_json
from ..snapshot.snapshot import Snapshot
from ._app import app

if TYPE_CHECKING:
    from ..archive.archive import Archive

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
Place = Annotated[
    str | None, typer.Option("--archive", metavar="DIR", help="The archive that `allocframe record` keeps.")
]
Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", help="NAME.html: one file. NAME.md: Markdown, its pictures in NAME_files."
    ),
]
Cluster = Annotated[
    str | None, typer.Option("--cluster", help="With --from evidence of several clusters: which one.")
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
    cluster: Cluster = None,
    archive: Place = None,
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

    With --archive it needs --since, and has the allocations that are gone by now, and events beyond Nomad's ten.

    Example: allocframe report postmortem --from outage.allocframe -o outage.html
    """
    with _opened(source, archive, cluster) as snap, Client() if logs else contextlib.nullcontext() as client:
        path = written(
            snap, "postmortem", output=output, job=job, since=since, until=until, redact=redact, client=client
        )
    print(f"written to {path}")


@commands.command()
def cluster(
    output: Output = Path("cluster.html"),
    source: Source = None,
    of: Cluster = None,
    archive: Place = None,
    days: Annotated[
        int | None, typer.Option(min=1, help="With --archive: of how many days; 7 where left out.")
    ] = None,
    job: Job = None,
    redact: Redact = False,
) -> None:
    """Tell how the cluster does: failure rates, nodes, crash loops, rollouts, restarts, and how good the data are.

    With --archive it is of the last days, and has trends: day by day, and against as many days before.

    Example: allocframe report cluster --from monday.allocframe -o monday.html
    """
    with _opened(source, archive, of) as snap:
        path = written(snap, "cluster", output=output, job=job, days=days, redact=redact)
    print(f"written to {path}")


@contextlib.contextmanager
def _opened(source: Path | None, archive: str | None, cluster: str | None) -> Iterator[Snapshot | Archive]:
    if cluster is not None and source is None:
        raise ConfigError("--cluster chooses from evidence of several clusters: give it with --from")
    if archive is not None:
        if source is not None:
            raise ConfigError("give --from or --archive, not both")
        from .. import Archive  # which says the pip line where deltalake is missing

        yield Archive(archive)
        return
    if source is None:
        with Client() as client, client.snapshot(namespace="*") as snap:
            yield snap
        return
    if not source.is_file():
        raise ConfigError(f"--from {source}: there is no such file")
    with load(source) if source.suffix == ".allocframe" else read_json(source) as snap:
        yield snap if cluster is None else _chosen(snap, cluster)


def _chosen(snap: Snapshot, cluster: str) -> Snapshot:
    if cluster not in snap.clusters:
        there = ", ".join(map(visible, snap.clusters)) or "one, without a name"
        raise ConfigError(
            f"--cluster {visible(cluster)}: there is no such cluster in the evidence; there is {there}"
        )
    return snap.clusters[cluster]
