"""Statistics of a snapshot are made of the columns they need, part by part: they are those of its whole tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tables import as_frames

import allocframe as af
from allocframe.snapshot import snapshot as snapshot_module
from allocframe.stats import _derived
from allocframe.stats.explain import explained


@pytest.fixture(scope="module")
def apart(cluster: af.sim.Cluster) -> Iterator[af.Snapshot]:
    """A snapshot whose statistics are made of several parts, as those of a large one are."""
    with (
        pytest.MonkeyPatch.context() as patch,
        af.Client(cluster.address, token=cluster.token) as client,
        client.snapshot(namespace="*") as made,
    ):
        patch.setattr(_derived, "PART_ROWS", 300)
        patch.setattr(snapshot_module, "LARGE", 10)
        yield made


@pytest.fixture(scope="module")
def frames(cluster: af.sim.Cluster) -> dict[str, Any]:
    with (
        af.Client(cluster.address, token=cluster.token) as client,
        client.snapshot(namespace="*") as made,
    ):
        return {**as_frames(made), "reschedules": made.reschedules}


STATISTICS = [
    af.stats.restarts, af.stats.failures, af.stats.oom_kills, af.stats.failed_starts, af.stats.failure_share, af.stats.runs,
    af.stats.outages, af.stats.crash_loops, af.stats.restart_storms, af.stats.lemon_nodes, af.stats.blast_radius,
    af.stats.rollouts, af.stats.reschedule_chains, af.stats.availability,
]  # fmt: skip


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda statistic: statistic.__name__)
def test_parts_give_what_whole_tables_give(
    apart: af.Snapshot, frames: dict[str, Any], statistic: Callable[..., Any]
) -> None:
    found, whole = statistic(apart), statistic(frames)
    assert list(found) == list(whole)
    assert len(found) == len(whole)
    counted = [
        name
        for name in ("count", "failures", "crashes", "observed", "events", "lost", "attempt")
        if name in found
    ]
    for name in counted:
        assert found[name].tolist() == whole[name].tolist(), name


@pytest.mark.parametrize(
    ("column", "values"), [("oom", ["confirmed"]), ("failure", [True]), ("type", ["Restarting", "Killing"])]
)
def test_chosen_events_are_the_rows_of_all_of_them(
    apart: af.Snapshot, frames: dict[str, Any], column: str, values: list[object]
) -> None:
    found = explained(apart, column, values)
    assert "events" not in apart.__dict__
    whole = af.stats.explain_events(frames)
    wanted = whole[whole[column].isin(values)].reset_index(drop=True)
    assert len(found) == len(wanted) > 0
    for name in wanted:
        assert found[name].astype("str").equals(wanted[name].astype("str")), name


def test_the_latest_events_come_first(apart: af.Snapshot, frames: dict[str, Any]) -> None:
    found = explained(apart, "failure", [True], latest=5)
    whole = af.stats.explain_events(frames)
    last = whole[whole["failure"].fillna(value=False)].nlargest(5, "time")
    assert found["time"].tolist() == last["time"].tolist()


def test_findings_of_a_large_snapshot_make_no_table_of_all_events(apart: af.Snapshot) -> None:
    assert {"AF201", "AF202"} <= {one.code for one in af.findings(apart)}
    assert repr(apart)
    assert apart._repr_html_()
    assert len(apart) == apart.info["allocations"] > 0
    assert "events" not in apart.__dict__


def test_all_events_with_what_they_mean_are_those_of_whole_tables(
    cluster: af.sim.Cluster, client: af.Client, frames: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_derived, "PART_ROWS", 300)
    found, whole = af.stats.explain_events(client.snapshot(namespace="*")), af.stats.explain_events(frames)
    assert list(found) == list(whole)
    for name in whole:
        assert found[name].astype("str").equals(whole[name].astype("str")), name
