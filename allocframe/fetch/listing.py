"""Fetch the list of allocations: pages in parallel, captured and decoded as they arrive."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .._utils.memory import decoding
from .._utils.progress import Progress, shown
from .._utils.thread_pool import Task
from ..errors import DecodeError
from ..nomad import acl, protocol
from ..nomad.paging import Pager, PageRequest
from ..nomad.protocol import Query
from ..nomad.transport import Response, Transport, parse_json, request_pool
from ..store.capture import Capture, Page
from ..store.page_store import PageStore
from ..store.worker_pool import MANY_BYTES
from .resume import ResumableCapture


@dataclass(frozen=True)
class _FetchedPage:
    """A captured page and the IDs of its rows."""

    page: Page
    ids: list[str]


def _expected_bytes(received: int, pager: Pager) -> float:
    """Return how many bytes the pages will have together, as far as that is known."""
    return received * (pager.estimate or 0) / pager.rows if pager.rows else 0


class ListFetcher:
    """Fetches everything that a query selects, or raises an error.

    Parameters
    ----------
    transport : Transport
    query : Query
    server : str
        Address of the server, for the snapshot's `info`.
    ask_version : bool
        Also ask for the server's version.
    resume : Path, optional
        Folder in which an interrupted fetch is continued.
    """

    def __init__(
        self,
        transport: Transport,
        query: Query,
        server: str,
        *,
        ask_version: bool = True,
        resume: Path | None = None,
    ) -> None:
        self._transport = transport
        self._query = query
        self._server = server
        self._ask_version = ask_version
        self._resumable = ResumableCapture(resume, self._identity()) if resume is not None else None
        self._capture = self._resumable or Capture.create()
        self._store = PageStore(self._capture)

    def _identity(self) -> dict[str, Any]:
        """Return what must be the same if a fetch is resumed."""
        accessor = acl.read_accessor(lambda path: self._transport.get(path, {}, check=parse_json))
        return {"server": self._server, "query": self._query.params(), "token accessor": accessor}

    def run(self, workers: int, progress: Progress) -> tuple[Capture, PageStore]:
        """Fetch with `workers` parallel requests; return the captured pages and the decoded store."""
        try:
            with decoding():
                self._fetch_all(workers, progress)
        except BaseException:
            self._store.close()
            self._capture.close()
            raise
        return self._capture, self._store

    def _fetch_all(self, workers: int, progress: Progress) -> None:
        started = datetime.now(UTC)
        pager = Pager(self._query)
        received = 0
        with shown(progress) as show, request_pool(self._transport, workers) as pool:
            running: dict[Task[_FetchedPage], PageRequest] = {}
            while not pager.done:
                while len(running) < workers and (request := pager.next_request()) is not None:
                    running[pool.submit(self._fetch, pager.params(request))] = request
                pool.wait()
                for task in [task for task in running if task.is_done]:
                    request, fetched = running.pop(task), task.result()
                    page = fetched.page
                    pager.received(request, fetched.ids, page.next_token, index=page.index, size=page.size)
                    received += page.size
                    if workers > 1 and _expected_bytes(received, pager) > MANY_BYTES:
                        self._store.use_processes()
                show(pager.rows, pager.estimate)
        duplicates = self._store.drop_duplicates()
        if self._query.newest is not None and not self._query.takes_last_page:
            self._store.keep_newest(self._query.newest)
            self._capture.describe(keep_newest=self._query.newest)
        pages = len(self._capture.pages)
        self._transport.count(duplicates=duplicates, pages=pages, loops=len(pager.notes))
        self._capture.describe(**self._info(pager, started, duplicates))
        if self._resumable:
            self._resumable.finished = True

    def _fetch(self, params: dict[str, str]) -> _FetchedPage:
        """Fetch and decode one page, or take it from an interrupted fetch."""
        page = self._resumable.take(params) if self._resumable else None
        if page is not None:
            with contextlib.suppress(DecodeError):
                return self._decode(page, self._capture.file(page).read_bytes())

        def keep(response: Response) -> _FetchedPage:
            headers = response.headers
            page = self._capture.add(
                response.body,
                path=protocol.LIST,
                params=params,
                index=headers.index,
                last_contact=headers.last_contact,
                known_leader=headers.known_leader,
                next_token=headers.next_token,
            )
            return self._decode(page, response.body)

        fetched: _FetchedPage = self._transport.get(protocol.LIST, params, check=keep)
        return fetched

    def _decode(self, page: Page, body: bytes) -> _FetchedPage:
        try:
            return _FetchedPage(page, self._store.read(page, body))
        except BaseException:
            self._capture.discard(page)
            raise

    def _info(self, pager: Pager, started: datetime, duplicates: int) -> dict[str, Any]:
        """Return the snapshot's `info`."""
        query, pages = self._query, self._capture.pages
        indexes = [page.index for page in pages if page.index is not None]
        contacts = [page.last_contact for page in pages if page.last_contact is not None]
        notes = [*pager.notes, *(self._resumable.notes() if self._resumable else [])]
        if any(page.known_leader is False for page in pages):
            notes.append("the cluster had no leader during part of the fetch: these rows may be old")
        if indexes and indexes[0] > min(indexes):
            notes.append(
                f"the server's index went back from {indexes[0]} to {min(indexes)}: it was restored, or "
                "another server answered. Fetch again, because these rows may be from two different states"
            )
        chosen = {"prefix": query.prefix, "filter": query.filter, "newest": query.newest}
        notes += [f"only {name} {value}" for name, value in chosen.items() if value is not None]
        return {
            "source": "server",
            "server": self._server,
            "version": self._transport.server_version() if self._ask_version else None,
            "region": query.region,
            "namespace": query.namespace or "default",
            "query": query.params(),
            "started_at": min([started.isoformat(), *(page.received_at for page in pages)]),
            "finished_at": datetime.now(UTC).isoformat(),
            "index_first": min(indexes, default=None),
            "index_last": max(indexes, default=None),
            "last_contact_ms": max(contacts, default=None),
            "pages": len(pages),
            "paging": "by ID prefix" if pager.sharded else "one list",
            "duplicates": duplicates,
            "complete": True,
            "notes": notes,
        }
