"""Responses of the simulated cluster match those of real agents: status, text, keys and types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import changed
import flatten
import httpx
import pytest

from allocframe import sim

LISTS = [
    "list-all",
    "list-prefix",
    "list-pages",
    "list-pages-reverse",
    "list-no-task-states",
    "list-resources",
]


@pytest.fixture(scope="module", params=flatten.VERSIONS)
def replay(request: pytest.FixtureRequest) -> Any:
    with (
        sim.Cluster.replay(flatten.DATA / f"nomad-{request.param}", version=request.param) as cluster,
        httpx.Client(base_url=cluster.address) as http,
    ):
        yield request.param, http


@pytest.fixture(scope="module", params=flatten.VERSIONS)
def simulated(request: pytest.FixtureRequest) -> Any:
    with (
        sim.Cluster("mixed", allocations=150, seed=9, version=request.param, acl=False) as cluster,
        httpx.Client(base_url=cluster.address) as http,
    ):
        yield request.param, http


def send(http: httpx.Client, exchange: dict[str, Any]) -> httpx.Response:
    request = exchange["request"]
    return http.request(request["method"], request["path"])


@pytest.mark.parametrize("name", ["errors"])
def test_failed_reads_have_the_recorded_status_and_text(replay: Any, name: str) -> None:
    version, http = replay
    compared = 0
    for exchange in flatten.recorded(version, name):
        path = exchange["request"]["path"]
        if exchange["request"]["method"] != "GET" or exchange["status"] == 200 or "/v1/client/" in path:
            continue
        answer = send(http, exchange)
        assert (answer.status_code, answer.text) == (exchange["status"], exchange["text"]), unquote(path)
        assert answer.headers["content-type"].startswith("text/plain")
        assert ("x-nomad-index" in answer.headers) == ("X-Nomad-Index" in exchange["headers"])
        compared += 1
    assert compared >= 8


def test_a_wrong_method_is_refused_as_recorded(replay: Any) -> None:
    version, http = replay
    exchange = next(e for e in flatten.recorded(version, "errors") if e["request"]["method"] == "DELETE")
    answer = send(http, exchange)
    assert (answer.status_code, answer.text) == (exchange["status"], exchange["text"])


def test_odd_page_sizes_and_tokens_give_what_was_recorded(replay: Any) -> None:
    version, http = replay
    for exchange in flatten.recorded(version, "errors"):
        path = exchange["request"]["path"]
        if (
            exchange["status"] == 200
            and path.startswith("/v1/allocations")
            and exchange["request"]["method"] == "GET"
        ):
            answer = send(http, exchange)
            assert answer.status_code == 200, path
            if "per_page=x" not in path:
                assert bool(answer.json()) == bool(exchange["json"]), path
            assert ("x-nomad-nexttoken" in answer.headers) == ("X-Nomad-Nexttoken" in exchange["headers"]), (
                path
            )


def test_the_recorded_list_comes_back_row_for_row(replay: Any) -> None:
    version, http = replay
    exchange = flatten.recorded(version, "list-all")[0]
    rows = {row["ID"]: row for row in send(http, exchange).json()}
    newest = {row["ID"]: row for row in exchange["json"]}
    assert newest.keys() <= rows.keys()
    for identity, row in newest.items():
        if rows[identity]["ModifyIndex"] == row["ModifyIndex"]:
            assert rows[identity] == row


@pytest.mark.parametrize("version", flatten.VERSIONS)
@pytest.mark.parametrize("name", ["list-pages", "list-pages-reverse"])
def test_the_recorded_pages_come_back_in_order_with_their_tokens(version: str, name: str) -> None:
    """Only the rows of one walk are served, because the recorded cluster changed between walks."""
    exchanges = flatten.recorded(version, name)
    rows = [row for exchange in exchanges for row in exchange["json"]]
    named = {f"{row['CreateIndex']}.{row['ID']}" for row in rows}
    compared = 0
    with sim.Cluster.replay(rows, version=version) as cluster, httpx.Client(base_url=cluster.address) as http:
        for exchange in exchanges:
            answer = send(http, exchange)
            assert [row["ID"] for row in answer.json()] == [row["ID"] for row in exchange["json"]]
            token = exchange["headers"].get("X-Nomad-Nexttoken")
            if token is None or token in named:  # the recording of 1.3.1 stops where its walk looped
                assert answer.headers.get("x-nomad-nexttoken") == token
                compared += 1
    assert compared >= len(exchanges) - 1


@pytest.mark.parametrize(
    "name",
    [
        "alloc-web-frontend-running", "alloc-flaky-g-failed", "alloc-batchok-g-complete",
        "alloc-setupfail-artifact-failed", "alloc-setupfail-driverr-failed", "alloc-setupfail-nocmd-failed",
    ],
)  # fmt: skip
def test_recorded_reads_come_back_unchanged(replay: Any, name: str) -> None:
    version, http = replay
    exchange = flatten.recorded(version, name)[0]
    answer = send(http, exchange)
    assert answer.json() == exchange["json"]
    assert answer.headers["x-nomad-index"] == exchange["headers"]["X-Nomad-Index"]


def kinds(value: Any) -> str:
    return {bool: "bool", int: "number", float: "number", str: "text", type(None): "null"}.get(
        type(value), "nested"
    )


def compare(actual: dict[str, Any], expected: dict[str, Any], where: str) -> None:
    """Compare the keys of two objects, and the types of values that are not null."""
    assert actual.keys() == expected.keys(), where
    for key, value in expected.items():
        types = {kinds(value), kinds(actual[key])} - {"null"}
        assert len(types) <= 1, f"{where}.{key}: {types}"


def test_simulated_rows_have_the_keys_and_types_of_recorded_ones(simulated: Any) -> None:
    version, http = simulated
    recorded = {row["ID"]: row for row in flatten.recorded_rows(version)}
    expected = next(row for row in recorded.values() if row["DeploymentStatus"] and row["TaskStates"])
    state = next(iter(expected["TaskStates"].values()))
    tracked = next(row for row in recorded.values() if row["RescheduleTracker"])
    rows = http.get("/v1/allocations", params={"namespace": "*"}).json()
    for row in rows:
        compare(row, expected, "allocation")
        if row["DeploymentStatus"]:
            compare(row["DeploymentStatus"], expected["DeploymentStatus"], "DeploymentStatus")
        if row["RescheduleTracker"]:
            event = tracked["RescheduleTracker"]["Events"][0]
            compare(row["RescheduleTracker"]["Events"][0], event, "RescheduleTracker")
        for task in (row["TaskStates"] or {}).values():
            compare(task, state, "TaskState")
            for event in task["Events"]:
                compare(event, state["Events"][0], "TaskEvent")


def test_simulated_events_have_the_details_of_recorded_ones_of_their_type(simulated: Any) -> None:
    version, http = simulated
    details: dict[str, set[str]] = {}
    for row in flatten.recorded_rows(version):
        for task in row["TaskStates"].values():
            for event in task["Events"]:
                details.setdefault(event["Type"], set()).update(event["Details"] or {})
    seen = set()
    for row in http.get("/v1/allocations", params={"namespace": "*"}).json():
        for task in (row["TaskStates"] or {}).values():
            for event in task["Events"]:
                seen.add(event["Type"])
                if event["Type"] in details:
                    assert set(event["Details"]) <= details[event["Type"]] | {"exit_message"}
    assert {"Received", "Started", "Terminated", "Restarting", "Not Restarting"} <= seen


@pytest.mark.parametrize(
    ("path", "name"), [("/v1/nodes", "nodes"), ("/v1/jobs", "jobs"), ("/v1/deployments", "deployments")]
)
def test_simulated_nodes_jobs_and_deployments_have_the_keys_of_recorded_ones(
    simulated: Any, path: str, name: str
) -> None:
    version, http = simulated
    expected = flatten.recorded_rows(version, name)[0]
    for row in http.get(path, params={"namespace": "*"}).json():
        compare(row, expected, name)


def test_simulated_job_versions_have_the_keys_and_types_of_recorded_ones(simulated: Any) -> None:
    version, http = simulated
    expected = changed.answers(version, "changes-job-versions")[0]
    spec, diff = expected["Versions"][0], expected["Diffs"][0]
    compared = 0
    for job in http.get("/v1/jobs", params={"namespace": "*"}).json():
        params = {"namespace": job["Namespace"], "diffs": "true"}
        answer = http.get(f"/v1/job/{job['ID']}/versions", params=params).json()
        assert answer.keys() == expected.keys()
        for made in answer["Versions"]:
            compare(made, spec, "Job")
            for group in made["TaskGroups"]:
                compare(group, spec["TaskGroups"][0], "TaskGroup")
                for task in group["Tasks"]:
                    compare(task, spec["TaskGroups"][0]["Tasks"][0], "Task")
        for made in answer["Diffs"] or []:
            compare(made, diff, "Diff")
            compare(made["TaskGroups"][0], diff["TaskGroups"][0], "TaskGroupDiff")
            compare(made["TaskGroups"][0]["Tasks"][0], diff["TaskGroups"][0]["Tasks"][0], "TaskDiff")
            assert changed.nomads_fields(made)
            compared += 1
    assert compared > 0
    with_diffs = http.get(f"/v1/job/{job['ID']}/versions", params={"namespace": job["Namespace"]}).json()
    assert with_diffs["Diffs"] is None


def test_simulated_nodes_read_in_full_have_the_keys_and_events_of_recorded_ones(simulated: Any) -> None:
    version, http = simulated
    expected = changed.node(version)
    messages = set()
    for stub in http.get("/v1/nodes").json():
        made = http.get(f"/v1/node/{stub['ID']}").json()
        compare(made, expected, "Node")
        for event in made["Events"]:
            compare(event, expected["Events"][1], "NodeEvent")
            messages.add(event["Message"])
    assert "Node registered" in messages


def test_unknown_jobs_have_no_versions_as_recorded(simulated: Any) -> None:
    version, http = simulated
    exchange = json.loads(changed.read(version, "changes-job-versions.json"))[-1]
    answer = send(http, exchange)
    assert (answer.status_code, answer.text) == (exchange["status"], exchange["text"])
    assert ("x-nomad-index" in answer.headers) == ("X-Nomad-Index" in exchange["headers"])


@pytest.mark.parametrize("version", changed.VERSIONS)
def test_recorded_versions_and_nodes_come_back_unchanged(version: str, tmp_path: Path) -> None:
    for name in ("changes-job-versions", "changes-nodes"):
        (tmp_path / f"{name}.json").write_bytes(changed.read(version, f"{name}.json"))
    with (
        sim.Cluster.replay(tmp_path, version=version) as cluster,
        httpx.Client(base_url=cluster.address) as http,
    ):
        node = changed.node(version)
        assert http.get(f"/v1/node/{node['ID']}").json() == node
        for specs in changed.jobs(version):
            answer = http.get(f"/v1/job/{specs[0]['ID']}/versions").json()
            assert answer["Versions"] == specs


def test_simulated_evaluations_have_the_keys_and_types_of_recorded_ones(simulated: Any) -> None:
    version, http = simulated
    placed = [r for r in flatten.recorded_rows(version, "evaluations") if not r.get("FailedTGAllocs")]
    expected = {name: value for row in placed for name, value in row.items()}
    always = set.intersection(*(set(row) for row in placed))
    for row in http.get("/v1/evaluations", params={"namespace": "*"}).json():
        assert always <= row.keys() <= expected.keys()
        assert {name: type(value) for name, value in row.items()} == {n: type(expected[n]) for n in row}
        for group in row.get("PlanAnnotations", {}).get("DesiredTGUpdates", {}).values():
            assert group.keys() == next(iter(expected["PlanAnnotations"]["DesiredTGUpdates"].values())).keys()


def test_full_reads_have_no_key_that_recorded_ones_lack(simulated: Any) -> None:
    version, http = simulated
    recorded_keys: set[str] = set()
    for file in (flatten.DATA / f"nomad-{version}").glob("alloc-*.json"):
        body = flatten.recorded(version, file.stem)[0].get("json")
        recorded_keys |= body.keys() if body and "ID" in body else set()
    recorded_keys |= {"PreviousAllocation"}  # no replaced allocation was recorded in full
    for row in http.get("/v1/allocations", params={"namespace": "*", "per_page": "40"}).json():
        assert http.get(f"/v1/allocation/{row['ID']}").json().keys() <= recorded_keys


def test_reads_without_a_good_token_are_refused_as_recorded() -> None:
    with (
        sim.Cluster("calm", allocations=12, seed=1, version="2.0.5") as cluster,
        httpx.Client(base_url=cluster.address) as http,
    ):
        mine = next(iter(cluster.state.allocs))
        for exchange in flatten.recorded("2.0.5", "errors-acl"):
            request = exchange["request"]
            theirs = next((part for part in request["path"].split("/") if len(part) == 36), mine)
            if request["method"] == "GET":
                token = {"X-Nomad-Token": "no-such-token"} if request.get("token") else {}
                answer = http.get(request["path"].replace(theirs, mine), headers=token)
                expected = (exchange["status"], exchange["text"].replace(theirs, mine))
                assert (answer.status_code, answer.text) == expected
