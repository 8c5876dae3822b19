"""Which page of the allocation list to request next, and how to detect a server that pages in a loop."""

from __future__ import annotations

from dataclasses import dataclass, field

from .protocol import FIRST_PAGE, Query

SHARDS = tuple(f"{byte:02x}" for byte in range(256))
"""ID prefixes that together cover every allocation. A prefix must have an even number of digits."""

FEW_PAGES = 5
"""A list of about this many pages or fewer is read page by page; beyond it, parallel shards are faster."""

PAGE_BYTES = 16 << 20
"""Bytes that a page after the first should have."""

_MOST_ROWS = 10_000


@dataclass(frozen=True)
class PageRequest:
    """One page to request: of a shard, starting at a token, or the whole shard in one response."""

    shard: str | None = None
    token: str | None = None
    paged: bool = True


@dataclass
class Pager:
    """Pages through every allocation, correctly on every server version, and in few requests.

    The first request asks for one page. If there is more, the first shard of 256 ID prefixes tells how much.
    A short list is followed by its page tokens if that is safe, or else requested in one response. A long
    list is requested by prefix, in parallel.

    Servers before 1.10.2 compare the tokens of an unsplit list as text, and return tokens that lead back, or
    skip rows, where the number of digits changes. Within a prefix the token is a bare ID, which every version
    compares correctly. On any sign of a loop the pager requests the whole prefix in one response.
    """

    query: Query
    notes: list[str] = field(default_factory=list)
    rows: int = 0
    page_size: int | None = None
    """Rows of the pages after the first; None while the first has not come."""
    _ready: list[PageRequest] = field(default_factory=list)
    _in_flight: int = 0
    _shard_count: int = 0
    _finished_shards: int = 0
    _finished_rows: int = 0
    _partial_rows: dict[str | None, int] = field(default_factory=dict)
    _seen: dict[str | None, set[str]] = field(default_factory=dict)
    _next: tuple[str, int | None] | None = None
    """The token after the first page, and the index of the server that gave it, until it is decided on."""
    _expected: int | None = None
    _probed: int | None = None
    """Rows of the first shard, if it only showed that the list is short."""
    _pages_left: int = 2 * FEW_PAGES

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
        if self.done:
            return self.rows
        if not self._shard_count:
            return None if self._expected is None else max(self._expected, self.rows)
        if self._finished_shards < 4:
            return None
        return max(round(self._finished_rows * self._shard_count / self._finished_shards), self.rows)

    def params(self, request: PageRequest) -> dict[str, str]:
        """Return the query parameters of a request."""
        return self.query.params(request.shard, request.token, paged=request.paged, per_page=self.page_size)

    def next_request(self) -> PageRequest | None:
        """Return the next page to request; None if all remaining pages depend on responses in flight."""
        if not self._ready:
            return None
        self._in_flight += 1
        return self._ready.pop()

    def received(
        self,
        request: PageRequest,
        ids: list[str],
        next_token: str | None,
        *,
        index: int | None = None,
        size: int = 0,
    ) -> None:
        """Record a page and decide what to request next.

        Parameters
        ----------
        request : PageRequest
        ids : list of str
            The allocations of the page, in its order.
        next_token : str, optional
        index : int, optional
            The index of the server when it answered: no allocation was created after it.
        size : int
            Bytes of the page.
        """
        self._in_flight -= 1
        rows = len(ids)
        if self.page_size is None:
            self._choose_page_size(rows, size)
        if self._next is not None and self._choose_way(rows, more=next_token is not None):
            return
        if next_token is None or self.query.takes_last_page:
            self._finish(request, ids)
        elif not request.paged:
            self._finish(request, ids)
            self.notes.append(f"{_name(self._prefix(request))}: ignored a next token in an unpaged response")
        elif request.shard is None and request.token is None and self.query.prefix is None:
            self._keep_first(ids, next_token, index)
        elif (symptom := self._loop_symptom(request, ids, next_token)) is not None:
            way = "by prefix" if self._prefix(request) is None else "in one response"
            self.notes.append(f"{_name(self._prefix(request))}: {symptom}; fetched again {way}")
            self._request_whole(request.shard)
        else:
            self._go_on(request, ids, next_token, index)

    def _choose_page_size(self, rows: int, size: int) -> None:
        first = self.query.per_page or FIRST_PAGE
        fitting = PAGE_BYTES * rows // size if size else first
        self.page_size = min(max(first, fitting), _MOST_ROWS)

    def _keep_first(self, ids: list[str], next_token: str, index: int | None) -> None:
        """Keep the first page, and look into the first shard for how many there may be."""
        self._seen[None] = set(ids)
        self._next = (next_token, index)
        self._ready.append(PageRequest(SHARDS[0]))

    def _choose_way(self, rows: int, *, more: bool) -> bool:
        """Follow the list if the rows of the first shard show that it is short, or split it; return which."""
        (token, index), self._next = self._next or ("", None), None
        page = self.query.per_page or self.page_size or FIRST_PAGE
        self._expected = max(rows * len(SHARDS), len(self._seen[None]))
        if more or self._expected > FEW_PAGES * page:
            self._split()
            return False
        self._probed = rows
        self.rows = self._partial_rows[None] = len(self._seen[None])
        self._follow(token, index)
        return True

    def _split(self) -> None:
        """Request the other shards. Rows of the list's pages so far come again with them."""
        self._shard_count = len(SHARDS)
        self._forget(None)
        self._ready += [PageRequest(shard) for shard in reversed(SHARDS[1:])]
        if self._probed is not None:
            self.rows = self._finished_rows = self._probed
            self._finished_shards = 1

    def _go_on(self, request: PageRequest, ids: list[str], next_token: str, index: int | None) -> None:
        """Request the page at the next token."""
        self.rows += len(ids)
        self._partial_rows[request.shard] = self._partial_rows.get(request.shard, 0) + len(ids)
        self._seen.setdefault(request.shard, set()).update(ids)
        if self._prefix(request) is None:
            self._pages_left -= 1
            self._follow(next_token, index)
        else:
            self._ready.append(PageRequest(request.shard, next_token))

    def _follow(self, token: str, index: int | None) -> None:
        """Request the next page of an unsplit list, or all of it if the token is not safe."""
        if self._pages_left and _is_safe(token, index):
            self._ready.append(PageRequest(None, token))
        else:
            self._request_whole(None)

    def _request_whole(self, shard: str | None) -> None:
        """Request everything of a shard, or of the list, in one response.

        A list is split instead if its pages went wrong, or if the caller chose their size.
        """
        if (
            shard is None
            and self.query.prefix is None
            and (self.query.per_page or self._pages_left < 2 * FEW_PAGES)
        ):
            self._split()
            return
        self._ready.append(PageRequest(shard, paged=False))
        self._forget(shard)

    def _forget(self, shard: str | None) -> None:
        """Do not count the rows so far of a shard, or of the list, that will come again."""
        self.rows -= self._partial_rows.pop(shard, 0)
        self._seen.pop(shard, None)

    def _finish(self, request: PageRequest, ids: list[str]) -> None:
        # A server that went back has sent some rows before.
        count = len(ids) - len(self._seen.pop(request.shard, set()).intersection(ids))
        self.rows += count
        self._finished_shards += 1
        self._finished_rows += self._partial_rows.pop(request.shard, 0) + count

    def _prefix(self, request: PageRequest) -> str | None:
        return self.query.prefix if request.shard is None else request.shard

    def _loop_symptom(self, request: PageRequest, ids: list[str], next_token: str) -> str | None:
        """Return what is wrong with a page, or None.

        Tokens within a prefix are IDs, and others begin with an index, so they must only go up.
        """
        seen = self._seen.get(request.shard, set())
        next_id = next_token.rpartition(".")[2]
        if not ids:
            return "an empty page with a next token"
        if next_token == request.token or next_id in seen or next_id in ids:
            return "a repeated next token"
        if seen.intersection(ids) or len(set(ids)) < len(ids):
            return "an allocation on two pages"
        if self._prefix(request) is None:
            goes_back = request.token is not None and _index(next_token) < _index(request.token)
        else:
            goes_back = next_token <= max(ids)
        return "a next token that goes back" if goes_back else None


def _name(prefix: str | None) -> str:
    return "the list" if prefix is None else f"prefix {prefix}"


def _index(token: str) -> int:
    """Return the index that a token of an unsplit list begins with; -1 if it does not."""
    digits = token.partition(".")[0]
    return int(digits) if digits.isdecimal() and digits.isascii() else -1


def _is_safe(token: str, index: int | None) -> bool:
    """Return whether comparing tokens as text gives the order of numbers, from this token on.

    It does if the last index of the server has as many digits as the token's: then so have all between.
    """
    return index is not None and _index(token) >= 0 and len(str(_index(token))) == len(str(index))
