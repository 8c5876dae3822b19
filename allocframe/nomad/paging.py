"""Which page of the allocation list to request next, and how to detect a server that pages in a loop."""

from __future__ import annotations

from dataclasses import dataclass, field

from .protocol import Query

SHARDS = tuple(f"{byte:02x}" for byte in range(256))
"""ID prefixes that together cover every allocation. A prefix must have an even number of digits."""


@dataclass(frozen=True)
class PageRequest:
    """One page to request: of a shard, starting at a token, or the whole shard in one response."""

    shard: str | None = None
    token: str | None = None
    paged: bool = True


@dataclass
class Pager:
    """Pages through every allocation, correctly on every server version.

    The first request asks for one page. If there are more, the pager splits the list by ID prefix: servers
    before 1.10.2 compare the tokens of an unsplit list as text, and return tokens that lead back. Within a
    prefix the token is a bare ID, which every version compares correctly. On any sign of a loop the pager
    requests the whole prefix in one response.
    """

    query: Query
    notes: list[str] = field(default_factory=list)
    rows: int = 0
    _ready: list[PageRequest] = field(default_factory=list)
    _in_flight: int = 0
    _shard_count: int = 0
    _finished_shards: int = 0
    _finished_rows: int = 0
    _partial_rows: dict[str | None, int] = field(default_factory=dict)
    _seen: dict[str | None, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ready.append(PageRequest())

    @property
    def done(self) -> bool:
        """Whether no request is left to send or in flight."""
        return not self._ready and not self._in_flight

    @property
    def sharded(self) -> bool:
        """Whether the list was split by prefix."""
        return bool(self._shard_count)

    @property
    def estimate(self) -> int | None:
        """The estimated number of allocations; None while too little is known."""
        if not self._shard_count:
            return self.rows if self.done else None
        if self._finished_shards < 4:
            return None
        return max(round(self._finished_rows * self._shard_count / self._finished_shards), self.rows)

    def next_request(self) -> PageRequest | None:
        """Return the next page to request; None if all remaining pages depend on responses in flight."""
        if not self._ready:
            return None
        self._in_flight += 1
        return self._ready.pop()

    def received(self, request: PageRequest, rows: int, ids: list[str], next_token: str | None) -> None:
        """Record a page and decide what to request next.

        `ids` matter only if a `next_token` came with the page.
        """
        self._in_flight -= 1
        plain_start = request.shard is None and request.token is None and self.query.prefix is None
        if next_token is None or self.query.newest is not None:
            self._finish(request, rows)
        elif not request.paged:
            self._finish(request, rows)
            prefix = self._prefix(request)
            self.notes.append(f"prefix {prefix}: ignored a next token in an unpaged response")
        elif plain_start:
            self._shard_count = len(SHARDS)
            self._ready = [PageRequest(shard) for shard in reversed(SHARDS)]
        elif (symptom := self._loop_symptom(request, ids, next_token)) is not None:
            prefix = self._prefix(request)
            self.notes.append(f"prefix {prefix}: {symptom}; fetched again in one response")
            self._ready.append(PageRequest(request.shard, paged=False))
        else:
            self.rows += rows
            self._partial_rows[request.shard] = self._partial_rows.get(request.shard, 0) + rows
            self._seen.setdefault(request.shard, set()).update(ids)
            self._ready.append(PageRequest(request.shard, next_token))

    def _finish(self, request: PageRequest, count: int) -> None:
        self.rows += count
        self._finished_shards += 1
        self._finished_rows += self._partial_rows.pop(request.shard, 0) + count
        self._seen.pop(request.shard, None)

    def _prefix(self, request: PageRequest) -> str | None:
        return self.query.prefix if request.shard is None else request.shard

    def _loop_symptom(self, request: PageRequest, ids: list[str], next_token: str) -> str | None:
        """Return what is wrong with a page, or None.

        Tokens within a prefix are IDs, so they must only go up.
        """
        seen = self._seen.get(request.shard, set())
        if not ids:
            return "an empty page with a next token"
        if next_token == request.token or next_token in seen or next_token in ids:
            return "a repeated next token"
        if seen.intersection(ids) or len(set(ids)) < len(ids):
            return "an allocation on two pages"
        if next_token <= max(ids):
            return "a next token that goes back"
        return None
