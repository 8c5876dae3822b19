"""``allocframe record``: the flight recorder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import pandas as pd
import typer

from .._utils.memory import share_heaps
from .._utils.text import visible
from .._utils.thread_pool import ThreadPool
from ..client.client import Client
from ..client.fleet import Fleet
from ..errors import AllocframeError, ConfigError
from ._app import Address, AsJson, Clusters, app, load_fleet, print_json
from ._live_status import LiveStatus, stop_on_signal

ALIVE_WITHIN = pd.Timedelta(minutes=10)
"""A recorder that was last seen earlier has stopped, or cannot watch or write."""

_MOST_SHOWN = 5


@app.command()
def record(
    archive: Annotated[str, typer.Option(help="Folder or object store URL of the archive.")],
    namespace: Annotated[str, typer.Option(help="Namespace, or * for all that the token may read.")] = "*",
    interval: Annotated[
        float, typer.Option(help="Longest time in seconds before a change is committed.", min=0.1)
    ] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="List everything once and exit, for cron.")] = False,
    status: Annotated[
        bool, typer.Option("--status", help="Print what the archive holds and whether a recorder is running.")
    ] = False,
    stream: Annotated[bool, typer.Option(help="Use the event stream if the token allows it.")] = True,
    history: Annotated[
        bool, typer.Option(help="Record versions of jobs, deployments, nodes and evaluations, too.")
    ] = True,
    name: Annotated[
        str | None, typer.Option(help="Name of this recorder in the archive. By default, the host name.")
    ] = None,
    as_json: AsJson = False,
    address: Address = None,
    clusters: Clusters = None,
) -> None:
    """Keep every allocation and task event in an archive. Nomad forgets them after ten events, or an hour.

    It runs until SIGTERM or Ctrl-C. The next run continues where it stopped. With several clusters, each gets
    its own archive in the folder, under its name. A cluster that is down does not stop the others.

    Example: allocframe record --archive /var/lib/nomad-archive
    """
    if as_json and not (once or status):
        raise ConfigError(
            "--json needs --status or --once: a recorder that keeps running has nothing to print"
        )
    # It runs for months: memory that one thread frees must serve the others.
    share_heaps()
    fleet = load_fleet(address, clusters)
    settings: dict[str, Any] = {
        "namespace": namespace, "interval": interval, "stream": stream, "history": history, "name": name,
    }  # fmt: skip
    if fleet is not None:
        raise typer.Exit(_record_fleet(fleet, archive, once=once, status=status, as_json=as_json, **settings))
    destination = _open_archive(archive)
    if status:
        state = _status(archive, destination)
        if as_json:
            print_json(state)
        else:
            _print_status(state)
        raise typer.Exit(0 if state["alive"] else 1)
    from ..archive.recorder import Recorder

    live_status = LiveStatus()
    with Client(address) as client:
        recorder = Recorder(client, destination, **settings, on_message=live_status.print)
        if once:
            totals = dataclasses.asdict(recorder.once())
            if as_json:
                print_json(totals)
            else:
                live_status.print(_describe(totals))
            return
        # An empty name: with one cluster, the status line needs none.
        with stop_on_signal({"": recorder}, live_status) as stop:
            recorder.run(stop)


def _record_fleet(
    fleet: Fleet, archive: str, *, once: bool, status: bool, as_json: bool, **settings: Any
) -> int:
    """Record each cluster into its own archive, or print its status. Return the exit code."""
    from ..archive.recorder import Recorder, run_all

    live_status = LiveStatus()
    with fleet:
        folder = archive.rstrip("/") if archive.strip() else ""
        archives = {name: _open_archive(folder and f"{folder}/{name}") for name in fleet.clients}
        if status:
            states = {name: _status(f"{folder}/{name}", each) for name, each in archives.items()}
            if as_json:
                print_json({"clusters": states})
            for name, state in ({} if as_json else states).items():
                print(f"cluster        {visible(name)}")
                _print_status(state)
            return 0 if all(state["alive"] for state in states.values()) else 1
        recorders = {
            name: Recorder(client, archives[name], **settings, on_message=live_status.printer(name))
            for name, client in fleet.clients.items()
        }
        if once:
            return _record_once(recorders, live_status, as_json=as_json)
        with stop_on_signal(recorders, live_status) as stop:
            run_all(recorders, stop)
    return 0


def _record_once(recorders: Mapping[str, Any], live_status: LiveStatus, *, as_json: bool) -> int:
    """List every cluster once, all at the same time. Return 1 if one could not be listed."""

    def record_one(name: str) -> dict[str, Any]:
        print_message = live_status.printer(name)
        try:
            totals = dataclasses.asdict(recorders[name].once())
        except (AllocframeError, OSError) as error:
            print_message(f"not recorded: {error}")
            return {"error": visible(error)}
        if not as_json:
            print_message(_describe(totals))
        return totals

    with ThreadPool(len(recorders)) as pool:
        totals = dict(zip(recorders, pool.map(record_one, recorders), strict=True))
    if as_json:
        print_json({"clusters": totals})
    return int(any("error" in each for each in totals.values()))


def _describe(totals: Mapping[str, Any]) -> str:
    return (
        f"{totals['added']:,} new, {totals['changed']:,} changed, {totals['removed']:,} removed, "
        f"{totals['new_events']:,} new events"
    )


def _open_archive(place: str) -> Any:
    from .. import Archive  # its error names the extra if deltalake is missing

    if not place.strip():
        raise ConfigError("--archive must not be empty. Name a folder, or the URL of an object store")
    return Archive(place)


def _status(place: str, archive: Any) -> dict[str, Any]:
    """Return what an archive holds and whether a recorder is alive, as plain JSON."""
    state = archive.state()
    if state.at is None:
        return {"archive": place, "recorded_until": None, "recorders": [], "alive": False}
    now = pd.Timestamp(datetime.now(UTC))
    info = archive.info
    tables = info["tables"]
    recorders = [
        {
            "name": str(each.recorder),
            "last_seen_at": each.seen_at.isoformat(),
            "alive": bool(now - each.seen_at < ALIVE_WITHIN),
        }
        for each in state.recorders.itertuples()
    ]
    return {
        "archive": place,
        "recorded_from": tables["snapshots"]["first_day"],
        "recorded_until": state.at.isoformat(),
        "index": state.index,
        "events": tables["events"]["rows"],
        "allocations": len(state.live),
        **{key: sum(table[key] for table in tables.values()) for key in ("bytes", "files")},
        "gaps": [gap for gap in info["gaps"] if gap["since"]],
        "recorders": recorders,
        "alive": any(each["alive"] for each in recorders[-_MOST_SHOWN:]),
    }


def _print_status(status: Mapping[str, Any]) -> None:
    """Print a status for people."""
    if status["recorded_until"] is None:
        print("nothing recorded yet: no archive, or an empty one")
        return
    print(f"archive        {visible(status['archive'])}")
    until = _format(status["recorded_until"])
    print(f"recorded       from {status['recorded_from']} to {until} UTC, index {status['index']}")
    print(f"holds          {status['events']:,} events, {status['allocations']:,} current allocations")
    print(f"size           {status['bytes'] / 1e6:,.1f} MB in {status['files']:,} files")
    print(f"gaps           {len(status['gaps']):,}")
    for gap in status["gaps"][-_MOST_SHOWN:]:
        print(f"               {_format(gap['since'])} to {_format(gap['until'])}: {visible(gap['reason'])}")
    for each in status["recorders"][-_MOST_SHOWN:]:
        print(
            f"recorder       {visible(each['name'])}: {'alive' if each['alive'] else 'silent'}, "
            f"last seen {_format(each['last_seen_at'])} UTC"
        )


def _format(time: str) -> str:
    return f"{pd.Timestamp(time):%Y-%m-%d %H:%M:%S}"
