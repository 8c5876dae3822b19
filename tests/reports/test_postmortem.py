"""The postmortem names what really happened, and claims no more than the evidence holds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from stories import captured
from tables import alloc, ended, event, restarting, snapshot, started

import allocframe as af
from allocframe.sim.scenarios import STORIES, Cause

SAID = {
    "crash_loop": "task server of {job} exits with code 1, ",
    "oom": "tasks of {job} ran out of memory and were killed for it",
    "bad_deploy": "task server of {job} exits with code 78, ",
    "node_loss": "node {node} was lost at ",
    "lemon_node": "on node {node} ",
    "artifact_outage": "failed: they could not fetch their artifact",
    "restart_storm": "a template was rendered anew and asked for it",
}
"""What the first paragraph says of each kind of injected cause."""


def text(made: af.Postmortem) -> str:
    return made.summary.text


def names(paragraph: str, cause: Cause) -> bool:
    place = "" if cause.namespace == "default" else f" (namespace {cause.namespace})"
    job = f"{cause.job_id} version {cause.job_version}{place}"
    return SAID[cause.kind].format(job=job, node=cause.node_name) in paragraph


@pytest.mark.parametrize(
    ("story", "seed", "version"), [*((story, 3, "2.0.5") for story in STORIES), ("mixed", 8, "1.3.1")]
)
def test_the_first_paragraph_names_every_injected_cause_and_no_other(
    tmp_path: Path, story: str, seed: int, version: str
) -> None:
    truth, snap = captured(tmp_path, story, seed=seed, version=version)
    made = af.postmortem(snap)
    assert [cause.kind for cause in truth.causes if not names(text(made), cause)] == []
    told = [head for head, _ in made.causes.points if head != "Nothing stands out"]
    assert len(told) == len(truth.causes)


def test_a_calm_cluster_has_nothing_that_stands_out(tmp_path: Path) -> None:
    made = af.postmortem(captured(tmp_path, "calm", allocations=60)[1])
    assert text(made).startswith("Nothing stands out between 2026-11-24 ")
    assert [head for head, _ in made.causes.points] == ["Nothing stands out"]


def test_a_paragraph_says_since_when_to_whom_and_what_is_not_known(tmp_path: Path) -> None:
    said = text(af.postmortem(captured(tmp_path, "bad_deploy")[1]))
    assert said.startswith("Since 2026-11-24 09:18 UTC, and up to the end of the time looked at, 10:")
    assert (
        "In all, 10 of 154 allocations failed, restarted on request or were lost; they belong to 4 of 15 jobs"
        in said
    )
    assert (
        "6 of 6 tasks of version 1 failed, and 0 of 7 of version 0, so the change of version is the first suspect"
        in said
    )
    assert "Not known from this evidence: why checkout does so." in said
    assert "Older events of 6 of 202 tasks are gone, so counts are lower bounds." in said


def test_a_version_is_no_suspect_where_the_one_before_was_not_seen_to_do_better(tmp_path: Path) -> None:
    crashes = [
        one for n in (1, 2, 3, 4) for one in (started(n * 60), ended(n * 60 + 5, 3), restarting(n * 60 + 5))
    ]
    made = af.postmortem(snapshot(tmp_path, alloc("a", event("Received", 0), *crashes, JobVersion=7)))
    assert "exits with code 3" in text(made)
    assert "suspect" not in text(made)
    assert "The evidence names no cause beyond this." in repr(made.causes)


def test_a_kill_that_the_driver_does_not_explain_is_only_perhaps_for_memory(tmp_path: Path) -> None:
    killed = [event("Received", 0), started(1), ended(9, 137, 9), restarting(9)]
    said = text(af.postmortem(snapshot(tmp_path, alloc("a", *killed))))
    assert "1 task of web version 0 was killed by SIGKILL, 1 time in all" in said
    assert "perhaps for memory: the driver does not say" in said
    assert "who killed web version 0" in said


def test_a_window_leaves_out_what_was_over_before_it_and_what_began_after(
    snapshots: dict[str, af.Snapshot],
) -> None:
    snap = snapshots["mixed"]
    assert "was lost" in text(af.postmortem(snap))
    assert "was lost at" not in text(af.postmortem(snap, since="2026-11-24T10:10"))
    before = af.postmortem(snap, until="2026-11-24T09:00+00:00")
    assert text(before).startswith("Nothing stands out")
    assert (before.jobs["last_at"] <= pd.Timestamp("2026-11-24T09:00", tz="UTC")).all()


def test_the_blast_radius_counts_every_disturbance_once(snapshots: dict[str, af.Snapshot]) -> None:
    snap = snapshots["mixed"]
    made = af.postmortem(snap)
    lost = snap.allocations["client_status"].isin(["lost", "unknown"]).sum()
    failures = af.stats.explain_events(snap)["failure"].sum()
    assert made.jobs["failures"].sum() == failures
    assert made.jobs["allocations_lost"].sum() == lost
    assert (
        made.radius["disturbances"].sum()
        == made.jobs[["failures", "allocations_lost", "restarts_on_request"]].sum().sum()
    )
    node = af.stats.blast_radius(snap)["node_name"][0]
    assert made.radius.set_index("incident").loc[f"node {node}", "allocations"] == lost


def test_recovery_tells_what_is_still_down_and_counts_only_the_window(tmp_path: Path) -> None:
    twice_down = [started(1), ended(100), restarting(100), started(160), ended(200), restarting(200)]
    rows = [
        alloc("a", event("Received", 0), *twice_down, state="pending"),
        alloc("b", event("Received", 0), started(0), Name="web.app[1]"),
        alloc("c", event("Received", 600), started(600), JobID="late", Name="late.app[0]"),
    ]
    snap = snapshot(tmp_path, *rows)
    start = snap.events["time"].min()
    row = af.postmortem(snap).recovery.set_index("job_id").loc["web"]
    assert (row["outages"], row["still_down"], row["last_back_at"]) == (2, 1, start + pd.Timedelta("160s"))
    assert row["down_in_all"] == pd.Timedelta("460s")
    part = af.postmortem(
        snap, since=start + pd.Timedelta("130s"), until=start + pd.Timedelta("300s")
    ).recovery
    assert part["down_in_all"].tolist() == [pd.Timedelta("130s")]


def test_what_is_missing_is_told(snapshots: dict[str, af.Snapshot]) -> None:
    said = repr(af.data_quality(snapshots["mixed"].filter(job_id="checkout"))).replace("\n  ", " ")
    for gap in (
        "Older events of 6 of ",
        "The predecessors of ",
        "servers remove them",
        "where job_id is checkout",
        "own logs",
    ):
        assert gap in said
    assert "whether they hold every allocation cannot be told" in said


@pytest.mark.parametrize(
    ("window", "said"),
    [
        (
            {"since": "2020-01-01", "until": "2020-01-02"},
            "lies outside: the snapshot covers 2026-11-24 04:30 to ",
        ),
        ({"since": "2026-11-24T10:00", "until": "2026-11-24T09:00"}, "is after until"),
        (
            {"since": "2026-11-24T04:32", "until": "2026-11-24T04:33"},
            "there is no task event from 2026-11-24 04:32 to ",
        ),
        ({"since": "teatime"}, "since must be a time such as"),
        ({"until": "9999-99-99"}, "until must be a time such as"),
    ],
)
def test_a_window_without_evidence_is_an_error_that_says_what_there_is(
    snapshots: dict[str, af.Snapshot], window: dict[str, str], said: str
) -> None:
    with pytest.raises(af.ConfigError) as caught:
        af.postmortem(snapshots["mixed"], **window)
    assert said in str(caught.value)


def test_a_snapshot_without_events_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(af.ConfigError, match="holds no task event"):
        af.postmortem(snapshot(tmp_path, alloc("a")))
