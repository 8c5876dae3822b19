"""What may be ordered, how it is said, and when a confirmation is good. No widgets and no cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from allocframe.widgets.panel.confirmation import (
    AGAIN_AFTER,
    ALL,
    CONFIRM_WITHIN,
    RUNNING,
    TASK,
    Confirmations,
    Facts,
    NotConfirmed,
    Order,
    changes,
    objection,
    requests,
    sentence,
)  # fmt: skip

ONE = Facts.of(
    {
        "ID": "one", "Name": "web.app[0]", "JobID": "web", "Namespace": "default", "NodeName": "node-1", "ClientStatus": "running",
        "DesiredStatus": "run", "ModifyIndex": 7,
        "TaskStates": {"server": {"State": "running"}, "init": {"State": "dead"}, "log": {"State": "running"}, "odd": None},
    }
)  # fmt: skip
TWO = replace(ONE, alloc_id="two")
STOP = Order("stop")


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


def test_a_confirmation_is_good_once(confirmations: Confirmations) -> None:
    asked = confirmations.ask(STOP, [ONE])
    assert confirmations.take(STOP, ["one"]) is asked
    with pytest.raises(NotConfirmed, match="nothing waits"):
        confirmations.take(STOP, ["one"])


def test_without_a_question_there_is_no_confirmation(confirmations: Confirmations) -> None:
    with pytest.raises(NotConfirmed, match="nothing waits"):
        confirmations.take(STOP, ["one"])


@pytest.mark.parametrize("late", [0.0, 1.0, 1e9])
def test_it_expires(confirmations: Confirmations, clock: Clock, late: float) -> None:
    confirmations.ask(STOP, [ONE])
    clock.now += CONFIRM_WITHIN - 0.01
    assert confirmations.ready()
    clock.now += 0.01 + late
    assert not confirmations.ready()
    assert confirmations.left() == 0.0
    with pytest.raises(NotConfirmed, match="more than 20 s"):
        confirmations.take(STOP, ["one"])
    with pytest.raises(NotConfirmed, match="nothing waits"):
        confirmations.take(STOP, ["one"])


@pytest.mark.parametrize(
    "other",
    [
        Order("restart"),
        Order("signal", signal="SIGHUP"),
        Order("stop", dry_run=True),
        Order("stop", scope=TASK, task="server"),
    ],
)
def test_it_is_good_for_no_other_order(confirmations: Confirmations, other: Order) -> None:
    for asked, given in ((STOP, other), (other, STOP)):
        confirmations.ask(asked, [ONE])
        with pytest.raises(NotConfirmed, match="is not what was asked about"):
            confirmations.take(given, ["one"])
        assert confirmations.pending is None


def test_it_is_good_for_no_other_allocation(confirmations: Confirmations) -> None:
    confirmations.ask(STOP, [ONE, TWO])
    with pytest.raises(NotConfirmed, match="is not what was asked about"):
        confirmations.take(STOP, ["one"])
    confirmations.ask(STOP, [ONE])
    assert confirmations.take(STOP, ["two", "one"]).facts == (ONE,)


def test_a_new_question_takes_the_place_of_the_one_before(confirmations: Confirmations) -> None:
    confirmations.ask(Order("restart"), [ONE])
    confirmations.ask(STOP, [TWO])
    with pytest.raises(NotConfirmed):
        confirmations.take(Order("restart"), ["one", "two"])
    confirmations.ask(STOP, [ONE])
    confirmations.void()
    with pytest.raises(NotConfirmed, match="nothing waits"):
        confirmations.take(STOP, ["one"])


def test_a_question_that_came_by_itself_is_not_answered_by_the_second_of_two_clicks(
    confirmations: Confirmations, clock: Clock
) -> None:
    confirmations.ask(STOP, [ONE], again=True)
    assert not confirmations.ready()
    with pytest.raises(NotConfirmed, match="only just come up"):
        confirmations.take(STOP, ["one"])
    confirmations.ask(STOP, [ONE], again=True)
    clock.now += AGAIN_AFTER
    assert confirmations.ready()
    assert confirmations.take(STOP, ["one"]).facts == (ONE,)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (STOP, "Stop web.app[0] (on node-1, running): its running tasks (log, server) end, and a new allocation replaces it"),
        (Order("restart"), "Restart log, server of web.app[0] (on node-1, running) in place: same allocation, same node."),
        (Order("restart", TASK, "log"), "Restart log of web.app[0] (on node-1, running) in place: same"),
        (Order("restart", ALL), "Restart log, server, init, odd of web.app[0] (on node-1, running) in place, those that have ended too"),
        (Order("signal", RUNNING, "", "SIGHUP"), "Send SIGHUP to log, server of web.app[0] (on node-1, running)."),
        (Order("signal", TASK, "log", "SIGKILL"), "Send SIGKILL to log of web.app[0] (on node-1, running). They end at once"),
    ],
)  # fmt: skip
def test_what_will_happen_is_said_in_words(order: Order, expected: str) -> None:
    assert objection(order, ONE) is None
    assert sentence(order, ONE).startswith(expected)


@pytest.mark.parametrize(
    ("order", "facts", "expected"),
    [
        (
            STOP,
            {"client_status": "complete"},
            "it is complete already; a stop would only make another evaluation",
        ),
        (Order("restart"), {"client_status": "failed"}, "it is failed already"),
        (STOP, {"desired_status": "stop"}, "it is being stopped already"),
        (Order("restart", TASK, "init"), {}, "its task init does not run"),
        (Order("signal", TASK, "nope", "SIGHUP"), {}, "it has no task nope"),
        (Order("signal", signal="SIGHUP"), {"tasks": (("init", "dead"),)}, "none of its tasks runs"),
        (Order("restart"), {"tasks": ()}, "none of its tasks runs"),
        (STOP, {"client_status": "unknown"}, None),
        (STOP, {"tasks": ()}, None),
    ],
)
def test_what_makes_no_sense_is_not_asked_for(
    order: Order, facts: dict[str, Any], expected: str | None
) -> None:
    assert objection(order, replace(ONE, **facts)) == expected


def test_what_has_changed_is_said() -> None:
    after = replace(
        ONE,
        client_status="complete",
        desired_status="stop",
        modify_index=9,
        tasks=(("new", "pending"), ("server", "dead")),
    )
    assert changes(ONE, after) == (
        "status was running, is complete; wanted was run, is stop; task new was not there, is pending; "
        "task server was running, is dead; ModifyIndex was 7, is 9"
    )
    assert changes(ONE, replace(ONE, modify_index=8)) == "ModifyIndex was 7, is 8"


def test_a_signal_is_sent_to_each_task_that_runs_and_a_restart_once() -> None:
    sent = requests(Order("signal", signal="SIGHUP"), ONE)
    assert [(task, action.body) for task, action in sent] == [
        ("log", {"Signal": "SIGHUP", "Task": "log"}),
        ("server", {"Signal": "SIGHUP", "Task": "server"}),
    ]
    bodies = [
        requests(Order("restart", *scope), ONE)[0][1].body for scope in ((RUNNING,), (ALL,), (TASK, "log"))
    ]
    assert bodies == [{}, {"AllTasks": True}, {"TaskName": "log"}]
    assert requests(STOP, ONE)[0][1].path == "/v1/allocation/one/stop"
