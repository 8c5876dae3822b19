"""Statistics of a snapshot, computed part by part from the columns they need, equal those of whole tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tables import as_frames

import allocframe as af
from allocframe.snapshot import snapshot as snapshot_module
from allocframe.stats import _derived, _timeline
from allocframe.stats.explain import newest_failures, select_explained_events


@pytest.fixture(scope="module")
def in_parts(cluster: af.sim.Cluster) -> Iterator[af.Snapshot]:
    """A snapshot whose statistics are made of several parts, as those of a large one are."""
    with (
        pytest.MonkeyPatch.context() as patch,
        af.Client(cluster.address, token=cluster.token) as client,
        client.snapshot(namespace="*") as snap,
    ):
        patch.setattr(_derived, "PART_ROWS", 300)
        patch.setattr(_timeline, "PART_ROWS", 20)
        patch.setattr(snapshot_module, "WORTH_RETURNING", 10)
        yield snap


@pytest.fixture(scope="module")
def frames(cluster: af.sim.Cluster) -> Iterator[dict[str, Any]]:
    with (
        af.Client(cluster.address, token=cluster.token) as client,
        client.snapshot(namespace="*") as snap,
        _derived.share_derived(),
    ):
        yield {**as_frames(snap), "reschedules": snap.reschedules}


STATISTICS = [
    af.stats.restarts, af.stats.failures, af.stats.oom_kills, af.stats.failed_starts, af.stats.failure_share,
    af.stats.runs, af.stats.outages, af.stats.crash_loops, af.stats.restart_storms, af.stats.lemon_nodes,
    af.stats.blast_radius, af.stats.rollouts, af.stats.reschedule_chains, af.stats.availability,
]  # fmt: skip


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda statistic: statistic.__name__)
def test_parts_give_what_whole_tables_give(
    in_parts: af.Snapshot, frames: dict[str, Any], statistic: Callable[..., Any]
) -> None:
    from_parts, from_frames = statistic(in_parts), statistic(frames)
    assert list(from_parts) == list(from_frames)
    assert len(from_parts) == len(from_frames)
    count_columns = [
        name
        for name in ("count", "failures", "crashes", "observed", "events", "lost", "attempt")
        if name in from_parts
    ]
    for name in count_columns:
        assert from_parts[name].tolist() == from_frames[name].tolist(), name


@pytest.mark.parametrize(
    ("column", "values"), [("oom", ["confirmed"]), ("failure", [True]), ("type", ["Restarting", "Killing"])]
)
def test_chosen_events_are_the_rows_of_all_of_them(
    in_parts: af.Snapshot, frames: dict[str, Any], column: str, values: list[object]
) -> None:
    from_parts = select_explained_events(in_parts, column, values)
    assert "events" not in in_parts.__dict__
    from_frames = af.stats.explain_events(frames)
    expected = from_frames[from_frames[column].isin(values)].reset_index(drop=True)
    assert len(from_parts) == len(expected) > 0
    for name in expected:
        assert from_parts[name].astype("str").equals(expected[name].astype("str")), name


def test_the_latest_events_come_first(in_parts: af.Snapshot, frames: dict[str, Any]) -> None:
    from_parts = select_explained_events(in_parts, "failure", [True], latest=5)
    from_frames = af.stats.explain_events(frames)
    last = from_frames[from_frames["failure"].fillna(value=False)].nlargest(5, "time")
    assert from_parts["time"].tolist() == last["time"].tolist()


def test_the_newest_failures_of_a_window_are_those_of_all_rows(
    in_parts: af.Snapshot, frames: dict[str, Any]
) -> None:
    rows = af.stats.explain_events(frames)
    rows = rows[rows["failure"].astype(bool)].sort_values("time", ascending=False, kind="stable")
    since, until = rows["time"].iloc[-3], rows["time"].iloc[2]
    rows = rows[rows["time"].between(since, until)]
    newest = newest_failures(in_parts, since, until, 4)
    assert newest.rows["time"].tolist() == rows["time"].tolist()[:4]
    assert newest.failures == newest.kinds == len(rows) > 4
    kind = ["namespace", "job_id", "job_version", "task", "cause"]
    of_each = newest_failures(in_parts, since, until, 1000, kind=kind)
    expected = rows.drop_duplicates(kind)
    assert of_each.rows["time"].tolist() == expected["time"].tolist()
    assert (of_each.failures, of_each.kinds) == (len(rows), len(expected))
    assert len(expected) < len(rows)


def test_instances_are_down_for_the_same_time_in_parts(in_parts: af.Snapshot, frames: dict[str, Any]) -> None:
    for statistic in (af.stats.outages, af.stats.availability):
        from_parts, from_frames = statistic(in_parts), statistic(frames)
        # frames do not tell when they were fetched
        names = (
            ["slot", "task", "alloc_id", "began_at"] if "began_at" in from_parts else ["job_id", "outages"]
        )
        assert from_parts[names].astype("str").equals(from_frames[names].astype("str"))


def test_reports_of_a_large_snapshot_make_no_table_of_all_events_or_allocations(
    in_parts: af.Snapshot, tmp_path: Path
) -> None:
    for kind in ("postmortem", "cluster"):
        af.report(in_parts, kind, output=tmp_path / f"{kind}.md")
    assert not {"events", "allocations"} & set(in_parts.__dict__)


def test_findings_of_a_large_snapshot_make_no_table_of_all_events(in_parts: af.Snapshot) -> None:
    assert {"AF201", "AF202"} <= {finding.code for finding in af.findings(in_parts)}
    assert repr(in_parts)
    assert in_parts._repr_html_()
    assert len(in_parts) == in_parts.info["allocations"] > 0
    assert "events" not in in_parts.__dict__


def test_all_events_with_what_they_mean_are_those_of_whole_tables(
    cluster: af.sim.Cluster, client: af.Client, frames: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_derived, "PART_ROWS", 300)
    from_parts, from_frames = (
        af.stats.explain_events(client.snapshot(namespace="*")),
        af.stats.explain_events(frames),
    )
    assert list(from_parts) == list(from_frames)
    for name in from_frames:
        assert from_parts[name].astype("str").equals(from_frames[name].astype("str")), name


def test_the_stages_of_a_snapshot_are_computed_once_and_shared_as_of_another_moment(
    client: af.Client,
) -> None:
    snap = client.snapshot(namespace="*")
    derived = _derived.derive(snap)
    assert _derived.derive(snap) is derived
    earlier = _derived.derive(snap, pd.Timestamp(snap.info["finished_at"]) - pd.Timedelta("1h"))
    assert earlier.events is derived.events
    assert earlier.tasks is derived.tasks
    assert earlier.observed_us == derived.observed_us - 3_600_000_000


def test_an_interrupted_stage_is_computed_again(
    client: af.Client, frames: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    snap = client.snapshot(namespace="*")
    with monkeypatch.context() as patch:
        patch.setattr(_derived, "_join_parts", lambda frames, order: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            af.stats.restarts(snap)
    expected = af.stats.restarts(frames)
    assert af.stats.restarts(snap)["count"].tolist() == expected["count"].tolist()


def test_crash_loops_have_the_types_of_the_tables(in_parts: af.Snapshot) -> None:
    loops, allocations = af.stats.crash_loops(in_parts), in_parts.allocations
    assert len(loops)
    for name in ("namespace", "job_id", "task_group"):
        assert loops[name].dtype.name == allocations[name].dtype.name == "category"
    assert af.stats.runs(in_parts)["attempt"].dtype == "int32"
