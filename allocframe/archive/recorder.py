"""The recorder: a watch whose changes go into an archive, for months, whatever happens meanwhile."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from .._utils.memory import release_memory
from ..client.client import Client
from ..errors import AllocframeError, PermissionDenied
from ..nomad.retry import backoff
from ..watch.change import Change, Checkpoint
from ..watch.watch import Watch
from .archive import Archive

MOST_ROWS = 50_000
"""Rows that wait for a commit at most; beyond that the cluster's own rings, and the watch, must keep what comes."""

TICK = 1.0
SLOWLY = 60.0
"""Seconds between two tries to write, or to watch, at most."""

PATIENCE = 10.0
"""Seconds that a recorder which is to stop may take, before what it waits for is broken off."""

ALIVE = 60.0
"""Seconds after which a commit says that the recorder still watches, though nothing has changed."""

RELIST = 300.0
"""Seconds after which everything is listed again: what the servers have removed, no stream tells."""

COMPACT = 500
"""Appends after which the archive is put in order."""

Status = Literal["starting", "recording", "cannot watch", "cannot write", "stopped"]


@dataclass
class Counts:
    """What one run of a recorder has done."""

    commits: int = 0
    changes: int = 0
    events: int = 0
    gaps: int = 0
    failures: int = 0
    """Tries to write that failed; what they held was kept and given again."""


class Recorder:
    """Records one cluster into one archive until it is told to stop.

    Parameters
    ----------
    client : Client
        The cluster.
    archive : Archive
        Where it goes. Other recorders may write there too.
    namespace : str, optional
        What to record; every namespace that the token may read where left out.
    interval : float
        Seconds that a change waits at most before it is committed.
    stream : bool
        Subscribe to events where the token may.
    name : str, optional
        What this recorder is called in the archive, in every run; this machine's name where left out.
    say : callable
        Gets one line of text when something begins or ceases to go wrong.
    """

    def __init__(
        self,
        client: Client,
        archive: Archive,
        *,
        namespace: str = "*",
        interval: float = 5.0,
        stream: bool = True,
        name: str | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.counts = Counts()
        self.status: Status = "starting"
        self.last_error: str | None = None
        self.last: pd.Timestamp | None = None
        """When the cluster was last seen, of what is committed."""

        self.watch: Watch | None = None
        self.name = name or socket.gethostname()
        self._client, self._archive = client, archive
        self._namespace = namespace
        self._interval, self._stream, self._say = interval, stream, say
        self._waiting: list[Change] = []
        self._first_waits_since = 0.0
        self._committed_at = 0.0
        self._not_before = 0.0
        self._in_a_row = 0

    def run(self, stop: threading.Event) -> None:
        """Record until `stop` is set; then commit what there is.

        Raises
        ------
        AllocframeError
            The cluster could not be reached even once.
        """
        checkpoint = self._resume(stop)
        if checkpoint is None:
            return
        with self._watching(checkpoint) as self.watch:
            try:
                while not stop.is_set():
                    self._turn(stop)
            finally:
                self._not_before = 0.0
                if self._waiting and not self._commit():
                    self._say(
                        f"stopped with {len(self._waiting)} changes that could not be written: {self.last_error}"
                    )
                if stop.is_set():
                    self.status = "stopped"

    def failed_to_watch(self, error: Exception) -> None:
        """Say that the cluster cannot be watched, to those who will try again."""
        said = str(error) if isinstance(error, AllocframeError) else f"{type(error).__name__}: {error}"
        self._tell("cannot watch", said)

    def once(self) -> Change:
        """List everything once and commit what changed since the archive last saw the cluster.

        Raises
        ------
        AllocframeError
            The list could not be had.
        OSError
            The archive could not be written.
        """
        with self._client.watch(
            namespace=self._namespace, stream=False, checkpoint=self._checkpoint()
        ) as watch:
            change = next(watch)
        self._archive.append(change, recorder=self.name)
        return change

    def _watching(self, checkpoint: Checkpoint) -> Watch:
        return self._client.watch(
            namespace=self._namespace, stream=self._stream, checkpoint=checkpoint, resync_interval=RELIST
        )

    def _resume(self, stop: threading.Event) -> Checkpoint | None:
        """Return up to where the archive has seen the cluster; None where it could not be read before the end."""
        while not stop.is_set():
            try:
                return self._checkpoint()
            except OSError as error:
                self._failed("cannot write", f"the archive cannot be read: {error}")
                stop.wait(self._not_before - time.monotonic())
        return None

    def _checkpoint(self) -> Checkpoint:
        state = self._archive.state()
        live = state.live
        if self._namespace != "*":
            live = live[live["namespace"] == self._namespace]
        indexes = dict(zip(live["alloc_id"].tolist(), live["modify_index"].fillna(0).tolist(), strict=True))
        self.last = state.at
        return Checkpoint(state.index, state.at, indexes)

    def _turn(self, stop: threading.Event) -> None:
        """Take what has changed, unless too much waits to be written; write it when it is time."""
        if sum(map(_rows, self._waiting)) < MOST_ROWS:
            self._take(stop)
        else:
            stop.wait(TICK)
        now = time.monotonic()
        if not self._waiting and now - self._committed_at > ALIVE:
            self._wait_for_commit(self.watch.heartbeat() if self.watch else None)
        due = self._waiting and now - self._first_waits_since >= self._interval
        if (due or sum(map(_rows, self._waiting)) >= MOST_ROWS) and now >= self._not_before:
            self._commit()

    def _take(self, stop: threading.Event) -> None:
        assert self.watch is not None  # noqa: S101 - only called while it is
        try:
            change = self.watch.poll(timeout=min(TICK, self._interval))
        except PermissionDenied as error:
            self._tell("cannot watch", str(error))  # the watch itself waits longer each time
            stop.wait(TICK)
            return
        self._wait_for_commit(change)
        if self.watch.last_error:
            self._tell("cannot watch", self.watch.last_error)
        elif self.status in ("starting", "cannot watch"):
            self._tell("recording", None)

    def _wait_for_commit(self, change: Change | None) -> None:
        if change is not None:
            if not self._waiting:
                self._first_waits_since = time.monotonic()
            self._waiting.append(change)

    def _commit(self) -> bool:
        """Write what waits; what cannot be written stays, and is given again: the archive keeps each row once."""
        try:
            self._archive.append(self._waiting, recorder=self.name)
        except Exception as error:  # noqa: BLE001 - whatever a store raises, what it was given is kept for the next try
            self.counts.failures += 1
            self._failed("cannot write", f"the archive cannot be written: {error}")
            return False
        counts, done = self.counts, self._waiting
        self._waiting = []
        counts.commits += 1
        counts.changes += sum(map(len, done))
        counts.events += sum(len(change.new_events) for change in done)
        counts.gaps += sum(change.gap is not None and change.gap.since is not None for change in done)
        self.last, self._committed_at, self._in_a_row = done[-1].at, time.monotonic(), 0
        if self.status == "cannot write":
            self._tell("recording", None)
        if counts.commits % COMPACT == 0:
            self._put_in_order()
        release_memory()
        return True

    def _put_in_order(self) -> None:
        try:
            self._archive.compact()
        except Exception as error:  # noqa: BLE001 - what is recorded stays as it is
            self._say(f"the archive could not be compacted: {error}")

    def _failed(self, status: Status, reason: str) -> None:
        self._in_a_row += 1
        self._not_before = time.monotonic() + _pause(self._in_a_row)
        self._tell(status, reason)

    def _tell(self, status: Status, last_error: str | None) -> None:
        """Say it when something begins or ceases to go wrong, not each time it is tried again."""
        if status != self.status:
            self._say(f"{status}: {last_error}" if last_error else status)
        self.status, self.last_error = status, last_error


def run_all(recorders: Mapping[str, Recorder], stop: threading.Event) -> None:
    """Run recorders side by side until `stop` is set; one whose cluster cannot be reached tries again, and no other waits for it."""
    threads = {
        name: threading.Thread(target=_run_on, args=(one, stop), name=f"allocframe-{name}", daemon=True)
        for name, one in recorders.items()
    }
    for thread in threads.values():
        thread.start()
    stop.wait()
    for end_watches in (False, True):
        if end_watches:
            for name, one in recorders.items():
                if threads[name].is_alive() and one.watch is not None:
                    one.watch.close()
        end = time.monotonic() + PATIENCE
        for thread in threads.values():
            thread.join(max(end - time.monotonic(), 0.0))


def _run_on(recorder: Recorder, stop: threading.Event) -> None:
    attempt = 0
    while not stop.is_set():
        try:
            recorder.run(stop)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other recorders go on, and this one when it can
            if not stop.is_set():
                recorder.failed_to_watch(error)
                attempt += 1
                stop.wait(_pause(attempt))


def _pause(attempt: int) -> float:
    """Return the seconds before the next try. One recorder per store needs no jitter."""
    return backoff(attempt, first=TICK, longest=SLOWLY, jitter=0.0)


def _rows(change: Change) -> int:
    return len(change) + len(change.events) + len(change.task_states) + len(change.reschedules)
