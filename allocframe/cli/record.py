"""``allocframe record``: the flight recorder."""

from __future__ import annotations

import signal
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import pandas as pd
import typer

from .._display import visible
from .._errors import ConfigError
from ..client import Client
from ._app import app

ALIVE_WITHIN = pd.Timedelta(minutes=10)
"""A recorder that has not been seen for longer has stopped, or cannot watch or write."""


@app.command()
def record(
    archive: Annotated[str, typer.Option(help="Folder, or URL of an object store, where it is kept.")],
    namespace: Annotated[str, typer.Option(help="Namespace, or * for all that the token may read.")] = "*",
    every: Annotated[
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
    address: Annotated[str | None, typer.Option(help="Where Nomad answers; NOMAD_ADDR otherwise.")] = None,
) -> None:
    """Keep every allocation and task event in an archive: what Nomad forgets after ten events, or an hour.

    Runs until it is told to stop, and goes on where it stopped. Example: allocframe record --archive /var/lib/nomad-archive
    """
    kept = _archive(archive)
    if status:
        raise typer.Exit(_print_status(kept))
    from ..recorder import Recorder

    with Client(address) as client:
        recorder = Recorder(
            client, kept, namespace=namespace, every=every, stream=stream, name=name, say=_say
        )
        if once:
            change = recorder.once()
            _say(
                f"{len(change.new):,} new, {len(change.changed):,} changed, {len(change.gone):,} gone, "
                f"{len(change.new_events):,} new events"
            )
            return
        _run(recorder)


def _archive(where: str) -> Any:
    from .. import Archive  # which says the pip line where deltalake is missing

    if not where.strip():
        raise ConfigError("--archive is empty: name a folder, or the URL of an object store")
    return Archive(where)


def _run(recorder: Any) -> None:
    """Record until SIGTERM or SIGINT; a second one ends it at once."""
    stop = threading.Event()

    def end(number: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    shown = threading.Thread(target=_show, args=(recorder, stop), name="allocframe-status", daemon=True)
    shown.start()
    try:
        recorder.run(stop)
    finally:
        stop.set()
        shown.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    _say(f"stopped: {_line(recorder)}")


def _show(recorder: Any, stop: threading.Event) -> None:
    """Keep one line of status current on a terminal; elsewhere print one a minute."""
    terminal = sys.stderr.isatty()
    while not stop.wait(1.0 if terminal else 60.0):
        if terminal:
            print(f"\r\x1b[K{_line(recorder)[:160]}", end="", file=sys.stderr, flush=True)
        else:
            _say(_line(recorder))


def _line(recorder: Any) -> str:
    counts, watch = recorder.counts, recorder.watch
    seen = f"{recorder.last:%H:%M:%S} UTC" if recorder.last is not None else "never"
    parts = [
        recorder.status,
        f"last seen {seen}",
        f"{counts.changes:,} changes and {counts.events:,} events in {counts.commits:,} commits",
        f"{counts.gaps:,} gaps",
    ]
    if watch is not None:
        parts.insert(1, watch.mode)
    if recorder.trouble:
        parts.append(visible(recorder.trouble))
    return ", ".join(parts)


def _say(text: str) -> None:
    start = "\r\x1b[K" if sys.stderr.isatty() else ""
    print(
        f"{start}{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} {visible(text)}",
        file=sys.stderr,
        flush=True,
    )


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
