"""A fetched history: what it asks for, what it leaves out, and what it notes if something may not be read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import changed
import pandas as pd
import pytest
from historyserver import HistoryServer

import allocframe as af
from allocframe.nomad import protocol
from allocframe.tables import HISTORY


@pytest.fixture(scope="module")
def cluster() -> Iterator[af.sim.Cluster]:
    with af.sim.Cluster("bad_deploy", allocations=80, seed=3) as cluster:
        yield cluster


def client(cluster: af.sim.Cluster, token: str | None = None) -> af.Client:
    return af.Client(cluster.address, token=token or cluster.token)


@pytest.mark.parametrize("version", ["1.3.1", "2.0.5"])
def test_the_ledger_of_a_simulated_cluster_has_the_bad_version_and_what_changed(version: str) -> None:
    with (
        af.sim.Cluster("bad_deploy", allocations=80, seed=3, version=version) as cluster,
        client(cluster) as nomad,
    ):
        cause = cluster.truth.causes[0]
        history = nomad.history(namespace="*")
    versions = history.changes[
        (history.changes["job_id"] == cause.job_id) & (history.changes["kind"] == "job version")
    ]
    assert versions["version_after"].tolist() == [0, 1]
    assert "app server Config.image" in json.loads(versions["detail"].iloc[1])["fields"]
    assert abs(versions["at"].iloc[1].value - cause.start_ns) < 60e9
    assert history.notes == []
    assert (history.nodes["status"] == "ready").all()


def test_a_snapshot_has_a_history_only_if_it_was_asked_for(cluster: af.sim.Cluster, tmp_path: Path) -> None:
    with client(cluster) as nomad:
        assert nomad.snapshot(namespace="*").history is None
        with nomad.snapshot(namespace="*", history=True) as snap:
            assert snap.history is not None
            kinds = snap.history.changes["kind"].value_counts()
            assert kinds["operator restart"] >= 1
            assert "history:" in repr(snap)
            with af.load(snap.save(tmp_path / "a.allocframe")) as loaded:
                assert loaded.history is not None
                pd.testing.assert_frame_equal(loaded.history.changes, snap.history.changes)
            names = {path.stem for path in snap.to_parquet(tmp_path / "t").glob("*.parquet")}
            assert set(HISTORY) <= names


def test_what_a_token_may_not_read_is_noted_and_the_rest_comes(cluster: af.sim.Cluster) -> None:
    with client(cluster, cluster.add_token(["platform"])) as nomad:
        history = nomad.history(namespace="*")
    assert len(history.notes) == 1
    assert history.notes[0].startswith("nodes could not be read")
    assert "node" in history.notes[0]
    assert len(history.nodes) == 0
    assert set(history.job_versions["namespace"]) == {"platform"}
    with client(cluster, cluster.add_token(["platform"], nodes=True)) as nomad:
        assert len(nomad.history(namespace="*").nodes) > 0


def test_a_token_that_may_read_nothing_is_an_error(cluster: af.sim.Cluster) -> None:
    with client(cluster, "no-such-token") as nomad, pytest.raises(af.PermissionDenied):
        nomad.history(namespace="*")


@pytest.mark.parametrize("version", ["1.3.1", "2.0.5"])
def test_since_leaves_out_what_is_older(version: str) -> None:
    with (
        af.sim.Cluster("bad_deploy", allocations=80, seed=3, version=version) as cluster,
        client(cluster) as nomad,
    ):
        whole = nomad.history(namespace="*")
        start = whole.changes["at"].max() - pd.Timedelta("2h")
        recent = nomad.history(namespace="*", since=start)
    assert 0 < len(recent.changes) < len(whole.changes)
    assert (recent.changes["at"] >= start).all()
    expected = whole.since(start).changes
    assert recent.changes["kind"].tolist() == expected["kind"].tolist()
    assert recent.changes["at"].tolist() == expected["at"].tolist()
    assert set(recent.job_changes["version"]) <= set(recent.job_versions["version"])


def test_runs_of_a_parameterized_job_cost_no_request(tmp_path: Path) -> None:
    version = "2.0.5"
    stub = {**changed.jobs(version)[0][0], "TaskGroups": None}
    runs = [{**stub, "ID": f"etl/dispatch-{n}-abcdef12", "ParentID": "etl"} for n in range(50)]
    (tmp_path / "jobs.json").write_text(
        json.dumps(
            [{"request": {"method": "GET", "path": "/v1/jobs"}, "status": 200, "headers": {}, "json": runs}]
        )
    )
    with af.sim.Cluster.replay(tmp_path, version=version) as cluster, af.Client(cluster.address) as nomad:
        history = nomad.history()
        assert nomad.counters["requests"] < 10
    assert (history.changes["kind"] == "dispatch").sum() == 50
    assert set(history.job_versions["parent_job_id"]) == {"etl"}


@pytest.mark.parametrize(
    "path",
    ["/v1/job/web/versions", "/v1/job/a%2Fb%20c/versions", "/v1/jobs", "/v1/nodes", "/v1/deployments"],
)
def test_the_reads_of_a_history_are_allowed_to_a_read_only_client(path: str) -> None:
    assert protocol.is_read(path)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/job/a/b/versions",
        "/v1/job/../versions/x",
        "/v1/job/web/dispatch",
        "/v1/node/x/drain",
        "/v1/job/web",
    ],
)
def test_other_paths_of_jobs_and_nodes_are_not(path: str) -> None:
    assert not protocol.is_read(path)


@pytest.mark.parametrize("name", ["a//b", "../x", "a/../b", "/a", "a/.", "a\x00b"])
def test_a_job_whose_name_is_no_path_is_noted_and_not_asked_for(name: str, tmp_path: Path) -> None:
    stub = {**changed.jobs("2.0.5")[0][0], "TaskGroups": None, "ID": name}
    (tmp_path / "jobs.json").write_text(
        json.dumps(
            [{"request": {"method": "GET", "path": "/v1/jobs"}, "status": 200, "headers": {}, "json": [stub]}]
        )
    )
    with af.sim.Cluster.replay(tmp_path, version="2.0.5") as cluster, af.Client(cluster.address) as nomad:
        history = nomad.history()
    assert "because of its name" in history.notes[0]
    assert len(history.job_versions) == 1


def test_lists_that_may_not_be_read_are_noted_and_the_jobs_come() -> None:
    job = {"ID": "web", "Namespace": "default", "Version": 0, "JobModifyIndex": 5, "ModifyIndex": 5}
    server = HistoryServer(None, jobs=[job])
    server.versions["web"] = [{**job, "TaskGroups": [{"Name": "app", "Count": 1}]}]
    server.forbidden = {"evaluations", "deployments", "nodes"}
    try:
        with af.Client(server.address) as nomad:
            history = nomad.history(namespace="*")
    finally:
        server.close()
    assert history.job_versions["job_id"].tolist() == ["web"]
    for name in ("evaluations", "deployments", "nodes"):
        assert any(note.startswith(f"{name} could not be read") for note in history.notes), history.notes
