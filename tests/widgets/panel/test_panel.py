"""The control panel without a front end. It does nothing without a fresh confirmation."""

from __future__ import annotations

import builtins
import html
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from faultserver import Answer, any_json, http, reset, serving
from services import services

import allocframe as af
from allocframe import sim
from allocframe.sim.api.params import Refusal
from allocframe.sim.cluster.alloc import Alloc
from allocframe.widgets.panel import confirmation, history, worker
from allocframe.widgets.panel import work as panel_module
from allocframe.widgets.panel.saved import saved_page

ID = "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7"


@pytest.fixture
def cluster() -> Iterator[sim.Cluster]:
    with sim.Cluster("calm", allocations=90, seed=4) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: sim.Cluster) -> Iterator[af.Client]:
    with af.Client(cluster.address, token=cluster.token) as client:
        yield client


@contextmanager
def shown(client: af.Client, **options: Any) -> Iterator[af.ControlPanel]:
    panel = af.ControlPanel(client, namespace="*", **options)
    try:
        panel.wait()
        yield panel
    finally:
        panel.close()


@pytest.fixture
def panel(client: af.Client) -> Iterator[af.ControlPanel]:
    with shown(client) as panel:
        yield panel


@pytest.fixture
def alloc(cluster: sim.Cluster) -> Alloc:
    """A running allocation of a service with two tasks."""
    return services(cluster)[0]


def ask(panel: af.ControlPanel, button: str, *alloc_ids: str) -> None:
    if alloc_ids:
        panel.choose(alloc_ids)
        panel.wait()
    panel.ask(button)
    panel.wait()


def confirm(panel: af.ControlPanel) -> None:
    panel.confirm()
    panel.wait()


def question(panel: af.ControlPanel) -> str:
    return panel.question


def say(panel: af.ControlPanel, kind: str, **content: Any) -> None:
    """Send a message as the page does."""
    panel.widget._handle_custom_msg({"type": kind, **content}, [])


def can_confirm(panel: af.ControlPanel) -> bool:
    asked = panel.widget.state["question"]
    return asked is not None and asked["left"] > 0 and asked["wait"] == 0


def disabled(panel: af.ControlPanel, action: str) -> str:
    """Return why the button of an action is off, "" if it is on."""
    return str(panel.widget.state["disabled"][action])


def results(panel: af.ControlPanel) -> str:
    return "\n".join(
        f"{each['outcome']} {each['detail']} {each['follow_up']}" for each in panel.widget.state["results"]
    )


def untouched(*allocs: Alloc) -> bool:
    kinds = {kind for a in allocs for state in a.tasks.values() for kind, _, _ in state.events}
    return all(a.desired_status == "run" for a in allocs) and not kinds & {"Signaling", "Restart Signaled"}


# Actions


def test_a_stop_is_described_confirmed_and_done_and_its_replacement_shown(
    cluster: sim.Cluster, panel: af.ControlPanel, alloc: Alloc
) -> None:
    index = alloc.modify_index
    ask(panel, "stop", alloc.id)
    assert f"Stop {alloc.name} (on {alloc.node.name}, running)" in question(panel)
    assert "A new allocation replaces it" in question(panel)
    assert untouched(alloc)
    confirm(panel)
    assert alloc.desired_status == "stop"
    new = cluster.state.allocs[alloc.next]
    row = panel.log.iloc[0]
    assert row[["action", "alloc_id", "name", "job_id"]].tolist() == [
        "stop",
        alloc.id,
        alloc.name,
        alloc.job.id,
    ]
    assert row[["namespace", "node_name"]].tolist() == [alloc.namespace, alloc.node.name]
    assert row[["modify_index", "result"]].tolist() == [index, "done"]
    assert row["replacement_id"] == new.id
    assert f"replaced by {new.id[:8]} on {new.node.name}, running" in results(panel)
    assert new.name in panel.rows.set_index("alloc_id").at[new.id, "name"]
    assert panel.log["outcome"].iloc[0].startswith("replaced by")


def test_a_restart_reaches_the_chosen_tasks(panel: af.ControlPanel, alloc: Alloc) -> None:
    ask(panel, "restart", alloc.id)
    assert "Restart log-shipper, server of" in question(panel)
    confirm(panel)
    assert [alloc.tasks[name].restarts for name in ("server", "log-shipper")] == [1, 1]
    say(panel, "tasks", scope="task", task="server")
    ask(panel, "restart")
    confirm(panel)
    say(panel, "tasks", scope="all", task="")
    ask(panel, "restart")
    confirm(panel)
    assert [alloc.tasks[name].restarts for name in ("server", "log-shipper")] == [3, 2]
    assert panel.log["tasks"].tolist() == ["running", "server", "all"]
    assert panel.log["result"].tolist() == ["done"] * 3


def test_a_signal_has_no_default_and_reaches_each_running_task(panel: af.ControlPanel, alloc: Alloc) -> None:
    assert panel.widget.state["signal"] == ""
    alloc.tasks["log-shipper"].state = "dead"
    ask(panel, "signal", alloc.id)
    assert "no signal is chosen" in question(panel)
    assert disabled(panel, "signal")
    say(panel, "signal", signal="SIGHUP")
    assert not disabled(panel, "signal")
    ask(panel, "signal")
    confirm(panel)
    assert panel.log["result"].tolist() == ["done"]
    assert [alloc.tasks[name].events[-1][0] for name in ("server", "log-shipper")] == ["Signaling", "Started"]


def test_several_at_once_each_with_its_result(cluster: sim.Cluster, panel: af.ControlPanel) -> None:
    allocs = services(cluster)[:3]
    ask(panel, "restart", *(alloc.id for alloc in allocs))
    confirm(panel)
    assert sorted(panel.log["alloc_id"]) == sorted(alloc.id for alloc in allocs)
    assert all(alloc.tasks["server"].restarts == 1 for alloc in allocs)


def test_the_audit_log_has_the_job_and_index_that_the_panel_read(
    panel: af.ControlPanel, client: af.Client, alloc: Alloc
) -> None:
    index = alloc.modify_index
    ask(panel, "restart", alloc.id)
    confirm(panel)
    client.restart(alloc.id)
    log = af.read_audit()
    assert log["via"].tolist() == ["ControlPanel", "client"]
    assert log[["job_id", "namespace", "modify_index"]].iloc[0].tolist() == [
        alloc.job.id,
        alloc.namespace,
        index,
    ]
    assert log["job_id"].isna().tolist() == [False, True]


def test_a_dry_run_does_everything_but_send(panel: af.ControlPanel, client: af.Client, alloc: Alloc) -> None:
    say(panel, "dry run", on=True)
    ask(panel, "stop", alloc.id)
    assert "Dry run" in question(panel)
    confirm(panel)
    assert untouched(alloc)
    assert panel.log[["action", "result"]].to_numpy().tolist() == [["stop", "dry run"]]
    assert f"POST /v1/allocation/{alloc.id}/stop was not sent" in panel.log["message"].iloc[0]
    assert af.read_audit()["result"].tolist() == ["dry run"]


def test_ended_allocations_are_left_out_of_the_question(cluster: sim.Cluster, panel: af.ControlPanel) -> None:
    one, two = services(cluster)[:2]
    panel.choose([one.id, two.id])
    one.client_status = "complete"
    ask(panel, "stop")
    assert f"Stop {two.name}" in question(panel)
    assert f"Not {one.name}: it is complete already" in question(panel)
    two.desired_status = "stop"
    ask(panel, "stop")
    assert "There is nothing to do" in question(panel)
    assert not can_confirm(panel)
    confirm(panel)
    assert len(panel.log) == 0


# Nothing happens without a fresh confirmation


def test_a_second_click_is_ignored_and_says_nothing(
    cluster: sim.Cluster, panel: af.ControlPanel, alloc: Alloc
) -> None:
    panel.choose([alloc.id])
    for _ in range(2):  # a double click on Stop asks once
        say(panel, "ask", action="stop")
    panel.wait()
    number = panel.widget.state["question"]["number"]
    assert number == 1
    assert untouched(alloc)
    evals = len(cluster.state.evals)
    for _ in range(2):
        say(panel, "confirm", number=number)
    assert "Nothing was done" not in question(panel)
    panel.wait()
    say(panel, "confirm", number=number)
    panel.wait()
    assert len(cluster.state.evals) == evals + 1
    assert len(panel.log) == 1
    assert "Nothing was done" not in question(panel)


def test_a_click_is_for_the_question_that_was_on_the_page(
    cluster: sim.Cluster, panel: af.ControlPanel
) -> None:
    one, two = services(cluster)[:2]
    ask(panel, "stop", one.id)
    number = panel.widget.state["question"]["number"]
    ask(panel, "stop", two.id)
    say(panel, "confirm", number=number)
    panel.wait()
    assert untouched(one, two)


def test_a_click_on_confirm_before_anything_was_asked_does_nothing(
    panel: af.ControlPanel, alloc: Alloc
) -> None:
    panel.choose([alloc.id])
    assert not can_confirm(panel)
    confirm(panel)
    assert "there is nothing to confirm" in question(panel)
    assert untouched(alloc)


def test_a_late_confirmation_does_nothing(
    panel: af.ControlPanel, alloc: Alloc, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(panel, "stop", alloc.id)
    clock = panel._confirmations._clock
    monkeypatch.setattr(panel._confirmations, "_clock", lambda: clock() + confirmation.CONFIRM_TIMEOUT)
    confirm(panel)
    assert untouched(alloc)
    assert len(panel.log) == 0
    assert not can_confirm(panel)


def test_a_question_without_an_answer_expires(
    panel: af.ControlPanel, alloc: Alloc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confirmation, "CONFIRM_TIMEOUT", 0.3)
    ask(panel, "stop", alloc.id)
    until(lambda: "not given in time" in question(panel))
    assert not can_confirm(panel)
    assert panel._confirmations.pending is None


@pytest.mark.parametrize("change", ["choice", "more", "task", "signal", "dry run", "cancel"])
def test_a_question_is_withdrawn_when_the_choice_changes(
    cluster: sim.Cluster, panel: af.ControlPanel, change: str
) -> None:
    one, two = services(cluster)[:2]
    ask(panel, "restart", one.id)
    assert can_confirm(panel)
    changed: dict[str, Callable[[], object]] = {
        "choice": lambda: panel.choose([two.id]),
        "more": lambda: panel.choose([one.id, two.id]),
        "task": lambda: say(panel, "tasks", scope="task", task="server"),
        "signal": lambda: say(panel, "signal", signal="SIGKILL"),
        "dry run": lambda: say(panel, "dry run", on=True),
        "cancel": panel.cancel,
    }
    changed[change]()
    assert not can_confirm(panel)
    confirm(panel)
    assert untouched(one, two)


def test_a_question_is_not_asked_if_the_choice_changes_before(
    cluster: sim.Cluster, panel: af.ControlPanel
) -> None:
    one, two = services(cluster)[:2]
    panel.choose([one.id])
    panel.wait()
    with cluster.state.changed:  # while this is held, the cluster does not answer
        panel.ask("stop")
        panel.choose([two.id])
    panel.wait()
    assert panel._confirmations.pending is None
    confirm(panel)
    assert untouched(one, two)


def test_a_changed_allocation_is_left_alone_and_the_question_repeated(
    cluster: sim.Cluster, panel: af.ControlPanel, alloc: Alloc, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster.engine is not None
    monkeypatch.setattr(confirmation, "REPEAT_DELAY", 60.0)
    ask(panel, "restart", alloc.id)
    cluster.engine.touch(alloc)
    confirm(panel)
    assert untouched(alloc)
    assert panel.log["result"].tolist() == ["changed"]
    assert "has changed since you looked" in question(panel)
    assert f"ModifyIndex: {panel.log['modify_index'].iloc[0]} → {alloc.modify_index}" in question(panel)
    assert len(af.read_audit()) == 0
    confirm(panel)  # the second of two clicks
    assert untouched(alloc)
    monkeypatch.setattr(confirmation, "REPEAT_DELAY", 0.0)
    ask(panel, "restart")
    confirm(panel)
    assert panel.log["result"].tolist() == ["changed", "done"]


def test_a_replaced_allocation_is_left_alone(
    cluster: sim.Cluster, client: af.Client, panel: af.ControlPanel, alloc: Alloc
) -> None:
    ask(panel, "stop", alloc.id)
    client.stop(alloc.id)
    evals = len(cluster.state.evals)
    confirm(panel)
    assert len(cluster.state.evals) == evals
    assert cluster.state.allocs[alloc.next].desired_status == "run"
    assert panel.log["result"].tolist() == ["changed"]
    assert "status: running → complete; desired status: run → stop" in panel.log["message"].iloc[0]
    assert "There is nothing to do" in question(panel)


def test_a_removed_allocation_is_reported(cluster: sim.Cluster, panel: af.ControlPanel, alloc: Alloc) -> None:
    ask(panel, "stop", alloc.id)
    assert cluster.engine is not None
    cluster.engine._remove(alloc)
    confirm(panel)
    assert panel.log["result"].tolist() == ["failed"]
    assert "nothing was done, because it could not be read" in panel.log["message"].iloc[0]
    panel.refresh()
    panel.wait()
    assert alloc.id not in panel.chosen


def test_forged_messages_do_nothing(panel: af.ControlPanel, alloc: Alloc) -> None:
    forged: list[Any] = [
        None, [], "confirm", {}, {"type": "stop"}, {"type": "choose"}, {"type": "choose", "ids": alloc.id},
        {"type": "choose", "ids": [1]}, {"type": "choose", "ids": ["x" * 2000]},
        {"type": "choose", "ids": ["x"] * 20_001}, {"type": "details", "id": 7},
        {"type": "ask", "action": "purge"},
        {"type": "confirm"}, {"type": "confirm", "number": True}, {"type": "confirm", "number": -1},
        {"type": "confirm", "number": "1"}, {"type": "dry run", "on": 1},
        {"type": "signal", "signal": "SIGBANG"},
        {"type": "tasks", "scope": "task", "task": "nope"}, {"type": "tasks", "scope": "every", "task": ""},
        {"type": "ping"}, {"type": "auto"},
    ]  # fmt: skip
    for content in forged:
        panel.widget._handle_custom_msg(content, [])
    assert panel.ignored == len(forged)
    say(panel, "choose", ids=[ID, "../../v1/jobs"])
    say(panel, "details", id=ID)
    assert panel.chosen == ()
    for action in ("stop", "restart", "signal", "exec"):
        say(panel, "ask", action=action)
    for number in (0, 1, 2):
        say(panel, "confirm", number=number)
    panel.wait()
    with pytest.raises(af.ConfigError, match="must be in the panel's table"):
        panel.choose([ID])
    with pytest.raises(af.ConfigError, match="action must be"):
        panel.ask("purge")
    assert len(panel.log) == 0
    assert untouched(alloc)
    assert len(af.read_audit()) == 0


# Permissions


def test_a_read_only_client_gets_no_actions(cluster: sim.Cluster, alloc: Alloc) -> None:
    with af.Client(cluster.address, token=cluster.token, read_only=True) as reader, shown(reader) as panel:
        assert "read-only" in panel.widget.heading
        for name in ("stop", "restart", "signal", "exec"):
            ask(panel, name, alloc.id)
            assert disabled(panel, name) == "this client is read-only"
            assert "read-only" in question(panel)
            confirm(panel)
    assert untouched(alloc)


@pytest.mark.parametrize("version", ["1.3.1", "2.0.5"])
def test_a_token_without_the_capability_gets_no_actions_and_a_reason(version: str) -> None:
    with sim.Cluster("calm", allocations=90, seed=4, version=version) as cluster:
        alloc = services(cluster)[0]
        tokens = {
            lifecycle: cluster.add_token([alloc.namespace], lifecycle=lifecycle)
            for lifecycle in (False, True)
        }
        with af.Client(cluster.address, token=tokens[False]) as reader, shown(reader) as panel:
            ask(panel, "stop", alloc.id)
            assert (
                disabled(panel, "stop") == f"the token lacks alloc-lifecycle in namespace {alloc.namespace}"
            )
            assert disabled(panel, "exec") == f"the token lacks alloc-exec in namespace {alloc.namespace}"
            confirm(panel)
            assert untouched(alloc)
        with af.Client(cluster.address, token=tokens[True]) as operator, shown(operator) as panel:
            ask(panel, "restart", alloc.id)
            assert "lacks" not in disabled(panel, "restart")
            confirm(panel)
        assert alloc.tasks["server"].restarts == 1


def test_if_the_capabilities_cannot_be_read_nomads_refusal_is_shown(
    cluster: sim.Cluster, alloc: Alloc, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(token: str, name: str) -> None:
        raise Refusal(403, "Permission denied")

    monkeypatch.setattr(cluster._access, "policy", refuse)
    token = cluster.add_token([alloc.namespace])
    with af.Client(cluster.address, token=token) as reader, shown(reader) as panel:
        ask(panel, "stop", alloc.id)
        assert not disabled(panel, "stop")
        confirm(panel)
        assert panel.log["result"].tolist() == ["refused"]
        assert "Permission denied" in results(panel)
    assert untouched(alloc)


def test_more_than_the_limit_is_refused(cluster: sim.Cluster, panel: af.ControlPanel) -> None:
    ids = [a.id for a in cluster.state.allocs.values() if a.client_status == "running"][:11]
    ask(panel, "stop", *ids)
    assert disabled(panel, "stop")
    assert "11 allocations are chosen, the limit is 10" in question(panel)
    panel.limit = 11
    ask(panel, "restart")
    confirm(panel)
    assert len(panel.log) == 11
    for wrong in (0, -1, True, "ten"):
        with pytest.raises(af.ConfigError, match="limit must be"):
            af.ControlPanel(panel._client, limit=wrong)  # type: ignore[arg-type]


def test_exec_into_a_raw_exec_task_needs_one_more_right(
    cluster: sim.Cluster, alloc: Alloc, monkeypatch: pytest.MonkeyPatch
) -> None:
    from allocframe.nomad.acl import Rights

    rights = Rights(None, complete=True, granted={alloc.namespace: frozenset({"read-job", "alloc-exec"})})
    with af.Client(cluster.address, token=cluster.token) as client:
        monkeypatch.setattr(type(client._session), "rights", lambda session: rights)
        with shown(client) as panel:
            panel.choose([alloc.id])
            panel.wait()
            say(panel, "tasks", scope="task", task="server")
            assert disabled(panel, "exec") == ""
            read = panel._allocs[alloc.id]
            panel._allocs[alloc.id] = replace(
                read, drivers=(("server", "raw_exec"), ("log-shipper", "docker"))
            )
            panel._render()
            assert (
                disabled(panel, "exec") == f"the token lacks alloc-node-exec in namespace {alloc.namespace}"
            )


# What came of it


def test_a_restart_says_when_its_tasks_run_again(panel: af.ControlPanel, alloc: Alloc) -> None:
    ask(panel, "restart", alloc.id)
    confirm(panel)
    assert re.search(r"restarted, running again after [\d.]+ s", panel.log["outcome"].iloc[0])


def test_a_restart_that_does_not_come_back_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "OUTCOME_TIMEOUT", 0.0)
    with scripted(any_json({"Index": 8})) as (_, panel):
        ask(panel, "restart", ID)
        confirm(panel)
        assert panel.log["result"].tolist() == ["done"]
        assert "not seen running again within 0 s: server is running" in results(panel)


def test_a_signal_says_what_became_of_the_tasks(
    panel: af.ControlPanel, alloc: Alloc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "SIGNAL_WATCH", 0.0)
    say(panel, "signal", signal="SIGHUP")
    ask(panel, "signal", alloc.id)
    confirm(panel)
    assert "log-shipper runs on, server runs on" in results(panel)


def test_a_hung_server_can_be_given_up_and_the_panel_goes_on(
    cluster: sim.Cluster, panel: af.ControlPanel, alloc: Alloc
) -> None:
    ask(panel, "restart", alloc.id)
    with cluster.state.changed:  # every request to the cluster waits
        panel.confirm()
        until(lambda: panel._worker.doing is not None and panel._worker.doing[0] == "the restart")
        assert panel.widget.state["busy"]["what"] == "the restart"
        say(panel, "give up")
        assert "No longer waiting" in question(panel)
        assert "may still happen" in question(panel)
        assert not panel._executing
        panel.choose([])
        panel.wait(30)  # a new thread works while the old one still hangs
    until(lambda: len(panel.log) == 1)
    assert panel.log["result"].tolist() == ["done"]  # it was sent, so its result is reported


def test_giving_up_leaves_the_allocations_alone_that_come_after(
    cluster: sim.Cluster, panel: af.ControlPanel
) -> None:
    allocs = services(cluster)[:3]
    ask(panel, "restart", *(alloc.id for alloc in allocs))
    with cluster.state.changed:
        panel.confirm()
        until(lambda: panel._worker.doing is not None and panel._worker.doing[0] == "the restart")
        panel.give_up()
    until(lambda: "2 of the allocations were not touched" in question(panel))
    assert sum(alloc.tasks["server"].restarts for alloc in allocs) == 1


# The page


def test_a_page_that_comes_later_gets_all_rows_and_the_question_as_it_stands(
    panel: af.ControlPanel, alloc: Alloc
) -> None:
    ask(panel, "stop", alloc.id)
    sent: list[Any] = []
    panel.widget.send = lambda content, buffers=None: sent.append(content)
    say(panel, "hello")
    assert sent[-1]["type"] == "rows"
    assert set(sent[-1]["rows"]["id"]) == set(panel.rows["alloc_id"])
    assert 0 < panel.widget.state["question"]["left"] <= confirmation.CONFIRM_TIMEOUT
    say(panel, "ping", number=5)
    assert sent[-1] == {"type": "pong", "number": 5}


def test_details_explain_events_and_show_log_lines_usage_and_the_chain(
    cluster: sim.Cluster, panel: af.ControlPanel, client: af.Client, alloc: Alloc
) -> None:
    client.stop(alloc.id)
    panel.refresh()
    panel.wait()
    say(panel, "details", id=alloc.next)
    panel.wait()
    details = panel.widget.state["details"]
    assert ["allocation", alloc.next] in details["facts"]
    assert details["chain"] == [f"it replaced {alloc.id[:8]}"]
    assert {row[0] for row in details["tasks"]} == {"server", "log-shipper"}
    assert "Started" in {row[2] for row in details["events"]}
    assert {task for task, _ in details["logs"]} == {"server", "log-shipper"}
    assert "MiB" in details["usage"][0][1]
    assert details["reading"] == ""
    say(panel, "details", id=alloc.id)
    panel.wait()
    assert panel.widget.state["details"]["chain"] == [f"it was replaced by {alloc.next[:8]}"]
    say(panel, "details", id="")
    assert panel.widget.state["details"] is None


def test_a_saved_notebook_shows_what_was_done(
    cluster: sim.Cluster, panel: af.ControlPanel, alloc: Alloc, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Nothing was done." in saved_page("x", panel.log)
    ask(panel, "restart", alloc.id)
    confirm(panel)
    page = saved_page("x", panel.log)
    for text in ("restart", alloc.id[:8], html.escape(alloc.name), "running again after"):
        assert text in page
    # what the cell keeps names no cluster
    displayed: list[Any] = []
    monkeypatch.setattr(panel._saved, "display", displayed.append)
    panel._ipython_display_()
    [bundle] = displayed
    assert bundle["text/plain"] == "ControlPanel: run the cell to use it."
    assert cluster.address not in json.dumps(bundle)


# Errors


@contextmanager
def scripted(*answers: Answer, tasks: tuple[str, ...] = ("server",)) -> Iterator[tuple[Any, af.ControlPanel]]:
    """Show a panel of a server that gives these answers to POST requests. Reads succeed."""
    remaining = list(answers)
    row = {
        "ID": ID, "Namespace": "default", "Name": "web.app[0]", "JobID": "web", "NodeName": "node-1",
        "ClientStatus": "running", "DesiredStatus": "run", "ModifyIndex": 7, "CreateIndex": 1,
        "TaskStates": {name: {"State": "running"} for name in tasks},
    }  # fmt: skip

    def answer(connection: socket.socket) -> None:
        request = server.raw[-1]
        if request.startswith(b"POST"):
            response = remaining.pop(0)
        elif b"GET /v1/allocations" in request:
            response = any_json([row])
        else:
            response = any_json(row)
        response(connection) if callable(response) else connection.sendall(response)

    with serving(answer) as server, af.Client(server.address, timeout=2.0) as client, shown(client) as panel:
        yield server, panel


def test_a_lost_answer_is_reported_as_unknown_and_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "OUTCOME_TIMEOUT", 0.0)
    with scripted(reset) as (server, panel):
        ask(panel, "stop", ID)
        confirm(panel)
        assert panel.log["result"].tolist() == ["unknown"]
        assert "ModifyIndex 7" in panel.log["message"].iloc[0]
        assert sum(raw.startswith(b"POST") for raw in server.raw) == 1
        assert "no replacement within" in results(panel)
    assert af.read_audit()["result"].tolist() == ["unknown"]


def test_that_the_outcome_cannot_be_read_is_told_when_its_time_is_over() -> None:
    def fail(*_: Any) -> bool:
        raise af.AllocframeError("nothing answers")

    entry, client = SimpleNamespace(follow_up=""), SimpleNamespace()
    assert not history._look(client, entry, fail, expired=False)  # type: ignore[arg-type]
    assert entry.follow_up == ""
    assert not history._look(client, entry, fail, expired=True)  # type: ignore[arg-type]
    assert entry.follow_up == "what came of it could not be read: nothing answers"


def test_after_a_refusal_no_other_task_is_signalled() -> None:
    refused = http(b"Task not running", "500 Internal Server Error", length=16, kind="text/plain")
    with scripted(any_json({"Index": 0}), refused, tasks=("a", "b", "c")) as (server, panel):
        say(panel, "signal", signal="SIGHUP")
        ask(panel, "signal", ID)
        confirm(panel)
        assert panel.log["result"].tolist() == ["refused"]
        assert panel.log["message"].iloc[0].startswith("done for a; then for b: ")
        assert sum(raw.startswith(b"POST") for raw in server.raw) == 2


def test_if_the_audit_log_cannot_be_written_nothing_is_done(
    panel: af.ControlPanel, alloc: Alloc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLOCFRAME_AUDIT", "/dev/full")
    for dry_run in (True, False):
        say(panel, "dry run", on=dry_run)
        ask(panel, "stop", alloc.id)
        confirm(panel)
    assert panel.log["result"].tolist() == ["failed", "failed"]
    assert "Set ALLOCFRAME_AUDIT" in results(panel)
    assert untouched(alloc)


def test_if_the_cluster_goes_away_the_list_stays_with_an_error(
    cluster: sim.Cluster, panel: af.ControlPanel
) -> None:
    before = panel.rows
    cluster.close()
    panel.refresh()
    panel.wait()
    assert "could not be fetched" in panel.widget.state["error"]
    assert panel.rows.equals(before)


def test_an_error_in_the_panel_itself_is_shown_and_it_keeps_working(
    panel: af.ControlPanel, alloc: Alloc, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(panel_module, "execute", lambda *arguments: 1 / 0)
        ask(panel, "restart", alloc.id)
        confirm(panel)
        assert "ZeroDivisionError" in question(panel)
    ask(panel, "restart")
    confirm(panel)
    assert panel.log["result"].tolist() == ["done"]


def test_the_kernel_stays_free_while_the_cluster_does_not_answer(
    cluster: sim.Cluster, panel: af.ControlPanel, alloc: Alloc
) -> None:
    ask(panel, "restart", alloc.id)
    with cluster.state.changed:  # every request to the cluster waits
        started = time.monotonic()
        panel.confirm()
        panel.refresh()
        panel.choose([])
        assert time.monotonic() - started < 5.0
        with pytest.raises(TimeoutError, match="still busy"):
            panel.wait(0.05)
        assert alloc.tasks["server"].restarts == 0
    panel.wait()
    assert alloc.tasks["server"].restarts == 1


def test_callbacks_can_come_on_many_threads(cluster: sim.Cluster, panel: af.ControlPanel) -> None:
    allocs = services(cluster)[:6]

    def click(a: Alloc) -> None:
        for _ in range(5):
            with suppress(af.ConfigError):
                panel.choose([a.id])
            panel.ask("restart")
            panel.confirm()
            panel.cancel()

    threads = [threading.Thread(target=click, args=(alloc,)) for alloc in allocs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    panel.wait()
    assert sum(alloc.tasks["server"].restarts for alloc in allocs) == (panel.log["result"] == "done").sum()
    assert "went wrong" not in question(panel)


# What is shown


HOSTILE = "<img src=x onerror=alert(1)>\u202e\x1b]0;x\x07'\"&"


def test_hostile_names_are_shown_as_text(
    cluster: sim.Cluster, client: af.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "OUTCOME_TIMEOUT", 0.0)
    object.__setattr__(services(cluster)[0].job, "id", HOSTILE)
    alloc = next(a for a in services(cluster) if a.job.id == HOSTILE)
    alloc.node.name = HOSTILE
    alloc.tasks[HOSTILE] = alloc.tasks["server"]
    with shown(client) as panel:
        shown_texts = []
        for name in ("stop", "restart"):
            ask(panel, name, alloc.id)
            shown_texts.append(json.dumps(panel.widget.state, ensure_ascii=False))
        say(panel, "tasks", scope="task", task=HOSTILE)
        ask(panel, "restart")
        shown_texts.append(json.dumps(panel.widget.state, ensure_ascii=False))
        confirm(panel)
        say(panel, "details", id=alloc.id)
        panel.wait()
        state_ = {
            **panel.widget.state,
            "scope": None,
            "scopes": [label for label, _, _ in panel.widget.state["scopes"]],
        }
        shown_texts.append(json.dumps(state_, ensure_ascii=False))
        shown_texts.append(panel.rows.drop(columns="alloc_id").to_csv())
        assert not {"\u202e", "\x1b", "\x07"} & set("".join(shown_texts[-2:]))
        assert "<img" in shown_texts[1]  # the page shows it as text: tests/ui
        assert len(panel.log) == 1
        assert "<img" not in saved_page("x", panel.log)


def test_a_very_long_name_does_not_hide_the_text_after_it(panel: af.ControlPanel, alloc: Alloc) -> None:
    object.__setattr__(alloc.job, "id", "x" * 50_000)
    ask(panel, "stop", alloc.id)
    assert "A new allocation replaces it" in question(panel)


def test_it_has_a_text_and_a_widget(panel: af.ControlPanel, cluster: sim.Cluster, alloc: Alloc) -> None:
    panel.choose([alloc.id])
    total = len(cluster.state.allocs)
    assert repr(panel) == f"<ControlPanel of {cluster.address}: {total} allocations, 1 chosen>"
    bundle = panel._repr_mimebundle_()
    assert bundle["text/plain"] == repr(panel)
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.widget.model_id


def test_the_token_is_in_no_widget(panel: af.ControlPanel, cluster: sim.Cluster, alloc: Alloc) -> None:
    ask(panel, "restart", alloc.id)
    confirm(panel)
    say(panel, "details", id=alloc.id)
    panel.wait()
    assert cluster.token not in str(panel.widget.get_state()) + str(panel._table.message())
    assert cluster.token not in repr(panel) + panel.log.to_csv()


def test_it_refreshes_the_list_until_it_is_idle_for_long(
    cluster: sim.Cluster, client: af.Client, alloc: Alloc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel_module, "REFRESH_INTERVAL", 0.0)
    monkeypatch.setattr(worker, "TICK_INTERVAL", 0.02)
    with shown(client) as panel:
        panel.choose([alloc.id])
        client.stop(alloc.id)
        status = lambda: panel.rows.set_index("alloc_id")["status"]  # noqa: E731
        until(lambda: status()[alloc.id] == "complete")
        assert panel.chosen == (alloc.id,)
        assert alloc.next in status().index
        until(lambda: "complete" in panel.widget.state["names"][0])
        monkeypatch.setattr(panel_module, "IDLE_TIMEOUT", 0.0)
        until(lambda: not panel.widget.state["auto"])


def test_the_log_has_types_when_empty_and_bounded_rows(panel: af.ControlPanel) -> None:
    assert panel.log.empty
    assert str(panel.log["time"].dtype) == "datetime64[ns, UTC]"
    result = history.ActionResult(
        confirmation.AllocationState.unread(ID), confirmation.ActionRequest("restart"), "done"
    )
    for _ in range(history.MAX_ENTRIES + 5):
        panel._history.add(result)
    assert len(panel.log) == history.MAX_ENTRIES


# The terminal


def test_exec_opens_a_terminal_in_the_chosen_task(
    panel: af.ControlPanel, cluster: sim.Cluster, alloc: Alloc
) -> None:
    ask(panel, "exec", alloc.id)
    assert disabled(panel, "exec")
    assert "choose one task" in question(panel)
    say(panel, "tasks", scope="task", task="server")
    ask(panel, "exec")
    first = panel.widget.terminal
    assert f"server of {alloc.name}" in first.title
    say(panel, "tasks", scope="task", task="log-shipper")
    ask(panel, "exec")
    second = panel.widget.terminal
    assert "log-shipper of" in second.title
    assert first.status == "closed"
    assert cluster.engine is not None
    cluster.engine._remove(alloc)
    ask(panel, "exec")
    assert "No terminal was opened" in question(panel)
    assert "alloc not found" in question(panel)
    panel.choose([a.id for a in services(cluster) if a is not alloc][:2])
    panel.wait()
    assert disabled(panel, "exec")


def test_without_ipywidgets_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def import_without_ipywidgets(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.split(".")[0] == "ipywidgets":
            raise ModuleNotFoundError("No module named 'ipywidgets'", name="ipywidgets")
        return original(name, *arguments, **keywords)

    for name in [name for name in sys.modules if name.startswith("allocframe.widgets")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(vars(af), "ControlPanel", raising=False)
    monkeypatch.setattr(builtins, "__import__", import_without_ipywidgets)
    with pytest.raises(af.MissingExtra, match=r"ipywidgets: pip install 'allocframe\[widgets\]'"):
        af.ControlPanel  # noqa: B018


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "not reached"
        time.sleep(0.01)
