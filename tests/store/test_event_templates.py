"""Events that differ only in their times are decoded once, and every one keeps its own time and texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import allocframe as af
from allocframe.store.event_templates import _PART, find_templates

NOW = 1795495671968501459
BIG = 2**63 - 1  # pandas has no such time


def read_events(folder: Path, *events: str) -> pd.DataFrame:
    """Return the events table of one task with these events, which are JSON."""
    head = '[{"ID":"a","ClientStatus":"running","TaskStates":{"web":{"Events":['
    (folder / "list.json").write_text(head + ",".join(events) + "]}}}]")
    with af.read_json(folder / "list.json") as snap:
        assert snap.issues.empty
        return snap.events


def times_of(events: pd.DataFrame) -> list[int | None]:
    return [None if pd.isna(time) else time.value for time in events["time"]]


@pytest.mark.parametrize(
    "event",
    [
        f'{{"Time":{NOW},"Type":"Started"}}',
        f'{{"Type":"Started","Time":{NOW}}}',
        f'{{\n  "Time": {NOW},\n  "Type": "Started"\n}}',
        f'{{\n  "Type": "Started",\n  "Time": {NOW}\n}}',
        f'{{ "Time" : {NOW} , "Type":"Started" }}',
        f'{{"Time":1,"Type":"Started","Time":{NOW}}}',
        f'{{"Time":{NOW},"Type":"Started","Time":1}}',
        f'{{"Time":{NOW},"Type":"Started","\\u0054ime":1}}',
        f'{{"Details":{{"Time":"{NOW}"}},"Time":{NOW - 1},"Type":"Started"}}',
        f'{{"Details":{{"Time":"{NOW}"}},"Type":"Started"}}',
        f'{{"DisplayMessage":"\\"Time\\":{NOW},","Time":5,"Type":"Started"}}',
        f'{{"Other":{{"Time":{NOW}}},"Type":"Started"}}',
        f'{{"Other":[{{"Time":{NOW}}}],"Time":7,"Type":"Started"}}',
        '{"Time":999999999999999999,"Type":"Started"}',
        '{"Time":1000000000000000000,"Type":"Started"}',
        '{"Time":-1795495671968501459,"Type":"Started"}',
        '{"Time":null,"Type":"Started"}',
        '{"Type":"Started"}',
    ],
)
def test_each_event_has_the_time_that_a_json_reader_finds(tmp_path: Path, event: str) -> None:
    others = [f'{{"Time":{NOW + n},"Type":"Started"}}' for n in range(3)]
    events = read_events(tmp_path, others[0], event, *others[1:])
    assert times_of(events) == [NOW, json.loads(event).get("Time"), NOW + 1, NOW + 2]
    assert set(events["type"]) == {"Started"}


def test_a_time_beyond_64_bits_is_missing_and_an_issue_names_it(tmp_path: Path) -> None:
    events = [{"Time": time, "Type": "Started"} for time in (NOW, 9999999999999999999)]
    row = {"ID": "a", "ClientStatus": "running", "TaskStates": {"web": {"Events": events}}}
    (tmp_path / "list.json").write_text(json.dumps([row]))
    with af.read_json(tmp_path / "list.json") as snap:
        assert times_of(snap.events) == [NOW, None]
        assert snap.issues["field"].tolist() == ["TaskStates.web.Events[1].Time"]


def test_an_event_of_another_type_does_not_harm_those_that_are_equal_to_others(tmp_path: Path) -> None:
    rows = [
        {"ID": f"{n:03}", "TaskStates": {"web": {"Events": [{"Time": NOW + n, "Type": "Started"}]}}}
        for n in range(200)
    ]
    rows[77]["TaskStates"]["web"]["Events"] = [{"Time": NOW + 77, "Type": 5}, "no event"]  # type: ignore[index]
    (tmp_path / "list.json").write_text(json.dumps([{"ClientStatus": "running", **row} for row in rows]))
    with af.read_json(tmp_path / "list.json") as snap:
        by_id = snap.events.set_index("alloc_id")
        assert [by_id.loc[f"{n:03}", "time"].value for n in range(200)] == [NOW + n for n in range(200)]
        assert by_id.index[by_id["type"].isna()].tolist() == ["077"]
        assert snap.issues["field"].tolist() == [
            "TaskStates.web.Events[0].Type",
            "TaskStates.web.Events[1]",
        ]


def test_equal_events_are_found_across_parts() -> None:
    kinds = ("Received", "Started", "Terminated")
    count = 2 * _PART + 7
    events = [f'{{"Time":{NOW + n},"Type":"{kinds[n % 3]}"}}'.encode() for n in range(count)]
    found = find_templates(events)
    assert [json.loads(text)["Type"] for text in found.texts] == list(kinds)
    assert found.code.tolist() == [n % 3 for n in range(count)]
    assert found.has_time.all()
    assert found.times.tolist() == [NOW + n for n in range(count)]


_event = st.fixed_dictionaries(
    {},
    optional={
        "Details": st.none()
        | st.dictionaries(st.sampled_from(["Time", "exit_code", '"Time":']), st.sampled_from(["7", ""])),
        "DisplayMessage": st.sampled_from(["", "exit", f'"Time":{NOW}', f',"Time":{NOW},"', "\\", '"']),
        "Time": st.integers(-BIG + 1, BIG - 1) | st.sampled_from([NOW, 10**18, 10**18 - 1, 0]),
        "Type": st.sampled_from(["Started", "Terminated", "", "X"]),
    },
)


@settings(max_examples=60)
@given(events=st.lists(_event, max_size=6), indent=st.sampled_from([None, 0, 2]), twice=st.booleans())
def test_events_are_as_a_json_reader_finds_them(
    tmp_path_factory: pytest.TempPathFactory, events: list[dict[str, Any]], indent: int | None, twice: bool
) -> None:
    events = events * (1 + twice)
    texts = [json.dumps(event, indent=indent) for event in events]
    table = read_events(tmp_path_factory.mktemp("events"), *texts)
    assert table["seq"].tolist() == list(range(len(events)))
    assert times_of(table) == [event.get("Time") or None for event in events]
    for column, field in (("type", "Type"), ("message", "DisplayMessage")):
        assert table[column].astype("object").where(table[column].notna(), None).tolist() == [
            event.get(field) or None for event in events
        ]
    details = [None if pd.isna(text) else json.loads(text) for text in table["details"]]
    assert details == [event.get("Details") or None for event in events]


def test_where_hardly_any_events_are_equal_the_search_for_more_ends() -> None:
    count = 3 * _PART
    events = [f'{{"Time":{NOW},"Type":"Started","StartDelay":{n}}}'.encode() for n in range(count)]
    found = find_templates(events)
    assert [bytes(text) for text in np.array(found.texts, dtype=object)[found.code][_PART:]] == events[_PART:]
    assert found.has_time.sum() == _PART
    assert found.times[:_PART].tolist() == [NOW] * _PART
