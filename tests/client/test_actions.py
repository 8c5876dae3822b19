"""Stop, signal and restart: what they do, what they refuse, and that none is ever repeated by itself."""

from __future__ import annotations

import copy
import re
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import flatten
import httpx
import pytest
from faultserver import FaultServer, any_json, good, http, reset, serving
from services import services

import allocframe as af
from allocframe import sim
from allocframe.nomad import actions, transport
from allocframe.sim.cluster.alloc import Alloc

ID = "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7"


@pytest.fixture(params=flatten.VERSIONS)
def cluster(request: pytest.FixtureRequest) -> Iterator[sim.Cluster]:
    with sim.Cluster("calm", allocations=90, seed=4, version=request.param) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: sim.Cluster) -> Iterator[af.Client]:
    with af.Client(cluster.address, token=cluster.token) as client:
        yield client


@pytest.fixture
def alloc(cluster: sim.Cluster) -> Alloc:
    """A running allocation of a service with two tasks."""
    return services(cluster)[0]


def kinds(alloc: Alloc, task: str) -> list[str]:
    return [kind for kind, _, _ in alloc.tasks[task].events]


def test_a_stop_stops_the_allocation_and_its_job_places_another(
    cluster: sim.Cluster, client: af.Client, alloc: Alloc
) -> None:
    done = client.stop(alloc.id)
    assert done.index == cluster.state.evals[done.eval_id].create_index
    snap = client.snapshot(namespace="*")
    rows = snap.allocations.set_index("alloc_id")
    assert rows.loc[alloc.id, ["client_status", "desired_status"]].tolist() == ["complete", "stop"]
    new = cluster.state.allocs[alloc.next]
    assert (new.name, new.client_status, new.eval_id) == (alloc.name, "running", done.eval_id)
    stops = af.stats.explain_stops(snap, client.evaluations(namespace="*")).set_index("alloc_id")
    assert stops.loc[alloc.id, "stop_reason"] == "stopped by operator"


def test_a_stop_of_what_has_ended_says_so_and_sends_nothing(
    cluster: sim.Cluster, client: af.Client, alloc: Alloc
) -> None:
    client.stop(alloc.id)
    evaluations = len(cluster.state.evals)
    with pytest.raises(af.Conflict, match=r"stop: it has already ended \(complete\). Nothing was sent"):
        client.stop(alloc.id, no_shutdown_delay=True)
    assert len(cluster.state.evals) == evaluations


def test_reschedule_is_refused_where_the_server_would_overlook_it(
    cluster: sim.Cluster, client: af.Client, alloc: Alloc
) -> None:
    if cluster.version == "1.3.1":
        with pytest.raises(af.Unsupported, match=r"Nomad 1\.3\.1 ignores reschedule=True\..* needs 1\.11\.0"):
            client.stop(alloc.id, reschedule=True)
        assert alloc.desired_status == "run"
    else:
        client.stop(alloc.id, reschedule=True)
        assert alloc.next


def test_a_start_of_an_id_is_enough_to_act(cluster: sim.Cluster, client: af.Client, alloc: Alloc) -> None:
    client.signal(alloc.id[:12], "HUP", task="server")
    assert kinds(alloc, "server")[-1] == "Signaling"
    with pytest.raises(af.NotFound, match=r"no allocation starts with '00000000'\. It was removed"):
        client.stop("00000000")


@pytest.mark.parametrize("name", ["SIGUSR1", "usr1", signal.SIGUSR1])
def test_a_signal_reaches_one_task_or_all(client: af.Client, alloc: Alloc, name: Any) -> None:
    client.signal(alloc.id, name, task="server")
    assert (kinds(alloc, "server")[-1], kinds(alloc, "log-shipper")[-1]) == ("Signaling", "Started")
    client.signal(alloc.id, name)
    assert kinds(alloc, "log-shipper")[-1] == "Signaling"
    event = client.allocation(alloc.id).events.query("type == 'Signaling'").iloc[0]
    assert event["task_signal"] == "SIGUSR1"


@pytest.mark.parametrize("name", ["SIGBOGUS", "", "9", "kill me"])
def test_a_signal_that_nobody_knows_is_refused_before_anything_is_sent(
    client: af.Client, alloc: Alloc, name: str
) -> None:
    before = client.counters["requests"]
    with pytest.raises(af.ConfigError, match="SIGHUP"):
        client.signal(alloc.id, name)
    assert client.counters["requests"] == before


def test_a_restart_restarts_one_task_or_all_that_run(client: af.Client, alloc: Alloc) -> None:
    client.restart(alloc.id, task="server")
    assert (alloc.tasks["server"].restarts, alloc.tasks["log-shipper"].restarts) == (1, 0)
    client.restart(alloc.id)
    assert (alloc.tasks["server"].restarts, alloc.tasks["log-shipper"].restarts) == (2, 1)
    causes = af.stats.explain_events(client.snapshot(namespace="*")).query(
        "type == 'Restarting' and alloc_id == @alloc.id"
    )["cause"]
    assert set(causes) == {"operator"}


def test_all_tasks_is_refused_where_the_server_would_overlook_it(
    cluster: sim.Cluster, client: af.Client, alloc: Alloc
) -> None:
    if cluster.version == "1.3.1":
        with pytest.raises(af.Unsupported, match=r"1\.3\.4"):
            client.restart(alloc.id, all_tasks=True)
        assert alloc.tasks["server"].restarts == 0
    else:
        client.restart(alloc.id, all_tasks=True)
        assert alloc.tasks["server"].restarts == 1
    with pytest.raises(af.ConfigError, match="must not be combined"):
        client.restart(alloc.id, task="server", all_tasks=True)


def test_what_cannot_be_done_is_an_error_with_nomads_words(
    client: af.Client, cluster: sim.Cluster, alloc: Alloc
) -> None:
    tasks = f"Its tasks are: {', '.join(sorted(alloc.tasks))}"
    with pytest.raises(af.BadRequest, match=f"Task not found. {tasks}"):
        client.signal(alloc.id, "SIGHUP", task="nope")
    with pytest.raises(af.BadRequest, match=f"Could not find task runner for task: nope. {tasks}"):
        client.restart(alloc.id, task="nope")
    with pytest.raises(af.BadRequest, match=f"task not found. {tasks}"):
        client.exec(alloc.id, ["true"], task="nope")
    with pytest.raises(af.BadRequest, match=f'unknown task name "nope". {tasks}'):
        client.logs(alloc.id, "nope")
    client.stop(alloc.id)
    with pytest.raises(af.Conflict, match=r"not running|should not run"):
        client.restart(alloc.id)
    for act in (lambda: client.stop(ID), lambda: client.signal(ID, "SIGHUP"), lambda: client.restart(ID)):
        with pytest.raises(af.NotFound):
            act()


def test_a_token_that_may_only_read_may_not_act(cluster: sim.Cluster, alloc: Alloc) -> None:
    with af.Client(cluster.address, token=cluster.add_token([alloc.namespace])) as reader:
        for act in (
            lambda: reader.stop(alloc.id),
            lambda: reader.signal(alloc.id, "SIGHUP"),
            lambda: reader.restart(alloc.id),
        ):
            with pytest.raises(af.PermissionDenied):
                act()
    assert alloc.desired_status == "run"
    with af.Client(cluster.address, token=cluster.add_token([alloc.namespace], lifecycle=True)) as operator:
        operator.restart(alloc.id)
    assert alloc.tasks["server"].restarts == 1


def test_a_read_only_client_sends_nothing_that_acts(cluster: sim.Cluster, alloc: Alloc) -> None:
    with af.Client(cluster.address, token=cluster.token, read_only=True) as reader:
        for act in (
            lambda: reader.stop(alloc.id),
            lambda: reader.signal(alloc.id, "SIGHUP"),
            lambda: reader.restart(alloc.id),
        ):
            with pytest.raises(af.AllocframeError, match="read-only"):
                act()
        assert reader.counters["requests"] == 0
        assert len(reader.snapshot(namespace="*"))


def test_not_even_by_get_can_a_restart_slip_through(client: af.Client, alloc: Alloc) -> None:
    with pytest.raises(af.AllocframeError, match="is not one of the read-only requests"):
        client._session.transport.get(f"/v1/client/allocation/{alloc.id}/restart", {})
    assert alloc.tasks["server"].restarts == 0


@pytest.mark.parametrize("version", flatten.VERSIONS)
@pytest.mark.parametrize("name", ["actions-signal", "actions-restart", "actions-on-complete"])
def test_the_simulated_cluster_answers_actions_as_recorded(version: str, name: str) -> None:
    """The recorded allocation had three tasks, of which `init` had ended; the simulated one has the same."""
    for exchange in flatten.recorded(version, name):
        request = exchange["request"]
        if request["method"] != "POST" or not request["path"].startswith("/v1/client"):
            continue
        with sim.Cluster("calm", allocations=20, seed=1, version=version, acl=False) as cluster:
            alloc = _like_recorded(cluster, exchange, complete="on-complete" in name)
            path = re.sub(r"[0-9a-f-]{36}", alloc.id, request["path"])
            answer = httpx.post(cluster.address + path, json=request["body"])
        assert answer.status_code == exchange["status"], request
        if exchange["status"] == 200:
            assert answer.json() == exchange["json"]
        else:
            assert sorted(answer.text.splitlines()) == sorted(exchange["text"].splitlines())


def _like_recorded(cluster: sim.Cluster, exchange: dict[str, Any], *, complete: bool) -> Alloc:
    """Return an allocation whose tasks have the names, and run or not, as the recorded answer tells."""
    alloc = next(
        a for a in cluster.state.allocs.values() if a.job.kind == "service" and a.client_status == "running"
    )
    text = exchange.get("text") or ""
    names = [name for name in ("boom", "init", "log-shipper", "server") if f"task: {name}," in text]
    body = exchange["request"]["body"] or {}
    if text == "Task not running":
        names = [body.get("Task") or body["TaskName"]]
    dead = max(len(names), text.count("* Task not running"))
    names = names + [f"dead-{n}" for n in range(dead - len(names))]
    alive = [] if complete else [n for n in ("server", "log-shipper") if n not in names]
    ended = names or ["init"]
    first = next(iter(alloc.tasks.values()))
    alloc.tasks = {name: copy.deepcopy(first) for name in [*alive, *ended]}
    for name in ended:
        alloc.tasks[name].state = "dead"
    if not text and not body.get("Task"):
        alloc.tasks = {name: state for name, state in alloc.tasks.items() if state.state == "running"}
    alloc.group = replace(
        alloc.group, tasks=tuple(replace(alloc.group.tasks[0], name=name) for name in alloc.tasks)
    )
    if complete:
        alloc.client_status = "complete"
    return alloc


# What happens on the way


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport.retry, "backoff", lambda attempt: 0.0)


def writes(server: FaultServer) -> int:
    return sum(raw.startswith(b"POST") for raw in server.raw)


RUNNING = any_json({"ID": ID, "ClientStatus": "running", "DesiredStatus": "run", "ModifyIndex": 76})
STANDING = any_json({"ID": ID, "ClientStatus": "running", "DesiredStatus": "stop", "ModifyIndex": 77})


def hang(connection: socket.socket) -> None:
    connection.recv(1)


@pytest.mark.parametrize(
    "lost",
    [
        reset,
        hang,
        http(b"", "502 Bad Gateway", length=0),
        http(
            b"leadership lost while committing log", "500 Internal Server Error", length=36, kind="text/plain"
        ),
        http(b"rpc error: EOF", "500 Internal Server Error", length=14, kind="text/plain"),
        http(b'{"EvalID"', length=50),
        good(b"<html>"),
        good(b"null"),
        good(b'{"error": "no route"}'),
        good(b'{"EvalID": "", "Index": 5}'),
        good(b"[]"),
    ],
    ids=["reset", "hang", "502", "leadership lost", "EOF", "cut", "html", "null", "error", "no ID", "list"],
)
def test_when_the_answer_is_lost_nothing_is_repeated_and_the_allocation_is_read_again(lost: Any) -> None:
    with serving(RUNNING, lost, STANDING) as server, af.Client(server.address, timeout=1.0) as client:
        with pytest.raises(af.ResultUnknown, match="desired stop, ModifyIndex 77"):
            client.stop(ID)
        assert writes(server) == 1


@pytest.mark.parametrize("answer", [b"null", b"{}", b'{"error": "no route"}', b'{"Index": "0"}', b"true"])
def test_a_restart_or_signal_counts_as_done_only_with_nomads_answer(answer: bytes) -> None:
    for act in (lambda c: c.restart(ID), lambda c: c.signal(ID, "SIGHUP")):
        with serving(good(answer), STANDING) as server, af.Client(server.address) as client:
            with pytest.raises(
                af.ResultUnknown, match=r"the answer is not Nomad's.*desired stop, ModifyIndex 77"
            ):
                act(client)
            assert writes(server) == 1


def test_a_change_that_was_surely_not_made_is_asked_for_again() -> None:
    text = b"No cluster leader"
    election = http(text, "500 Internal Server Error", length=len(text), kind="text/plain")
    busy = http(b"", "429 Too Many Requests", length=0)
    with (
        serving(RUNNING, election, busy, good(b'{"EvalID": "e", "Index": 5}')) as server,
        af.Client(server.address) as client,
    ):
        assert client.stop(ID) == actions.StopResult("e", 5)
        assert writes(server) == 3


def test_a_refused_connection_says_that_nothing_was_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    with (
        af.Client(f"http://127.0.0.1:{port}") as client,
        pytest.raises(af.ConnectionFailed, match="nothing was sent"),
    ):
        client.restart(ID)


def test_the_token_goes_with_a_change_in_its_header_and_into_no_error() -> None:
    with serving(http(b"Permission denied", "403 Forbidden", length=17, kind="text/plain")) as server:
        with (
            af.Client(server.address, token="canary-token") as client,
            pytest.raises(af.PermissionDenied) as caught,
        ):
            client.signal(ID, "SIGHUP")
        assert b"x-nomad-token: canary-token" in server.raw[0].lower()
        assert "canary" not in str(caught.value) + repr(vars(caught.value))
