"""How a watch keeps its state current: subscribe, list, apply; relist on any break; else ask again and again."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterable
from itertools import zip_longest
from typing import Literal

import pandas as pd

from ..errors import AllocframeError, PermissionDenied, Unsupported
from ..nomad.blocking_query import BlockingIndex, Pace, read_timeout
from ..nomad.config import Config
from ..nomad.protocol import Query
from ..nomad.retry import backoff
from ..nomad.transport import Transport
from ..store.page_store import UNSTORED, PageStore
from . import updates as _events
from .change import Change, Checkpoint, Gap
from .lister import Lister
from .state import Frames, Jobs, WatchState, jobs_in
from .update_queue import LATEST, Subscriber, Subscription, UpdateQueue
from .updates import Update

LINGER = 0.05
"""Seconds that updates are gathered before they are told: typing ten costs hardly more than typing one."""

MOST_AT_ONCE = 2000
"""Updates in one change."""

MOST_READS = 40
"""Allocations that are read one by one; where more are needed, the list is cheaper."""

FLOOR = 0.5
"""Seconds between two requests, however fast answers come."""

POLL = 5.0
"""The same where the server gives no index to wait past."""

LONGEST_PAUSE = 30.0
UNDER_WAY = pd.Timedelta(seconds=1)
"""What happened so shortly before the last line may still have been on its way."""

_FIRST_LOOK = "the first look"
_WENT_BACK = "the server's index went back: it was restored, or another one answered"

Source = Literal["list", "stream", "blocking"]


class Reflector:
    """Follows one cluster, step by step, and puts what changed into `ready`."""

    def __init__(
        self,
        transport: Transport,
        config: Config,
        query: Query,
        checkpoint: Checkpoint,
        *,
        stream: bool,
        resync_interval: float,
        wait: float,
    ) -> None:
        self.mode: Literal["stream", "blocking"] = "stream" if stream else "blocking"
        self.last_error: str | None = None
        self.index = checkpoint.index or 0
        self.told_up_to = checkpoint.at
        self.synced = False
        self.state = WatchState(checkpoint)
        self.queue = UpdateQueue(query.prefix or "", floor=self.index)
        self.subscriber = Subscriber()
        self.rule = BlockingIndex(wait)
        self.ready: deque[Change] = deque()
        self.counts = dict.fromkeys(("relists", "reconnects", "resumed", "gaps", "resets", "failures"), 0)
        self._config, self._query = config, query
        self.lister = Lister(transport, config, query)
        self._wants_stream, self._resync_interval = stream, resync_interval
        self._gap: tuple[pd.Timestamp | None, str] | None = (
            (checkpoint.at, "nobody watched") if checkpoint.at is not None else (None, _FIRST_LOOK)
        )
        self._reset = False
        self._pace = Pace(FLOOR)
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret
        self._in_a_row = 0
        self._not_before = self._relist_at = 0.0
        self._ever = False

    # One step

    def step(self, left: float) -> None:
        """Do what is due, or wait for it at most so long."""
        pause = self._not_before - time.monotonic()
        if pause > 0:
            self.subscriber.closed.wait(min(pause, left))
            return
        before = self.index, self.told_up_to
        try:
            self._notice_breaks()
            if not self.synced or time.monotonic() >= self._relist_at:
                self._sync()
            elif self.mode == "stream":
                self._listen(left)
            else:
                self._ask(left)
        except (AllocframeError, *UNSTORED) as error:
            if self.subscriber.closed.is_set():
                return
            if isinstance(error, UNSTORED):
                self.index, self.told_up_to = before
                self._lose(f"this machine could not hold what came: {error}")
            self._failed(error)
            if isinstance(error, PermissionDenied) or not self._ever:
                raise

    def _failed(self, error: Exception) -> None:
        """Wait longer each time; what a working stream tells meanwhile is not lost."""
        self.last_error = str(error)
        self.counts["failures"] += 1
        self._in_a_row += 1
        pause = backoff(self._in_a_row, self._rng, first=0.5, longest=LONGEST_PAUSE, jitter=0.5)
        streaming = (
            self.synced and self.subscriber.current is not None and self.subscriber.current.ended is None
        )
        if streaming:
            self._relist_at = time.monotonic() + pause
        else:
            self._not_before = time.monotonic() + pause
            self._lose(str(error))

    def _lose(self, reason: str) -> None:
        self.synced = False
        if self._gap is None:
            self._gap = (self.told_up_to, reason)

    def _notice_breaks(self) -> None:
        """Tell what a stream that has ended had told before; the rest must be listed."""
        stream = self.subscriber.current
        if not self.synced or stream is None or (stream.ended is None and not self.queue.overflowed):
            return
        if self.queue.overflowed:
            self._lose("changes came faster than they were taken")
        else:
            while self._take(self._read_jobs):
                pass
            self._lose(f"the event stream broke: {stream.ended}")
        self.counts["reconnects"] += 1

    def _up_to(self, moment: pd.Timestamp) -> None:
        """Note that whatever happened before a moment has been told."""
        self.told_up_to = moment if self.told_up_to is None else max(moment, self.told_up_to)

    # Subscribe, list, apply

    def _sync(self) -> None:
        """List everything while a new subscription is held; tell what that changes."""
        stream = self._subscribe() if self._wants_stream else None
        self.mode = "blocking" if stream is None else "stream"
        began, first = _now(), not self.state.known
        store, index = self.lister.all()
        if index is not None and index < self.index:
            self._reset, self.index, first = True, 0, True
            self.counts["resets"] += 1
            self.queue.restart(0)
        if stream is not None and not first:
            self._catch_up(stream, store, index)
        else:
            self._up_to(began if stream is None else _now())
        frames = self.state.replace(store, index, reset=self._reset)
        self.index = max(self.index, index or 0)
        self.rule.index = index or 0
        self.counts["relists"] += self._ever
        self._tell(frames, "list", full=True)
        self._relist_at = time.monotonic() + self._resync_interval * self._rng.uniform(0.9, 1.1)
        if self._reset and stream is not None:
            self._relist_at = 0.0  # what came with low indexes before the list was taken for old
        self._reset, self.synced, self._ever = False, True, True
        self.last_error, self._in_a_row = None, 0

    def _catch_up(self, stream: Subscription, store: PageStore, index: int | None) -> None:
        """Take first what the stream tells of the time before the list: rows that have moved on hold less."""
        newest = max(store.modify_indexes().values(), default=0)
        reached = newest <= self.index or self.queue.reach(newest, lambda: stream.ended is not None)
        kept = stream.first_index is not None and stream.first_index <= self.index
        if self._gap is not None and reached and not self._reset and (kept or index == self.index):
            self._gap = None
            self.counts["resumed"] += 1
        elif self._gap is None and not reached:
            self._gap = (self.told_up_to, "the event stream lagged behind the list")
        if not reached:
            self._up_to(_now())
        while self._take(jobs_in(store)):
            pass

    def _subscribe(self) -> Subscription | None:
        """Return a subscription that the server has confirmed, or None where it lets nobody subscribe."""
        if self.synced:
            self.queue.floor = self.index
        else:
            self.subscriber.replace(None)
            self.queue.restart(self.index)
        params = {"topic": "Allocation", "index": "0", "namespace": self._query.namespace or "default"}
        if self._query.region:
            params["region"] = self._query.region
        stream = self.subscriber.open(self._config, params, self.queue)
        if stream.established:
            self.subscriber.replace(stream)
            return stream
        stream.close()
        self._refused(stream)
        self.subscriber.replace(None)
        return None

    def _refused(self, stream: Subscription) -> None:
        """Find out by one list request what it means that a stream ended before its first line: newer servers answer 200."""
        if stream.error is not None and not isinstance(stream.error, PermissionDenied | Unsupported):
            raise stream.error
        self.lister.index({}, LATEST)

    # Event stream

    def _listen(self, left: float) -> None:
        """Wait for what the stream tells, and tell it."""
        until = min(left, self._relist_at - time.monotonic())
        stream, queue = self.subscriber.current, self.queue
        with queue.changed:
            queue.changed.wait_for(
                lambda: (
                    len(queue)
                    or queue.overflowed
                    or self.subscriber.closed.is_set()
                    or stream is None
                    or stream.ended is not None
                ),
                max(until, 0.0),
            )
        if stream is not None and stream.ended is None:
            self.subscriber.closed.wait(LINGER if len(queue) else 0.0)
            self._take(self._read_jobs)

    def _take(self, jobs: Jobs) -> bool:
        """Apply what the queue holds, or its oldest part; return whether there was any."""
        taken, index, heard = self.queue.take(MOST_AT_ONCE)
        rounds = list(zip_longest(*(one.forms() for one in taken))) or [()]
        for nth, forms in enumerate(rounds, 1):
            if nth == len(rounds):
                self.index = max(self.index, index)
                self._up_to(_time(heard))
            self._apply([one for one in forms if one is not None], jobs)
        return bool(taken)

    def _apply(self, updates: list[Update], jobs: Jobs) -> None:
        fresh = self.state.fresh(updates)
        self.queue.counts["duplicates"] += len(updates) - len(fresh)
        if fresh:
            frames = self.state.apply(fresh, jobs(self.state.without_job(fresh)))
            self._tell(frames, "stream", full=False)

    def _read_jobs(self, ids: list[str]) -> dict[str, tuple[str | None, int | None]]:
        """Read allocations that were never listed, because payloads hold no job; many are left to the next list."""
        if len(ids) > MOST_READS:
            self._relist_at = 0.0
            return {}
        try:
            rows = self.lister.read(ids)
        except AllocframeError:
            return {}  # what was told of them must not be lost; the next list has the rest
        return {str(row.get("ID")): _events.job_of(row) for row in rows}

    # Blocking queries

    def _ask(self, left: float) -> None:
        """Wait for the list to move past the index, with an answer as small as can be; then see what changed."""
        pause = self._pace.left(time.monotonic())
        if pause > 0:
            self.subscriber.closed.wait(min(pause, left))
            if pause > left:
                return
        params = self.rule.params(self._rng, max(left, 0.1))
        self._pace.pause = FLOOR if params else POLL
        self._pace.sent(time.monotonic())
        if params and not self._has_moved(params):
            return
        self._compare()

    def _has_moved(self, params: dict[str, str]) -> bool:
        """Wait until the list has moved past the index, or the time is over."""
        resets = self.rule.resets
        moved = self.rule.received(self.lister.index(params, read_timeout(self.rule.wait)))
        if self.rule.resets > resets:
            self._lose(_WENT_BACK)
            return False
        self.last_error, self._in_a_row = None, 0
        if not moved:
            self._up_to(_now())
        return moved

    def _compare(self) -> None:
        """List without task states, and read in full only what has changed."""
        started, began = time.monotonic(), _now()
        store, index = self.lister.all(light=True)
        found = self.state.difference(store.modify_indexes(), index)
        store.close()
        if index is not None and index < self.index:
            self._lose(_WENT_BACK)
            return
        self.rule.index = index or 0
        self.last_error, self._in_a_row = None, 0
        if len(found.chosen) > MOST_READS:
            store, index = self.lister.all()
            frames = self.state.replace(store, index)
        else:
            frames = self._changed(found.chosen)
            frames["removed"] = self.state.forget(found.gone)
        self.index = max(self.index, index or 0)
        self._pace.pause = max(self._pace.pause, time.monotonic() - started)
        self._up_to(began)
        if any(len(frames[name]) for name in ("added", "changed", "removed")):
            self._tell(frames, "blocking", full=True)

    def _changed(self, ids: Iterable[str]) -> Frames:
        updates = [one for row in self.lister.read(list(ids)) if (one := _events.update(row)) is not None]
        return self.state.apply(self.state.fresh(updates), {})

    # What is told

    def heartbeat(self) -> Change | None:
        """Return a change without rows that says that nothing had changed when the cluster was last heard of."""
        if not self.synced or self.ready or len(self.queue) or self.told_up_to is None:
            return None
        return self._change(self.state.nothing(), self.mode, full=False)

    def _tell(self, frames: Frames, source: Source, *, full: bool) -> None:
        self.ready.append(self._change(frames, source, full=full))

    def _change(self, frames: Frames, source: Source, *, full: bool) -> Change:
        """Return a change as of the moment up to which all is told, which is earlier than now."""
        gap, at = None, self.told_up_to or _now()
        if self._gap is not None:
            since, reason = self._gap
            gap = Gap(since - UNDER_WAY if since is not None else None, at, reason)
            self.counts["gaps"] += reason != _FIRST_LOOK
            self._gap = None
        return Change(at=at, index=self.index or None, source=source, full=full, gap=gap, **frames)


def _now() -> pd.Timestamp:
    return pd.Timestamp.now(tz="UTC")


def _time(seconds: float) -> pd.Timestamp:
    return pd.Timestamp(int(seconds * 1e9), unit="ns", tz="UTC")
