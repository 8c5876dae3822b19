"""``allocframe diagnose``: what is wrong, its state and its causes; for people, cron and CI."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import typer

from .._utils.prose import one_line
from ..client.client import Client
from ..errors import ConfigError, PermissionDenied
from ..nomad.config import Config
from ..snapshot.io import load, read_json
from ..snapshot.snapshot import Snapshot
from ._app import Address, Clusters, app, load_fleet
from ._follow import Webhook, follow, until_signal

if TYPE_CHECKING:
    from ..diagnosis.diagnose import Diagnosis

MOST_CHANGES = 3
"""Changes that are printed for each incident."""

ALL_WELL, WARNING, CRITICAL = 0, 3, 4
"""Exit codes; 1 is an error, and 2 a wrong command line."""


@app.command()
def diagnose(
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="File written by `allocframe fetch`, or Nomad JSON saved with curl. "
            "Default: query NOMAD_ADDR.",
        ),
    ] = None,
    archive: Annotated[
        str | None, typer.Option("--archive", metavar="DIR", help="Archive written by `allocframe record`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Print all incidents, not only ten.")] = False,
    namespace: Annotated[str, typer.Option(help="Namespace, or * for all that the token may read.")] = "*",
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep running, and print incidents as they appear, change or end.")
    ] = False,
    interval: Annotated[float, typer.Option(help="With --watch: seconds between checks.", min=0.1)] = 30.0,
    webhook: Annotated[
        str | None, typer.Option(metavar="URL", help="With --watch: also post each as JSON to this address.")
    ] = None,
    address: Address = None,
    clusters: Clusters = None,
) -> None:
    """Say what is wrong, its state and its causes, with the evidence.

    With --watch it prints the ongoing incidents and then, until SIGTERM or Ctrl-C, each one that appears,
    changes or ends, in the cluster or in an archive that a recorder writes. With --json, each is a line of
    JSON.

    Exit code 0: nothing is wrong, every failure on record is explained, and the evidence is complete.
    3: warnings, unexplained failures, or incomplete evidence. 4: something critical. 1: an error.
    2: a wrong command line.

    Example: allocframe diagnose || mail -s "Nomad" oncall.
    """
    from ..diagnosis.diagnose import diagnose as diagnose_snapshot

    if watch:
        _watch(source, archive, namespace, address, clusters, interval, webhook, as_json)
        return
    if webhook is not None:
        raise ConfigError("--webhook needs --watch")
    with _read(source, archive, namespace, address, clusters) as snap:
        diagnosis = diagnose_snapshot(snap)
        gaps = list(_incomplete(snap))
    if as_json:
        print(json.dumps({**diagnosis.to_dict(), "incomplete": gaps}, indent=1))
    else:
        _print(diagnosis, gaps, everything)
    raise typer.Exit(exit_code(diagnosis, gaps))


def _watch(
    source: Path | None,
    archive: str | None,
    namespace: str,
    address: str | None,
    clusters: Path | None,
    interval: float,
    webhook: str | None,
    as_json: bool,
) -> None:
    if source is not None or clusters is not None or (archive is not None and address is not None):
        raise ConfigError("--watch follows one cluster or one archive: give only --address or --archive")
    scrub = Config.load(address).scrub
    with until_signal() as stop, contextlib.ExitStack() as stack:
        hook = Webhook(webhook, scrub, stop.wait) if webhook is not None else None
        if archive is not None:
            from .. import Archive

            opened = Archive(archive)

            def look() -> tuple[Snapshot, pd.DataFrame | None]:
                return opened.snapshot(), None
        else:
            client = stack.enter_context(Client(address))
            state = stack.enter_context(client.watch(namespace=namespace, wait=min(interval, 60.0)))

            def look() -> tuple[Snapshot, pd.DataFrame | None]:
                end = time.monotonic() + interval
                while state.poll(timeout=0.1) is not None and time.monotonic() < end:
                    pass  # a snapshot shows what has been read
                return state.snapshot, _evaluations(client, namespace)

        follow(look, stop, interval=interval, as_json=as_json, webhook=hook, scrub=scrub)


def _evaluations(client: Client, namespace: str) -> pd.DataFrame | None:
    """Return the evaluations, which show what waits for room; None if the token may not read them."""
    try:
        return client.evaluations(namespace=namespace)
    except PermissionDenied:
        return None


def exit_code(diagnosis: Diagnosis, incomplete: list[str]) -> int:
    """Return the exit code for a diagnosis and what is missing from its evidence."""
    if any(incident.severity == "critical" for incident in diagnosis.incidents):
        return CRITICAL
    return ALL_WELL if diagnosis.all_clear and not incomplete else WARNING


def _read(
    source: Path | None, archive: str | None, namespace: str, address: str | None, clusters: Path | None
) -> Snapshot:
    if sum(each is not None for each in (source, archive, address or clusters)) > 1:
        raise ConfigError("--from, --archive, --address and --clusters exclude each other: give one of them")
    if source is not None:
        return load(source) if source.suffix == ".allocframe" else read_json(source)
    if archive is not None:
        from .. import Archive  # its error names the extra if deltalake is missing

        return Archive(archive).snapshot()
    with load_fleet(address, clusters) or Client(address) as cluster:
        if isinstance(cluster, Client):
            return cluster.snapshot(namespace=namespace, history=True)
        return cluster.snapshot(namespace=namespace)


def _incomplete(snap: Snapshot) -> Iterator[str]:
    """Yield what is missing from the evidence, apart from what Nomad itself forgets."""
    if snap.info.get("complete") is False:
        yield "the snapshot is incomplete"
    if not len(snap):
        yield "no allocation is visible: check NOMAD_TOKEN, its policies and --namespace"
    elif not snap.sql("SELECT 1 FROM task_states LIMIT 1").size:
        yield "the evidence holds no task states, so restarts and failures of tasks are unknown"


def _print(diagnosis: Diagnosis, gaps: list[str], everything: bool) -> None:
    from ..diagnosis.evidence_sentences import change as describe_change

    lines = diagnosis.lines(limit=None if everything else 10)
    if not everything and len(diagnosis.incidents) > 10:
        lines[-1] += ": --all"
    for line in lines:
        print(one_line(line))
    for incident in diagnosis.incidents[:10]:
        if incident.severity == "info":
            continue
        print(f"\n{one_line(incident.title)}")
        for line in incident.cause_lines():
            print(line)
        for change in incident.changes[:MOST_CHANGES]:
            print(f"  changed {one_line(describe_change(change))}")
    for gap in gaps:
        print(f"\nIncomplete: {gap}.")
