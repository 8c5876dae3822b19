"""One walk over the list of allocations: pages fetched side by side, captured and typed as they come."""

from __future__ import annotations

import contextlib
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .._utils.progress import Progress, shown
from ..errors import DecodeError
from ..nomad import acl, protocol
from ..nomad.paging import Pager, PageRequest
from ..nomad.protocol import Query
from ..nomad.transport import Response, Transport, parse_json, request_pool
from ..store.capture import Capture, Page
from ..store.page_store import PageStore
from .resume import Resumable

_SMALL = 4 << 20


@dataclass(frozen=True)
class _Fetched:
    """A page that is kept: how many rows it seems to have, and their IDs where they matter for the walk."""

    page: Page
    rows: int
    ids: list[str]


class ListFetcher:
    """Fetches everything that a query selects: all of it, or an error."""

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
        self._resumed = Resumable(resume, self._about()) if resume is not None else None
        self._capture = self._resumed or Capture.create()
        self._store = PageStore(self._capture)

    def _about(self) -> dict[str, Any]:
        """Return what must be the same for a walk to go on."""
        said = acl.read_accessor(lambda path: self._transport.get(path, {}, check=parse_json))
        return {"server": self._server, "query": self._query.params(), "token accessor": said}

    def run(self, workers: int, progress: Progress) -> tuple[Capture, PageStore]:
        """Fetch with so many requests at a time; return what was captured, and its typed columns."""
        try:
            self._fetch_all(workers, progress)
        except BaseException:
            self._store.close()
            self._capture.close()
            raise
        return self._capture, self._store

    def _fetch_all(self, workers: int, progress: Progress) -> None:
        started = datetime.now(UTC)
        pager = Pager(self._query)
        with shown(progress) as show, request_pool(self._transport, workers) as pool:
            running: dict[Future[_Fetched], PageRequest] = {}
            while not pager.done:
                while len(running) < workers and (request := pager.next_request()) is not None:
                    params = self._query.params(request.shard, request.token, paged=request.paged)
                    running[pool.submit(self._fetch, params)] = request
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    got = future.result()
                    pager.received(running.pop(future), got.rows, got.ids, got.page.next_token)
                show(pager.rows, pager.estimate)
            for page in self._store.flush():
                self._capture.discard(page)
                self._fetch(page.params, at_once=True)
        duplicates = self._store.drop_duplicates()
        pages = len(self._capture.pages)
        self._transport.count(duplicates=duplicates, pages=pages, loops=len(pager.notes))
        self._capture.describe(**self._facts(pager, started, duplicates))
        if self._resumed:
            self._resumed.finished = True

    def _fetch(self, params: dict[str, str], *, at_once: bool = False) -> _Fetched:
        """Get one page and have it typed, or the one that an interrupted walk has left."""
        page = self._resumed.take(params) if self._resumed else None
        if page is not None:
            with contextlib.suppress(DecodeError):
                return self._typed(page, self._capture.file(page).read_bytes(), at_once)

        def keep(response: Response) -> _Fetched:
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
            return self._typed(page, response.body, at_once)

        kept: _Fetched = self._transport.get(protocol.LIST, params, check=keep)
        return kept

    def _typed(self, page: Page, body: bytes, at_once: bool) -> _Fetched:
        """Type a page: at once where its IDs or size matter, else together with others."""
        try:
            if at_once or page.next_token or page.size > _SMALL:
                ids = self._store.read(page, body).ids
                return _Fetched(page, len(ids), ids)
            self._store.defer(page, body)
            return _Fetched(page, body.count(b'"FollowupEvalID":'), [])
        except BaseException:
            self._capture.discard(page)
            raise

    def _facts(self, pager: Pager, started: datetime, duplicates: int) -> dict[str, Any]:
        query, pages = self._query, self._capture.pages
        indexes = [page.index for page in pages if page.index is not None]
        contacts = [page.last_contact for page in pages if page.last_contact is not None]
        notes = [*pager.notes, *(self._resumed.notes() if self._resumed else [])]
        if any(page.known_leader is False for page in pages):
            notes.append("the cluster had no leader for part of the walk: these rows may be old")
        if indexes and indexes[0] > min(indexes):
            notes.append(
                f"the server's index went back from {indexes[0]} to {min(indexes)}: it was restored, or another one "
                "answered; these rows may be of two times, so fetch again"
            )
        asked = {"prefix": query.prefix, "filter": query.filter, "newest": query.newest}
        notes += [f"asked only for {name} {value}" for name, value in asked.items() if value is not None]
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
            "paging": "by ID prefix" if pager.sharded else "one walk",
            "duplicates": duplicates,
            "complete": True,
            "notes": notes,
        }
