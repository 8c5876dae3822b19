"""The simulated HTTP API: filters, blocking queries, permissions, and access from outside."""

from __future__ import annotations

import threading
import time
from typing import Any

import httpx
import pytest

from allocframe import sim
from allocframe.sim.api.filter import FilterSelectorError, FilterSyntaxError, parse

ROW: dict[str, Any] = {
    "JobID": "web", "Restarts": 3, "Failed": True, "Tags": ["a", "b"], "Empty": [],
    "TaskStates": {
        "web": {"State": "dead", "Failed": True},
        "log/ger": {"State": "running", "Failed": False},
    },
    "Job": {"Meta": {"owner": "x y"}, "Priority": 50},
}  # fmt: skip


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ('JobID == "web"', True), ("JobID == web", True), ("JobID==`web`", True), ('JobID != "web"', False),
        ("Restarts == 3", True), ("Restarts != 3", False), ("Failed == true", True),
        ("Failed == false", False),
        ('JobID matches "^w"', True), ('JobID not matches "^w"', False), ('JobID contains "eb"', True),
        ('Tags contains "a"', True), ('"a" in Tags', True), ('"c" not in Tags', True),
        ('Tags not contains "c"', True),
        ("Empty is empty", True), ("Tags is empty", False), ("Tags is not empty", True),
        ("JobID is not empty", True),
        ('JobID == "web" and Restarts == 4', False), ('JobID == "web" or Restarts == 4', True),
        ('not JobID == "web"', False), ('not (JobID == "x" or Restarts == 4)', True),
        ('JobID == "x" or JobID == "web" and Restarts == 3', True),
        ("TaskStates.web.Failed == true", True), ('TaskStates["log/ger"].State == "running"', True),
        ('"/Job/Meta/owner" == "x y"', True), ('Job.Meta.owner == "x y"', True),
        ('"web" in TaskStates', True),
        ('TaskStates.nope.State == "dead"', False), ('TaskStates.nope.State != "dead"', True),
        ('Job.Meta.nope is empty', True), ('( JobID == "web" )', True), ('JobID == "we\\"b"', False),
    ],
)  # fmt: skip
def test_filter_expressions_match_as_in_nomad(expression: str, expected: bool) -> None:
    assert parse(expression)(ROW.__getitem__) is expected


@pytest.mark.parametrize(
    "expression", ["JobID", "", "==", "JobID ==", 'JobID == "x" and', "JobID < 3", "(JobID == x", "a b c"]
)
def test_an_invalid_expression_is_refused_with_what_was_expected(expression: str) -> None:
    with pytest.raises(FilterSyntaxError, match=r"^1:\d+ \(\d+\): no match found, expected: "):
        parse(expression)


def test_a_field_that_does_not_exist_is_refused() -> None:
    with pytest.raises(FilterSelectorError, match='struct field with name "Nope"'):
        parse("Nope == 1")(ROW.__getitem__)


@pytest.fixture(scope="module")
def cluster() -> Any:
    with sim.Cluster("calm", allocations=30, seed=1) as cluster:
        yield cluster


ROUTES = [
    "/v1/allocations", "/v1/allocation/00000000-0000-0000-0000-000000000000", "/v1/jobs", "/v1/nodes",
    "/v1/evaluations", "/v1/deployments", "/v1/agent/self", "/v1/acl/policy/sim-policy",
]  # fmt: skip


@pytest.mark.parametrize("path", ROUTES)
def test_requests_without_a_token_or_from_another_host_or_origin_are_refused(
    cluster: sim.Cluster, path: str
) -> None:
    with httpx.Client(base_url=cluster.address, headers={"X-Nomad-Token": cluster.token}) as http:
        anonymous = http.get(path, headers={"X-Nomad-Token": ""})
        assert (anonymous.status_code, anonymous.text) in [
            (403, "Permission denied"),
            (404, "alloc not found"),
        ]
        assert http.get(path, headers={"X-Nomad-Token": "wrong"}).status_code == 403
        assert http.get(path, headers={"Host": "evil.example"}).status_code == 403
        assert http.get(path, headers={"Host": "127.0.0.1"}).status_code == 403
        assert http.get(path, headers={"Origin": "http://evil.example"}).status_code == 403
        answer = http.get(path, headers={"Origin": cluster.address})
        assert answer.status_code in (200, 404)
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_server_listens_on_this_machine_only(cluster: sim.Cluster) -> None:
    assert cluster._socket.getsockname()[0] == "127.0.0.1"


def test_a_blocking_query_returns_when_something_changes(cluster: sim.Cluster) -> None:
    with httpx.Client(base_url=cluster.address, headers={"X-Nomad-Token": cluster.token}, timeout=30) as http:
        index = int(http.get("/v1/allocations").headers["X-Nomad-Index"])
        assert cluster.engine is not None
        threading.Timer(0.2, cluster.engine.drain, [cluster.engine.live()[0].node]).start()
        answer = http.get("/v1/allocations", params={"index": index, "wait": "25s", "namespace": "*"})
        assert int(answer.headers["X-Nomad-Index"]) > index


def test_a_blocking_query_ends_at_its_wait(cluster: sim.Cluster) -> None:
    with httpx.Client(base_url=cluster.address, headers={"X-Nomad-Token": cluster.token}, timeout=30) as http:
        started = time.monotonic()
        answer = http.get("/v1/allocations", params={"index": 10**9, "wait": "200ms"})
        assert answer.status_code == 200
        assert time.monotonic() - started >= 0.2
        assert http.get("/v1/allocations", params={"index": -1}).text == "Invalid index"
        assert http.get("/v1/allocations", params={"index": 1, "wait": "5"}).text == "Invalid wait time"


def test_the_plain_walk_of_1_3_1_loops_and_that_of_2_0_5_ends() -> None:
    for version, loops in (("1.3.1", True), ("2.0.5", False)):
        with (
            sim.Cluster("calm", allocations=400, seed=1, version=version, acl=False) as cluster,
            httpx.Client(base_url=cluster.address) as http,
        ):
            seen: set[str] = set()
            token, tokens = "", set()
            for _ in range(200):
                params = {
                    "namespace": "*",
                    "per_page": "5",
                    "task_states": "false",
                    **({"next_token": token} if token else {}),
                }
                answer = http.get("/v1/allocations", params=params)
                seen |= {row["ID"] for row in answer.json()}
                token = answer.headers.get("X-Nomad-Nexttoken", "")
                if not token or token in tokens:
                    break
                tokens.add(token)
            assert bool(token) == loops
            assert (len(seen) < len(cluster.state.allocs)) == loops


@pytest.mark.parametrize("version", ["1.3.1", "2.0.5"])
def test_a_token_can_read_itself_and_its_own_policy_only(version: str) -> None:
    def get(cluster: sim.Cluster, path: str, token: str) -> tuple[int, Any]:
        answer = httpx.get(cluster.address + path, headers={"X-Nomad-Token": token} if token else {})
        return answer.status_code, answer.json() if answer.status_code == 200 else answer.text

    old = version == "1.3.1"
    me = "/v1/acl/token/self"
    with sim.Cluster("calm", allocations=10, seed=1, version=version) as cluster:
        reader, other = cluster.add_token(["default"]), cluster.add_token(["ops"], lifecycle=True)
        status, mine = get(cluster, me, reader)
        assert (status, mine["SecretID"], mine["Type"], "Roles" in mine) == (200, reader, "client", not old)
        assert mine["AccessorID"] not in (reader, "")
        policy = f"/v1/acl/policy/{mine['Policies'][0]}"
        (space,) = get(cluster, policy, reader)[1]["RulesJSON"]["Namespaces"]
        assert space["Name"] == "default"
        assert "read-job" in space["Capabilities"]
        assert "alloc-lifecycle" not in space["Capabilities"]
        assert get(cluster, policy, other) == (403, "Permission denied")
        assert get(cluster, policy, cluster.token)[0] == 200
        assert get(cluster, "/v1/acl/policy/nope", cluster.token) == (404, "ACL policy not found")
        assert get(cluster, "/v1/acl/policy/anonymous", "") == (404, "ACL policy not found")
        assert get(cluster, me, cluster.token)[1]["Type"] == "management"
        unknown = "00000000-0000-0000-0000-000000000000"
        missing = "ACL token not found"
        assert get(cluster, me, unknown) == ((404, missing) if old else (403, "Permission denied"))
        assert get(cluster, policy, unknown) == (403, missing if old else "Permission denied")
        assert get(cluster, me, "")[0] == (500 if old else 200)
    with sim.Cluster("calm", allocations=10, seed=1, version=version, acl=False) as open_to_all:
        status, answer = get(open_to_all, me, "")
        assert answer == "ACL support disabled" if old else answer["AccessorID"] == "acls-disabled"
        assert get(open_to_all, "/v1/acl/policy/x", "") == (400, "ACL support disabled")
