"""The requests of a watch: full and light lists, the list's index, and reads of single allocations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .._utils.thread_pool import ThreadPool
from ..errors import ApiError, NotFound, PermissionDenied
from ..fetch.listing import ListFetcher
from ..nomad import protocol
from ..nomad.config import Config
from ..nomad.protocol import Query
from ..nomad.transport import Transport, parse_json
from ..store.page_store import PageStore

WORKERS = 4
HTTP_NOT_FOUND = 404
LIGHT_PAGE = 20_000
"""Allocations per page of a list without task states."""


class Lister:
    """Lists and reads the allocations of a watch's query."""

    def __init__(self, transport: Transport, config: Config, query: Query) -> None:
        self.reads: int = 0
        self._transport, self._config, self._query = transport, config, query

    def all(self, *, light: bool = False) -> tuple[PageStore, int | None]:
        """Return every allocation, and the index of the cluster when the list began.

        A `light` list has no task states and events.
        """
        query = replace(self._query, task_states=False, per_page=LIGHT_PAGE) if light else self._query
        fetcher = ListFetcher(self._transport, query, self._config.address, ask_version=False)
        capture, store = fetcher.run(WORKERS, False)
        index = capture.info["index_first"]
        for page in capture.pages:
            capture.discard(page)
        return store, index

    def index(self, params: dict[str, str], timeout: float | None = None) -> int | None:
        """Return the index of the list. With an ``index`` in `params`, block until the list changes."""
        # Only the header matters: ask for the smallest page.
        query = replace(self._query, task_states=False, filter=None, per_page=1)
        index: int | None = self._transport.get(
            protocol.LIST,
            {**query.params(), **params},
            check=lambda response: response.headers.index,
            timeout=timeout,
        )
        return index

    def find_hidden(self, ids: list[str]) -> list[str]:
        """Return which of these allocations exist, although a list lacks them.

        Servers leave out what the token may not read, and answer its read with 403, or 500 "Unknown
        allocation". Only 404 says that an allocation was removed.
        """
        params = {"region": self._query.region} if self._query.region else {}

        def is_hidden(alloc_id: str) -> bool:
            try:
                self._transport.get(f"/v1/allocation/{alloc_id}", params, check=parse_json)
            except (NotFound, PermissionDenied) as error:
                return error.status != HTTP_NOT_FOUND
            except ApiError as error:
                if "Unknown allocation" in error.text:
                    return True
                raise
            # It can be read: the filter no longer selects it, or the right came back after the list.
            return self._query.filter is None

        self.reads += len(ids)
        with ThreadPool(WORKERS) as pool:
            return [
                alloc_id for alloc_id, hidden in zip(ids, pool.map(is_hidden, ids), strict=True) if hidden
            ]

    def read(self, ids: list[str]) -> list[dict[str, Any]]:
        """Read allocations in full. Those that no longer exist are left out."""
        params = {"region": self._query.region} if self._query.region else {}

        def read_one(alloc_id: str) -> Any:
            try:
                return self._transport.get(f"/v1/allocation/{alloc_id}", params, check=parse_json)
            except NotFound:
                return None

        self.reads += len(ids)
        if not ids:
            return []
        with ThreadPool(WORKERS) as pool:
            return [row for row in pool.map(read_one, ids) if isinstance(row, dict)]
