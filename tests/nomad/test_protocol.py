"""Nomad's rules: parameters, headers, errors, and the pager on every server."""

from __future__ import annotations

import random
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocframe import errors
from allocframe._utils.validate import check_count
from allocframe.errors import ConfigError
from allocframe.nomad import protocol
from allocframe.nomad.paging import SHARDS, Pager, PageRequest
from allocframe.nomad.protocol import Headers, Query


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prefix", "abc"), ("prefix", "zz"), ("prefix", ""), ("prefix", "a-b-c"), ("prefix", 5),
        ("per_page", 0), ("per_page", -1), ("per_page", True), ("per_page", "10"), ("per_page", 1.5),
        ("newest", 0), ("newest", False), ("filter", " "), ("namespace", ""), ("namespace", 5),
        ("task_states", 1), ("stale", "false"),
    ],
)  # fmt: skip
def test_bad_parameters_are_refused_before_anything_is_sent(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"\A{name}\b"):
        Query(**{name: value})  # type: ignore[arg-type]


def test_only_the_texts_that_every_server_understands_are_sent() -> None:
    assert Query().params() == {"task_states": "true", "per_page": "1000"}
    sent = Query(
        task_states=False,
        resources=True,
        stale=True,
        namespace="*",
        region="eu",
        filter="a == b",
        prefix="AB-cd",
    ).params()
    assert sent == {
        "task_states": "false", "resources": "true", "stale": "true", "namespace": "*", "region": "eu",
        "filter": "a == b", "prefix": "ab-cd", "per_page": "1000",
    }  # fmt: skip
    assert Query(newest=5).params() == {"task_states": "true", "reverse": "true", "per_page": "5"}


@pytest.mark.parametrize("text", ["", "x", "5457f16d-0f87-8e6b-5e91-0c7da3a41eb", "../../v1/jobs", None, "a"])
def test_what_is_not_an_allocation_id_never_gets_into_a_path(text: str) -> None:
    if text and len(text) == 35:
        assert protocol.check_alloc_id(text) == (text, False)
    else:
        with pytest.raises(ConfigError):
            protocol.check_alloc_id(text)


@pytest.mark.parametrize(
    ("sent", "index"), [("12", 12), ("abc", None), (str(2**64), None), ("", None), ("-1", None)]
)
def test_headers_are_read_whatever_they_hold(sent: str, index: int | None) -> None:
    found = Headers.parse({"X-NOMAD-INDEX": sent, "x-nomad-knownleader": "false", "X-Nomad-Nexttoken": ""})
    assert found == Headers(index=index, known_leader=False)


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (403, "Permission denied", errors.PermissionDenied),
        (401, "Unauthorized", errors.PermissionDenied),
        (403, "Forbidden", errors.PermissionDenied),
        (404, "alloc not found", errors.NotFound),
        (500, 'Unknown allocation "x"', errors.NotFound),
        (404, "No path to node", errors.NodeUnreachable),
        (500, 'Unknown node "x"', errors.NodeUnreachable),
        (404, "resource not found", errors.Unsupported),
        (404, "", errors.Unsupported),
        (400, "failed to create result paginator: x", errors.BadRequest),
        (500, "alloc lookup failed: index error: UUID must be 36 characters", errors.BadRequest),
        (500, "No path to region", errors.BadRequest),
        (500, "1 error occurred:\n\t* Task not running\n\n", errors.Conflict),
        (500, "restart of an alloc that should not run", errors.Conflict),
        (500, "boom", errors.ApiError),
        (500, "rpc error: Permission denied", errors.PermissionDenied),
        (500, "ACL token not found", errors.PermissionDenied),
        (500, "acl token lookup failed: index error: UUID must be 36 characters", errors.PermissionDenied),
        (400, "rpc error: failed to parse signed token: compact JWS format", errors.PermissionDenied),
        (404, "allocation not found", errors.NotFound),
        (404, 'log entry for task "web" and log type "stdout" not found', errors.NotFound),
        (500, 'state for allocation "x" not found on client', errors.NotFound),
        (400, "No logs available", errors.Conflict),
        (500, "Could not find task runner for task: x", errors.BadRequest),
        (500, "Task not found", errors.BadRequest),
        (500, "task not found", errors.BadRequest),
        (400, 'unknown task name "x"', errors.BadRequest),
        (400, 'task "web" is not running.', errors.Conflict),
        (400, "exec not possible, client status of allocation 20a24a7f is complete", errors.Conflict),
        (500, "must provide task name", errors.BadRequest),
        (500, "Failed to parse filter", errors.BadRequest),
        (501, "alloc lookup failed", errors.ApiError),
        (429, "", errors.ApiError),
    ],
)
def test_errors_are_told_apart_by_their_text(status: int, text: str, kind: type[errors.ApiError]) -> None:
    error = protocol.error_for("GET", "/v1/allocations", status, text)
    assert type(error) is kind
    assert (error.status, error.text) == (status, text)
    assert str(status) in str(error)


@pytest.mark.parametrize(
    ("path", "needed"),
    [
        ("/v1/client/allocation/x/exec", "allows alloc-exec (and alloc-node-exec for raw_exec)"),
        ("/v1/client/fs/logs/x", "allows read-logs (or read-fs)"),
        ("/v1/allocation/x/stop", "allows alloc-lifecycle"),
        ("/v1/client/allocation/x/signal", "allows alloc-lifecycle"),
        ("/v1/client/allocation/x/restart", "allows alloc-lifecycle"),
        ("/v1/allocations", "allows read-job"),
        ("/v1/client/allocation/x/stats", "allows read-job"),
    ],
)
def test_a_refusal_names_the_capability_that_is_needed(path: str, needed: str) -> None:
    assert str(protocol.error_for("GET", path, 403, "Permission denied")).endswith(needed)


def test_an_error_of_too_many_connections_names_the_limit() -> None:
    assert "100 connections" in str(protocol.error_for("GET", "/v1/allocations", 429, ""))


WHOLE = "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7"


@pytest.mark.parametrize(
    "path",
    [
        protocol.LIST, "/v1/evaluations", "/v1/agent/self", "/v1/acl/token/self",
        f"/v1/acl/policy/{'a-Z0' * 32}", f"/v1/acl/role/{WHOLE}", f"/v1/allocation/{WHOLE}",
        f"/v1/client/fs/logs/{WHOLE}", f"/v1/client/allocation/{WHOLE}/stats",
    ],
)  # fmt: skip
def test_these_calls_read(path: str) -> None:
    assert protocol.is_read(path) is True
    assert protocol.is_read(f"{path}/") is False
    assert protocol.is_read(f"/x{path}") is False


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/client/allocation/{WHOLE}/restart", f"/v1/client/allocation/{WHOLE}/gc",
        f"/v1/client/allocation/{WHOLE}/exec", f"/v1/allocation/{WHOLE}/stop", "/v1/allocation/x",
        f"/v1/acl/policy/{'a' * 129}", "/v1/acl/policy/", "/v1/acl/policy/a/b",
        f"/v1/allocation/{WHOLE[:-1]}", f"/v1/allocation/{WHOLE}0", f"/v1/acl/role/{WHOLE}0",
        f"/v1/client/fs/logs/{WHOLE}0", f"/v1/client/allocation/{WHOLE}0/stats",
        f"/v1/client/allocation/{WHOLE[1:]}/stats", f"/v1/client/fs/logs/{WHOLE[1:]}",
        f"/v1/acl/role/{WHOLE[1:]}", "/v1/job/web", "",
    ],
)  # fmt: skip
def test_these_calls_do_not_read_or_are_not_known_to(path: str) -> None:
    assert protocol.is_read(path) is False


def test_what_is_checked_comes_back() -> None:
    assert check_count("n", 5) == 5
    assert check_count("n", 1) == 1
    assert protocol.check_prefix("AB") == "ab"
    assert protocol.check_prefix("ab-cd") == "ab-cd"
    assert protocol.check_alloc_id(f" {WHOLE.upper()} ") == (WHOLE, True)
    assert protocol.check_alloc_id("54") == ("54", False)
    assert protocol.check_alloc_id(WHOLE.replace("-", "")) == (WHOLE, True)
    assert protocol.check_alloc_id(WHOLE.replace("-", "")[:14]) == (WHOLE[:16], False)
    assert protocol.even_head("ab") == "ab"
    assert protocol.even_head("abc") == "ab"
    assert protocol.even_head("abcdef01-2") == "abcdef01-"
    assert protocol.even_head("abcdef01-23") == "abcdef01-23"


@pytest.mark.parametrize(
    "text", [f"{WHOLE}0", f"{WHOLE[:-1]}g", WHOLE.replace("-", "_"), "5", "x" * 20, "a" * 36, "", " ", 5]
)
def test_what_only_looks_like_an_id_is_none(text: object) -> None:
    with pytest.raises(ConfigError, match="must be a UUID"):
        protocol.check_alloc_id(text)  # type: ignore[arg-type]


def test_every_header_is_read() -> None:
    sent = {
        "X-Nomad-Index": "18446744073709551615",
        "X-Nomad-LastContact": "0",
        "X-Nomad-KnownLeader": "true",
        "X-Nomad-NextToken": "t",
    }
    assert Headers.parse(sent) == Headers(index=2**64 - 1, last_contact=0, known_leader=True, next_token="t")
    assert Headers.parse({}) == Headers()
    assert Headers.parse({"X-Nomad-KnownLeader": "yes", "X-Nomad-Index": "1" * 21}) == Headers()


def test_the_paths_of_these_lists_are_nomads() -> None:
    assert (protocol.LIST, protocol.REGIONS) == ("/v1/allocations", "/v1/regions")


def test_shards_are_all_starts_of_two_digits() -> None:
    assert [int(shard, 16) for shard in SHARDS] == list(range(256))
    assert {len(shard) for shard in SHARDS} == {2}


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
            index = max((index for index, _ in server.rows), default=0)
            ids, token = server.page(pager.params(request))
            got += ids
            pager.received(request, ids, token, index=index, size=6000 * len(ids))
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
    pager = Pager(Query(per_page=10))
    while not pager.done:
        request = pager.next_request()
        assert request is not None
        ids, token = server.page(pager.params(request))
        pager.received(request, ids, token)
        if pager.estimate is not None:
            estimates.append(pager.estimate)
    assert estimates[-1] == 5000
    assert all(2500 < estimate < 10_000 for estimate in estimates[20:])


def test_pages_of_shards_that_are_not_done_do_not_swell_the_estimate() -> None:
    pager = Pager(Query(per_page=10))
    pager.received(pager.next_request(), ["a"] * 10, "1.x")  # type: ignore[arg-type]
    pager.received(pager.next_request(), some(10), None)  # type: ignore[arg-type]
    asked = [pager.next_request() for _ in range(7)]
    for request in asked[:3]:
        pager.received(request, some(10), None)  # type: ignore[arg-type]
    for request in asked[3:]:
        ids = [f"{request.shard}{n:03d}" for n in range(10)]  # type: ignore[union-attr]
        pager.received(request, ids, f"{request.shard}999")  # type: ignore[arg-type, union-attr]
    assert pager.rows == 80
    assert pager.estimate == 10 * 256


@settings(max_examples=40)
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


@settings(max_examples=30)
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
    assert all("fetched again in one response" in note for note in pager.notes)


def some(count: int) -> list[str]:
    return [f"{number:04d}" for number in range(count)]


def asked(pager: Pager) -> PageRequest:
    request = pager.next_request()
    assert request is not None
    return request


def test_a_walk_of_one_page_is_done_when_it_has_come() -> None:
    pager = Pager(Query())
    assert (pager.done, pager.estimate, pager.sharded) == (False, None, False)
    request = asked(pager)
    assert request == PageRequest()
    assert pager.next_request() is None
    assert not pager.done, "it is on its way"
    pager.received(request, ["a", "b", "c"], None)
    assert (pager.done, pager.estimate, pager.rows) == (True, 3, 3)


def test_the_newest_are_asked_for_once_whatever_token_follows() -> None:
    pager = Pager(Query(newest=2))
    pager.received(asked(pager), ["a", "b"], "1.x")
    assert (pager.done, pager.rows, pager.notes) == (True, 2, [])


def test_the_first_page_of_a_walk_that_is_split_counts_for_nothing_and_shards_come_in_order() -> None:
    pager = Pager(Query(per_page=2))
    pager.received(asked(pager), ["a", "b"], "1.x")
    assert (pager.rows, pager.sharded, pager.estimate) == (0, False, None)
    first = asked(pager)
    assert first.shard == "00"
    assert pager.next_request() is None, "it tells how many there are"
    pager.received(first, some(2), None)
    assert (pager.rows, pager.sharded, pager.estimate) == (2, True, None)
    assert [asked(pager).shard for _ in range(255)] == list(SHARDS[1:])
    assert pager.next_request() is None


@pytest.mark.parametrize(
    ("count", "requests"), [(1, 1), (1000, 1), (1001, 3), (2500, 3), (4999, 4), (20_000, 257)]
)
def test_small_lists_take_few_requests_and_no_row_comes_twice_if_they_are_followed(
    count: int, requests: int
) -> None:
    server = Server([(5000 + n, identity) for n, identity in enumerate(uuids(count))], text_compare=True)
    server.rows = [(index + 100_000, identity) for index, identity in server.rows]
    got, pager = walk(server, Query())
    assert server.requests == requests
    assert len(set(got)) == count
    # The first shard only tells how many there are, and of a list that is split the first page comes again.
    assert len(got) - count <= (1000 if pager.sharded else count / 100)


@pytest.mark.parametrize("start", [990, 980, 9970])
@pytest.mark.parametrize("per_page", [None, 20])
def test_a_list_whose_indexes_gain_a_digit_is_fetched_whole(start: int, per_page: int | None) -> None:
    rows = [(start + n, identity) for n, identity in enumerate(uuids(60 if per_page else 2000))]
    server = Server(rows, text_compare=True)
    got, pager = walk(server, Query(per_page=per_page))
    assert set(got) == {identity for _, identity in rows}
    assert pager.rows == len(rows)


def test_rows_that_leave_at_the_token_of_an_unsplit_list_hide_no_others() -> None:
    rows = [(100 + n, identity) for n, identity in enumerate(uuids(50))]
    server = Server(rows, text_compare=True)

    def remove_the_next() -> None:
        server.rows = [row for row in server.rows if row[0] not in (110, 120, 130)]

    got, _ = walk(server, Query(per_page=10), between=remove_the_next)
    assert {identity for index, identity in rows if index not in (110, 120, 130)} <= set(got)


def test_an_estimate_is_made_from_the_fourth_shard_on() -> None:
    pager = Pager(Query(per_page=2))
    pager.received(asked(pager), ["a", "b"], "1.x")
    estimates = []
    for _ in range(5):
        pager.received(asked(pager), some(2), None)
        estimates.append(pager.estimate)
    assert estimates == [None, None, None, 512, 512]


def test_every_page_of_a_shard_counts_for_the_estimate() -> None:
    pager = Pager(Query(per_page=2))
    pager.received(asked(pager), ["a", "b"], "1.x")
    for _ in range(4):
        first = asked(pager)
        pager.received(first, [f"{first.shard}1", f"{first.shard}2"], f"{first.shard}3")
        pager.received(asked(pager), some(1), None)
    assert (pager.rows, pager.estimate) == (12, 3 * 256)


def test_a_token_after_an_answer_that_was_not_paged_is_overlooked_and_told() -> None:
    pager = Pager(Query(per_page=2, prefix="ab"))
    pager.received(asked(pager), [], "ab5")
    whole = asked(pager)
    assert whole == PageRequest(None, None, paged=False)
    pager.received(whole, some(7), "ab5")
    assert (pager.done, pager.rows) == (True, 7)
    assert pager.notes == [
        "prefix ab: an empty page with a next token; fetched again in one response",
        "prefix ab: ignored a next token in an unpaged response",
    ]


@pytest.mark.parametrize(
    ("ids", "token", "sign"),
    [
        (["ab1", "ab2"], "ab3", None),
        ([], "ab3", "an empty page with a next token"),
        (["ab1", "ab2"], "ab2", "a repeated next token"),
        (["ab1", "ab2"], "ab1", "a repeated next token"),
        (["ab2", "ab2"], "ab3", "an allocation on two pages"),
        (["ab1", "ab4"], "ab3", "a next token that goes back"),
    ],
)
def test_each_sign_of_a_loop_on_a_first_page(ids: list[str], token: str, sign: str | None) -> None:
    pager = Pager(Query(per_page=2, prefix="ab"))
    pager.received(asked(pager), ids, token)
    assert pager.notes == ([f"prefix ab: {sign}; fetched again in one response"] if sign else [])
    assert asked(pager) == PageRequest(None, None if sign else token, paged=not sign)
    assert pager.rows == (0 if sign else 2)


@pytest.mark.parametrize(
    ("ids", "token", "sign"),
    [
        (["ab3", "ab4"], "ab5", None),
        (["ab3", "ab4"], "ab3", "a repeated next token"),
        (["ab4", "ab5"], "ab1", "a repeated next token"),
        (["ab1", "ab4"], "ab5", "an allocation on two pages"),
    ],
)
def test_each_sign_of_a_loop_on_a_second_page(ids: list[str], token: str, sign: str | None) -> None:
    pager = Pager(Query(per_page=2, prefix="ab"))
    pager.received(asked(pager), ["ab1", "ab2"], "ab3")
    second = asked(pager)
    assert second == PageRequest(None, "ab3")
    pager.received(second, ids, token)
    assert pager.notes == ([f"prefix ab: {sign}; fetched again in one response"] if sign else [])
    assert asked(pager).paged is not bool(sign)


def test_a_note_about_a_shard_names_it() -> None:
    pager = Pager(Query(per_page=2))
    pager.received(asked(pager), ["a", "b"], "1.x")
    pager.received(asked(pager), [], "005")
    assert pager.notes == ["prefix 00: an empty page with a next token; fetched again in one response"]


@pytest.mark.parametrize("made", [Query(), Headers(), PageRequest()])
def test_what_was_checked_cannot_be_changed_afterwards(made: object) -> None:
    with pytest.raises(FrozenInstanceError):
        made.prefix = "zz"  # type: ignore[attr-defined]
