"""The postmortem names what really happened, and claims no more than the evidence shows."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from stories import captured
from tables import alloc, ended, event, restarting, snapshot, started

import allocframe as af
from allocframe.sim.scenarios import STORIES, Cause

WORDINGS = {
    "crash_loop": "{job} version {version} crashes.",
    "oom": "{job} runs out of memory.",
    "bad_deploy": "{job} version {version} crashes.",
    "node_loss": "Node {node} lost.",
    "lemon_node": "Node {node}: ",
    "artifact_outage": "cannot download artifacts (artifacts.internal)",
}
"""What the summary says of each kind of injected cause."""


def text(report: af.Postmortem) -> str:
    return report.summary.text


def names(summary: str, cause: Cause) -> bool:
    job = cause.job_id if cause.namespace == "default" else f"{cause.namespace}/{cause.job_id}"
    return WORDINGS[cause.kind].format(job=job, version=cause.job_version, node=cause.node_name) in summary


LOUD = [story for story in STORIES if story != "restart_storm"]
"""The stories with incidents; restarts on request are none."""


@pytest.mark.parametrize(
    ("story", "seed", "version"), [*((story, 3, "2.0.5") for story in LOUD), ("mixed", 8, "1.3.1")]
)
def test_the_summary_names_every_injected_cause_and_no_other(
    tmp_path: Path, story: str, seed: int, version: str
) -> None:
    truth, snap = captured(tmp_path, story, seed=seed, version=version)
    report = af.postmortem(snap)
    assert [cause.kind for cause in truth.causes if not names(text(report), cause)] == []
    heads = [head for head, _ in report.causes.points if head != "Nothing stands out"]
    assert len(heads) == len(truth.causes)


@pytest.mark.parametrize("story", list(STORIES))
def test_no_sentence_of_a_postmortem_is_longer_than_25_words(tmp_path: Path, story: str) -> None:
    report = af.postmortem(captured(tmp_path, story)[1])
    points = [*report.causes.points, *report.missing.points]
    blocks = [*report.summary.blocks, *(texts for _, texts in points)]
    texts = [text for block in blocks for text in ([block] if isinstance(block, str) else block)]
    sentences = [sentence for text in texts for sentence in re.split(r"(?<=[.;:]) ", text)]
    assert [sentence for sentence in sentences if len(sentence.split()) > 25] == []


def test_a_calm_cluster_has_nothing_that_stands_out(tmp_path: Path) -> None:
    report = af.postmortem(captured(tmp_path, "calm", allocations=60)[1])
    assert text(report).startswith("Nothing stands out between 2026-11-24 ")
    assert [head for head, _ in report.causes.points] == ["Nothing stands out"]


def test_a_summary_says_since_when_to_whom_and_what_is_not_known(tmp_path: Path) -> None:
    report = af.postmortem(captured(tmp_path, "bad_deploy")[1])
    when, incidents, extent, unknown = report.summary.blocks
    assert when.startswith(
        "Since 2026-11-24 09:18 UTC, one thing went wrong, up to the end of the window (10:"
    )
    assert len(incidents) == 1
    assert "At least 18 failures in 2 instances since 09:18 UTC or earlier: exit code 78" in incidents[0]
    assert "instances do not run well now." in incidents[0]
    assert incidents[0].endswith("Cause (likely): the change to version 1 of checkout.")
    assert (
        "In all, 10 of 154 allocations failed, restarted on request or were lost. They belong to 4 of 15 jobs"
        in extent
    )
    assert "6 of 202 tasks have lost older events, so counts are lower bounds." in extent
    assert unknown == "Not known from this evidence: why checkout fails."
    causes = " ".join(report.causes.points[0][1])
    assert "Version 1: " in causes
    assert "; version 0: 0 failures in " in causes


def test_a_version_is_no_suspect_if_the_one_before_was_not_seen_to_do_better(tmp_path: Path) -> None:
    crashes = [
        each
        for minute in (1, 2, 3, 4)
        for each in (started(minute * 60), ended(minute * 60 + 5, 3), restarting(minute * 60 + 5))
    ]
    report = af.postmortem(snapshot(tmp_path, alloc("a", event("Received", 0), *crashes, JobVersion=7)))
    assert "exit code 3, about 5.0 s after each start" in text(report)
    assert "Cause (" not in text(report)
    assert "the change to version" not in repr(report.causes)


def test_a_kill_that_the_driver_does_not_explain_is_only_possibly_for_memory(tmp_path: Path) -> None:
    killed = [
        each
        for time in (1, 20, 40)
        for each in (started(time), ended(time + 8, 137, 9), restarting(time + 8))
    ]
    report = af.postmortem(snapshot(tmp_path, alloc("a", event("Received", 0), *killed)))
    assert "web is killed. 3 failures in 1 instance" in text(report)
    assert "Possible: memory runs out." in " ".join(report.causes.points[0][1])
    assert "Not known from this evidence: who killed web." in text(report)


def test_a_window_leaves_out_what_was_over_before_it_and_what_began_after(
    snapshots: dict[str, af.Snapshot],
) -> None:
    snap = snapshots["mixed"]
    assert "Node node-" in text(af.postmortem(snap))
    assert "Node node-" not in text(af.postmortem(snap, since="2026-11-24T10:10"))
    before = af.postmortem(snap, until="2026-11-24T09:00+00:00")
    assert text(before).startswith("Nothing stands out")
    assert (before.jobs["last_at"] <= pd.Timestamp("2026-11-24T09:00", tz="UTC")).all()


def test_the_blast_radius_counts_every_disturbance_once(snapshots: dict[str, af.Snapshot]) -> None:
    snap = snapshots["mixed"]
    report = af.postmortem(snap)
    lost = snap.allocations["client_status"].isin(["lost", "unknown"]).sum()
    failures = af.stats.explain_events(snap)["failure"].sum()
    assert report.jobs["failures"].sum() == failures
    assert report.jobs["allocations_lost"].sum() == lost
    assert (
        report.radius["disturbances"].sum()
        == report.jobs[["failures", "allocations_lost", "restarts_on_request"]].sum().sum()
    )
    node = af.stats.blast_radius(snap)["node_name"][0]
    assert report.radius.set_index("incident").loc[f"Node {node} lost", "allocations"] == lost


def test_recovery_says_what_is_still_down_and_counts_only_the_window(tmp_path: Path) -> None:
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


def test_the_gaps_of_the_data_are_listed(snapshots: dict[str, af.Snapshot]) -> None:
    quality = repr(af.data_quality(snapshots["mixed"].filter(job_id="checkout"))).replace("\n  ", " ")
    for gap in (
        "The predecessors of ",
        "servers remove most of them",
        "narrowed to allocations with job_id = checkout.",
        "Logs of programs",
    ):
        assert gap in quality
    assert re.search(r"6 of \d+ tasks have lost older events \(Nomad keeps the last 10 per task\)\.", quality)
    assert "read from files, which do not say if they hold all allocations" in quality


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (
            {"since": "2020-01-01", "until": "2020-01-02"},
            "lies outside: the snapshot covers 2026-11-24 04:30 to ",
        ),
        ({"since": "2026-11-24T10:00", "until": "2026-11-24T09:00"}, "since must be before until"),
        (
            {"since": "2026-11-24T04:32", "until": "2026-11-24T04:33"},
            "there is no task event from 2026-11-24 04:32 to 04:33 UTC",
        ),
        ({"since": "teatime"}, "since must be a time such as"),
        ({"until": "9999-99-99"}, "until must be a time such as"),
    ],
)
def test_a_window_without_evidence_is_an_error_that_says_what_there_is(
    snapshots: dict[str, af.Snapshot], window: dict[str, str], message: str
) -> None:
    with pytest.raises(af.ConfigError) as caught:
        af.postmortem(snapshots["mixed"], **window)
    assert message in str(caught.value)


def test_a_snapshot_without_events_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(af.ConfigError, match="holds no task event"):
        af.postmortem(snapshot(tmp_path, alloc("a")))
