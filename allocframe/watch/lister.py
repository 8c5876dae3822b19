"""The requests of a watch: the list, whole or light, its index alone, and single reads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from ..errors import NotFound
from ..fetch.listing import ListFetcher
from ..nomad import protocol
from ..nomad.config import Config
from ..nomad.protocol import Query
from ..nomad.transport import Transport, parse_json
from ..store.page_store import PageStore

WORKERS = 4
LIGHT_PAGE = 20_000
"""Allocations on a page of a list without task states."""


class Lister:
    """Asks what a watch wants to know."""

    def __init__(self, transport: Transport, config: Config, query: Query) -> None:
        self.reads = 0
        self._transport, self._config, self._query = transport, config, query

    def all(self, *, light: bool = False) -> tuple[PageStore, int | None]:
        """Return every allocation, and the index that the cluster had reached when the list began."""
        query = replace(self._query, task_states=False, per_page=LIGHT_PAGE) if light else self._query
        walk = ListFetcher(self._transport, query, self._config.address, ask_version=False)
        capture, store = walk.run(WORKERS, False)
        index = capture.info["index_first"]
        for page in capture.pages:
            capture.discard(page)
        return store, index

    def index(self, params: dict[str, str], timeout: float) -> int | None:
        """Return the index of a list as small as can be, which blocks where `params` say so."""
        query = replace(self._query, task_states=False, filter=None, per_page=1)
        asked = {**query.params(), **params}
        index: int | None = self._transport.get(
            protocol.LIST, asked, check=lambda answer: answer.headers.index, timeout=timeout
        )
        return index

    def read(self, ids: list[str]) -> list[dict[str, Any]]:
        """Read allocations in full; those that are gone by now are left out."""

        def one(identity: str) -> Any:
            try:
                params = {"region": self._query.region} if self._query.region else {}
                return self._transport.get(f"/v1/allocation/{identity}", params, check=parse_json)
            except NotFound:
                return None

        self.reads += len(ids)
        if not ids:
            return []
        with ThreadPoolExecutor(WORKERS, "allocframe") as pool:
            return [row for row in pool.map(one, ids) if isinstance(row, dict)]
