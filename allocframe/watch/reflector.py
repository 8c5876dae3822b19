"""Keep a watch's state current.

Either subscribe to the event stream, list, apply updates, and list again after any break; or send blocking
queries.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import Literal

import pandas as pd

from .._utils.text import visible
from ..errors import AllocframeError, PermissionDenied
from ..nomad.blocking_query import BlockingIndex, Pace, read_timeout
from ..nomad.config import Config
from ..nomad.protocol import Query
from ..nomad.retry import backoff
from ..nomad.transport import Transport
from ..store.page_store import STORAGE_ERRORS, PageStore
from . import updates as stream_updates
from .change import LOST_RIGHTS, Change, Checkpoint, Gap
from .lister import Lister
from .state import FindJobs, Frames, WatchState, find_jobs_in
from .update_queue import Subscriber, Subscription, UpdateQueue, explain_refusal
from .updates import JobInfo, Update

BATCH_PAUSE = 0.05
"""Seconds to collect updates before decoding them: decoding ten costs hardly more than decoding one."""

MAX_BATCH = 2000
"""Updates in one change."""

MAX_READS = 40
"""Allocations that are read one by one. If more are needed, a list is cheaper."""

FLOOR = 0.5
"""Minimum seconds between two blocking queries, however fast responses come."""

POLL = 5.0
"""Minimum seconds between two lists if the server sends no index to wait past."""

MAX_RECONNECT_PAUSE = 30.0
"""Maximum seconds between two attempts to list or to open the stream."""

RECHECK = 2.0
"""Seconds between two looks at whether the token may read a hidden namespace again."""

IN_FLIGHT = pd.Timedelta(seconds=1)
"""What happened this shortly before the last line may have been lost with the connection."""

_FIRST_LIST = "the first list"
_INDEX_WENT_BACK = "the server's index went back: it was restored, or another one answered"

Source = Literal["list", "stream", "blocking"]


class Reflector:
    """Follows one cluster, step by step, and appends its changes to `ready`.

    Attributes
    ----------
    index : int
        The Raft index up to which everything is in `state`.
    current_to : Timestamp or None
        The time up to which everything is in `state`.
    no_stream : str or None
        Why blocking queries are sent, although a stream was wanted.
    synced : bool
        `state` follows the cluster. If False, the next step lists everything.
    """

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
        self.no_stream: str | None = None
        self.index: int = checkpoint.index or 0
        self.current_to = checkpoint.at
        self.synced: bool = False
        self.state: WatchState = WatchState(checkpoint)
        self.queue: UpdateQueue = UpdateQueue(query.prefix or "", floor=self.index)
        self.subscriber: Subscriber = Subscriber()
        self.blocking: BlockingIndex = BlockingIndex(wait)
        self.ready: deque[Change] = deque()
        self.counts: dict[str, int] = dict.fromkeys(
            ("relists", "reconnects", "resumed", "gaps", "resets", "failures"), 0
        )
        self._config, self._query = config, query
        self.lister: Lister = Lister(transport, config, query)
        self._wants_stream, self._resync_interval = stream, resync_interval
        self._gap: tuple[pd.Timestamp | None, str] | None = (
            (checkpoint.at, "nobody watched") if checkpoint.at is not None else (None, _FIRST_LIST)
        )
        self._parts: tuple[Iterator[tuple[Frames, bool]], Source, bool] | None = None
        """A list that is being reported in parts."""
        self._was_reset = False
        self._pace = Pace(FLOOR)
        self._rng = random.Random()  # noqa: S311 - jitter, not a secret
        self._failures_in_a_row = 0
        self._not_before = self._relist_at = 0.0
        self._has_listed = False
        self._listed_at: pd.Timestamp | None = checkpoint.at
        """When the last list began that had every namespace."""
        self._hidden: dict[str | None, list[str]] = {}
        """Allocations that exist, although lists lack them, by namespace: the token lost its rights."""
        self._recheck_at = 0.0
        self._told_to: pd.Timestamp | None = None
        """The end of the last gap, if the next one continues it."""

    # One step

    def step(self, left: float) -> None:
        """Do what is due, or wait for it for at most `left` seconds."""
        pause = self._not_before - time.monotonic()
        if pause > 0:
            self.subscriber.closed.wait(min(pause, left))
            return
        before = self.index, self.current_to
        try:
            if self._parts is not None:
                self._report_part()
                return
            self._check_stream()
            if self._hidden and time.monotonic() >= self._recheck_at:
                self._recheck_hidden()
            if not self.synced or time.monotonic() >= self._relist_at:
                self._sync()
            elif self.mode == "stream":
                self._listen(left)
            else:
                self._block(self._until_recheck(left))
        except (AllocframeError, *STORAGE_ERRORS) as error:
            if self.subscriber.closed.is_set():
                return
            if isinstance(error, STORAGE_ERRORS):
                # The updates were taken from the queue but are not in the state: act as if they never came.
                self.index, self.current_to = before
                self._lose_sync(f"this machine could not hold what came: {error}")
            self._back_off(error)
            if isinstance(error, PermissionDenied) or not self._has_listed:
                raise

    def _back_off(self, error: Exception) -> None:
        """Pause longer after each failure. A working stream continues meanwhile, so nothing is lost."""
        self.last_error = str(error)
        self.counts["failures"] += 1
        self._failures_in_a_row += 1
        pause = backoff(
            self._failures_in_a_row, self._rng, first=0.5, longest=MAX_RECONNECT_PAUSE, jitter=0.5
        )
        stream = self.subscriber.current
        if self.synced and stream is not None and stream.ended is None:
            self._relist_at = time.monotonic() + pause
        else:
            self._not_before = time.monotonic() + pause
            self._lose_sync(str(error))

    def _recovered(self) -> None:
        self.last_error = f"{self._lost_rights()}. Its rows stay as last seen" if self._hidden else None
        self._failures_in_a_row = 0

    def _lose_sync(self, reason: str) -> None:
        """List everything in the next step. The first of several reasons explains the gap."""
        self.synced = False
        if self._gap is None:
            self._gap = (self.current_to, reason)

    def _check_stream(self) -> None:
        """If the stream has ended, apply what it sent before; the rest must be listed."""
        stream = self.subscriber.current
        if not self.synced or stream is None or (stream.ended is None and not self.queue.overflowed):
            return
        if self.queue.overflowed:
            self._lose_sync("changes came faster than they were taken")
        else:
            while self._take(self._read_jobs):
                pass
            self._lose_sync(f"the event stream broke: {stream.ended}")
        self.counts["reconnects"] += 1

    def _advance_to(self, moment: pd.Timestamp) -> None:
        """Record that the state includes everything that happened before a moment."""
        self.current_to = moment if self.current_to is None else max(moment, self.current_to)

    # Subscribe, list, apply

    def _sync(self) -> None:
        """List everything while a new subscription is open; report what that changes."""
        # Subscribing first means that what changes during the list is in the queue, and nothing falls in
        # between.
        stream = self._subscribe() if self._wants_stream else None
        self.mode = "blocking" if stream is None else "stream"
        began, is_first = _now(), not self.state.entries
        store, index = self.lister.all()
        listed = store.modify_indexes()
        if self._went_back(listed, index):
            if self._gap is None:
                self._gap = (self.current_to, _INDEX_WENT_BACK)
            self._was_reset, self.index, is_first = True, 0, True
            self.counts["resets"] += 1
            self.queue.restart(0)
        if stream is not None and not is_first:
            self._catch_up(stream, store, max(listed.values(), default=0), index)
        else:
            self._advance_to(began if stream is None else _now())
        hidden = self._find_hidden(store, began)
        parts = self.state.replace(store, index, reset=self._was_reset, hidden=hidden)
        self.index = max(self.index, index or 0)
        self.blocking.index = index or 0
        self.counts["relists"] += self._has_listed
        self._report_parts(parts, "list", full=not hidden)
        self._relist_at = time.monotonic() + self._resync_interval * self._rng.uniform(0.9, 1.1)
        if self._was_reset and stream is not None:
            # Updates with low indexes that came before the list were mistaken for old ones: list once more.
            self._relist_at = 0.0
        self._was_reset, self.synced, self._has_listed = False, True, True
        self._recovered()

    def _went_back(self, listed: dict[str, int], index: int | None) -> bool:
        """Return whether the servers have forgotten changes that are in the state: they were restored."""
        if index is None:
            return False
        if index < self.index:
            return True
        # Once the index has passed the old one, only the rows show it. While a stream is followed, a list may
        # have changes that no event reported.
        replayed = {} if self.synced else self.queue.passed()
        return self.state.is_newer_than(listed, index) or (
            not self.synced and self.state.lacks_known([listed, replayed], self.index, self._hidden)
        )

    def _catch_up(self, stream: Subscription, store: PageStore, newest: int, index: int | None) -> None:
        """Apply the updates from before the list, which hold events that the list no longer has."""
        reached = newest <= self.index or self.queue.reach(newest, lambda: stream.ended is not None)
        # The server's replay reaches back to where the last stream broke: nothing is missing.
        is_seamless = stream.first_index is not None and stream.first_index <= self.index
        is_whole = reached and not self._was_reset and not self._hidden
        if self._gap is not None and is_whole and (is_seamless or index == self.index):
            self._gap = None
            self.counts["resumed"] += 1
        elif self._gap is None and not reached:
            self._gap = (self.current_to, "the event stream lagged behind the list")
        if not reached:
            self._advance_to(_now())
        # No further than the list: on a busy cluster, changes come as fast as they are applied.
        reach, find_jobs = max(newest, index or 0), find_jobs_in(store)
        while self._take(find_jobs) and self.index < reach:
            pass

    def _subscribe(self) -> Subscription | None:
        """Return a subscription that the server has confirmed; None if this token may not subscribe."""
        if self.synced:
            self.queue.pass_over(self.index)
        else:
            self.subscriber.replace(None)
            self.queue.restart(self.index)
        params = {"topic": "Allocation", "index": "0", "namespace": self._query.namespace or "default"}
        if self._query.region:
            params["region"] = self._query.region
        stream = self.subscriber.open(self._config, params, self.queue)
        if stream.established:
            old = self.subscriber.current
            if self.synced and old is not None and old.ended is not None:
                # It ended before this one began. In between, nobody listened.
                self._lose_sync(f"the event stream broke: {old.ended}")
                self.counts["reconnects"] += 1
            self.subscriber.replace(stream)
            self.no_stream = None
            return stream
        is_silent = stream.ended is None
        stream.close()
        self.no_stream = explain_refusal(stream, is_silent=is_silent, probe=lambda: self.lister.index({}))
        self.subscriber.replace(None)
        return None

    # Event stream

    def _listen(self, left: float) -> None:
        """Wait for updates from the stream and apply them."""
        timeout = min(self._until_recheck(left), self._relist_at - time.monotonic())
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
                max(timeout, 0.0),
            )
        if stream is not None and stream.ended is None:
            self.subscriber.closed.wait(BATCH_PAUSE if len(queue) else 0.0)
            self._take(self._read_jobs)

    def _take(self, find_jobs: FindJobs) -> bool:
        """Apply the oldest updates of the queue; return whether there were any."""
        updates, index, heard_at = self.queue.take(MAX_BATCH)
        # An update may carry older versions that could not be merged. Each round applies one version of each.
        rounds = list(zip_longest(*(update.versions() for update in updates))) or [()]
        for number, versions in enumerate(rounds, 1):
            if number == len(rounds):
                self.index = max(self.index, index)
                self._advance_to(_timestamp(heard_at))
            self._apply([version for version in versions if version is not None], find_jobs)
        return bool(updates)

    def _apply(self, updates: list[Update], find_jobs: FindJobs) -> None:
        newer = self.state.newer(updates)
        self.queue.counts["duplicates"] += len(updates) - len(newer)
        if newer:
            frames = self.state.apply(newer, find_jobs(self.state.without_job(newer)))
            self._report(frames, "stream", full=False)

    def _read_jobs(self, ids: list[str]) -> dict[str, JobInfo]:
        """Read allocations that were never listed, because payloads lack the job.

        If there are many, list instead.
        """
        if len(ids) > MAX_READS:
            self._relist_at = 0.0
            return {}
        try:
            rows = self.lister.read(ids)
        except AllocframeError:
            return {}  # the updates must not be lost for want of their jobs; the next list has the jobs
        return {str(row.get("ID")): stream_updates.job_info(row) for row in rows}

    # Blocking queries

    def _block(self, left: float) -> None:
        """Wait until the list moves past the index, then find out what changed."""
        pause = self._pace.left(time.monotonic())
        if pause > 0:
            self.subscriber.closed.wait(min(pause, left))
            if pause > left:
                return
        params = self.blocking.params(self._rng, max(left, 0.1))
        self._pace.pause = FLOOR if params else POLL
        self._pace.sent(time.monotonic())
        if params and not self._has_moved(params):
            return
        self._compare()

    def _has_moved(self, params: dict[str, str]) -> bool:
        """Send a blocking query; return whether the list has moved past the index."""
        resets = self.blocking.resets
        index = self.lister.index(params, read_timeout(self.blocking.wait))
        has_moved = self.blocking.received(index)
        if self.blocking.resets > resets:
            self._lose_sync(_INDEX_WENT_BACK)
            return False
        self._recovered()
        if not has_moved:
            self._advance_to(_now())
        return has_moved

    def _compare(self) -> None:
        """List without task states, and read in full only what has changed."""
        started, began = time.monotonic(), _now()
        store, index = self.lister.all(light=True)
        listed = store.modify_indexes()
        went_back = self._went_back(listed, index)
        were_hidden, hidden = set(self._hidden), self._find_hidden(store, began)
        difference = self.state.compare(listed, index, hidden=hidden)
        store.close()
        if went_back:
            self._lose_sync(_INDEX_WENT_BACK)
            return
        self.blocking.index = index or 0
        self._recovered()
        if len(difference.changed) > MAX_READS:
            store, index = self.lister.all()
            parts = self.state.replace(store, index, hidden=hidden)
        else:
            frames = self._read_changed(difference.changed)
            frames["removed"] = self.state.remove(difference.removed)
            has_changed = any(len(frames[name]) for name in ("added", "changed", "removed"))
            parts = iter([(frames, True)] if has_changed or were_hidden != set(self._hidden) else [])
        self.index = max(self.index, index or 0)
        # Large lists are slow: spend at most half of the time on them.
        self._pace.pause = max(self._pace.pause, time.monotonic() - started)
        self._advance_to(began)
        self._report_parts(parts, "blocking", full=not hidden)

    # Namespaces that the token may no longer read

    def _find_hidden(self, store: PageStore, began: pd.Timestamp) -> set[str]:
        """Return the allocations that a list lacks although they exist.

        If a policy shrinks, servers list fewer rows without a word. So a namespace that has vanished as a
        whole is looked into before its allocations count as removed.
        """
        before, self._hidden = set(self._hidden), {}
        kept: set[str] = set()
        for namespace, ids in self.state.vanished(store).items():
            if hidden := self.lister.find_hidden(ids[:MAX_READS]):
                self._hidden[namespace] = hidden
                kept.update(ids)
        if not self._hidden:
            self._listed_at = began
        elif set(self._hidden) != before:
            since = self._gap[0] if self._gap is not None else self.current_to
            earlier = [moment for moment in (since, self._listed_at) if moment is not None]
            self._gap = (min(earlier, default=None), self._lost_rights())
        self._recheck_at = time.monotonic() + RECHECK
        self._recovered()
        return kept

    def _recheck_hidden(self) -> None:
        """List everything if the token may read a hidden namespace again."""
        self._recheck_at = time.monotonic() + RECHECK
        if not all(self.lister.find_hidden(ids[:1]) for ids in self._hidden.values()):
            self._relist_at = 0.0

    def _until_recheck(self, left: float) -> float:
        return max(min(left, self._recheck_at - time.monotonic()), 0.0) if self._hidden else left

    def _lost_rights(self) -> str:
        names = ", ".join(sorted(str(name) for name in self._hidden))
        return f"{LOST_RIGHTS} {'namespace' if len(self._hidden) == 1 else 'namespaces'} {visible(names)}"

    def _read_changed(self, ids: Iterable[str]) -> Frames:
        updates = [stream_updates.parse_allocation(row) for row in self.lister.read(list(ids))]
        return self.state.apply(self.state.newer(update for update in updates if update is not None), {})

    # Changes

    def heartbeat(self) -> Change | None:
        """Return an empty change as of the last time the cluster was heard; None if a change is pending."""
        is_pending = self.ready or self.has_parts or len(self.queue)
        if not self.synced or is_pending or self.current_to is None:
            return None
        return self._make_change(self.state.no_change(), self.mode, full=False)

    @property
    def has_parts(self) -> bool:
        """Whether a list is reported in parts of which some are left."""
        return self._parts is not None

    def _report_parts(self, parts: Iterator[tuple[Frames, bool]], source: Source, *, full: bool) -> None:
        """Report the first part of a list; the next steps report the others, before anything else."""
        self._parts = parts, source, full
        self._report_part()

    def _report_part(self) -> None:
        assert self._parts is not None  # noqa: S101 - only called while there are
        parts, source, full = self._parts
        # If this fails, what was not reported still differs from the state, and the next list tells it.
        self._parts = None
        for frames, is_last in parts:
            change = self._make_change(frames, source, full=full and is_last)
            if not is_last:
                self._parts = parts, source, full
                # Only the last part has everything up to the index.
                change = replace(change, index=None)
            self.ready.append(change)
            return

    def _report(self, frames: Frames, source: Source, *, full: bool) -> None:
        self.ready.append(self._make_change(frames, source, full=full))

    def _make_change(self, frames: Frames, source: Source, *, full: bool) -> Change:
        """Return a change as of `current_to`, which is earlier than now, and close the gap before it."""
        gap, at = None, self.current_to or _now()
        if self._gap is not None:
            since, reason = self._gap
            goes_on = since is not None and since == self._told_to
            gap = Gap(since if goes_on or since is None else since - IN_FLIGHT, at, reason)
            self.counts["gaps"] += reason != _FIRST_LIST and not goes_on
            # While the token lacks rights, each change says so, without a hole in between.
            self._told_to = at if self._hidden else None
            self._gap = (at, self._lost_rights()) if self._hidden else None
        return Change(at=at, index=self.index or None, source=source, full=full, gap=gap, **frames)


def _now() -> pd.Timestamp:
    return pd.Timestamp.now(tz="UTC")


def _timestamp(seconds: float) -> pd.Timestamp:
    return pd.Timestamp(int(seconds * 1e9), unit="ns", tz="UTC")
