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
from ._app import Address, Clusters, app, fleet_of
from ._live_status import Status, until_told_to_stop

ALIVE_WITHIN = pd.Timedelta(minutes=10)
"""A recorder that has not been seen for longer has stopped, or cannot watch or write."""


@app.command()
def record(
    archive: Annotated[str, typer.Option(help="Folder, or URL of an object store, where it is kept.")],
    namespace: Annotated[str, typer.Option(help="Namespace, or * for all that the token may read.")] = "*",
    interval: Annotated[
        float, typer.Option(help="Seconds that a change waits at most before it is committed.", min=0.1)
    ] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="List everything once, and end: for cron.")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Say what the archive holds and whether a recorder is alive.")
    ] = False,
    stream: Annotated[bool, typer.Option(help="Subscribe to events where the token may.")] = True,
    name: Annotated[
        str | None, typer.Option(help="Name of this recorder in the archive; this machine's otherwise.")
    ] = None,
    address: Address = None,
    clusters: Clusters = None,
) -> None:
    """Keep every allocation and task event in an archive: what Nomad forgets after ten events, or an hour.

    Runs until it is told to stop, and goes on where it stopped. Of several clusters, each has an archive of its own in the folder,
    under its name, and one that is down does not stop the others.

    Example: allocframe record --archive /var/lib/nomad-archive
    """
    share_heaps()
    fleet = fleet_of(address, clusters)
    if fleet is not None:
        raise typer.Exit(
            _several(
                fleet,
                archive,
                once=once,
                status=status,
                namespace=namespace,
                interval=interval,
                stream=stream,
                name=name,
            )
        )
    kept = _archive(archive)
    if status:
        raise typer.Exit(_print_status(kept))
    from ..archive.recorder import Recorder

    shown = Status()
    with Client(address) as client:
        recorder = Recorder(
            client, kept, namespace=namespace, interval=interval, stream=stream, name=name, say=shown.say
        )
        if once:
            shown.say(_told(recorder.once()))
            return
        with until_told_to_stop({"": recorder}, shown) as stop:
            recorder.run(stop)


def _several(fleet: Fleet, archive: str, *, once: bool, status: bool, **settings: Any) -> int:
    """Do for each cluster what is done for one; return the exit code."""
    from ..archive.recorder import Recorder, run_all

    shown = Status()
    with fleet:
        kept = {
            name: _archive(f"{archive.rstrip('/')}/{name}" if archive.strip() else "")
            for name in fleet.clients
        }
        if status:
            return max([_titled(name, one) for name, one in kept.items()])
        recorders = {
            name: Recorder(client, kept[name], **settings, say=shown.of(name))
            for name, client in fleet.clients.items()
        }
        if once:
            return _once(recorders, shown)
        with until_told_to_stop(recorders, shown) as stop:
            run_all(recorders, stop)
    return 0


def _once(recorders: Mapping[str, Any], shown: Status) -> int:
    """List every cluster once, at the same time; return 1 where one could not be listed."""

    def one(name: str) -> int:
        say = shown.of(name)
        try:
            say(_told(recorders[name].once()))
        except (AllocframeError, OSError) as error:
            say(f"not recorded: {error}")
            return 1
        return 0

    with ThreadPoolExecutor(len(recorders), "allocframe-once") as pool:
        return max(pool.map(one, recorders))


def _told(change: Any) -> str:
    return (
        f"{len(change.added):,} new, {len(change.changed):,} changed, {len(change.removed):,} gone, "
        f"{len(change.new_events):,} new events"
    )


def _archive(where: str) -> Any:
    from .. import Archive  # which says the pip line where deltalake is missing

    if not where.strip():
        raise ConfigError("--archive is empty: name a folder, or the URL of an object store")
    return Archive(where)


def _titled(name: str, archive: Any) -> int:
    print(f"cluster        {visible(name)}")
    return _print_status(archive)


def _print_status(archive: Any) -> int:
    """Print what the archive holds; return 0 where a recorder is alive, 1 where none is."""
    state = archive.state()
    if state.at is None:
        print("nothing recorded yet: no archive, or an empty one")
        return 1
    now = pd.Timestamp(datetime.now(UTC))
    info = archive.info
    held, gaps = info["tables"], [gap for gap in info["gaps"] if gap["since"]]
    events, first = held["events"], held["snapshots"]["first_day"]
    print(f"archive        {visible(archive)}")
    print(f"recorded       from {first} to {state.at:%Y-%m-%d %H:%M:%S} UTC, index {state.index}")
    print(
        f"holds          {events['rows']:,} rows of events, {len(state.live):,} allocations that are there now"
    )
    print(
        f"size           {sum(one['bytes'] for one in held.values()) / 1e6:,.1f} MB in {sum(one['files'] for one in held.values()):,} files"
    )
    print(f"gaps           {len(gaps):,}")
    for gap in gaps[-5:]:
        print(f"               {_when(gap['since'])} to {_when(gap['until'])}: {visible(gap['reason'])}")
    alive = False
    for one in state.recorders.tail(5).itertuples():
        recent = now - one.seen_at < ALIVE_WITHIN
        alive = alive or recent
        print(
            f"recorder       {visible(one.recorder)}: {'alive' if recent else 'silent'}, last seen {one.seen_at:%Y-%m-%d %H:%M:%S} UTC"
        )
    return 0 if alive else 1


def _when(moment: str) -> str:
    return f"{pd.Timestamp(moment):%Y-%m-%d %H:%M:%S}"
