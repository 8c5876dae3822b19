"""Which page of a list comes next, and how a walk notices that a server leads it in a circle."""

from __future__ import annotations

from dataclasses import dataclass, field

from .protocol import Query

SHARDS = tuple(f"{byte:02x}" for byte in range(256))
"""ID prefixes that together hold every allocation; a prefix needs an even number of digits."""


@dataclass(frozen=True)
class PageRequest:
    """One page to ask for: of a shard, from a token on, or the whole shard at once."""

    shard: str | None = None
    token: str | None = None
    paged: bool = True


@dataclass
class Pager:
    """Walks every allocation, right on every server.

    The first request asks for one page. Where more follow, the walk is split by ID prefix, because servers
    before 1.10.2 compare the tokens of the plain walk as text, and hand out ones that lead back. Inside a
    prefix the token is a bare ID, which every version compares rightly. Any sign of a loop makes the pager
    ask for the whole prefix at once.
    """

    query: Query
    notes: list[str] = field(default_factory=list)
    rows: int = 0
    _ready: list[PageRequest] = field(default_factory=list)
    _open: int = 0
    _split: int = 0
    _finished: int = 0
    _whole: int = 0
    _part: dict[str | None, int] = field(default_factory=dict)
    _seen: dict[str | None, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ready.append(PageRequest())

    @property
    def done(self) -> bool:
        """Whether nothing is left to ask and nothing is on its way."""
        return not self._ready and not self._open

    @property
    def sharded(self) -> bool:
        """Whether the walk had to be split by prefix."""
        return bool(self._split)

    @property
    def estimate(self) -> int | None:
        """How many allocations there seem to be; None until something can be said."""
        if not self._split:
            return self.rows if self.done else None
        if self._finished < 4:
            return None
        return max(round(self._whole * self._split / self._finished), self.rows)

    def next_request(self) -> PageRequest | None:
        """Return the next page to ask for, or None while others are on their way."""
        if not self._ready:
            return None
        self._open += 1
        return self._ready.pop()

    def received(self, request: PageRequest, rows: int, ids: list[str], next_token: str | None) -> None:
        """Take in how many rows a page holds, and their IDs where a token follows; decide what comes next."""
        self._open -= 1
        plain_start = request.shard is None and request.token is None and self.query.prefix is None
        if next_token is None or self.query.newest is not None:
            self._finish(request, rows)
        elif not request.paged:
            self._finish(request, rows)
            prefix = self._prefix(request)
            self.notes.append(f"prefix {prefix}: a token came with an answer that was not paged; overlooked")
        elif plain_start:
            self._split = len(SHARDS)
            self._ready = [PageRequest(shard) for shard in reversed(SHARDS)]
        elif (sign := self._loop_sign(request, ids, next_token)) is not None:
            prefix = self._prefix(request)
            self.notes.append(f"prefix {prefix}: {sign}; asked for again in one answer")
            self._ready.append(PageRequest(request.shard, paged=False))
        else:
            self.rows += rows
            self._part[request.shard] = self._part.get(request.shard, 0) + rows
            self._seen.setdefault(request.shard, set()).update(ids)
            self._ready.append(PageRequest(request.shard, next_token))

    def _finish(self, request: PageRequest, count: int) -> None:
        self.rows += count
        self._finished += 1
        self._whole += self._part.pop(request.shard, 0) + count
        self._seen.pop(request.shard, None)

    def _prefix(self, request: PageRequest) -> str | None:
        return self.query.prefix if request.shard is None else request.shard

    def _loop_sign(self, request: PageRequest, ids: list[str], next_token: str) -> str | None:
        """Say what is wrong with a page: tokens of a prefix are IDs, and must only go up."""
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
