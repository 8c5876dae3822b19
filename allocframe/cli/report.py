"""``allocframe report``: a postmortem or a cluster report, as a file to send."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import typer

from .._utils.memory import share_heaps
from .._utils.prose import count
from .._utils.text import visible
from ..client.client import Client
from ..errors import ConfigError
from ..snapshot.io import load, read_json
from ..snapshot.snapshot import Snapshot
from ._app import AsJson, app, print_help, print_json

if TYPE_CHECKING:
    from ..archive.archive import Archive

commands: typer.Typer = typer.Typer(invoke_without_command=True, callback=print_help, rich_markup_mode=None)
app.add_typer(commands, name="report", help="Write a postmortem or a cluster report, as HTML or Markdown.")

Source = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="File written by `allocframe fetch`, or Nomad JSON saved with curl. Default: query NOMAD_ADDR.",
    ),
]
Place = Annotated[
    str | None, typer.Option("--archive", metavar="DIR", help="Archive written by `allocframe record`.")
]
Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", help="NAME.html: one file. NAME.md: Markdown, with pictures in NAME_files."
    ),
]
Cluster = Annotated[
    str | None, typer.Option("--cluster", help="With --from evidence of several clusters: one of them.")
]
Job = Annotated[str | None, typer.Option(help="Only the allocations of this job.")]
Redact = Annotated[
    bool,
    typer.Option("--redact", help="Replace names, addresses, IDs and messages consistently, for sharing."),
]
Slo = Annotated[
    str | None,
    typer.Option(metavar="SHARE", help="Availability target, such as 99.9%, for error budgets."),
]


@commands.command()
def postmortem(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="NAME.html: one file. NAME.md: Markdown, with pictures in NAME_files.",
            show_default="postmortem.html",
        ),
    ] = None,
    source: Source = None,
    cluster: Cluster = None,
    archive: Place = None,
    since: Annotated[
        str | None,
        typer.Option(help="Start of the window (UTC): 2026-11-24T09:15, 'yesterday 14:00' or 2h (ago)."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="End of the window.")] = None,
    job: Job = None,
    redact: Redact = False,
    logs: Annotated[
        bool, typer.Option("--logs", help="Add log lines around failures, from the cluster of NOMAD_ADDR.")
    ] = False,
    slo: Slo = None,
    star: Annotated[
        list[str] | None,
        typer.Option("--star", metavar="KEY", help="A line that the timeline must have. May be repeated."),
    ] = None,
    update: Annotated[
        Path | None,
        typer.Option(
            "--update",
            metavar="FILE",
            help="Keep what people wrote into this postmortem. Without -o, it is written in its place.",
        ),
    ] = None,
    audit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="An audit log of actions. By default, that of this machine."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write what happened, since when, to whom, why, and what is not known.

    With --archive, --since is needed. It then has removed allocations, too, more events than Nomad's last
    ten, and similar incidents.

    Example: allocframe report postmortem --from outage.allocframe --slo 99.9% -o outage.html
    """
    from ..reports import report as write_report

    with (
        _open_source(source, archive, cluster) as snap,
        Client() if logs else contextlib.nullcontext() as client,
    ):
        path = write_report(
            snap,
            "postmortem",
            output=output or update or Path("postmortem.html"),
            job=job,
            since=since,
            until=until,
            redact=redact,
            client=client,
            slo=slo,
            star=star or [],
            update=update,
            audit=audit,
        )
    _tell(path, as_json=as_json)


@commands.command()
def cluster(
    output: Output = Path("cluster.html"),
    source: Source = None,
    cluster: Cluster = None,
    archive: Place = None,
    days: Annotated[
        int | None, typer.Option(min=1, help="With --archive: number of days. By default, 7.")
    ] = None,
    job: Job = None,
    redact: Redact = False,
    usage: Annotated[
        bool,
        typer.Option("--usage", help="Measure what tasks use, from the cluster of NOMAD_ADDR: rightsizing."),
    ] = False,
    slo: Slo = None,
    as_json: AsJson = False,
) -> None:
    """Write how the cluster is doing: availability, error budgets, failures, deployments, nodes, what to do.

    With --archive, it covers the last days and has trends: day by day, and compared with as many days before.

    Example: allocframe report cluster --from monday.allocframe -o monday.html
    """
    from ..reports import report as write_report

    with _open_source(source, archive, cluster) as snap:
        samples = _measure(snap, job) if usage else None
        path = write_report(
            snap, "cluster", output=output, job=job, days=days, redact=redact, slo=slo, usage=samples
        )
    _tell(path, as_json=as_json)


def _tell(path: Path, *, as_json: bool) -> None:
    if as_json:
        print_json({"written_to": str(path)})
    else:
        print(f"written to {path}")


def _measure(source: Snapshot | Archive, job: str | None) -> pd.DataFrame:
    """Return what the running tasks use now, of one job if it is given; warn of those that are missing."""
    with Client() as client, contextlib.ExitStack() as stack:
        live = source if isinstance(source, Snapshot) else None
        if live is None:
            live = stack.enter_context(client.snapshot(namespace="*", task_states=False))
        usage = client.usage(live if job is None else live.filter(job_id=job))
    if missing := usage.errors["alloc_id"].nunique():
        reason = visible(usage.errors["error"].iloc[0])
        text = f"the use of {count(missing, 'allocations')} could not be measured: {reason}"
        warnings.warn(text, stacklevel=2)
    return usage.samples


@contextlib.contextmanager
def _open_source(
    source: Path | None, archive: str | None, cluster: str | None
) -> Iterator[Snapshot | Archive]:
    share_heaps()  # what threads free would come on top: a tenth of the memory of a large report
    if cluster is not None and source is None:
        raise ConfigError("--cluster needs --from with evidence of several clusters")
    if archive is not None:
        if source is not None:
            raise ConfigError("--from and --archive exclude each other: give only one of them")
        from .. import Archive  # its error names the extra if deltalake is missing

        yield Archive(archive)
        return
    if source is None:
        with Client() as client, client.snapshot(namespace="*", history=True) as snap:
            yield snap
        return
    if not source.is_file():
        raise ConfigError(f"--from {source}: there is no such file")
    # Anything else must be JSON as the HTTP API sends it.
    with load(source) if source.suffix == ".allocframe" else read_json(source) as snap:
        yield snap if cluster is None else _one_cluster(snap, cluster)


def _one_cluster(snap: Snapshot, cluster: str) -> Snapshot:
    if cluster not in snap.clusters:
        names = ", ".join(map(visible, snap.clusters)) or "one without a name"
        raise ConfigError(f"--cluster {visible(cluster)} is not in the evidence. Its clusters: {names}")
    return snap.clusters[cluster]
