"""Action requests, their descriptions, and when a confirmation is valid. Without widgets or a cluster."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from allocframe.widgets.panel.confirmation import (
    ALL,
    CONFIRM_TIMEOUT,
    REPEAT_DELAY,
    RUNNING,
    TASK,
    ActionRequest,
    AllocationState,
    Confirmation,
    Confirmations,
    NotConfirmed,
    describe,
    describe_changes,
    nomad_actions,
    objection,
)
from allocframe.widgets.panel.execute import execute

ONE = AllocationState.from_json(
    {
        "ID": "one",
        "Name": "web.app[0]",
        "JobID": "web",
        "Namespace": "default",
        "NodeName": "node-1",
        "ClientStatus": "running",
        "DesiredStatus": "run",
        "ModifyIndex": 7,
        "TaskStates": {
            "server": {"State": "running"},
            "init": {"State": "dead"},
            "log": {"State": "running"},
            "odd": None,
        },
    }
)
TWO = replace(ONE, alloc_id="two")
STOP = ActionRequest("stop")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def confirmations(clock: Clock) -> Confirmations:
    return Confirmations(clock)


def test_a_confirmation_is_valid_once(confirmations: Confirmations) -> None:
    confirmation = confirmations.ask(STOP, [ONE])
    assert confirmations.accept(STOP, ["one"]) is confirmation
    with pytest.raises(NotConfirmed, match="nothing to confirm"):
        confirmations.accept(STOP, ["one"])


def test_without_a_question_there_is_no_confirmation(confirmations: Confirmations) -> None:
    with pytest.raises(NotConfirmed, match="nothing to confirm"):
        confirmations.accept(STOP, ["one"])


@pytest.mark.parametrize("delay", [0.0, 1.0, 1e9])
def test_it_expires(confirmations: Confirmations, clock: Clock, delay: float) -> None:
    confirmations.ask(STOP, [ONE])
    clock.now += CONFIRM_TIMEOUT - 0.01
    assert confirmations.is_valid()
    clock.now += 0.01 + delay
    assert not confirmations.is_valid()
    assert confirmations.seconds_left() == 0.0
    with pytest.raises(NotConfirmed, match="more than 20 s"):
        confirmations.accept(STOP, ["one"])
    with pytest.raises(NotConfirmed, match="nothing to confirm"):
        confirmations.accept(STOP, ["one"])


@pytest.mark.parametrize(
    "other",
    [
        ActionRequest("restart"),
        ActionRequest("signal", signal="SIGHUP"),
        ActionRequest("stop", dry_run=True),
        ActionRequest("stop", scope=TASK, task="server"),
    ],
)
def test_it_is_not_valid_for_another_request(confirmations: Confirmations, other: ActionRequest) -> None:
    for question, answer in ((STOP, other), (other, STOP)):
        confirmations.ask(question, [ONE])
        with pytest.raises(NotConfirmed, match="choice has changed"):
            confirmations.accept(answer, ["one"])
        assert confirmations.pending is None


def test_it_is_not_valid_for_other_allocations(confirmations: Confirmations) -> None:
    confirmations.ask(STOP, [ONE, TWO])
    with pytest.raises(NotConfirmed, match="choice has changed"):
        confirmations.accept(STOP, ["one"])
    confirmations.ask(STOP, [ONE])
    assert confirmations.accept(STOP, ["two", "one"]).allocs == (ONE,)


def test_a_new_question_replaces_the_last_one(confirmations: Confirmations) -> None:
    confirmations.ask(ActionRequest("restart"), [ONE])
    confirmations.ask(STOP, [TWO])
    with pytest.raises(NotConfirmed):
        confirmations.accept(ActionRequest("restart"), ["one", "two"])
    confirmations.ask(STOP, [ONE])
    confirmations.cancel()
    with pytest.raises(NotConfirmed, match="nothing to confirm"):
        confirmations.accept(STOP, ["one"])


def test_a_repeated_question_is_not_confirmed_by_a_double_click(
    confirmations: Confirmations, clock: Clock
) -> None:
    confirmations.ask(STOP, [ONE], repeated=True)
    assert not confirmations.is_valid()
    with pytest.raises(NotConfirmed, match="only just appeared"):
        confirmations.accept(STOP, ["one"])
    confirmations.ask(STOP, [ONE], repeated=True)
    clock.now += REPEAT_DELAY
    assert confirmations.is_valid()
    assert confirmations.accept(STOP, ["one"]).allocs == (ONE,)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (
            STOP,
            "Stop web.app[0] (on node-1, running). Its running tasks (log, server) end. "
            "A new allocation replaces it, on this node or another.",
        ),
        (
            ActionRequest("restart"),
            "Restart log, server of web.app[0] (on node-1, running) in place. Same allocation, same node.",
        ),
        (
            ActionRequest("restart", TASK, "log"),
            "Restart log of web.app[0] (on node-1, running) in place. Same allocation, same node.",
        ),
        (
            ActionRequest("restart", ALL),
            "Restart log, server, init, odd of web.app[0] (on node-1, running) in place, "
            "including ended tasks. Same allocation, same node.",
        ),
        (
            ActionRequest("signal", RUNNING, "", "SIGHUP"),
            "Send SIGHUP to log, server of web.app[0] (on node-1, running).",
        ),
        (
            ActionRequest("signal", TASK, "log", "SIGKILL"),
            "Send SIGKILL to log of web.app[0] (on node-1, running). They end at once. "
            "Their restart policy decides what follows.",
        ),
    ],
)
def test_a_request_is_described_in_words(request_: ActionRequest, expected: str) -> None:
    assert objection(request_, ONE) is None
    assert describe(request_, ONE) == expected


@pytest.mark.parametrize(
    ("request_", "changes", "expected"),
    [
        (
            STOP,
            {"client_status": "complete"},
            "it is complete already; a stop would only create an evaluation",
        ),
        (ActionRequest("restart"), {"client_status": "failed"}, "it is failed already"),
        (STOP, {"desired_status": "stop"}, "it is being stopped already"),
        (ActionRequest("restart", TASK, "init"), {}, "its task init is not running"),
        (ActionRequest("signal", TASK, "nope", "SIGHUP"), {}, "it has no task nope"),
        (
            ActionRequest("signal", signal="SIGHUP"),
            {"tasks": (("init", "dead"),)},
            "none of its tasks is running",
        ),
        (ActionRequest("restart"), {"tasks": ()}, "none of its tasks is running"),
        (STOP, {"client_status": "unknown"}, None),
        (STOP, {"tasks": ()}, None),
    ],
)
def test_a_request_that_makes_no_sense_is_objected_to(
    request_: ActionRequest, changes: dict[str, Any], expected: str | None
) -> None:
    assert objection(request_, replace(ONE, **changes)) == expected


def test_what_a_read_leaves_out_is_empty_and_not_guessed() -> None:
    nothing = AllocationState("", "", "", "", "", "", "", 0)
    assert AllocationState.from_json({}) == nothing
    assert AllocationState.unread("one") == replace(nothing, alloc_id="one", name="one")
    assert objection(STOP, nothing) == "it is being stopped already"


def test_changes_between_two_reads_are_described() -> None:
    after = replace(
        ONE,
        client_status="complete",
        desired_status="stop",
        modify_index=9,
        tasks=(("new", "pending"), ("server", "dead")),
    )
    assert describe_changes(ONE, after) == (
        "status: running → complete; desired status: run → stop; task new: absent → pending; "
        "task server: running → dead; ModifyIndex: 7 → 9"
    )
    assert describe_changes(ONE, replace(ONE, modify_index=8)) == "ModifyIndex: 7 → 8"


def test_a_signal_is_sent_to_each_task_that_runs_and_a_restart_once() -> None:
    sent = nomad_actions(ActionRequest("signal", signal="SIGHUP"), ONE)
    assert [(task, action.body) for task, action in sent] == [
        ("log", {"Signal": "SIGHUP", "Task": "log"}),
        ("server", {"Signal": "SIGHUP", "Task": "server"}),
    ]
    bodies = [
        nomad_actions(ActionRequest("restart", *scope), ONE)[0][1].body
        for scope in ((RUNNING,), (ALL,), (TASK, "log"))
    ]
    assert bodies == [{}, {"AllTasks": True}, {"TaskName": "log"}]
    assert nomad_actions(STOP, ONE)[0][1].path == "/v1/allocation/one/stop"


def test_an_allocation_whose_index_went_back_has_changed() -> None:
    read = {"ID": "one", "ClientStatus": "running", "DesiredStatus": "run", "ModifyIndex": 6}
    restored: Any = SimpleNamespace(_session=SimpleNamespace(read_allocation=lambda _: read))
    (result,) = execute(restored, Confirmation(STOP, (ONE,), 0.0, 9.0))
    assert result.outcome == "changed"
    assert "ModifyIndex: 7 → 6" in result.detail
