"""Responses of simulated nodes match those of real agents."""

from __future__ import annotations

import base64
import json
from typing import Any

import flatten
import httpx
import pytest

from allocframe import sim


@pytest.fixture(scope="module", params=flatten.VERSIONS)
def simulated(request: pytest.FixtureRequest) -> Any:
    with (
        sim.Cluster("artifact_outage", allocations=60, seed=9, version=request.param, acl=False) as cluster,
        httpx.Client(base_url=cluster.address) as http,
    ):
        yield cluster, http


def exchanges(version: str, part: str) -> list[dict[str, Any]]:
    return [e for e in flatten.recorded(version, "client-reads") if part in e["request"]["path"]]


def started(cluster: sim.Cluster, *, ever: bool = True) -> tuple[str, str]:
    """Return an allocation and one of its tasks that has started, or that never has."""
    for alloc in cluster.state.allocs.values():
        for name, state in alloc.tasks.items():
            if bool(state.started_at) == ever and alloc.node.status != "down":
                return alloc.id, name
    raise AssertionError("no such task")


def replay(cluster: sim.Cluster, http: httpx.Client, exchange: dict[str, Any]) -> tuple[httpx.Response, Any]:
    """Send a recorded request for an allocation of the simulated cluster.

    Return the response and the expected text.
    """
    path, text = exchange["request"]["path"], exchange.get("text", "")
    theirs = next(
        (part.partition("?")[0] for part in path.split("/") if len(part.partition("?")[0]) == 36), ""
    )
    identity, task = started(cluster, ever="not started" not in text)
    if "00000000" not in theirs:
        path = path.replace(theirs, identity) if theirs else path
        path, text = path.replace("task=t&", f"task={task}&"), text.replace('task "t"', f'task "{task}"')
    return http.get(path), text


def test_failed_log_requests_have_the_recorded_status_text_and_type(simulated: Any) -> None:
    cluster, http = simulated
    compared = 0
    for exchange in exchanges(cluster.version, "/fs/logs/"):
        if exchange["status"] != 200:
            answer, text = replay(cluster, http, exchange)
            assert (answer.status_code, answer.text) == (exchange["status"], text), exchange["request"][
                "path"
            ]
            assert answer.headers["content-type"] == exchange["headers"]["Content-Type"], text
            compared += 1
    assert compared == 10


def test_logs_come_in_frames_like_recorded_ones(simulated: Any) -> None:
    cluster, http = simulated
    for exchange in exchanges(cluster.version, "/fs/logs/"):
        if exchange["status"] == 200 and "origin=end" in exchange["request"]["path"]:
            answer, _ = replay(cluster, http, exchange)
            expected, frame = json.loads(exchange["text"]), json.loads(answer.text)
            assert frame.keys() == expected.keys()
            assert answer.headers["content-type"] == exchange["headers"]["Content-Type"]
            assert len(base64.b64decode(frame["Data"])) <= len(base64.b64decode(expected["Data"])) == 200
            assert frame["File"].startswith("alloc/logs/")
            assert frame["Offset"] >= len(base64.b64decode(frame["Data"]))


def test_plain_logs_are_the_last_bytes_as_text_as_recorded(simulated: Any) -> None:
    cluster, http = simulated
    recorded = flatten.recorded(cluster.version, "alloc-logs")[0]
    identity, task = started(cluster)
    query = recorded["request"]["path"].partition("?")[2].replace("task=server", f"task={task}")
    answer = http.get(f"/v1/client/fs/logs/{identity}?{query}")
    assert answer.status_code == recorded["status"]
    assert answer.headers["content-type"] == recorded["headers"]["Content-Type"]
    assert len(answer.content) == len(recorded["text"]) == 120
    everything = http.get(
        f"/v1/client/fs/logs/{identity}", params={"task": task, "type": "stdout", "plain": "true"}
    )
    assert everything.content.endswith(answer.content)


def test_frames_of_a_long_log_number_their_bytes_as_real_nodes_do() -> None:
    from allocframe.sim.api.logs import framed

    frames = framed(b"x" * 163516, "t.stdout.3", 885008).decode().replace("}{", "}\n{").splitlines()
    offsets = [json.loads(frame)["Offset"] for frame in frames]
    assert offsets == [950544, 1016080, 1081616], "as an agent of 1.3.1 sent them"
