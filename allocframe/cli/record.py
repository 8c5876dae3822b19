"""``allocframe record``: the flight recorder."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Annotated, Any

import pandas as pd
import typer

from .._utils.memory import share_heaps
from .._utils.text import visible
from ..client.client import Client
from ..client.fleet import Fleet
from ..errors import AllocframeError, ConfigError
from ._app import Address, Clusters, app, load_fleet
from ._live_status import LiveStatus, stop_on_signal

ALIVE_WITHIN = pd.Timedelta(minutes=10)
"""A recorder that was last seen earlier has stopped, or cannot watch or write."""


@app.command()
def record(
    archive: Annotated[str, typer.Option(help="Folder or object store URL of the archive.")],
    namespace: Annotated[str, typer.Option(help="Namespace, or * for all that the token may read.")] = "*",
    interval: Annotated[
        float, typer.Option(help="Longest time in seconds before a change is committed.", min=0.1)
    ] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="List everything once and exit, for cron.")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Print what the archive holds and if a recorder is alive.")
    ] = False,
    stream: Annotated[bool, typer.Option(help="Use the event stream if the token may.")] = True,
    history: Annotated[
        bool, typer.Option(help="Record versions of jobs, deployments, nodes and evaluations, too.")
    ] = True,
    name: Annotated[
        str | None, typer.Option(help="Name of this recorder in the archive. By default, the host name.")
    ] = None,
    address: Address = None,
    clusters: Clusters = None,
) -> None:
    """Keep every allocation and task event in an archive. Nomad forgets them after ten events, or an hour.

    It runs until SIGTERM or Ctrl-C. The next run continues where it stopped. With several clusters, each gets
    its own archive in the folder, under its name. A cluster that is down does not stop the others.

    Example: allocframe record --archive /var/lib/nomad-archive
    """
    # It runs for months: memory that one thread frees must serve the others.
    share_heaps()
    fleet = load_fleet(address, clusters)
    settings: dict[str, Any] = {
        "namespace": namespace, "interval": interval, "stream": stream, "history": history, "name": name,
    }  # fmt: skip
    if fleet is not None:
        raise typer.Exit(_record_fleet(fleet, archive, once=once, status=status, **settings))
    destination = _open_archive(archive)
    if status:
        raise typer.Exit(_print_status(destination))
    from ..archive.recorder import Recorder

    live_status = LiveStatus()
    with Client(address) as client:
        recorder = Recorder(client, destination, **settings, say=live_status.print)
        if once:
            live_status.print(_describe(recorder.once()))
            return
        # An empty name: with one cluster, the status line needs none.
        with stop_on_signal({"": recorder}, live_status) as stop:
            recorder.run(stop)


def _record_fleet(fleet: Fleet, archive: str, *, once: bool, status: bool, **settings: Any) -> int:
    """Record each cluster into its own archive, or print its status. Return the exit code."""
    from ..archive.recorder import Recorder, run_all

    live_status = LiveStatus()
    with fleet:
        folder = archive.rstrip("/") if archive.strip() else ""
        archives = {name: _open_archive(folder and f"{folder}/{name}") for name in fleet.clients}
        if status:
            return max([_print_cluster_status(name, archive) for name, archive in archives.items()])
        recorders = {
            name: Recorder(client, archives[name], **settings, say=live_status.printer(name))
            for name, client in fleet.clients.items()
        }
        if once:
            return _record_once(recorders, live_status)
        with stop_on_signal(recorders, live_status) as stop:
            run_all(recorders, stop)
    return 0


def _record_once(recorders: Mapping[str, Any], live_status: LiveStatus) -> int:
    """List every cluster once, all at the same time. Return 1 if one could not be listed."""

    def record_one(name: str) -> int:
        print_message = live_status.printer(name)
        try:
            print_message(_describe(recorders[name].once()))
        except (AllocframeError, OSError) as error:
            print_message(f"not recorded: {error}")
            return 1
        return 0

    with ThreadPoolExecutor(len(recorders), "allocframe-once") as pool:
        return max(pool.map(record_one, recorders))


def _describe(totals: Any) -> str:
    return (
        f"{totals.added:,} new, {totals.changed:,} changed, {totals.removed:,} removed, "
        f"{totals.new_events:,} new events"
    )


def _open_archive(place: str) -> Any:
    from .. import Archive  # its error names the extra if deltalake is missing

    if not place.strip():
        raise ConfigError("--archive must not be empty. Name a folder, or the URL of an object store.")
    return Archive(place)


def _print_cluster_status(name: str, archive: Any) -> int:
    print(f"cluster        {visible(name)}")
    return _print_status(archive)


def _print_status(archive: Any) -> int:
    """Print what the archive holds. Return 0 if a recorder is alive, else 1."""
    state = archive.state()
    if state.at is None:
        print("nothing recorded yet: no archive, or an empty one")
        return 1
    now = pd.Timestamp(datetime.now(UTC))
    info = archive.info
    tables, gaps = info["tables"], [gap for gap in info["gaps"] if gap["since"]]
    size, files = (sum(table[key] for table in tables.values()) for key in ("bytes", "files"))
    first_day = tables["snapshots"]["first_day"]
    print(f"archive        {visible(archive)}")
    print(f"recorded       from {first_day} to {state.at:%Y-%m-%d %H:%M:%S} UTC, index {state.index}")
    print(f"holds          {tables['events']['rows']:,} events, {len(state.live):,} current allocations")
    print(f"size           {size / 1e6:,.1f} MB in {files:,} files")
    print(f"gaps           {len(gaps):,}")
    for gap in gaps[-5:]:
        print(f"               {_format(gap['since'])} to {_format(gap['until'])}: {visible(gap['reason'])}")
    alive = False
    for recorder in state.recorders.tail(5).itertuples():
        recent = now - recorder.seen_at < ALIVE_WITHIN
        alive = alive or recent
        status = "alive" if recent else "silent"
        print(
            f"recorder       {visible(recorder.recorder)}: {status}, "
            f"last seen {recorder.seen_at:%Y-%m-%d %H:%M:%S} UTC"
        )
    return 0 if alive else 1


def _format(time: str) -> str:
    return f"{pd.Timestamp(time):%Y-%m-%d %H:%M:%S}"
