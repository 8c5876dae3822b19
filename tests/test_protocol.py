"""Nomad's rules: parameters, headers, errors, and the pager on every server."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocframe import _errors, _protocol
from allocframe._errors import ConfigError
from allocframe._protocol import Headers, Pager, Query


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prefix", "abc"), ("prefix", "zz"), ("prefix", ""), ("prefix", "a-b-c"),
        ("per_page", 0), ("per_page", -1), ("per_page", True), ("per_page", "10"), ("per_page", 1.5),
        ("newest", 0), ("newest", False), ("filter", " "), ("namespace", ""), ("task_states", 1), ("stale", "false"),
    ],
)  # fmt: skip
def test_bad_parameters_are_refused_before_anything_is_sent(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        Query(**{name: value})  # type: ignore[arg-type]


def test_only_the_texts_that_every_server_understands_are_sent() -> None:
    assert Query().params() == {"task_states": "true", "per_page": "1000"}
    sent = Query(
        task_states=False, resources=True, stale=True, namespace="*", filter="a == b", prefix="AB-cd"
    ).params()
    assert sent == {
        "task_states": "false", "resources": "true", "stale": "true", "namespace": "*", "filter": "a == b",
        "prefix": "ab-cd", "per_page": "1000",
    }  # fmt: skip
    assert Query(newest=5).params() == {"task_states": "true", "reverse": "true", "per_page": "5"}


@pytest.mark.parametrize("text", ["", "x", "5457f16d-0f87-8e6b-5e91-0c7da3a41eb", "../../v1/jobs", None, "a"])
def test_what_is_no_allocation_id_never_gets_into_a_path(text: str) -> None:
    if text and len(text) == 35:
        assert _protocol.check_alloc_id(text) == (text, False)
    else:
        with pytest.raises(ConfigError):
            _protocol.check_alloc_id(text)


@pytest.mark.parametrize(
    ("sent", "index"), [("12", 12), ("abc", None), (str(2**64), None), ("", None), ("-1", None)]
)
def test_headers_are_read_whatever_they_hold(sent: str, index: int | None) -> None:
    found = Headers.parse({"X-NOMAD-INDEX": sent, "x-nomad-knownleader": "false", "X-Nomad-Nexttoken": ""})
    assert found == Headers(index=index, known_leader=False)


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (403, "Permission denied", _errors.PermissionDenied),
        (401, "Unauthorized", _errors.PermissionDenied),
        (404, "alloc not found", _errors.NotFound),
        (500, 'Unknown allocation "x"', _errors.NotFound),
        (404, "No path to node", _errors.NodeUnreachable),
        (500, 'Unknown node "x"', _errors.NodeUnreachable),
        (404, "resource not found", _errors.Unsupported),
        (404, "", _errors.Unsupported),
        (400, "failed to create result paginator: x", _errors.BadRequest),
        (500, "alloc lookup failed: index error: UUID must be 36 characters", _errors.BadRequest),
        (500, "No path to region", _errors.BadRequest),
        (500, "1 error occurred:\n\t* Task not running\n\n", _errors.Conflict),
        (500, "restart of an alloc that should not run", _errors.Conflict),
        (500, "boom", _errors.ApiError),
    ],
)
def test_errors_are_told_apart_by_their_text(status: int, text: str, kind: type[_errors.ApiError]) -> None:
    error = _protocol.error_for("GET", "/v1/allocations", status, text)
    assert type(error) is kind
    assert (error.status, error.text) == (status, text)
    assert str(status) in str(error)


@pytest.mark.parametrize(
    ("status", "text", "again"),
    [
        (500, "No cluster leader", True),
        (500, "rpc error: Not ready to serve consistent reads", True),
        (500, "alloc lookup failed: index error: UUID must be 36 characters", False),
        (500, 'Unknown allocation "x"', False),
        (502, "", True), (503, "", True), (504, "", True), (429, "", True), (403, "", False), (400, "EOF", False),
    ],
)  # fmt: skip
def test_a_500_is_final_unless_its_text_is_transient(status: int, text: str, again: bool) -> None:
    assert _protocol.is_transient(status, text) is again


def test_retry_after_is_obeyed_in_both_forms_up_to_a_minute() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert _protocol.retry_after("3") == 3.0
    assert _protocol.retry_after("1000000000") == 60.0
    assert _protocol.retry_after(format_datetime(now + timedelta(seconds=20)), now) == 20.0
    assert _protocol.retry_after(format_datetime(now - timedelta(hours=1)), now) == 0.0
    assert _protocol.retry_after("soon") is None
    assert _protocol.retry_after(None) is None


def test_backoff_stays_under_a_doubling_bound() -> None:
    rng = random.Random(1)
    for attempt in range(1, 12):
        assert all(
            0 <= _protocol.backoff(attempt, rng) <= min(0.25 * 2 ** (attempt - 1), 8.0) for _ in range(50)
        )


class Server:
    """A list endpoint: rows of (CreateIndex, ID), and how tokens are compared."""

    def __init__(self, rows: list[tuple[int, str]], *, text_compare: bool) -> None:
        self.rows = sorted(rows)
        self.text_compare = text_compare
        self.requests = 0

    def page(self, params: dict[str, str]) -> tuple[list[str], str | None]:
        self.requests += 1
        size, token, prefix = int(params.get("per_page", 0)), params.get("next_token"), params.get("prefix")
        if prefix is not None:
            keyed = sorted((identity, identity) for _, identity in self.rows if identity.startswith(prefix))
        else:
            keyed = [(f"{index}.{identity}", identity) for index, identity in self.rows]
        page: list[str] = []
        found = token is None
        for key, identity in keyed:
            found = found or self.reached(key, str(token), plain=prefix is None)
            if not found:
                continue
            if size and len(page) == size:
                return page, key
            page.append(identity)
        return page, None

    def reached(self, key: str, token: str, *, plain: bool) -> bool:
        if self.text_compare or not plain:
            return key >= token
        (a, b), (c, d) = key.split("."), token.split(".")
        return (int(a), b) >= (int(c), d)


def walk(server: Server, query: Query, *, between: object = None) -> tuple[list[str], Pager]:
    pager, got = Pager(query), []
    for _ in range(100_000):
        if pager.done:
            return got, pager
        batch = []
        while len(batch) < 3 and (request := pager.next_request()) is not None:
            batch.append(request)
        for request in batch:
            ids, token = server.page(query.params(request.shard, request.token, paged=request.paged))
            got += ids
            pager.received(request, len(ids), ids, token)
            if callable(between):
                between()
    raise AssertionError("the walk does not end")


def uuids(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    made = (f"{rng.getrandbits(128):032x}" for _ in range(count))
    return [f"{t[:8]}-{t[8:12]}-{t[12:16]}-{t[16:20]}-{t[20:]}" for t in made]


def test_the_plain_walk_of_1_3_1_loops_over_part_of_6256_rows_and_the_pager_gets_all() -> None:
    rows = [(12 + n // 3, identity) for n, identity in enumerate(uuids(6256))]
    server = Server(rows, text_compare=True)
    seen, token, tokens = set(), None, set()
    while True:
        ids, token = server.page({"per_page": "500"} | ({"next_token": token} if token else {}))
        seen |= set(ids)
        if token in tokens:
            break
        assert token is not None
        tokens.add(token)
    assert len(seen) < len(rows)

    got, pager = walk(Server(rows, text_compare=True), Query(per_page=500))
    assert set(got) == {identity for _, identity in rows}
    assert pager.sharded
    assert pager.notes == []


def test_one_page_is_one_request() -> None:
    server = Server([(n, identity) for n, identity in enumerate(uuids(50))], text_compare=True)
    got, pager = walk(server, Query(per_page=50))
    assert len(got) == 50
    assert server.requests == 1
    assert not pager.sharded


def test_the_estimate_comes_close_once_some_shards_are_done() -> None:
    server = Server([(n, identity) for n, identity in enumerate(uuids(5000))], text_compare=False)
    estimates: list[int] = []
    pager, query = Pager(Query(per_page=10)), Query(per_page=10)
    while not pager.done:
        request = pager.next_request()
        assert request is not None
        ids, token = server.page(query.params(request.shard, request.token, paged=request.paged))
        pager.received(request, len(ids), ids, token)
        if pager.estimate is not None:
            estimates.append(pager.estimate)
    assert estimates[-1] == 5000
    assert all(2500 < estimate < 10_000 for estimate in estimates[20:])


def test_pages_of_shards_that_are_not_done_do_not_swell_the_estimate() -> None:
    pager = Pager(Query(per_page=10))
    pager.received(pager.next_request(), 10, ["a"] * 10, "1.x")  # type: ignore[arg-type]
    asked = [pager.next_request() for _ in range(8)]
    for request in asked[:4]:
        pager.received(request, 10, [], None)  # type: ignore[arg-type]
    for request in asked[4:]:
        ids = [f"{request.shard}{n:03d}" for n in range(10)]  # type: ignore[union-attr]
        pager.received(request, 10, ids, f"{request.shard}999")  # type: ignore[arg-type, union-attr]
    assert pager.rows == 80
    assert pager.estimate == 10 * 256


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 120),
    per_page=st.integers(1, 30),
    start=st.sampled_from([1, 95, 990, 9_990]),
    text=st.booleans(),
    prefix=st.sampled_from([None, "0a", "ff"]),
)
def test_any_table_on_any_server_is_walked_whole(
    count: int, per_page: int, start: int, text: bool, prefix: str | None
) -> None:
    rows = [(start + n // 2, identity) for n, identity in enumerate(uuids(count, seed=count))]
    got, _ = walk(Server(rows, text_compare=text), Query(per_page=per_page, prefix=prefix))
    assert set(got) == {identity for _, identity in rows if identity.startswith(prefix or "")}


@settings(max_examples=30, deadline=None)
@given(data=st.data(), per_page=st.integers(1, 5))
def test_rows_that_stay_are_found_while_others_come_and_go(data: st.DataObject, per_page: int) -> None:
    identities = uuids(80, seed=4)
    stay, leave, come = identities[:40], identities[40:60], identities[60:]
    server = Server([(n, identity) for n, identity in enumerate(stay + leave)], text_compare=True)

    def change() -> None:
        if leave and data.draw(st.booleans()):
            gone = leave.pop()
            server.rows = [row for row in server.rows if row[1] != gone]
        if come and data.draw(st.booleans()):
            server.rows = [*server.rows, (1000 + len(come), come.pop())]

    got, _ = walk(server, Query(per_page=per_page), between=change)
    assert set(stay) <= set(got)


class Looping(Server):
    """A server whose paging inside a prefix is broken in one way."""

    def __init__(self, how: str) -> None:
        super().__init__([(n, identity) for n, identity in enumerate(uuids(900))], text_compare=True)
        self.how = how

    def page(self, params: dict[str, str]) -> tuple[list[str], str | None]:
        ids, token = super().page(params)
        if "prefix" not in params or "per_page" not in params or token is None:
            return ids, token
        first = ids[0]
        return {
            "empty page": ([], token),
            "same token": (ids, params.get("next_token", first)),
            "token goes back": (ids, params["prefix"] + "00"),
            "row twice": ([*ids, first], token),
        }[self.how]


@pytest.mark.parametrize("how", ["empty page", "same token", "token goes back", "row twice"])
def test_each_sign_of_a_loop_inside_a_prefix_is_met_by_asking_for_it_whole(how: str) -> None:
    server = Looping(how)
    got, pager = walk(server, Query(per_page=2))
    assert set(got) == {identity for _, identity in server.rows}
    assert pager.notes
    assert all("asked for again in one answer" in note for note in pager.notes)
