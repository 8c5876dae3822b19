"""Follow jobs, deployments, nodes and evaluations besides the allocations, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from .._utils.prose import count
from .._utils.text import visible
from ..errors import AllocframeError, NotFound, NotNomad, PermissionDenied, Unsupported
from ..fetch.history import HistoryFetcher
from ..nomad.config import Config
from ..nomad.event_stream import QUIET, EventStream, NotAnEvent
from ..nomad.retry import backoff
from ..nomad.transport import Transport, request_pool
from ..snapshot.history_tables import make_tables
from ..tables import CHANGES, HISTORY, frame_of_rows
from ..tables.run_ids import is_run
from .change import HistoryChange
from .history_updates import JSON, News
from .row_filter import RowFilter

TOPICS = ("Job", "Deployment", "Evaluation", "Node")
"""Nodes last: they need a right of their own, without which the server refuses the whole subscription."""

WORKERS = 4
CHUNK = 200
"""Jobs or nodes whose specifications are in memory at once."""

PART = 2000
"""Rows of a list that become tables at once."""

RESYNC_INTERVAL = 300.0
"""Seconds after which everything is listed again. No event tells that a job was removed, in some versions."""

POLL_INTERVAL = 30.0
"""Seconds between two lists if there is no event stream."""

SEAMLESS = pd.Timedelta("10min")
"""After a pause that is no longer, Nomad still has everything: it keeps what has ended for an hour."""

ESTABLISH_TIMEOUT = 20.0
MAX_BYTES = 64 << 20
"""What may wait to be read. If more arrives, it is dropped and everything is listed again."""

MAX_ROWS = 50_000
"""Rows that may wait to be taken. With more, nothing is read meanwhile."""

_MAX_PAUSE = 60.0
_PAUSE = 0.2
"""Seconds to collect lines: of a node or job that changes again and again, only the last state counts."""

_UNKNOWN = -1
"""In the place of an index."""


class HistoryWatch:
    """Follows what changes in a cluster besides its allocations, from `start` until `close`.

    Parameters
    ----------
    transport : Transport
        A transport of its own, which `close` aborts.
    config : Config
    namespace : str, optional
    known : RowFilter
        The rows that are known already, which are not reported again.
    known_at : pandas.Timestamp, optional
        Up to when they are complete.
    stream : bool
        Subscribe to events if the token may; else list every half a minute.
    """

    def __init__(
        self,
        transport: Transport,
        config: Config,
        *,
        namespace: str | None,
        known: RowFilter,
        known_at: pd.Timestamp | None = None,
        stream: bool = True,
    ) -> None:
        self.last_error: str | None = None
        self.mode: str = "stream" if stream else "lists"
        self._transport, self._config, self._namespace = transport, config, namespace
        self._known, self._at = known, known_at
        self._gap_since: pd.Timestamp | None = None
        self._wants_stream = stream
        self._stream: EventStream | None = None
        self._ended: str | None = None
        self._lines: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._heard_at = 0.0
        self._live_after = 0
        self._jobs: dict[tuple[str, str], tuple[int, int]] = {
            job: (_UNKNOWN, index) for job, index in known.jobs().items()
        }
        """ModifyIndex and JobModifyIndex of each job."""

        self._purged: dict[tuple[str, str], int] = {}
        self._frames: list[dict[str, pd.DataFrame]] = []
        self._notes: list[str] = []
        self._unread = 0
        """Versions of jobs that were purged before those that they differ from could be read."""

        self._synced = False
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="allocframe-history", daemon=True)

    def start(self) -> None:
        """Start to follow."""
        self._thread.start()

    def close(self) -> None:
        """End the thread and its connections. What was not taken is lost."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        self._transport.abort()
        self._end_stream()
        if self._thread.ident is not None:
            self._thread.join()
        self._transport.close()

    @property
    def has_news(self) -> bool:
        """Whether rows wait to be taken."""
        return bool(self._frames)

    def take(self) -> HistoryChange | None:
        """Return what is new since the last call, perhaps nothing; None before the first list."""
        with self._changed:
            if self._at is None or not (self._synced or self._frames):
                return None
            is_quiet = self._synced and self._ended is None and not self._lines
            if self.mode == "stream" and is_quiet:
                self._advance_to(self._heard_at)
            frames = {
                name: pd.concat(parts, ignore_index=True)
                for name in HISTORY
                if (parts := [part[name] for part in self._frames if len(part.get(name, ()))])
            }
            notes = list(self._notes)
            if self._unread:
                versions = count(self._unread, "versions")
                notes.append(f"what {versions} of jobs changed is not known: purged before it could be read")
            change = HistoryChange(self._at, frames, self._gap_since, tuple(notes))
            self._frames, self._gap_since = [], None
            self._changed.notify_all()
            return change

    def _advance_to(self, seconds: float) -> None:
        """Note that everything is known up to a time. The stream's heartbeats tell so, too."""
        moment = pd.Timestamp(int(seconds * 1e9), tz="UTC")
        self._at = moment if self._at is None else max(moment, self._at)

    # Its thread

    def _run(self) -> None:
        failures = 0
        while not self._closed.is_set():
            try:
                self._subscribe()
                self._sync()
                failures, self.last_error = 0, None
                self._follow()
            except Exception as error:  # noqa: BLE001 - the recorder continues without it, and says so
                if self._closed.is_set():
                    return
                known = isinstance(error, AllocframeError)
                self.last_error = str(error) if known else f"{type(error).__name__}: {visible(str(error))}"
                failures += 1
                # Some may not have been read to the end: read them all again.
                self._jobs = dict.fromkeys(self._jobs, (_UNKNOWN, _UNKNOWN))
                self._transport.recover()
                self._end_stream()
                self._closed.wait(backoff(failures, first=1.0, longest=_MAX_PAUSE, jitter=0.0))

    def _subscribe(self) -> None:
        """Open a subscription, unless one is open: of all topics, or of all but nodes, or none."""
        if self._stream is not None and self._ended is None:
            return
        self._end_stream()
        for topics in (TOPICS, TOPICS[:-1]) if self._wants_stream else ():
            if not self._closed.is_set() and self._open(topics):
                self.mode = "stream"
                return
            is_silent = self._ended is None
            self._end_stream()
            if is_silent:
                break  # a proxy holds it back, whatever the topics
        self.mode = "lists"

    def _open(self, topics: Iterable[str]) -> bool:
        """Return whether the server has confirmed a subscription.

        Raises
        ------
        AllocframeError
            It ended for another reason than missing rights, or a missing event stream.
        """
        self._lines.clear()
        self._bytes, self._ended = 0, None
        params: dict[str, Any] = {
            "topic": list(topics), "index": "0", "namespace": self._namespace or "default"
        }  # fmt: skip
        if self._config.region:
            params["region"] = self._config.region
        stream = self._stream = EventStream(self._config, params, self._put, self._end, quiet=QUIET)
        stream.start()
        with self._changed:
            self._changed.wait_for(
                lambda: stream.established or self._ended is not None or self._closed.is_set(),
                ESTABLISH_TIMEOUT,
            )
        if stream.error is not None and not isinstance(
            stream.error, PermissionDenied | Unsupported | NotNomad
        ):
            raise stream.error
        return stream.established

    def _put(self, line: bytes) -> None:
        """Keep a line. Called by the stream's thread."""
        with self._changed:
            self._heard_at = time.time()
            if self._stream is not None:
                self._stream.established = True
            if self._bytes > MAX_BYTES:
                raise NotAnEvent("changes came faster than they were read")
            if line.strip() != b"{}":
                self._lines.append((self._heard_at, line))
                self._bytes += len(line)
            self._changed.notify_all()

    def _end(self, reason: str) -> None:
        with self._changed:
            self._ended = reason
            self._changed.notify_all()

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _sync(self) -> None:
        """List everything, and read in full what is not known yet."""
        if self._closed.is_set():
            return
        began = pd.Timestamp.now(tz="UTC")
        fetcher = HistoryFetcher(self._transport, namespace=self._namespace, region=self._config.region)
        with request_pool(self._transport, WORKERS) as pool:
            lists = fetcher.list_all(pool)
            self._live_after = max((_index(row) for rows in lists.values() for row in rows or ()), default=0)
            # In parts, between which it may be closed: of a large cluster there are many.
            for deployments in self._parts(lists["deployments"], PART):
                self._add(make_tables(deployments=deployments))
            for evaluations in self._parts(lists["evaluations"], PART):
                self._add(make_tables(evaluations=evaluations))
            for jobs in self._parts([job for job in lists["jobs"] or () if self._is_news(job)], CHUNK):
                self._add(make_tables(jobs=fetcher.read_versions(pool, jobs)))
            unread = [node for node in lists["nodes"] or () if not self._known.has_node(node)]
            for nodes in self._parts(unread, CHUNK):
                self._add(make_tables(nodes=fetcher.read_nodes(pool, nodes)))
        if self._closed.is_set():
            return  # the lists were not read to their end
        self._find_purged(lists["jobs"], fetcher.listed_namespaces(lists["jobs"]))
        with self._changed:
            self._gap_since = self._gap_since or find_gap(self._at, began)
            self._at, self._notes, self._synced = began, fetcher.notes, True

    def _parts(self, rows: list[JSON] | None, size: int) -> Iterator[Sequence[JSON]]:
        """Yield the rows of a list in parts, until this is closed."""
        for start in range(0, len(rows or ()), size):
            if self._closed.is_set():
                return
            yield (rows or [])[start : start + size]

    def _is_news(self, job: JSON) -> bool:
        """Return whether a listed job has changed, and note it."""
        key, index = _key(job), _indexes(job)
        before = self._jobs.get(key)
        self._jobs[key] = index
        if before is None or before[1] != index[1]:
            return True
        # Its status has changed, or whether it is stable. Of a run, neither matters.
        return not job.get("ParentID") and before[0] not in (_UNKNOWN, index[0])

    def _find_purged(self, listed: list[JSON] | None, namespaces: Iterable[str]) -> None:
        """Report jobs that are gone although no event reported it. When they went is not known.

        A namespace of which nothing is listed may be hidden from the token: nothing there counts as gone.
        """
        present = {_key(job) for job in listed or ()}
        gone = [key for key in self._jobs if key not in present and key[0] in namespaces]
        rows = []
        for namespace, job_id in gone:
            del self._jobs[namespace, job_id]
            if is_run(job_id):
                continue  # ended runs are removed all the time
            rows.append({
                "kind": "purge", "namespace": namespace, "job_id": job_id, "source": "jobs",
                "detail": {"how": "no longer listed"},
            })  # fmt: skip
        self._add({"changes": frame_of_rows(CHANGES, rows)})

    def _follow(self) -> None:
        """Read lines until the stream ends or everything is to be listed again."""
        interval = RESYNC_INTERVAL if self.mode == "stream" else POLL_INTERVAL
        end = time.monotonic() + interval
        while not self._closed.is_set() and time.monotonic() < end:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._lines or self._ended is not None or self._closed.is_set(),
                    max(end - time.monotonic(), 0.0),
                )
                if self._ended is not None and self.mode == "stream" and not self._lines:
                    self._synced = False
                    return
            self._closed.wait(_PAUSE)
            self._wait_for_room()
            self._read_lines()

    def _wait_for_room(self) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed.is_set() or sum(_rows(part) for part in self._frames) < MAX_ROWS
            )

    def _read_lines(self) -> None:
        with self._changed:
            lines, self._lines, self._bytes = self._lines, deque(), 0
            heard_at = self._heard_at
        news = News()
        for moment, line in lines:
            news.add(line, moment, self._live_after)
        self._report(news)
        with self._changed:
            if not self._lines:
                self._advance_to(heard_at)

    def _report(self, news: News) -> None:
        """Add the rows of what came. The last state of each thing counts."""
        nodes = _last(_with_all_events([*news.nodes, *news.removed_nodes]))
        frames = make_tables(
            jobs=self._with_versions_before(news.jobs),
            deployments=_last(_merged_times(news.deployments)),
            nodes=nodes,
            evaluations=_last(news.evaluations),
        )
        removed = {node["ID"] for node in news.removed_nodes}
        frames["nodes"] = frames["nodes"].assign(gone=frames["nodes"]["node_id"].isin(removed))
        frames["changes"] = frame_of_rows(CHANGES, self._purges(news))
        self._add(frames)

    def _purges(self, news: News) -> Iterator[JSON]:
        """Yield the ledger's rows of jobs that were purged. Lines of one index may come apart."""
        for index, row in news.purges():
            key = row["namespace"], row["job_id"]
            was_stopped = self._jobs.get(key, (0, 0))[1] == index
            if not was_stopped and self._purged.get(key) != index:
                self._purged[key] = index
                self._jobs.pop(key, None)
                yield row

    def _with_versions_before(self, specs: Iterable[JSON]) -> Iterator[list[JSON]]:
        """Yield the versions of each job that has a new one, with those before, which it differs from."""
        jobs: dict[tuple[str, str], dict[int, JSON]] = {}
        has_new = set()
        for spec in specs:
            key, index = _key(spec), _indexes(spec)
            before = self._jobs.get(key, (_UNKNOWN, _UNKNOWN))
            if index[0] < before[0]:
                continue  # older than what was listed
            if before[1] != index[1] and not spec.get("ParentID"):
                has_new.add(key)
            self._jobs[key] = index
            jobs.setdefault(key, {})[index[1]] = spec
        for key, versions in jobs.items():
            if key not in has_new:
                yield [{**spec, "TaskGroups": None} for spec in versions.values()]
            elif any(spec.get("Version") == 0 for spec in versions.values()):
                yield list(versions.values())
            else:
                yield [*self._read_versions(*key, versions), *versions.values()]

    def _read_versions(self, namespace: str, job_id: str, known: Mapping[int, JSON]) -> list[JSON]:
        """Return the versions that Nomad keeps of a job, except those that are known."""
        fetcher = HistoryFetcher(self._transport, namespace=self._namespace, region=self._config.region)
        try:
            versions = fetcher.versions_of({"ID": job_id, "Namespace": namespace})
        except (NotFound, Unsupported):  # purged already: Nomad has no such job
            with self._changed:
                self._unread += 1
            return []
        except AllocframeError:
            self._jobs[namespace, job_id] = _UNKNOWN, _UNKNOWN  # the next list reads it again
            return []
        return [spec for spec in versions if _indexes(spec)[1] not in known]

    def _add(self, frames: Mapping[str, pd.DataFrame]) -> None:
        new = self._known.new_rows(frames)
        if new:
            with self._changed:
                self._frames.append(new)


def find_gap(known_at: pd.Timestamp | None, seen_at: pd.Timestamp) -> pd.Timestamp | None:
    """Return since when something may be missing, if nobody looked in between; None if nothing can be."""
    return known_at if known_at is not None and seen_at - known_at > SEAMLESS else None


def _rows(frames: Mapping[str, pd.DataFrame]) -> int:
    return sum(map(len, frames.values()))


def _last(things: Iterable[JSON]) -> list[JSON]:
    """Return the newest state of each thing."""
    last: dict[str, JSON] = {}
    for thing in things:
        before = last.get(thing["ID"])
        if before is None or _index(thing) >= _index(before):
            last[thing["ID"]] = thing
    return list(last.values())


def _merged_times(deployments: Iterable[JSON]) -> Iterator[JSON]:
    """Yield deployments with the time of their start, which only their first state has."""
    started: dict[str, Any] = {}
    for deployment in deployments:
        begin = started.setdefault(deployment["ID"], deployment.get("started_at"))
        yield {**deployment, "started_at": begin} if begin else deployment


def _with_all_events(nodes: Iterable[JSON]) -> Iterator[JSON]:
    """Yield nodes with the events that their earlier states had: of a busy node, ten pass quickly."""
    seen: dict[str, dict[str, Any]] = {}
    for node in nodes:
        events = seen.setdefault(node["ID"], {})
        listed = node.get("Events")
        for event in listed if isinstance(listed, list) else []:
            events.setdefault(repr(event), event)
        yield {**node, "Events": list(events.values())}


def _key(job: JSON) -> tuple[str, str]:
    return str(job.get("Namespace") or "default"), str(job.get("ID"))


def _indexes(job: JSON) -> tuple[int, int]:
    return _index(job), _number(job.get("JobModifyIndex"))


def _index(thing: JSON) -> int:
    return _number(thing.get("ModifyIndex"))


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
