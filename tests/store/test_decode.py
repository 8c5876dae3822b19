"""Pages to tables: every record kept, every value right or NA with an issue that says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import flatten
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allocframe.errors import DecodeError
from allocframe.snapshot.io import read_json
from allocframe.snapshot.snapshot import Snapshot
from allocframe.store.decode import build_tables, decode_page, struct_type
from allocframe.tables import SNAPSHOT_TABLES, TABLES, wire_schema
from allocframe.tables.rows import Rows, parse_rfc3339, rfc3339


def read(tmp_path: Path, *documents: Any, raw: bytes | None = None) -> Snapshot:
    for number, document in enumerate(documents):
        (tmp_path / f"{number}.json").write_text(json.dumps(document))
    if raw is not None:
        (tmp_path / "raw.json").write_bytes(raw)
    return read_json(tmp_path / "*.json")


def plain(value: Any) -> Any:
    """Return a cell as JSON would have it: nanoseconds for times and durations, None for NA."""
    if pd.isna(value):
        return None
    if isinstance(value, pd.Timestamp | pd.Timedelta):
        return value.value
    return value.item() if hasattr(value, "item") else value


def stub(**fields: Any) -> dict[str, Any]:
    return {"ID": "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7", "Namespace": "default", "JobID": "web", **fields}


def with_events(*events: Any) -> dict[str, Any]:
    return stub(TaskStates={"server": {"State": "running", "Events": list(events)}})


@pytest.mark.parametrize("version", flatten.VERSIONS)
@pytest.mark.parametrize("name", ["list-all", "list-resources", "list-prefix", "list-pages"])
def test_recorded_lists_give_row_for_row_what_plain_loops_give(
    tmp_path: Path, version: str, name: str
) -> None:
    rows = flatten.recorded_rows(version, name)
    snap = read(tmp_path, rows)

    assert snap.allocations["alloc_id"].tolist() == [
        row["ID"] for row in sorted(rows, key=lambda row: (row["CreateIndex"], row["ID"]))
    ]
    by_id = {row["ID"]: row for row in rows}
    for row in snap.allocations.to_dict("records"):
        sent = by_id[row["alloc_id"]]
        assert plain(row["created_at"]) == sent["CreateTime"]
        assert plain(row["modified_at"]) == sent["ModifyTime"]
        assert row["modify_index"] == sent["ModifyIndex"]
        assert row["client_status"] == sent["ClientStatus"]
        assert row["job_version"] == sent["JobVersion"]
    for table, expected in (("task_states", flatten.task_rows(rows)), ("events", flatten.event_rows(rows))):
        frame = getattr(snap, table)
        key = list(TABLES[table].key)
        got = {tuple(row[k] for k in key): row for row in frame.to_dict("records")}
        assert got.keys() == expected.keys()
        for identity, row in expected.items():
            for column, value in row.items():
                read_value = plain(got[identity][column])
                if column.endswith("_at") and value is not None:
                    value = pd.Timestamp(value).value
                assert read_value == value, (identity, column)
    assert snap.issues.empty


@pytest.mark.parametrize("version", flatten.VERSIONS)
def test_recorded_lists_need_no_lenient_reader(version: str) -> None:
    for name in ("list-all", "list-resources", "list-pages"):
        page = decode_page(json.dumps(flatten.recorded_rows(version, name)).encode(), 0, name)
        build_tables([page])
        assert page.fitted == {}


@pytest.mark.parametrize("version", flatten.VERSIONS)
def test_a_full_read_gives_job_version_links_and_placement(tmp_path: Path, version: str) -> None:
    sent = flatten.recorded(version, "alloc-flaky-g-failed")[0]["json"]
    snap = read(tmp_path, sent)
    row = snap.allocations.iloc[0]
    assert row["job_version"] == sent["Job"]["Version"]
    assert row["job_type"] == sent["Job"]["Type"]
    assert plain(row["next_alloc_id"]) == sent.get("NextAllocation")
    assert plain(row["followup_eval_id"]) == sent.get("FollowupEvalID")
    assert len(snap.reschedules) == len(sent.get("RescheduleTracker", {}).get("Events", []))
    placement = snap._store.frame("placement")
    assert placement["node_id"].tolist() == [score["NodeID"] for score in sent["Metrics"]["ScoreMetaData"]]
    assert placement["norm_score"].tolist() == [
        score["NormScore"] for score in sent["Metrics"]["ScoreMetaData"]
    ]


@pytest.mark.parametrize("version", flatten.VERSIONS)
def test_recorded_dispatches_name_their_parent_and_run(tmp_path: Path, version: str) -> None:
    rows = flatten.recorded_rows(version, "list-dispatched")
    allocations = read(tmp_path, rows).allocations
    children = allocations[allocations["job_id"].str.startswith("resize/")]
    assert children["job_id"].nunique() == 3
    assert set(children["parent_job_id"]) == {"resize"}
    assert ("resize/" + children["run"].astype("str")).tolist() == children["job_id"].tolist()
    others = allocations.drop(children.index)
    assert len(others) == 2
    assert others[["parent_job_id", "run"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("job_id", "parent", "run"),
    [
        ("ocr/dispatch-1700000000-abcdef12", "ocr", "dispatch-1700000000-abcdef12"),
        ("ocr/dispatch-eu-west-1700000000-abcdef12", "ocr", "dispatch-eu-west-1700000000-abcdef12"),
        ("backup/periodic-1700000000", "backup", "periodic-1700000000"),
        ("team/ocr/periodic-1700000000", "team/ocr", "periodic-1700000000"),
        (
            "ocr/dispatch-1700000000-abcdef12/periodic-1700000060",
            "ocr/dispatch-1700000000-abcdef12",
            "periodic-1700000060",
        ),
        ("web", None, None),
        ("team/web", None, None),
        ("web/periodic-", None, None),
        ("web/periodic-soon", None, None),
        ("web/dispatch-1700000000", None, None),
        ("web/dispatch-1700000000-ABCDEF12", None, None),
        ("/periodic-1700000000", None, None),
        ("two\nlines/periodic-1700000000", "two\nlines", "periodic-1700000000"),
    ],
)
def test_a_child_is_known_by_the_id_that_nomad_gives_it(
    tmp_path: Path, job_id: str, parent: str | None, run: str | None
) -> None:
    snap = read(tmp_path, [stub(JobID=job_id)])
    row = snap.allocations.iloc[0]
    assert [plain(row["parent_job_id"]), plain(row["run"])] == [parent, run]


@pytest.mark.parametrize(
    ("job_id", "parent_id", "parent", "run"),
    [
        ("web/periodic-1700000000", "web", "web", "periodic-1700000000"),
        ("web/periodic-1700000000", "", None, None),
        ("web/another-way", "web", "web", "another-way"),
        ("elsewhere", "web", "web", None),
        ("web/periodic-1700000000", None, "web", "periodic-1700000000"),
        ("web", None, None, None),
    ],
)
def test_a_full_read_knows_the_parent_better_than_the_id(
    tmp_path: Path, job_id: str, parent_id: str | None, parent: str | None, run: str | None
) -> None:
    snap = read(tmp_path, stub(JobID=job_id, Job={"Type": "batch", "Version": 0, "ParentID": parent_id}))
    row = snap.allocations.iloc[0]
    assert [plain(row["parent_job_id"]), plain(row["run"])] == [parent, run]


def test_the_lenient_reader_knows_children_too(tmp_path: Path) -> None:
    snap = read(tmp_path, [stub(JobID="ocr/periodic-1700000000", JobVersion="not a number")])
    assert len(snap.issues) == 1
    assert snap.allocations["parent_job_id"].tolist() == ["ocr"]


def test_an_empty_answer_has_the_columns_and_dtypes_of_a_full_one(tmp_path: Path) -> None:
    full = read(tmp_path, flatten.recorded_rows("2.0.5", "list-resources"))
    (tmp_path / "empty").mkdir()
    empty = read(tmp_path / "empty", [])
    for name in SNAPSHOT_TABLES:
        assert getattr(empty, name).empty
        for column, dtype in getattr(full, name).dtypes.items():
            empty_dtype = getattr(empty, name)[column].dtype
            if isinstance(dtype, pd.CategoricalDtype):
                assert isinstance(empty_dtype, pd.CategoricalDtype)
                assert empty_dtype.categories.dtype == dtype.categories.dtype
            else:
                assert empty_dtype == dtype, (name, column)
        assert list(TABLES[name].empty().columns) == list(getattr(full, name).columns)


def test_details_win_over_the_deprecated_flat_fields(tmp_path: Path) -> None:
    event = {
        "Type": "Terminated",
        "Time": 5,
        "ExitCode": 1,
        "Signal": 0,
        "Details": {"exit_code": "137", "signal": "9"},
    }
    row = read(tmp_path, [with_events(event)]).events.iloc[0]
    assert (row["exit_code"], row["signal"]) == (137, 9)


def test_flat_fields_serve_where_details_are_missing_as_in_old_answers(tmp_path: Path) -> None:
    event = {"Type": "Terminated", "Time": 5, "ExitCode": 3, "Signal": 0, "Message": "Exit Code: 3"}
    row = read(tmp_path, [with_events(event)]).events.iloc[0]
    assert (row["exit_code"], row["message"]) == (3, "Exit Code: 3")


def test_each_text_is_read_from_details_and_flat_fields_also_if_one_answer_has_both(tmp_path: Path) -> None:
    names = {
        "restart_reason": "RestartReason", "kill_reason": "KillReason", "kill_error": "KillError",
        "failed_sibling": "FailedSibling", "driver_error": "DriverError", "driver_message": "DriverMessage",
        "setup_error": "SetupError", "download_error": "DownloadError", "vault_error": "VaultError",
        "validation_error": "ValidationError", "task_signal": "TaskSignal",
        "task_signal_reason": "TaskSignalReason",
    }  # fmt: skip
    details = {name: f"detail of {name}" for name in names}
    flat = {field: f"flat {name}" for name, field in names.items()}
    kinds = [{"Details": details}, flat, {"Details": details, **flat}, {}]
    events = read(
        tmp_path, [with_events(*({"Type": "X", "Time": n, **each} for n, each in enumerate(kinds)))]
    ).events
    for name in names:
        told = [plain(value) for value in events[name]]
        assert told == [f"detail of {name}", f"flat {name}", f"detail of {name}", None]


def test_a_value_that_means_nothing_for_the_type_is_missing_not_zero(tmp_path: Path) -> None:
    event = {
        "Type": "Started",
        "Time": 5,
        "ExitCode": 0,
        "Signal": 0,
        "StartDelay": 0,
        "DiskLimit": 0,
        "FailsTask": False,
    }
    row = read(tmp_path, [with_events(event)]).events.iloc[0]
    for column in (
        "exit_code",
        "signal",
        "start_delay",
        "kill_timeout",
        "disk_limit",
        "fails_task",
        "oom_killed",
    ):
        assert pd.isna(row[column]), column


def test_unknown_event_types_and_details_pass_through(tmp_path: Path) -> None:
    event = {
        "Type": "Teleported",
        "Time": 7,
        "Details": {"exit_code": "4", "destination": "moon", "n": 1, "deep": {"a": [1]}},
    }
    row = read(tmp_path, [with_events(event)]).events.iloc[0]
    assert row["type"] == "Teleported"
    assert row["exit_code"] == 4
    assert json.loads(row["details"]) == {
        "exit_code": "4",
        "destination": "moon",
        "n": "1",
        "deep": '{"a":[1]}',
    }


@pytest.mark.parametrize("states", [None, {}, {"server": None}])
def test_without_task_states_the_allocation_stays(tmp_path: Path, states: Any) -> None:
    snap = read(tmp_path, [stub(TaskStates=states), {"ID": "other"}])
    assert len(snap) == 2
    assert snap.task_states.empty
    assert snap.events.empty


def test_a_null_event_is_skipped_and_counted_and_the_others_keep_their_places(tmp_path: Path) -> None:
    snap = read(tmp_path, [with_events(None, {"Time": 7}, {"Type": "Started"})])
    assert snap.events["seq"].tolist() == [1, 2]
    assert pd.isna(snap.events["type"][0])
    assert pd.isna(snap.events["time"][1])
    assert snap.issues["field"].tolist() == ["TaskStates.server.Events[0]"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("CreateIndex", "twelve"),
        ("CreateIndex", 1.5),
        ("CreateIndex", True),
        ("CreateIndex", -1),
        ("CreateIndex", 2**64),
        ("CreateIndex", [1]),
        ("CreateIndex", {}),
        ("ModifyTime", 2**63),
        ("JobID", 7),
        ("JobID", False),
        ("JobID", ["web"]),
        ("TaskStates", []),
        ("TaskStates", "none"),
        ("DeploymentStatus", 3),
    ],
)
def test_a_value_of_another_type_becomes_na_and_an_issue_names_it(
    tmp_path: Path, field: str, value: Any
) -> None:
    snap = read(tmp_path, [stub(Name="first"), {**stub(ID="second"), field: value}])
    assert len(snap) == 2
    row = snap.allocations.set_index("alloc_id").loc["second"]
    column = {"CreateIndex": "create_index", "ModifyTime": "modified_at", "JobID": "job_id"}.get(
        field, "canary"
    )
    assert pd.isna(row[column])
    issue = snap.issues.iloc[0]
    assert (issue["record"], issue["field"], issue["alloc_id"]) == (1, field, "second")
    assert issue["file"].endswith("0.json")


def test_whole_numbers_written_as_text_are_read_as_the_api_document_shows_them(tmp_path: Path) -> None:
    tracker = {
        "Events": [
            {
                "PrevAllocID": "a",
                "PrevNodeID": "b",
                "RescheduleTime": 1517434161192946200,
                "Delay": "5000000000",
            }
        ]
    }
    snap = read(tmp_path, [stub(RescheduleTracker=tracker)])
    assert snap.reschedules["delay"][0] == pd.Timedelta(seconds=5)
    assert snap.reschedules["time"][0].value == 1517434161192946200
    assert snap.issues.empty


def test_numbers_are_exact_to_the_last_bit(tmp_path: Path) -> None:
    snap = read(tmp_path, [stub(CreateIndex=2**64 - 1, CreateTime=1795495619067308997)])
    assert int(snap.allocations["create_index"][0]) == 2**64 - 1
    assert snap.allocations["created_at"][0].value == 1795495619067308997


@pytest.mark.parametrize("literal", ["NaN", "-Infinity", "1e400", "9" * 5000])
def test_numbers_beyond_json_or_64_bits_become_na_with_an_issue(tmp_path: Path, literal: str) -> None:
    raw = json.dumps([stub(CreateIndex=123456)]).replace("123456", literal).encode()
    snap = read(tmp_path, raw=raw)
    assert pd.isna(snap.allocations["create_index"][0])
    assert snap.issues["field"].tolist() == ["CreateIndex"]


def test_invalid_utf8_and_lone_surrogates_are_replaced_and_noted(tmp_path: Path) -> None:
    raw = (
        json.dumps([stub(Name="A"), {**stub(ID="two"), "Name": "\ud800x"}])
        .encode()
        .replace(b'"A"', b'"\xff\xfe"')
    )
    snap = read(tmp_path, raw=raw)
    assert snap.allocations["name"].tolist() == ["��", "�x"] or set(snap.allocations["name"]) == {"��", "�x"}
    assert snap.issues["record"].tolist() == [0, 1]


def test_a_replacement_character_that_the_server_sent_is_no_damage(tmp_path: Path) -> None:
    rows = [stub(Name="a\ufffdb"), {**stub(ID="two"), "Name": "B"}]
    raw = json.dumps(rows, ensure_ascii=False).encode().replace(b'"B"', b'"\xff"')
    snap = read(tmp_path, raw=raw)
    assert "a\ufffdb" in set(snap.allocations["name"])
    assert snap.issues["record"].tolist() == [1], "the other record is damaged"


def test_nul_and_control_characters_in_names_are_kept_as_data(tmp_path: Path) -> None:
    name = "a\x00b\x1b[31m‮</td>"
    snap = read(tmp_path, [stub(JobID=name)])
    assert snap.allocations["job_id"][0] == name


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("2021-11-04T10:14:22.054814123+01:00", 1636017262054814123),
        ("2021-11-04T10:14:22-00:30", 1636022662000000000),
        ("2021-11-04T09:14:22.054814123Z", 1636017262054814123),
        ("2021-11-04T09:14:22Z", 1636017262000000000),
        ("0001-01-01T00:00:00Z", None),
        ("9999-12-31T23:59:59Z", None),
        ("yesterday", None),
        ("", None),
        (None, None),
    ],
)
def test_times_in_rfc_3339_are_exact_or_missing(
    tmp_path: Path, sent: str | None, expected: int | None
) -> None:
    snap = read(tmp_path, [stub(TaskStates={"server": {"StartedAt": sent}})])
    assert plain(snap.task_states["started_at"][0]) == expected
    unreadable = sent in ("yesterday", "9999-12-31T23:59:59Z")
    assert snap.issues["field"].tolist() == (["TaskStates.server.StartedAt"] if unreadable else [])


_TaskState = struct_type(wire_schema.TASK_STATE)
_like_a_time = st.builds(
    lambda text, place, new: text[:place] + new + text[place + 1 :],
    st.sampled_from(
        ["2021-11-04T09:14:22Z", "2021-11-04T09:14:22.054814123Z", "2021-11-04T09:14:22.5+01:00"]
    ),
    st.integers(0, 30),
    st.sampled_from(["", "0", "9", "00", "T", "t", "Z", " ", ".", ":", "é"]),
)


@settings(max_examples=150)
@given(texts=st.lists(_like_a_time | st.sampled_from([None, "", "0001-01-01T00:00:00Z"]), max_size=3))
def test_times_are_read_together_as_each_is_alone(texts: list[str | None]) -> None:
    states = [_TaskState(StartedAt=text) for text in texts]
    column = rfc3339("StartedAt")(Rows(states, strict=False))
    read = [None] * len(texts) if column is None else column.cast("int64").to_pylist()
    assert read == [None if text is None or text[:4] == "0001" else parse_rfc3339(text) for text in texts]


@pytest.mark.parametrize(
    ("key", "value"),
    [("exit_code", "abc"), ("exit_code", "1.5"), ("start_delay", "15s"), ("oom_killed", "perhaps")],
)
def test_a_detail_that_its_column_cannot_hold_is_noted_and_kept_in_details(
    tmp_path: Path, key: str, value: str
) -> None:
    kind = "Restarting" if key == "start_delay" else "Terminated"
    snap = read(tmp_path, [with_events({"Type": kind, "Details": {key: value}})])
    assert pd.isna(snap.events[key][0])
    assert json.loads(snap.events["details"][0]) == {key: value}
    assert snap.issues["field"].tolist() == [f"TaskStates.server.Events[0].Details.{key}"]


@pytest.mark.parametrize("time", [0, -(2**63), 2**63 - 1, -5, 4102444800000000000])
def test_times_in_nanoseconds_never_raise(tmp_path: Path, time: int) -> None:
    ns = plain(read(tmp_path, [with_events({"Type": "Started", "Time": time})]).events["time"][0])
    assert ns in (time, None)
    assert ns == time or time in (0, -(2**63), 2**63 - 1)


def test_the_last_of_two_equal_keys_wins(tmp_path: Path) -> None:
    raw = b'[{"ID":"a","JobID":"first","JobID":"last"}]'
    assert read(tmp_path, raw=raw).allocations["job_id"].tolist() == ["last"]


def test_a_byte_order_mark_is_overlooked(tmp_path: Path) -> None:
    assert len(read(tmp_path, raw=b"\xef\xbb\xbf" + json.dumps([stub()]).encode())) == 1


@pytest.mark.parametrize(
    "raw", [b"", b"[", b'[{"ID":"a"}', b'[{"ID":"a"}]x', b'[{"ID":"a"}][', b'[{"ID":}]', b"hello"]
)
def test_json_that_is_not_whole_is_an_error_naming_the_file(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(DecodeError, match=r"raw\.json"):
        read(tmp_path, raw=raw)


@pytest.mark.parametrize("version", flatten.VERSIONS)
def test_a_page_cut_anywhere_is_never_taken_for_a_whole_one(tmp_path: Path, version: str) -> None:
    body = json.dumps(flatten.recorded_rows(version, "list-prefix")).encode()
    for cut in range(0, len(body) - 1, 41):
        with pytest.raises(DecodeError):
            read(tmp_path, raw=body[:cut])


def test_a_thousand_levels_and_ten_thousand_details_lose_no_row(tmp_path: Path) -> None:
    deep: Any = "bottom"
    for _ in range(1000):
        deep = [deep]
    many = {f"key{n}": "v" for n in range(10_000)}
    snap = read(tmp_path, [with_events({"Type": "Driver", "Details": many}), stub(ID="deep", JobID=None)])
    assert len(json.loads(snap.events["details"][0])) == 10_000
    body = json.dumps(
        [with_events({"Type": "Driver", "Details": {"deep": "HERE"}}), {"ID": "odd", "JobID": 5}]
    )
    (tmp_path / "deep").mkdir()
    nested = "[" * 1000 + "]" * 1000
    snap = read(tmp_path / "deep", raw=body.replace('"HERE"', nested).encode())
    assert len(snap) == 2
    assert len(snap.events) == 1
    assert "nested deeper" in " ".join(snap.issues["problem"])


def test_a_message_of_fifty_megabytes_is_kept_whole_and_cut_in_views(tmp_path: Path) -> None:
    event = {"Type": "Driver", "Time": 1, "DisplayMessage": "x" * 50_000_000}
    snap = read(tmp_path, [with_events(event)])
    assert len(snap.events["message"][0]) == 50_000_000
    assert len(snap._repr_html_()) < 10_000


def test_rows_that_others_replace_leave_no_memory_behind(tmp_path: Path) -> None:
    events = [{"Type": "Started", "Time": number, "DisplayMessage": "x" * 99} for number in range(10)]
    rows = [{**with_events(*events), "ID": f"{number:08x}"} for number in range(500)]
    with read(tmp_path, rows) as snap:
        store, before, sizes = snap._store, snap.events, []
        for _ in range(12):
            ids = [row["ID"] for row in rows[:250]]
            again = store.rows(ids)
            store.drop(ids)
            store.put(again)
            sizes.append(store.size())
        assert max(sizes[6:]) <= max(sizes[:6])
        assert len(snap.events) == len(before) == 5000


def test_of_an_allocation_met_twice_the_newest_row_stays(tmp_path: Path) -> None:
    old, new = stub(ModifyIndex=9, ClientStatus="pending"), stub(ModifyIndex=10, ClientStatus="running")
    snap = read(tmp_path, [new], [old])
    assert snap.allocations["client_status"].tolist() == ["running"]


def test_equal_ids_in_two_namespaces_are_two_allocations(tmp_path: Path) -> None:
    snap = read(tmp_path, [stub(), {**stub(), "Namespace": "platform"}])
    assert sorted(snap.allocations["namespace"]) == ["default", "platform"]


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["", "1", "2021-11-04T09:14:22Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def _of(kind: wire_schema.WireType) -> st.SearchStrategy[Any]:
    """Return values that mostly fit `kind`, and sometimes are anything."""
    if isinstance(kind, wire_schema.Struct):
        fits: st.SearchStrategy[Any] = st.fixed_dictionaries(
            {}, optional={k: _of(v) for k, v in kind.fields.items()}
        )
    elif isinstance(kind, wire_schema.MapOf):
        fits = st.dictionaries(st.text(max_size=5), _of(kind.value), max_size=2)
    elif isinstance(kind, wire_schema.ListOf):
        fits = st.lists(_of(kind.item), max_size=2)
    elif kind in wire_schema.INT_RANGE:
        fits = st.integers(*wire_schema.INT_RANGE[kind])
    elif kind is wire_schema.BOOL:
        fits = st.booleans()
    else:
        fits = st.text(max_size=8)
    return st.integers(0, 9).flatmap(lambda roll: _json if roll == 0 else fits)


_KEPT = ("ID", "Namespace", "JobID", "CreateIndex", "CreateTime", "TaskStates")
_stub = st.fixed_dictionaries({}, optional={name: _of(wire_schema.ALLOCATION.fields[name]) for name in _KEPT})


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(rows=st.lists(_stub, max_size=4))
def test_whatever_the_json_holds_no_row_is_lost_and_no_value_is_wrong(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    for number, row in enumerate(rows):
        row["ID"] = f"{number}"
    snap = read(tmp_path_factory.mktemp("any"), rows)
    by_id = snap.allocations.set_index("alloc_id")
    assert sorted(by_id.index) == [row["ID"] for row in rows]
    for row in rows:
        got = by_id.loc[row["ID"]]
        index, job = row.get("CreateIndex"), row.get("JobID")
        fits = isinstance(index, int) and not isinstance(index, bool) and 0 <= index < 2**64
        if not isinstance(index, str | float):
            assert plain(got["create_index"]) == (index if fits else None)
        if isinstance(job, str) and not any("\ud800" <= c <= "\udfff" for c in job):
            assert plain(got["job_id"]) == (job or None)
        else:
            assert plain(got["job_id"]) is None or isinstance(job, str)
        states = row.get("TaskStates")
        tasks = (
            [t for t, state in states.items() if isinstance(state, dict)] if isinstance(states, dict) else []
        )
        assert (snap.task_states["alloc_id"] == row["ID"]).sum() == len(tasks)


@pytest.mark.parametrize("version", flatten.VERSIONS)
def test_what_the_servers_want_with_an_allocation_is_read_from_recorded_lists(
    tmp_path: Path, version: str
) -> None:
    rows = {row["ID"]: row for row in flatten.recorded_rows(version)}
    table = read(tmp_path, list(rows.values())).allocations
    wanted = {"must_migrate": "Migrate", "must_reschedule": "Reschedule"}
    wanted["forced_reschedule"] = "ForceReschedule"
    for row in table.to_dict("records"):
        sent = rows[row["alloc_id"]]
        for column, field in wanted.items():
            assert plain(row[column]) == (sent["DesiredTransition"] or {}).get(field), column
        health = sent["DeploymentStatus"] or {}
        moment = health.get("Timestamp")
        assert plain(row["deployment_health_at"]) == (moment and pd.Timestamp(moment).value)
        assert plain(row["deployment_health_index"]) == health.get("ModifyIndex")
    assert table["must_reschedule"].any(), "there are some"
    assert table["deployment_health_at"].notna().any()


def test_fields_that_few_versions_send_have_columns(tmp_path: Path) -> None:
    event = {"Type": "Generic", "GenericSource": "task hook", "Time": 1}
    state = {"State": "running", "Paused": "scheduled_pause", "TaskHandle": {"Version": 3}, "Events": [event]}
    sent = stub(TaskStates={"server": state}, PreemptedAllocations=["b", "c"])
    snap = read(tmp_path, [sent, stub(ID="b", PreemptedAllocations=None, DesiredTransition=None)])
    assert snap.allocations["preempted_allocs"].fillna("").tolist() == ["b,c", ""]
    assert snap.allocations["must_migrate"].isna().all()
    assert snap.task_states[["paused", "handle_version"]].values.tolist() == [["scheduled_pause", 3]]
    assert snap.events["generic_source"].tolist() == ["task hook"]
    assert snap.issues.empty
