"""The postmortem names what really happened, its numbers agree, and it claims no more than the evidence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from stories import captured, read, rows_of
from tables import alloc, ended, event, restarting, snapshot, started

import allocframe as af
from allocframe._utils.prose import percent
from allocframe.reports.document import Numbers, Table, plain, walk
from allocframe.reports.impact import Uptime, _sum, minutes
from allocframe.sim.scenarios import STORIES, Cause

DATA = Path(__file__).parents[1] / "data"
REAL = ("badversion", "dependency", "kill9", "lemon", "nodeloss", "opstop", "periodicfail", "canary", "two")
"""Incidents of real agents."""

WORDINGS = {
    "crash_loop": "{job} version {version} crashes.",
    "oom": "{job} runs out of memory.",
    "bad_deploy": "{job} version {version} crashes.",
    "node_loss": "Node {node} lost.",
    "lemon_node": "Node {node}: ",
    "artifact_outage": "cannot download artifacts (artifacts.internal)",
}
"""What the glance says of each kind of injected cause."""

LOUD = [story for story in STORIES if story != "restart_storm"]
"""The stories with incidents; restarts on request are none."""


@pytest.fixture(scope="module")
def real() -> Callable[[str], af.Postmortem]:
    """Return the postmortem of a real incident; all tests share it."""
    made: dict[str, af.Postmortem] = {}

    def of(name: str) -> af.Postmortem:
        if name not in made:
            snap = af.load(DATA / "incidents" / f"nomad-1.3.1-{name}.allocframe")
            made[name] = af.postmortem(snap, slo="99.9%")
        return made[name]

    return of


def glance(report: af.Postmortem) -> str:
    return " ".join(report.document.texts("glance"))


def tables(report: af.Postmortem, key: str) -> list[Table]:
    return [block for block in walk(report.document.section(key).blocks) if isinstance(block, Table)]


def numbers(report: af.Postmortem) -> dict[str, str]:
    [found] = [block for block in report.document.section("glance").blocks if isinstance(block, Numbers)]
    return {each.label: each.value for each in found.items}


def names(text: str, cause: Cause) -> bool:
    job = cause.job_id if cause.namespace == "default" else f"{cause.namespace}/{cause.job_id}"
    return WORDINGS[cause.kind].format(job=job, version=cause.job_version, node=cause.node_name) in text


@pytest.mark.parametrize(
    ("story", "seed", "version"), [*((story, 3, "2.0.5") for story in LOUD), ("mixed", 8, "1.3.1")]
)
def test_the_glance_names_every_injected_cause_and_no_other(
    tmp_path: Path, story: str, seed: int, version: str
) -> None:
    truth, snap = captured(tmp_path, story, seed=seed, version=version)
    report = af.postmortem(snap)
    assert [cause.kind for cause in truth.causes if not names(glance(report), cause)] == []
    assert len(report.causes) == len(truth.causes)
    assert_short(report)


def assert_short(report: af.Postmortem) -> None:
    texts = [*report.document.texts(), *report.timeline["text"]]
    # what a program or a server said is one word: nobody here chose its length
    texts = [re.sub(r'"[^"]*(".*")?[^"]*"', "QUOTE", text) for text in texts]
    sentences = [sentence for text in texts for sentence in re.split(r"(?<=[.;:]) ", text)]
    assert [sentence for sentence in sentences if len(sentence.split()) > 25] == []


@pytest.mark.parametrize("name", REAL)
def test_numbers_of_a_real_incident_agree_and_sentences_are_short(
    name: str, real: Callable[[str], af.Postmortem]
) -> None:
    report = real(name)
    assert_short(report)
    if not report.incidents:
        return
    shown, rows = numbers(report), [row for table in tables(report, "impact") for row in table.rows]
    label = "job hit" if len(rows) == 1 else "jobs hit"
    assert shown[label] == str(len(rows)) == str(len(report.jobs))
    hit = sum(int(plain(row[1]).replace(",", "")) for row in rows)
    noun = "runs hit" if name == "periodicfail" else "instances hit"
    assert int(shown[noun].replace(",", "")) == hit == report.jobs["instances_hit"].sum()
    down = report.jobs["down"].sum()
    if "instance-minutes lost" in shown:
        assert shown["instance-minutes lost"].removeprefix("at least ") == minutes(down)
        whole = percent(1 - down / report.jobs["wanted"].sum())
        assert shown["availability of the jobs hit"] == whole
    for row, (_, job) in zip(rows, report.jobs.iterrows(), strict=True):
        assert plain(row[3]) == ("" if pd.isna(job["down"]) else minutes(job["down"]))
        assert plain(row[4]) == ("" if pd.isna(job["availability"]) else percent(job["availability"]))
    # each incident's instances, as its cause tells them, are among those of its jobs
    for incident in report.incidents:
        told = incident.facts.get("instances")
        of_jobs = [job for job in incident.jobs if incident.cause.kind != "placement"]
        mine = report.jobs[
            [job in of_jobs for job in zip(report.jobs["namespace"], report.jobs["job_id"], strict=True)]
        ]
        assert told is None or told <= mine["instances_hit"].sum()
    milestones = report.milestones
    assert (
        milestones["mitigated_at"].isna() | (milestones["mitigated_at"] <= milestones["recovered_at"])
    ).all()
    assert len(tables(report, "milestones")[0].rows) == min(len(report.incidents), 20)
    assert [head.partition(". ")[2] for head, _ in report.causes.points] == [
        each.title for each in report.incidents
    ]


def test_downtime_is_that_of_the_statistics(real: Callable[[str], af.Postmortem]) -> None:
    """Where each instance has one task, the two count the same."""
    report = real("badversion")
    facts = report.facts
    up = af.stats.availability(
        facts.snapshot, by=["namespace", "job_id"], since=facts.begin, until=facts.end
    ).set_index("job_id")
    [job] = report.jobs.to_dict("records")
    assert job["down"] / pd.Timedelta("1h") == pytest.approx(up.loc["shop", "down_hours"], abs=1e-6)
    assert job["availability"] == pytest.approx(up.loc["shop", "availability"], abs=1e-9)


def test_downtime_is_right_to_the_second(tmp_path: Path) -> None:
    """Two instances; one is down for 20 s of 400, and then for good."""
    crash = [started(0), ended(100, 1), restarting(100), started(120), ended(200, 1), restarting(200)]
    loop = [each for at in (230, 260, 290) for each in (started(at), ended(at + 5, 1), restarting(at + 5))]
    rows = [
        alloc("a", event("Received", 0), *crash[-4:], *loop[:6], state="pending"),
        alloc("b", event("Received", 0), started(0), Name="web.app[1]"),
        alloc("c", event("Received", 300), started(300), JobID="late", Name="late.app[0]"),
    ]
    report = af.postmortem(snapshot(tmp_path, *rows))
    [job] = report.jobs.to_dict("records")
    assert (job["job_id"], job["instances"], job["instances_hit"]) == ("web", 2, 1)
    assert job["wanted"] == 2 * (report.facts.end - report.facts.begin)
    runs = af.stats.runs(report.facts.snapshot)
    mine = runs[
        (runs["alloc_id"].astype("str").str.startswith("a")) & (runs["ended_at"] > report.facts.begin)
    ]
    up = (mine["ended_at"] - mine["started_at"].clip(lower=report.facts.begin)).sum()
    assert job["down"] == (report.facts.end - report.facts.begin) - up


def test_a_recovered_incident_says_when_it_was_over(real: Callable[[str], af.Postmortem]) -> None:
    report = real("dependency")
    [row] = report.milestones.to_dict("records")
    runs = af.stats.runs(report.facts.snapshot)
    mine = runs[runs["alloc_id"].astype("str").isin(report.incidents[0].alloc_ids)]
    # every instance runs since its last start, and the last of them was the end
    last_starts = mine.groupby(mine["alloc_id"].astype("str"))["started_at"].max()
    assert abs(row["recovered_at"] - last_starts.max()) < pd.Timedelta("1ms")
    assert (last_starts <= row["mitigated_at"] + pd.Timedelta("1ms")).mean() >= 0.5
    assert "Recovered from: 5 jobs crash at once" in " ".join(report.timeline["text"])


def test_a_calm_cluster_has_nothing_that_stands_out(tmp_path: Path) -> None:
    report = af.postmortem(captured(tmp_path, "calm", allocations=60)[1])
    assert report.document.title == "Nothing stands out"
    assert glance(report).startswith("Nothing stands out from 2026-11-24 ")
    assert len(report.causes) == 0
    assert_short(report)


def test_a_cause_is_told_once_with_its_evidence_and_a_command_that_would_settle_it(
    real: Callable[[str], af.Postmortem],
) -> None:
    report = real("badversion")
    text = report.to_markdown().partition("## Causes")[2].partition("## Contributing")[0]
    assert text.count("Cause (likely):") == 1
    assert "For: Version 1: 21 failures in 39.9 s of running; version 0: 0 failures" in text
    assert "Against: Its deployment had called 1 allocation of version 1 healthy." in text
    assert "    nomad job history -p -namespace badversion shop\n" in text
    assert re.search(r"    nomad alloc logs -stderr -tail -namespace badversion [0-9a-f-]{36} app\n", text)
    hidden = " ".join(report.document.texts("factors"))
    assert "called 1 allocation healthy that failed later" in hidden


def test_a_kill_that_the_driver_does_not_explain_is_only_possibly_for_memory(tmp_path: Path) -> None:
    killed = [
        each
        for time in (1, 20, 40)
        for each in (started(time), ended(time + 8, 137, 9), restarting(time + 8))
    ]
    report = af.postmortem(snapshot(tmp_path, alloc("a", event("Received", 0), *killed)))
    assert "web is killed. 3 failures in 1 instance" in glance(report)
    causes = " ".join(report.causes.points[0][1])
    assert "Also possible: memory runs out." in causes
    assert "Not known: who killed web." in causes


def test_without_job_versions_it_says_so_and_with_them_it_shows_their_diff(
    real: Callable[[str], af.Postmortem], changed: af.Postmortem
) -> None:
    assert "Job versions were not fetched." in " ".join(real("badversion").document.texts("changes"))
    text = changed.to_markdown().partition("## What changed")[2].partition("## Timeline")[0]
    assert "Job versions were not fetched" not in text
    assert re.search(r"checkout version 1 was submitted", text)
    assert (
        "| app / server | Config.image | registry.example/server:1.0.0 | registry.example/server:1.1.0 |"
        in text
    )


@pytest.fixture(scope="module")
def changed() -> Any:
    """A bad deploy with its history."""
    with (
        af.sim.Cluster("bad_deploy", allocations=60, seed=3) as cluster,
        af.Client(cluster.address, token=cluster.token) as client,
        client.snapshot(namespace="*", history=True, progress=False) as snap,
    ):
        yield af.postmortem(snap)


def test_the_timeline_has_twenty_lines_at_most_and_people_choose_more(changed: af.Postmortem) -> None:
    lines = changed.timeline
    assert lines["shown"].sum() <= 20
    assert lines["at"].is_monotonic_increasing
    assert lines["key"].is_unique
    hidden = lines[~lines["shown"]].iloc[0]
    again = af.postmortem(changed.facts.snapshot, star=[hidden["key"]])
    assert again.timeline.set_index("key").loc[hidden["key"], "shown"]
    first = again.timeline.loc[again.timeline["text"].str.startswith("First failure"), "text"]
    assert len(first) == len([each for each in again.incidents if "failures" in each.facts])
    with pytest.raises(af.ConfigError, match="star must be the key of a line of the timeline, got abcdef"):
        af.postmortem(changed.facts.snapshot, star=["abcdef"])


def test_what_somebody_did_is_the_first_human_action_and_only_if_it_is_about_the_incident(
    real: Callable[[str], af.Postmortem],
) -> None:
    report = real("badversion")
    assert report.milestones["first_human_action_at"].isna().all()
    [incident] = report.incidents
    snap, at = report.facts.snapshot, incident.began_at + pd.Timedelta("2min")
    other = next(
        each
        for each in snap.allocations["alloc_id"]
        if each not in incident.alloc_ids
        and snap.allocations.set_index("alloc_id").loc[each, "job_id"] != "shop"
    )
    rows = [(at, "restart", incident.alloc_ids[0], "badversion", "shop"),
            (at - pd.Timedelta("1min"), "restart", other, "x", "other")]  # fmt: skip
    audit = pd.DataFrame(rows, columns=["asked_at", "action", "alloc_id", "namespace", "job_id"])
    audit = audit.assign(user="kim", result="done")
    again = af.postmortem(snap, audit=audit)
    assert again.milestones["first_human_action_at"].tolist() == [at]
    assert "kim restarted an allocation of badversion/shop." in " ".join(again.timeline["text"])
    assert "2.0 min after it began: kim restarted" in " ".join(again.document.texts("milestones"))


def test_evidence_that_is_taken_away_takes_its_sentences_with_it(tmp_path: Path) -> None:
    """Mutations: without the previous version, without events, without the lost allocations, without all."""
    _, rows = rows_of("mixed", allocations=80)
    whole = af.postmortem(read(tmp_path, rows))
    text = whole.to_markdown()
    assert "Cause (likely):** the change to version 1 of checkout." in text
    assert "Node node-" in text
    assert "signal SIGKILL" in text

    old = [row for row in rows if row["JobID"] != "checkout" or row["JobVersion"] != 0]
    assert "the change to version 1 of checkout" not in af.postmortem(read(tmp_path, old)).to_markdown()

    present = [row for row in rows if row["ClientStatus"] not in ("lost", "unknown")]
    without = af.postmortem(read(tmp_path, present)).to_markdown()
    assert not re.search(r"Node node-\d+ lost", without)
    assert "lost with node" not in without

    silent = json.loads(json.dumps(rows))
    for row in silent:
        for state in (row["TaskStates"] or {}).values():
            state["Events"] = [each for each in state["Events"] if each["Type"] != "Terminated"]
    unsaid = af.postmortem(read(tmp_path, silent)).to_markdown()
    for words in ("SIGKILL", "exit code", "runs out of memory", "ran out of memory"):
        assert words not in unsaid, words

    calm = [row for row in rows if row["JobID"] == "web-frontend" and row["ClientStatus"] == "running"]
    nothing = af.postmortem(read(tmp_path, calm))
    assert nothing.document.title == "Nothing stands out"
    assert nothing.jobs.empty


def test_a_window_leaves_out_what_was_over_before_it_and_what_began_after(
    snapshots: dict[str, af.Snapshot],
) -> None:
    snap = snapshots["mixed"]
    assert "Node node-" in glance(af.postmortem(snap))
    assert "Node node-" not in glance(af.postmortem(snap, since="2026-11-24T10:10"))
    before = af.postmortem(snap, until="2026-11-24T09:00+00:00")
    assert glance(before).startswith("Nothing stands out")
    assert (before.timeline["at"] <= pd.Timestamp("2026-11-24T09:00", tz="UTC")).all()


def test_an_error_budget_is_that_of_thirty_days(real: Callable[[str], af.Postmortem]) -> None:
    report = real("badversion")
    [impact] = tables(report, "impact")
    [job] = report.jobs.to_dict("records")
    budget = 4 * pd.Timedelta("30D") * 0.001
    assert plain(impact.rows[0][-1]) == f"{100 * (job['down'] / budget):.3g} %"
    with pytest.raises(af.ConfigError, match="slo must be a number between 0 and 1"):
        af.postmortem(report.facts.snapshot, slo="lots")


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


def test_the_time_of_a_hundred_thousand_instances_is_counted() -> None:
    month_us = 30 * 86_400 * 10**6
    times = np.array([[month_us], [0.0], [0.0]]).repeat(100_000, axis=1)
    each = np.arange(100_000)
    total = Uptime().plus(_sum(times, each)).plus(_sum(times, each))
    assert total.wanted / pd.Timedelta("30D") == 200_000
    assert total.availability == 1
    assert total.budget_used(0.999, pd.Timedelta("30D")) == 0
