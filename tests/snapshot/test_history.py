"""A history, made of answers of real agents on which somebody deployed, drained, restarted and stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import changed
import pandas as pd
import pytest

import allocframe as af
from allocframe.tables import HISTORY

CHANGED_BY_HAND = {
    "operator restart": 1,
    "operator stop": 1,
    "eligibility": 2,
    "drain": 2,
    "node up": 1,
    "job version": 5,
}


def history(version: str, tmp_path: Path, **options: Any) -> af.History:
    file = tmp_path / "list.json"
    file.write_text(json.dumps(changed.answers(version, "changes-allocations")[0]))
    with af.read_json(file) as snap:
        return af.History.from_json(
            jobs=changed.jobs(version),
            deployments=changed.answers(version, "changes-deployments")[0],
            nodes=[changed.node(version)],
            evaluations=changed.answers(version, "changes-evaluations")[0],
            allocations=snap.allocations,
            events=snap.events,
            **options,
        )


@pytest.mark.parametrize("version", changed.VERSIONS)
def test_the_ledger_has_each_change_that_was_made_by_hand_and_no_other(version: str, tmp_path: Path) -> None:
    made = history(version, tmp_path)
    kinds = made.changes["kind"].value_counts().to_dict()
    deployments = kinds.pop("deployment")
    assert kinds == CHANGED_BY_HAND
    assert deployments == len(changed.answers(version, "changes-deployments")[0])
    assert made.changes["at"].is_monotonic_increasing
    assert made.changes["at"].notna().all()


@pytest.mark.parametrize("version", changed.VERSIONS)
def test_a_version_in_the_ledger_says_what_changed(version: str, tmp_path: Path) -> None:
    changes = history(version, tmp_path).changes
    row = changes[(changes["job_id"] == "checkout") & (changes["version_before"] == 0)].iloc[0]
    assert row["version_after"] == 1
    detail = json.loads(row["detail"])
    assert set(detail) == {"changed", "fields"}, "none was left out"
    assert detail["fields"] == [
        "app server Config.args[1]",
        "app server Env[DB_HOST]",
        "app server Env[DB_PASSWORD]",
        "app server Env[NEW]",
        "app server Resources.MemoryMB",
    ]


@pytest.mark.parametrize("version", changed.VERSIONS)
def test_secrets_are_in_no_table_unless_they_are_asked_for(version: str, tmp_path: Path) -> None:
    for values in (False, True):
        made = history(version, tmp_path, values=values)
        text = "".join(getattr(made, name).to_json(date_format="iso") for name in HISTORY)
        assert ("made-up-2" in text) is values
        assert ("db-1.internal" in text) is values
        assert changed.node(version)["SecretID"] not in text or not changed.node(version)["SecretID"]


@pytest.mark.parametrize("version", changed.VERSIONS)
def test_deployments_have_times_also_where_the_server_gives_none(version: str, tmp_path: Path) -> None:
    rows = history(version, tmp_path).deployments.set_index("deployment_id")
    assert rows["started_at"].notna().all()
    assert (rows["ended_at"].notna() == (rows["status"] == "successful")).all()
    # Recorded beside: a deployment ends soon after the last of its allocations became healthy.
    healthy: dict[str, int] = {}
    for line in changed.lines(version, "event-stream-all-topics.ndjson"):
        for event in line["Events"]:
            one = event["Payload"].get("Allocation")
            if one and (one.get("DeploymentStatus") or {}).get("Timestamp"):
                stamp = pd.Timestamp(one["DeploymentStatus"]["Timestamp"]).value
                deployment = one.get("DeploymentID", "")
                healthy[deployment] = max(stamp, healthy.get(deployment, 0))
    for deployment, ended in rows["ended_at"].dropna().items():
        assert abs(ended.value - healthy[deployment]) < 3e9


@pytest.mark.parametrize("version", changed.VERSIONS)
def test_counts_of_a_deployment_are_the_sums_of_its_groups(version: str, tmp_path: Path) -> None:
    made = history(version, tmp_path).deployments.set_index("deployment_id")
    for answer in changed.answers(version, "changes-deployments")[0]:
        groups = answer["TaskGroups"].values()
        row = made.loc[answer["ID"]]
        assert row["healthy"] == sum(group["HealthyAllocs"] for group in groups)
        assert row["desired"] == sum(group["DesiredTotal"] for group in groups)
        assert pd.isna(row["promoted"])


def test_an_operator_stop_names_the_allocation_where_the_server_does(tmp_path: Path) -> None:
    changes = history("2.0.5", tmp_path).changes
    stopped = changes.loc[changes["kind"] == "operator stop", "alloc_id"].iloc[0]
    rows = {row["ID"]: row for row in changed.answers("2.0.5", "changes-allocations")[0]}
    evaluations = {row["ID"]: row for row in changed.answers("2.0.5", "changes-evaluations")[0]}
    replacement = rows[rows[stopped]["NextAllocation"]]
    assert evaluations[replacement["EvalID"]]["TriggeredBy"] == "alloc-stop"


def job(version: int, **fields: Any) -> dict[str, Any]:
    spec = {
        "ID": "web", "Namespace": "default", "Version": version, "SubmitTime": 10**18 + version * 10**9,
        "JobModifyIndex": 10 + version, "Stop": False, "TaskGroups": [{"Name": "app", "Count": 1}],
    }  # fmt: skip
    return {**spec, **fields}


def evaluation(trigger: str, index: int, **fields: Any) -> dict[str, Any]:
    known = {"ID": f"e{index}", "Namespace": "default", "JobID": "web", "TriggeredBy": trigger}
    return {**known, "CreateIndex": index, "CreateTime": 10**18 + index, **fields}


def kinds(**answers: Any) -> list[str]:
    return list(af.History.from_json(**answers).changes["kind"])


def test_a_change_of_counts_alone_is_a_scaling() -> None:
    made = af.History.from_json(jobs=[[job(1, TaskGroups=[{"Name": "app", "Count": 5}]), job(0)]]).changes
    assert made["kind"].tolist() == ["job version", "scale"]
    assert json.loads(made["detail"].iloc[1])["counts"] == {"app": ["1", "5"]}


def test_a_stopped_job_is_an_operator_stop_at_the_time_of_its_evaluation() -> None:
    # Nomad 1.3 keeps the time of the previous version.
    stopped = job(1, Stop=True, SubmitTime=job(0)["SubmitTime"])
    made = af.History.from_json(
        jobs=[[stopped, job(0)]], evaluations=[evaluation("job-deregister", 11, JobModifyIndex=11)]
    ).changes
    assert (
        made["kind"].tolist() == ["operator stop", "job version"]
        or made["kind"].tolist()[-1] == "operator stop"
    )
    stop = made[made["kind"] == "operator stop"].iloc[0]
    assert (stop["at"].value, stop["source"]) == (10**18 + 11, "job_versions")
    without = af.History.from_json(jobs=[[stopped, job(0)]]).changes
    assert without.loc[without["kind"] == "operator stop", "at"].isna().all()


def test_a_job_that_is_gone_was_purged_only_if_all_jobs_of_its_namespace_are_known() -> None:
    gone = [evaluation("job-deregister", 50)]
    assert kinds(evaluations=gone) == ["purge"]
    assert kinds(evaluations=gone, listed=[]) == ["operator stop"]


def test_a_job_registered_again_after_a_purge_was_purged() -> None:
    again = job(0, JobModifyIndex=60, SubmitTime=10**18 + 60)
    assert kinds(jobs=[[again]], evaluations=[evaluation("job-deregister", 50)]) == ["purge", "job version"]


def test_dispatches_are_changes_and_launches_of_a_periodic_job_are_none() -> None:
    runs = [
        [job(0, ID="etl/dispatch-1795659223-0550f2da", ParentID="etl")],
        [job(0, ID="cron/periodic-1795659223", ParentID="cron")],
    ]
    assert kinds(jobs=runs) == ["dispatch"]


def test_a_rollback_names_the_version_that_it_returns_to() -> None:
    other = [{"Name": "app", "Count": 1, "Meta": {"a": "b"}}]
    made = af.History.from_json(jobs=[[job(2), job(1, TaskGroups=other), job(0)]])
    assert made.job_versions["same_as"].tolist() == [pd.NA, pd.NA, 0]
    assert json.loads(made.changes["detail"].iloc[2])["same_as"] == 0


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Node heartbeat missed", "node down"),
        ("Node reregistered by heartbeat", "node up"),
        ("Node re-registered", "node up"),
        ("Node drain strategy updated", "drain"),
        ("Node drain disabled", "drain"),
        (
            "Node marked as ineligible for scheduling due to multiple plan rejections, refer to x",
            "eligibility",
        ),
        ("Driver exec is not detected", None),
    ],
)
def test_every_message_of_a_node_has_its_kind(message: str, kind: str | None) -> None:
    event = {"Message": message, "Subsystem": "Cluster", "Timestamp": "2026-11-26T02:13:16Z"}
    assert kinds(nodes=[{"ID": "n", "Name": "one", "Events": [event]}]) == ([kind] if kind else [])


def test_a_node_that_is_down_is_in_the_ledger_even_if_its_event_is_lost() -> None:
    node = {"ID": "n", "Name": "one", "Status": "down", "StatusUpdatedAt": 1795659490, "Events": []}
    changes = af.History.from_json(nodes=[node]).changes
    assert changes["kind"].tolist() == ["node down"]
    assert changes["at"].iloc[0] == pd.Timestamp(1795659490, unit="s", tz="UTC")


def test_tables_without_rows_have_the_declared_columns() -> None:
    empty = af.History.from_json()
    for name, table in HISTORY.items():
        frame = getattr(empty, name)
        assert len(frame) == 0
        assert frame.dtypes.to_dict() == table.empty().dtypes.to_dict()


@pytest.mark.parametrize("name", HISTORY)
@pytest.mark.parametrize("version", changed.VERSIONS)
def test_keys_of_the_tables_are_unique(name: str, version: str, tmp_path: Path) -> None:
    frame = getattr(history(version, tmp_path), name)
    assert not frame.duplicated(list(HISTORY[name].key)).any()


def test_damaged_answers_give_missing_values_not_errors() -> None:
    rows: list[Any] = [
        {},
        {"ID": 1, "Version": "x", "TaskGroups": "no", "Status": {}, "Events": [1], "SubmitTime": -1},
    ]
    made = af.History.from_json(jobs=[rows], deployments=rows, nodes=rows, evaluations=rows)
    assert len(made.nodes) == len(made.deployments) == 2


@pytest.mark.parametrize("version", changed.VERSIONS)
def test_a_saved_snapshot_keeps_its_history(version: str, tmp_path: Path) -> None:
    file = tmp_path / "list.json"
    file.write_text(json.dumps(changed.answers(version, "changes-allocations")[0]))
    with af.read_json(file) as snap:
        assert snap.history is None
        snap.history = made = history(version, tmp_path, notes=["nodes could not be read"])
        path = snap.filter(job_id="checkout").save(tmp_path / "a.allocframe")
        pages = len(snap._capture.pages)
        with af.load(path) as loaded, af.load(loaded.save(tmp_path / "b.allocframe")) as again:
            assert again.history is not None
            assert again.history.notes == made.notes
            assert len(again) == len(snap.filter(job_id="checkout"))
            for name in HISTORY:
                pd.testing.assert_frame_equal(getattr(again.history, name), getattr(made, name))
    assert pages == 1
    assert "made-up-2" not in path.read_bytes().decode("latin-1")


def test_an_empty_history_is_saved_too(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    with af.read_json(tmp_path / "list.json") as snap:
        snap.history = af.History.from_json()
        with af.load(snap.save(tmp_path / "a.allocframe")) as loaded:
            assert loaded.history is not None
            assert len(loaded.history.changes) == 0


def test_a_damaged_history_is_told(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    with af.read_json(tmp_path / "list.json") as snap:
        snap._capture.add(b"no parquet", kind="history", path="changes", params={})
        saved = snap.save(tmp_path / "a.allocframe")
    with pytest.raises(af.DecodeError, match="the saved history cannot be read"):
        af.load(saved)


def test_a_table_of_a_newer_version_is_left_out_and_a_column_of_it_is_missing_in_older_files(
    tmp_path: Path,
) -> None:
    (tmp_path / "list.json").write_text("[]")
    (pd.DataFrame({"kind": ["drain"], "later": [1]})).to_parquet(tmp_path / "changes.parquet")
    with af.read_json(tmp_path / "list.json") as snap:
        data = (tmp_path / "changes.parquet").read_bytes()
        for name in ("changes", "of_the_future"):
            snap._capture.add(data, kind="history", path=name, params={})
        with af.load(snap.save(tmp_path / "a.allocframe")) as loaded:
            assert loaded.history is not None
            assert loaded.history.changes["kind"].tolist() == ["drain"]
            assert loaded.history.changes["at"].isna().all()
