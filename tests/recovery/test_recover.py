"""Recovery from Raft logs, states and bundles that real agents printed, held to what polling had seen."""

from __future__ import annotations

import gzip
import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import changed
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import allocframe as af
from allocframe.cli import run
from allocframe.recovery.jobs import JobVersions
from allocframe.recovery.rings import TaskHistory
from allocframe.tables import HISTORY

Event = tuple[str, str, int, str]


def log(version: str) -> bytes:
    return changed.read(version, "raft-logs.ndjson")


def truth(version: str) -> set[Event]:
    events = json.loads(changed.read(version, "raft-truth.json"))["events"]
    return {(alloc, task, time, kind) for alloc, task, time, kind, _ in events}


def events_of(snap: af.Snapshot) -> set[Event]:
    frame = snap.events
    columns = frame["alloc_id"], frame["task"], frame["time"].astype("int64"), frame["type"]
    return set(zip(*(column.tolist() for column in columns), strict=True))


def events_in(lines: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> set[Event]:
    """Return the events that entries hold, found by plain loops."""
    found = set()
    for entry in lines:
        body = entry.get("Body") or {}
        rows = body.get("Alloc") if entry.get("CommandType") == "AllocClientUpdateRequestType" else None
        for row in rows or []:
            for task, state in (row.get("TaskStates") or {}).items():
                found |= {(row["ID"], task, event["Time"], event["Type"]) for event in state["Events"] or []}
    return found


@pytest.fixture(scope="module", params=changed.VERSIONS)
def recovered(request: pytest.FixtureRequest) -> Iterator[tuple[str, af.Snapshot]]:
    with af.recover(changed.path(request.param, "raft-logs.ndjson.gz")) as snap:
        yield request.param, snap


def written(folder: Path, content: bytes, name: str = "logs.ndjson") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def test_every_event_that_polling_saw_comes_back(recovered: tuple[str, af.Snapshot]) -> None:
    version, snap = recovered
    assert truth(version) - events_of(snap) == set()


def test_no_event_is_invented_and_none_comes_twice(recovered: tuple[str, af.Snapshot]) -> None:
    version, snap = recovered
    assert events_of(snap) == events_in(changed.lines(version, "raft-logs.ndjson"))
    assert len(snap.events) == len(events_of(snap))
    assert snap.issues.empty


def test_purged_and_collected_allocations_are_there(recovered: tuple[str, af.Snapshot]) -> None:
    version, snap = recovered
    left = {row["ID"] for row in changed.answers(version, "raft-allocations-after-gc")[0]}
    assert left < set(snap.allocations["alloc_id"])
    assert "flaky" in set(snap.allocations["job_id"])


def test_allocations_are_as_the_event_stream_last_had_them(recovered: tuple[str, af.Snapshot]) -> None:
    version, snap = recovered
    rows = snap.allocations.set_index("alloc_id")
    last_index = snap.info["index_last"]
    streamed: dict[str, dict[str, Any]] = {}
    for line in changed.lines(version, "event-stream-all-topics.ndjson"):
        for event in line["Events"]:
            one = event["Payload"].get("Allocation")
            if one and one["ModifyIndex"] <= last_index:
                streamed[one["ID"]] = one
    fields = {
        "ClientStatus": "client_status", "DesiredStatus": "desired_status", "JobID": "job_id",
        "DesiredDescription": "desired_description", "TaskGroup": "task_group", "Name": "name",
        "EvalID": "eval_id", "PreviousAllocation": "previous_alloc_id", "CreateIndex": "create_index",
        "NextAllocation": "next_alloc_id", "NodeName": "node_name", "FollowupEvalID": "followup_eval_id",
    }  # fmt: skip
    compared = 0
    for identity, one in streamed.items():
        if rows.loc[identity, "modify_index"] != one["ModifyIndex"]:
            continue  # the log continues where the stream ended
        for field, column in fields.items():
            value = rows.loc[identity, column]
            assert (None if pd.isna(value) else value) == (one.get(field) or None), (identity, field)
        for task, state in (one.get("TaskStates") or {}).items():
            row = snap.task_states.set_index(["alloc_id", "task"]).loc[(identity, task)]
            assert (row["state"], row["failed"], row["restarts"]) == (
                state["State"], state["Failed"], state["Restarts"],
            )  # fmt: skip
        compared += 1
    assert compared >= 20


def test_tasks_with_all_events_are_whole_and_have_more_than_ten(recovered: tuple[str, af.Snapshot]) -> None:
    _, snap = recovered
    assert not snap.task_states["events_truncated"].any()
    assert snap.task_states["event_count"].max() > 10
    assert "entries 1 to " in snap.info["notes"][0]
    assert snap.info["tasks_incomplete"] == 0


def test_the_history_has_what_was_done_by_hand(recovered: tuple[str, af.Snapshot]) -> None:
    _, snap = recovered
    assert snap.history is not None
    kinds = snap.history.changes["kind"].value_counts().to_dict()
    assert {name: kinds[name] for name in ("operator restart", "operator stop", "eligibility", "drain")} == {
        "operator restart": 1,
        "operator stop": 1,
        "eligibility": 2,
        "drain": 2,
    }
    assert kinds["dispatch"] == 3
    assert kinds["job version"] == 7
    assert kinds["purge"] == 5  # one by hand, four by the servers' collection
    stop = snap.history.changes.set_index("kind").loc["operator stop"]
    assert stop["alloc_id"] in set(snap.allocations["alloc_id"])


def test_versions_and_their_differences_are_those_of_the_api(recovered: tuple[str, af.Snapshot]) -> None:
    version, snap = recovered
    assert snap.history is not None
    made = snap.history.job_versions
    polled = af.History.from_json(jobs=changed.jobs(version))
    for row in polled.job_versions.itertuples():
        found = made[(made["job_id"] == row.job_id) & (made["version"] == row.version)]
        assert found["submitted_at"].tolist() == [row.submitted_at]
        assert found["stable"].tolist() == [row.stable]
        assert found["job_modify_index"].tolist() == [row.job_modify_index]
    columns = ["job_id", "version", "task_group", "task", "path", "kind"]
    pd.testing.assert_frame_equal(
        snap.history.job_changes[columns].astype("str"), polled.job_changes[columns].astype("str")
    )


def test_deployments_are_as_the_event_stream_last_had_them(recovered: tuple[str, af.Snapshot]) -> None:
    version, snap = recovered
    assert snap.history is not None
    rows = snap.history.deployments.set_index("deployment_id")
    for answer in changed.answers(version, "changes-deployments")[0]:
        if answer["JobID"] == "flaky":
            continue  # it continued after the poll
        groups = answer["TaskGroups"].values()
        row = rows.loc[answer["ID"]]
        assert row["status"] == answer["Status"]
        for field, column in (("HealthyAllocs", "healthy"), ("UnhealthyAllocs", "unhealthy")):
            assert row[column] == sum(group[field] for group in groups)
        assert row["placed"] == sum(group["PlacedAllocs"] for group in groups)


def test_evaluations_are_as_the_event_stream_last_had_them(recovered: tuple[str, af.Snapshot]) -> None:
    version, snap = recovered
    assert snap.history is not None
    rows = snap.history.evaluations.set_index("eval_id")
    streamed: dict[str, dict[str, Any]] = {}
    for line in changed.lines(version, "event-stream-all-topics.ndjson"):
        for event in line["Events"]:
            one = event["Payload"].get("Evaluation")
            if one and one["ModifyIndex"] <= snap.info["index_last"]:
                streamed[one["ID"]] = one
    same = {identity for identity in streamed if rows.loc[identity, "status"] == streamed[identity]["Status"]}
    # The log continues where the stream ended.
    later = {
        identity
        for identity in streamed
        if rows.loc[identity, "modify_index"] > streamed[identity]["ModifyIndex"]
    }
    assert set(streamed) - same <= later
    assert len(same) > 80
    # What still waits was never placed: nothing else is left blocked.
    assert rows[rows["status"] == "blocked"].index.tolist() == []


def test_nothing_secret_is_in_a_table_or_a_saved_file(
    recovered: tuple[str, af.Snapshot], tmp_path: Path
) -> None:
    version, snap = recovered
    assert snap.history is not None
    text = log(version).decode()
    hidden = {"made-up-1", "made-up-2", "db-1.internal"}
    for entry in changed.lines(version, "raft-logs.ndjson"):
        body = entry.get("Body") or {}
        hidden |= {body.get("AuthToken") or "", (body.get("Node") or {}).get("SecretID") or ""}
        for row in body.get("AllocsUpdated") or []:
            hidden |= set((row.get("SignedIdentities") or {}).values())
    hidden = {secret for secret in hidden if len(secret) > 8 and secret in text}
    assert len(hidden) > 3
    tables = [getattr(snap, name) for name in ("allocations", "task_states", "events", "reschedules")]
    tables += [getattr(snap.history, name) for name in HISTORY]
    shown = "".join(frame.to_json(date_format="iso") for frame in tables) + json.dumps(snap.info)
    with af.load(snap.save(tmp_path / "a.allocframe")) as loaded:
        content = b"".join(loaded._capture.file(page).read_bytes() for page in loaded._capture.pages)
        assert events_of(loaded) == events_of(snap)
        assert loaded.history is not None
    for secret in hidden:
        assert secret not in shown
        assert secret.encode() not in content


@pytest.mark.parametrize("packing", ["plain", "gz", "zst"])
def test_compressed_and_plain_logs_give_the_same(packing: str, tmp_path: Path) -> None:
    body = log("2.0.5")
    pack = {"plain": bytes, "gz": gzip.compress, "zst": lambda b: pa.Codec("zstd").compress(b, asbytes=True)}
    if packing == "zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(body)
        content = sink.getvalue().to_pybytes()
    else:
        content = pack[packing](body)
    with af.recover(written(tmp_path, content, "whatever.bin")) as snap:
        assert truth("2.0.5") <= events_of(snap)


def test_states_fill_in_what_was_placed_before_the_log_begins(tmp_path: Path) -> None:
    lines = log("2.0.5").splitlines(keepends=True)
    late = written(tmp_path, b"".join(lines[330:]))
    with af.recover(late) as alone:
        assert any("placed before the log begins" in note for note in alone.info["notes"])
        unknown = int(alone.allocations["job_id"].isna().sum())
        assert unknown > 0
        assert alone.task_states["events_truncated"].any()
    with af.recover(late, changed.path("2.0.5", "raft-state.json.gz")) as both:
        assert int(both.allocations["job_id"].isna().sum()) < unknown


@pytest.mark.parametrize("version", changed.VERSIONS)
@pytest.mark.parametrize("name", ["raft-state.json.gz", "snapshot-state.json.gz"])
def test_a_printed_state_alone_gives_its_allocations(version: str, name: str) -> None:
    state = json.loads(changed.read(version, name.removesuffix(".gz")))
    with af.recover(changed.path(version, name)) as snap:
        assert set(snap.allocations["alloc_id"]) == {row["ID"] for row in state["Allocs"]}
        assert snap.allocations["job_version"].notna().all()
        assert snap.history is not None
        assert len(snap.history.evaluations) == len(state["Evals"])
        assert "a printed state" in snap.info["notes"][0]


@pytest.mark.parametrize("version", changed.VERSIONS)
def test_a_debug_bundle_gives_its_captures_and_its_event_stream(version: str, tmp_path: Path) -> None:
    bundle = changed.path(version, "nomad-debug.tar.gz")
    with tarfile.open(bundle) as archive:
        archive.extractall(tmp_path, filter="data")
    seen = set()
    for file in tmp_path.rglob("allocations.json"):
        text, place = file.read_text(), 0
        while place < len(text.rstrip()):
            row, place = json.JSONDecoder().raw_decode(text, place)
            for one in row if isinstance(row, list) else [row]:
                for task, state in one["TaskStates"].items():
                    seen |= {(one["ID"], task, event["Time"], event["Type"]) for event in state["Events"]}
            while place < len(text) and text[place].isspace():
                place += 1
    assert len(seen) > 5
    with af.recover(bundle) as packed, af.recover(tmp_path) as unpacked:
        assert seen <= events_of(packed)
        assert events_of(packed) == events_of(unpacked)
        assert "a debug bundle" in packed.info["notes"][0]


@pytest.mark.parametrize("version", changed.VERSIONS)
def test_a_recorded_event_stream_can_be_read_too(version: str) -> None:
    with af.recover(changed.path(version, "event-stream-all-topics.ndjson.gz")) as snap:
        assert truth(version) - events_of(snap) == set()


def test_logs_of_several_servers_in_any_order_are_one_log(tmp_path: Path) -> None:
    lines = log("1.3.1").splitlines(keepends=True)
    first = written(tmp_path, b"".join(lines[:300]), "a.ndjson")
    second = written(tmp_path, b"".join(lines[200:]), "b.ndjson")
    with af.recover(second, first) as snap, af.recover(changed.path("1.3.1", "raft-logs.ndjson.gz")) as whole:
        assert events_of(snap) == events_of(whole)
        assert snap.info["entries"] == len(lines)
        # A link to a replacement raises the ModifyIndex only if the log is read in order.
        left, right = (
            frame.drop(columns="modify_index").sort_values("alloc_id", ignore_index=True)
            for frame in (snap.allocations, whole.allocations)
        )
        pd.testing.assert_frame_equal(left, right)


@settings(max_examples=5, phases=[Phase.generate])
@given(st.data())
def test_a_log_cut_at_any_byte_gives_what_its_whole_entries_hold(data: st.DataObject) -> None:
    version = data.draw(st.sampled_from(changed.VERSIONS))
    body = log(version)
    cut = data.draw(st.integers(len(body) // 20, len(body) - 2))
    part = body[:cut]
    whole = [json.loads(line) for line in part.splitlines()[:-1]]
    with_last = part.splitlines()[-1]
    try:
        whole.append(json.loads(with_last))
        is_cut = False
    except ValueError:
        is_cut = True
    with _temporary(part) as path, af.recover(path) as snap:
        assert events_of(snap) == events_in(whole)
        assert any("the last line is cut" in note for note in snap.info["notes"]) is is_cut


@pytest.mark.parametrize("seed", range(2))
def test_entries_in_another_order_and_twice_give_the_same(seed: int) -> None:
    rng = random.Random(seed)
    lines = log("2.0.5").splitlines()
    shuffled = [*lines, *rng.sample(lines, 40)]
    rng.shuffle(shuffled)
    with _temporary(b"\n".join(shuffled)) as path, af.recover(path) as snap:
        assert events_of(snap) == events_in([json.loads(line) for line in lines])
        with af.recover(changed.path("2.0.5", "raft-logs.ndjson.gz")) as whole:
            columns = ["alloc_id", "job_id", "client_status", "desired_status", "modify_index"]
            for frame in (snap.allocations, whole.allocations):
                assert frame["alloc_id"].is_unique
            left, right = (
                frame[columns].sort_values("alloc_id", ignore_index=True).astype("str")
                for frame in (snap.allocations, whole.allocations)
            )
            assert left["job_id"].tolist() == right["job_id"].tolist()


@settings(max_examples=6, phases=[Phase.generate])
@given(st.data())
def test_damaged_lines_are_counted_and_the_others_read(data: st.DataObject) -> None:
    lines = log("1.3.1").splitlines()
    places = data.draw(st.sets(st.integers(1, len(lines) - 2), min_size=1, max_size=8))
    damaged = [line[: len(line) // 2] if number in places else line for number, line in enumerate(lines)]
    kept = [json.loads(line) for number, line in enumerate(lines) if number not in places]
    with _temporary(b"\n".join(damaged)) as path, af.recover(path) as snap:
        assert events_of(snap) == events_in(kept)
        notes = " ".join(snap.info["notes"])
        assert f"{len(places):,} lines are damaged" in notes
        assert f"{len(places):,} entries between the first and the last are missing" in notes


def test_an_unknown_command_and_unknown_fields_are_told_and_do_no_harm(tmp_path: Path) -> None:
    entries = [json.loads(line) for line in log("2.0.5").splitlines()]
    for entry in entries:
        entry["FromTheFuture"] = {"x": [1]}
        if isinstance(entry.get("Body"), dict):
            entry["Body"]["Newer"] = {"y": None}
    odd = {"LogType": "LogCommand", "Index": 9000, "CommandType": "QuantumRequestType", "Body": {"Alloc": 7}}
    content = "\n".join(json.dumps(entry) for entry in [*entries, odd, {**odd, "Index": 9001, "Body": None}])
    with af.recover(written(tmp_path, content.encode())) as snap:
        assert truth("2.0.5") <= events_of(snap)
        assert any("1 entry left out" in note or "QuantumRequestType" in note for note in snap.info["notes"])


@settings(max_examples=25)
@given(
    st.sampled_from([
        "AllocClientUpdateRequestType", "ApplyPlanResultsRequestType", "JobRegisterRequestType",
        "AllocUpdateDesiredTransitionRequestType", "DeploymentStatusUpdateRequestType",
        "NodeRegisterRequestType", "BatchNodeUpdateDrainRequestType", "JobBatchDeregisterRequestType",
        "DeploymentAllocHealthRequestType", "UpsertNodeEventsType", "EvalDeleteRequestType",
    ]),
    st.dictionaries(
        st.sampled_from([
            "Alloc", "AllocsUpdated", "AllocsStopped", "Job", "Jobs", "Eval", "Evals", "Node", "NodeEvents",
            "Updates", "Allocs", "Deployment", "DeploymentUpdate", "DeploymentUpdates", "NodeID",
            "HealthyAllocationIDs", "UpdatedAt",
        ]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=3),
            lambda inner: st.lists(inner, max_size=2)
            | st.dictionaries(
                st.sampled_from(["ID", "JobID", "TaskStates", "Events", "TaskGroups", "Version", "Time"]),
                inner,
                max_size=4,
            ),
            max_leaves=6,
        ),
    ),
)  # fmt: skip
def test_no_body_of_a_known_command_is_an_error(command: str, body: dict[str, Any]) -> None:
    good = {"ID": "541c05e8-142d-d8d9-387f-9e713574e1ba", "ClientStatus": "running", "TaskStates": {}}
    entries = [
        {"LogType": "LogCommand", "Index": 1, "CommandType": command, "Body": body},
        {
            "LogType": "LogCommand",
            "Index": 2,
            "CommandType": "AllocClientUpdateRequestType",
            "Body": {"Alloc": [good]},
        },
    ]
    with _temporary("\n".join(map(json.dumps, entries)).encode()) as path, af.recover(path) as snap:
        assert good["ID"] in set(snap.allocations["alloc_id"])


@pytest.mark.parametrize(
    ("command", "body"),
    [
        ("NodeRegisterRequestType", {"Node": {"ID": []}}),
        (
            "ApplyPlanResultsRequestType",
            {"Deployment": {"ID": "d", "Namespace": [], "JobID": {}, "Status": "successful"}},
        ),
    ],
)
def test_an_identity_of_another_type_is_no_error(command: str, body: dict[str, Any], tmp_path: Path) -> None:
    entry = {"LogType": "LogCommand", "Index": 1, "CommandType": command, "Body": body}
    with af.recover(written(tmp_path, json.dumps(entry).encode() + b"\n" + log("2.0.5"))) as snap:
        assert truth("2.0.5") <= events_of(snap)


def event(kind: str, time: int) -> dict[str, Any]:
    return {"Type": kind, "Time": time}


def test_a_ring_that_moved_on_by_more_than_ten_is_a_gap() -> None:
    task = TaskHistory()
    task.add({"Events": [event("Received", 1), *(event("Started", n) for n in range(2, 11))]}, 5)
    assert task.complete
    task.add({"Events": [event("Started", n) for n in range(8, 18)]}, 6)
    assert task.complete
    task.add({"Events": [event("Started", n) for n in range(40, 50)]}, 7)
    assert not task.complete
    assert task.gaps == 1
    assert len(task) == 27


def test_a_task_whose_beginning_is_not_in_the_log_is_incomplete() -> None:
    task = TaskHistory()
    task.add({"Events": [event("Started", 9)]}, 5)
    assert not task.complete
    task.add({"Events": [event("Received", 1), event("Started", 9)]}, 3)  # an older update, read later
    assert task.complete
    assert [one["Type"] for one in json.loads(task.to_json())["Events"]] == ["Received", "Started"]


def test_a_task_with_a_gap_is_marked_in_the_table(tmp_path: Path) -> None:
    def update(index: int, events: list[dict[str, Any]]) -> str:
        row = {"ID": "541c05e8-142d-d8d9-387f-9e713574e1ba", "TaskStates": {"t": {"Events": events}}}
        entry = {"LogType": "LogCommand", "Index": index, "CommandType": "AllocClientUpdateRequestType"}
        return json.dumps({**entry, "Body": {"Alloc": [row]}})

    first = [event("Received", 1), *(event("Started", n) for n in range(2, 11))]
    later = [event("Started", n) for n in range(50, 60)]
    content = "\n".join([update(1, first), update(2, later)]).encode()
    with af.recover(written(tmp_path, content)) as snap:
        assert snap.task_states["events_truncated"].tolist() == [True]
        assert snap.info["tasks_incomplete"] == 1
        assert any("1 task" in note for note in snap.info["notes"])


def entry(index: int, command: str, **body: Any) -> bytes:
    line = {"LogType": "LogCommand", "Index": index, "CommandType": command, "Body": body}
    return json.dumps(line).encode() + b"\n"


def test_a_preemption_and_the_events_of_a_node_are_read_from_their_entries(tmp_path: Path) -> None:
    low, high = (f"{digit * 8}-0000-0000-0000-000000000000" for digit in "ab")
    event = {"Message": "Node drain strategy set", "Subsystem": "Drain", "Timestamp": "2026-11-26T01:02:03Z"}
    lines = [
        entry(7, "ApplyPlanResultsRequestType", Alloc=[{"ID": low, "JobID": "old", "DesiredStatus": "run"}]),
        entry(9, "ApplyPlanResultsRequestType", Alloc=[{"ID": high, "JobID": "web", "DesiredStatus": "run"}],
              AllocsPreempted=[{"ID": low, "PreemptedByAllocation": high}, {"ID": None}]),
        entry(11, "UpsertNodeEventsType", NodeEvents={"n1": [event, event]}),
    ]  # fmt: skip
    with af.recover(written(tmp_path, b"".join(lines))) as snap:
        row = snap.allocations.set_index("alloc_id").loc[low]
        assert (row["desired_status"], row["preempted_by"]) == ("evict", high)
        assert row["desired_description"] == f"Preempted by alloc ID {high}"
        assert snap.history is not None
        assert snap.history.node_events[["node_id", "message"]].to_numpy().tolist() == [
            ["n1", event["Message"]]
        ]
        assert snap.history.changes["kind"].tolist() == ["drain"]


@pytest.mark.parametrize(
    ("from_start", "observed", "versions"),
    [(True, {}, [0, 1, 2]), (False, {9: 7}, [6, 7, 8]), (False, {}, [None] * 3), (True, {12: 9}, [0, 1, 9])],
)
def test_versions_of_registrations_follow_from_those_that_are_known(
    from_start: bool, observed: dict[int, int], versions: list[int | None]
) -> None:
    jobs = JobVersions()
    for index in (5, 9, 12):
        jobs.register({"ID": "web", "TaskGroups": [{"Name": "app", "Count": index}]}, index)
    for index, version in observed.items():
        jobs.observe({"ID": "web", "Version": version, "JobModifyIndex": index})
    (found,) = jobs.versions(from_start=from_start)
    assert [spec["Version"] for spec in found] == versions
    assert [spec["JobModifyIndex"] for spec in found] == [5, 9, 12]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello\n", "must be a printed Raft log or state"),
        (b"\x00\x01\x02", "must be a printed Raft log or state"),
        (b"[]", "no allocation"),
        (b'{"a": 1}', "is not a server's state"),
        (b"[1, 2", "is not complete JSON"),
        (b'{"LogType": "LogNoop", "Index": 2}\n{"LogType": "LogNoop", "Index": 3}\n', "no allocation"),
    ],
)
def test_what_cannot_be_recovered_is_a_clear_error(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(af.DecodeError, match=message):
        af.recover(written(tmp_path, content))


def test_folders_without_a_server_and_missing_paths_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(af.ConfigError, match="must be the data folder of a Nomad server"):
        af.recover(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no"):
        af.recover(tmp_path / "none")
    with pytest.raises(af.ConfigError, match="needs a server's folder"):
        af.recover()


def test_a_folder_needs_the_nomad_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "server" / "raft").mkdir(parents=True)
    (tmp_path / "server" / "raft" / "raft.db").write_bytes(b"x")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(af.ConfigError, match="read by the nomad program"):
        af.recover(tmp_path)


def fake_nomad(folder: Path, script: str) -> Path:
    program = folder / "fake-nomad"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def snapshot_file(folder: Path) -> Path:
    """Return a file laid out as `nomad operator snapshot save` writes it."""
    for name in ("meta.json", "state.bin", "SHA256SUMS"):
        (folder / name).write_bytes(b"x")
    with tarfile.open(folder / "backup.snap", "w:gz") as archive:
        for name in ("meta.json", "state.bin", "SHA256SUMS"):
            archive.add(folder / name, name)
    return folder / "backup.snap"


def test_a_snapshot_file_of_a_server_is_read_by_the_program(tmp_path: Path) -> None:
    state = written(tmp_path, changed.read("2.0.5", "snapshot-state.json"), "state.json")
    file = snapshot_file(tmp_path)
    program = fake_nomad(tmp_path, f'[ "$1 $2 $3 $4" = "operator snapshot state {file}" ] && cat {state}')
    with af.recover(file, nomad=program) as snap, af.recover(state) as printed:
        assert set(snap.allocations["alloc_id"]) == set(printed.allocations["alloc_id"])
        assert events_of(snap) == events_of(printed)


def test_a_snapshot_file_without_the_program_says_how_to_print_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = snapshot_file(tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(af.ConfigError, match="nomad operator snapshot state FILE"):
        af.recover(file)


@pytest.mark.parametrize("below", ["", "server", "server/raft", "server/raft/raft.db"])
def test_only_a_copy_of_the_folder_is_given_to_the_program(below: str, tmp_path: Path) -> None:
    raft = tmp_path / "data" / "server" / "raft"
    raft.mkdir(parents=True)
    printed = written(tmp_path, log("2.0.5"))
    (raft / "raft.db").write_bytes(b"\0" * (3 << 20) + b"live")
    script = (
        f'echo "$4" >> {tmp_path}/args; tail -c 4 "$4/server/raft/raft.db" >> {tmp_path}/seen; cat {printed}'
    )
    with af.recover(tmp_path / "data" / below, nomad=fake_nomad(tmp_path, script)) as snap:
        assert truth("2.0.5") <= events_of(snap)
    folders = set((tmp_path / "args").read_text().split())
    assert not any(str(tmp_path / "data") in folder for folder in folders)
    assert (tmp_path / "seen").read_text().startswith("live")
    assert not any(Path(folder).exists() for folder in folders)


def test_a_failing_program_is_an_error_with_its_words(tmp_path: Path) -> None:
    raft = tmp_path / "raft"
    raft.mkdir()
    (raft / "raft.db").write_bytes(b"x")
    with pytest.raises(af.DecodeError, match="invalid database"):
        af.recover(tmp_path, nomad=fake_nomad(tmp_path, "echo invalid database >&2; exit 1"))


def test_one_command_writes_the_evidence_and_fills_an_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(changed.path("2.0.5", "raft-logs.ndjson.gz"))
    monkeypatch.setattr(
        "sys.argv", ["allocframe", "recover", path, "-o", "a.allocframe", "--archive", "kept"]
    )
    assert run() == 0
    printed = capsys.readouterr().out
    assert "recovered from a Raft log, entries 1 to 382" in printed
    with af.load("a.allocframe") as snap:
        assert truth("2.0.5") <= events_of(snap)
        assert snap.history is not None
        changes = ledger(snap.history)
    assert "added to kept, with what had changed in jobs and nodes" in printed
    with af.Archive("kept").snapshot() as back:
        assert truth("2.0.5") <= events_of(back)
    assert ledger(af.Archive("kept").history(since="2000-01-01")) == changes


def ledger(history: af.History) -> set[tuple[str, ...]]:
    """Return what was changed in jobs by hand, which an archive must keep."""
    rows = history.changes
    mine = rows[rows["kind"].isin(["job version", "purge", "operator stop"])]
    return {tuple(map(str, row)) for row in mine[["kind", "at", "job_id", "version_after"]].to_numpy()}


@pytest.mark.parametrize("version", changed.VERSIONS)
def test_one_command_writes_the_postmortem_of_a_purged_job_from_a_log_alone(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(changed.path(version, "raft-logs.ndjson.gz"))
    monkeypatch.setattr(
        "sys.argv", ["allocframe", "recover", path, "--postmortem", "flaky.md", "--job", "flaky", "--json"]
    )
    assert run() == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["postmortem"], facts["saved_to"], facts["archive"]) == ("flaky.md", None, None)
    assert facts["rows"]["allocations"] > 0
    text = Path("flaky.md").read_text()
    assert "flaky" in text
    assert "exit code 3" in text
    assert "checkout" not in text


def ended_while_it_waits(status: str) -> bytes:
    """Return the log with an allocation that waited for its restart when its job was purged."""
    lines = []
    for line in map(json.loads, log("2.0.5").splitlines()):
        for update in (line.get("Body") or {}).get("Alloc") or []:
            if update["ID"].startswith("487f91d4") and line["Index"] >= 359:
                state = update["TaskStates"]["server"]
                at = max(place for place, e in enumerate(state["Events"]) if e["Type"] == "Restarting")
                killing = [e for e in state["Events"] if e["Type"] == "Killing"]
                state["Events"] = state["Events"][: at + 1] + killing
                state["State"] = "dead" if killing else "pending"
                update["ClientStatus"] = status if killing else "pending"
        lines.append(json.dumps(line))
    return "\n".join(lines).encode()


def test_an_allocation_whose_job_was_purged_while_it_waited_to_restart_is_not_wanted_any_more(
    tmp_path: Path,
) -> None:
    """Nomad 2.0.5 lets it read "run", and its last event is a restart that never came."""
    with af.recover(written(tmp_path, ended_while_it_waits("complete"))) as snap:
        (mine,) = (i for i in af.diagnose(snap).incidents if "flaky" in str(i) and "crash" in str(i))
        status = snap.allocations.set_index("job_id").loc["flaky", "desired_status"].tolist()
    assert "run" in status, "the table is as the servers had it"
    assert (mine.state, "The job was purged." in str(mine)) == ("stopped", True)


def test_a_purged_job_is_not_down_for_ever(tmp_path: Path) -> None:
    with af.recover(written(tmp_path, ended_while_it_waits("failed"))) as snap:
        purged_at = snap.history.purged_at()["default", "flaky"]
        later = af.stats.availability(snap, by="job_id", observed_at=purged_at + pd.Timedelta("24h"))
        down = later.set_index("job_id").loc["flaky", "down_hours"]
    assert 0 < down < 0.1, "seconds of its crashes, and not the day after"


class _temporary:  # noqa: N801 - used as a function
    """A file with some content, for property tests, which have no folder of their own."""

    def __init__(self, content: bytes) -> None:
        import tempfile

        self._folder = tempfile.TemporaryDirectory()
        self._path = written(Path(self._folder.name), content)

    def __enter__(self) -> Path:
        return self._path

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()
