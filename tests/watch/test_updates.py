"""The rules of watching, without a server."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from allocframe.nomad.blocking_query import BlockingIndex, Pace, read_timeout
from allocframe.nomad.event_stream import NotAnEvent
from allocframe.watch import update_queue, updates
from allocframe.watch.update_queue import UpdateQueue


def line(*allocs: dict[str, Any], index: int | None = None) -> bytes:
    events = [{"Topic": "Allocation", "Payload": {"Allocation": alloc}} for alloc in allocs]
    return json.dumps(
        {"Index": index or max(alloc["ModifyIndex"] for alloc in allocs), "Events": events}
    ).encode()


def alloc(index: int, times: range, identity: str = "a1", **more: Any) -> dict[str, Any]:
    events = [{"Type": "Started", "Time": time} for time in times]
    return {"ID": identity, "ModifyIndex": index, "TaskStates": {"t": {"Events": events}}, **more}


def times(update: updates.Update) -> list[int]:
    return [event["Time"] for event in json.loads(update.row_with_passed())["TaskStates"]["t"]["Events"]]


RNG = random.Random(1)


def test_a_query_without_an_index_does_not_block_and_one_with_an_index_waits_a_little_less_than_asked() -> (
    None
):
    rule = BlockingIndex(60.0)
    assert rule.params(RNG) == {}
    rule.received(7)
    waits = [int(rule.params(RNG)["wait"].removesuffix("ms")) for _ in range(200)]
    assert rule.params(RNG)["index"] == "7"
    assert 48_000 <= min(waits) < max(waits) <= 60_000
    assert int(rule.params(RNG, longest=1.0)["wait"].removesuffix("ms")) <= 1000


def test_an_index_that_goes_back_starts_from_zero() -> None:
    rule = BlockingIndex(60.0)
    assert [rule.received(index) for index in (9, 9, 4)] == [True, False, True]
    assert (rule.index, rule.resets) == (0, 1)


@pytest.mark.parametrize("index", [None, 0])
def test_without_an_index_each_answer_may_be_new_and_nothing_blocks(index: int | None) -> None:
    rule = BlockingIndex(60.0, index=5)
    assert rule.received(index)
    assert rule.params(RNG) == {}
    assert (rule.polls, rule.resets) == (1, 0)


def test_an_answer_may_take_a_sixteenth_longer_and_ten_seconds() -> None:
    assert read_timeout(64.0) == 78.0


def test_requests_are_kept_apart() -> None:
    pace = Pace(0.5)
    assert pace.left(100.0) == 0
    pace.sent(100.0)
    assert pace.left(100.2) == pytest.approx(0.3)
    assert pace.left(101.0) == 0


@pytest.mark.parametrize(
    "text", [b"[]", b"event dropped", b'{"Index": "7"}', b'{"Events": []}', b"7", b"null"]
)
def test_a_line_that_is_no_event_is_an_error(text: bytes) -> None:
    with pytest.raises(NotAnEvent):
        updates.parse(text)


def test_an_empty_line_is_a_heartbeat_and_other_topics_are_passed_over() -> None:
    assert updates.parse(b"{}").index is None
    told = updates.parse(
        b'{"Index": 9, "Events": [{"Topic": "Node", "Payload": {"Node": {"ID": "n"}}}, 7, null]}'
    )
    assert (told.index, told.updates) == (9, [])


def test_a_payload_keeps_no_job_but_its_type_and_version() -> None:
    told = updates.parse_allocation(
        alloc(5, range(2), Job={"Type": "batch", "Version": 3, "Meta": {"password": "x"}})
    )
    assert told is not None
    row = json.loads(told.row)
    assert (row["JobType"], row["JobVersion"], told.has_job) == ("batch", 3, True)
    assert b"password" not in told.row
    bare = updates.parse_allocation(alloc(5, range(2)))
    assert bare is not None
    assert not bare.has_job
    assert json.loads(updates.with_job(bare.row, "service", 4))["JobVersion"] == 4


def test_what_leaves_the_ring_between_two_takes_is_kept() -> None:
    queue = UpdateQueue()
    for index in range(1, 31):
        queue.put(updates.parse(line(alloc(index, range(max(0, index - 10), index)))))
    (update,), index, _ = queue.take(10)
    assert times(update) == list(range(30))
    assert (update.index, update.first_index, index) == (30, 1, 30)
    assert queue.counts["coalesced"] == 29


def test_of_the_events_that_have_passed_a_thousand_are_kept_and_then_all_is_listed() -> None:
    queue = UpdateQueue()
    for index in range(1, 203):
        assert not queue.overflowed, index
        queue.put(updates.parse(line(alloc(index, range(index * 5, index * 5 + 10)))))
    assert queue.overflowed, "1,005 events have passed"
    assert len(queue) == 0


def test_events_that_have_passed_count_for_the_bound_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_queue, "MAX_BYTES", 500_000)
    queue = UpdateQueue()
    for identity in range(40):
        for index in range(1, 6):
            queue.put(updates.parse(line(alloc(index, range(index * 9, index * 9 + 10), str(identity)))))
    assert queue.overflowed, "1,440 events take more than the rows"


def test_forms_between_which_events_were_lost_are_told_one_after_the_other() -> None:
    queue = UpdateQueue()
    for index, ring in ((1, range(10)), (2, range(5, 15)), (3, range(40, 50)), (4, range(45, 55))):
        queue.put(updates.parse(line(alloc(index, ring))))
    (update,), _, _ = queue.take(10)
    assert [times(form) for form in update.versions()] == [list(range(15)), list(range(40, 55))]


def test_what_was_told_before_the_subscription_and_what_comes_twice_is_counted_and_left_out() -> None:
    queue = UpdateQueue(floor=5)
    for index in (4, 5, 6, 6, 7):
        queue.put(updates.parse(line(alloc(index, range(index)))))
    taken, index, _ = queue.take(10)
    assert [(one.index, one.first_index) for one in taken] == [(7, 6)]
    assert (queue.counts["replayed"], queue.counts["duplicates"], index) == (2, 1, 7)


def test_the_index_of_a_part_leaves_nothing_behind() -> None:
    queue = UpdateQueue()
    for index, identity in ((5, "a"), (6, "b"), (7, "a"), (8, "c")):
        queue.put(updates.parse(line(alloc(index, range(3), identity))))
    taken, index, heard = queue.take(1)
    assert ([one.alloc_id for one in taken], index, heard) == (["a"], 5, 0.0)
    assert queue.take(9)[1] == 8


def test_a_prefix_is_applied_to_what_streams_tell() -> None:
    queue = UpdateQueue("ab")
    queue.put(updates.parse(line(alloc(5, range(3), "ab1"), alloc(5, range(3), "cd1"))))
    assert [one.alloc_id for one in queue.take(9)[0]] == ["ab1"]
