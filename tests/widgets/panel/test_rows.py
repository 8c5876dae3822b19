"""The rows of the panel's table, against recorded answers of real agents."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from flatten import VERSIONS, recorded_rows

import allocframe as af
from allocframe.widgets.panel.rows import COLUMNS, AllocationTable, make_rows


def read(listed: list[dict[str, Any]], folder: Path) -> af.Snapshot:
    (folder / "list.json").write_text(json.dumps(listed))
    return af.read_json(folder / "list.json")


def row(rows: dict[str, Any], alloc_id: str) -> dict[str, Any]:
    return dict(zip(COLUMNS, rows[alloc_id], strict=True))


@pytest.mark.parametrize("version", VERSIONS)
def test_rows_tell_what_the_servers_json_tells(version: str, tmp_path: Path) -> None:
    listed = recorded_rows(version)
    rows = make_rows(read(listed, tmp_path))
    assert set(rows) == {each["ID"] for each in listed}
    for each in listed:
        told = row(rows, each["ID"])
        assert (told["namespace"], told["job"]) == (each["Namespace"], each["JobID"])
        assert (told["name"], told["node"]) == (each["Name"], each["NodeName"])
        assert told["version"] == str(each["JobVersion"])
        states = each["TaskStates"] or {}
        assert told["restarts"] == sum(state["Restarts"] for state in states.values())
        running = sum(state["State"] == "running" for state in states.values())
        assert (f"{running} running" in told["tasks"]) == (running > 0)
        assert told["created"] == each["CreateTime"] // 1_000_000
        ends = [
            (event["Time"], event["Details"])
            for state in states.values()
            for event in state["Events"]
            if event["Type"] == "Terminated"
        ]
        if ends:
            last = max(ends, key=lambda end: end[0])[1]
            code, signal = last.get("exit_code"), last.get("signal")
            assert told["exit"] in (f"exit {code}", "out of memory") or told["exit"].startswith(
                ("SIG", "signal")
            )
            assert (signal not in (None, "0")) == told["exit"].startswith(("SIG", "signal"))


def test_a_status_says_more_than_the_servers_where_it_can() -> None:
    with af.sim.Cluster("mixed", allocations=200, seed=7) as cluster:
        client = af.Client(cluster.address, token=cluster.token)
        snap = client.snapshot(namespace="*")
        stopped = next(a for a in cluster.state.allocs.values() if a.client_status == "running")
    rows = make_rows(snap)
    allocs = snap.allocations.set_index("alloc_id")
    words = {alloc_id: row(rows, alloc_id)["status"] for alloc_id in rows}
    for alloc_id, word in words.items():
        client_status = str(allocs.at[alloc_id, "client_status"])
        if word == "replaced":
            assert client_status in ("failed", "lost", "unknown")
        elif word == "restarting":
            assert client_status in ("running", "pending")
            assert row(rows, alloc_id)["restarts"] > 0
        elif word != "stopping":
            assert word == client_status
    assert "restarting" in words.values()
    assert words[stopped.id] in ("running", "restarting")


def test_only_what_changed_is_sent_and_removed_rows_are_named() -> None:
    table = AllocationTable()
    one = ("a", "default", "web", "web.app[0]", "running", "1 running", 0, "", 1, "0", "n1")
    two = ("b", *one[1:])
    assert table.update({"a": one, "b": two}) is not None
    assert table.update({"a": one, "b": two}) is None
    changed = table.update({"a": (*one[:4], "failed", *one[5:])})
    assert changed is not None
    assert (changed["number"], changed["rows"]["id"], changed["removed"]) == (2, ["a"], ["b"])
    assert changed["rows"]["status"] == ["failed"]
    assert table.message()["number"] == 2


def test_control_characters_in_names_are_made_visible(tmp_path: Path) -> None:
    listed = recorded_rows("2.0.5")[:1]
    listed[0]["JobID"] = listed[0]["NodeName"] = "<b>\u202e\x1b[31m\n"
    rows = make_rows(read(listed, tmp_path))
    assert row(rows, listed[0]["ID"])["job"] == "<b>\\u202e\\x1b[31m\\n"
    assert not set("\u202e\x1b\n") & set(json.dumps(rows, ensure_ascii=False))


def test_five_thousand_allocations_are_rows_in_a_second(tmp_path: Path) -> None:
    listed = recorded_rows("2.0.5")
    many = [{**listed[n % len(listed)], "ID": f"{n:08x}-0000"} for n in range(5000)]
    snap = read(many, tmp_path)
    snap.allocations, snap.task_states, snap.events  # noqa: B018 - decoded before the clock starts
    started = time.thread_time()  # whatever else runs here
    rows = make_rows(snap)
    assert time.thread_time() - started < 3.0
    assert len(rows) == 5000
