"""The findings name what happened in every story, and say nothing loud about a calm cluster."""

from __future__ import annotations

import json
import re
from pathlib import Path

import diagnosis
import flatten
import pytest
from tables import alloc, ended, event, restarting, snapshot, started

import allocframe as af
from allocframe.diagnosis import rules
from allocframe.sim.scenarios import STORIES
from allocframe.tables import evaluations_frame

DOCS = Path(__file__).parents[2] / "docs" / "findings"


@pytest.mark.parametrize("story", list(STORIES))
def test_over_twenty_seeds_every_cause_is_named_and_hardly_anything_else_is_loud(story: str) -> None:
    missed, loud, wrong = [], 0, []
    for seed in range(20):
        truth, found = diagnosis.diagnose(story, seed, version=flatten.VERSIONS[seed % 2])
        missed += [(seed, c.kind) for c in truth.causes if not any(diagnosis.names(one, c) for one in found)]
        above = [one for one in found if one.severity != "info"]
        loud += len(above)
        wrong += [(seed, one) for one in above if not diagnosis.belongs(one, truth)]
    assert missed == []
    assert len(wrong) <= 0.05 * loud, wrong


def test_a_finding_holds_its_numbers_and_its_rows(tmp_path: Path) -> None:
    cycle = [
        one for n in (1, 2, 3) for one in (started(n * 60), ended(n * 60 + 5, 3), restarting(n * 60 + 5))
    ]
    snap = snapshot(tmp_path, alloc("a", event("Received", 0), *cycle, JobVersion=7))
    found = {one.code: one for one in af.findings(snap)}
    loop = found["AF201"]
    assert loop.severity == "critical"
    assert re.search(
        r"Task server of web version 7 exits with code 3 after 5\.0 s .*: 3 crashes in 1 slot", loop.summary
    )
    assert loop.about["job_id"] == "web"
    assert len(loop.evidence) == 1


@pytest.mark.parametrize("what", ["crashes", "times", "nodes", "slots"])
def test_one_of_a_thing_is_told_as_one(what: str) -> None:
    singular = {"crashes": "crash", "times": "time", "nodes": "node", "slots": "slot"}[what]
    assert rules._count(1, what) == f"1 {singular}"
    assert rules._count(1_000, what) == f"1,000 {what}"


def test_values_that_did_not_fit_and_lost_events_are_told(tmp_path: Path) -> None:
    rows = [alloc("a", *(event("Signaling", n) for n in range(10))), {**alloc("b"), "CreateIndex": "many"}]
    codes = {one.code: one.severity for one in af.findings(snapshot(tmp_path, *rows))}
    assert codes == {"AF101": "info", "AF103": "warning"}


def test_a_kill_timeout_a_suspected_oom_and_a_clock_set_back_are_told(tmp_path: Path) -> None:
    rows = [
        alloc("a", event("Received", 0), started(1), event("Killing", 5), ended(10, 137, 9), state="dead"),
        alloc(
            "b",
            event("Received", 0),
            started(1),
            ended(9, 137, 9),
            restarting(9),
            JobID="api",
            Name="api.app[0]",
        ),
        alloc("c", event("Received", 0), started(50), ended(9, 0), JobID="odd", Name="odd.app[0]"),
    ]
    codes = {one.code: one.severity for one in af.findings(snapshot(tmp_path, *rows))}
    assert codes == {"AF203": "info", "AF202": "warning", "AF104": "info"}


def test_what_could_not_be_placed_is_told_with_evaluations() -> None:
    with (
        af.sim.Cluster("calm", allocations=20, seed=1) as cluster,
        af.Client(cluster.address, token=cluster.token) as client,
    ):
        found = af.findings(
            client.snapshot(namespace="*"),
            evaluations=evaluations_frame(flatten.recorded_rows("2.0.5", "evaluations")),
        )
    told = [one for one in found if one.code == "AF601"]
    assert [one.about["task_group"] for one in told] == ["toolarge"]
    assert "cpu: 1" in told[0].summary


def test_findings_are_shown_without_obeying_the_names_in_them(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>\x1b[31m"
    cycle = [one for n in (1, 2, 3) for one in (started(n * 60), ended(n * 60 + 5), restarting(n * 60 + 5))]
    found = af.findings(snapshot(tmp_path, alloc("a", *cycle, JobID=name)))
    assert "<script>" not in found._repr_html_()
    assert "\x1b" not in repr(found)
    assert repr(af.findings(snapshot(tmp_path, alloc("calm")))) == "nothing found"


def test_thresholds_decide_what_counts(tmp_path: Path) -> None:
    cycle = [one for n in (1, 2, 3) for one in (started(n * 60), ended(n * 60 + 5), restarting(n * 60 + 5))]
    snap = snapshot(tmp_path, alloc("a", event("Received", 0), *cycle))
    assert "AF201" in {one.code for one in af.findings(snap)}
    strict = af.Thresholds(loop_restarts=9)
    assert "AF201" not in {one.code for one in af.findings(snap, thresholds=strict)}


def test_every_rule_has_a_page_that_says_what_it_means_and_what_to_do() -> None:
    from allocframe.diagnosis.finding import TITLES

    for code, title in TITLES.items():
        page = (DOCS / f"{code}.md").read_text()
        assert page.startswith(f"# {code}: {title}\n")
        assert "## What to do" in page
    assert {path.stem for path in DOCS.glob("AF*.md")} == set(TITLES)


def test_the_recorded_clusters_are_diagnosed_alike_on_both_versions(tmp_path: Path) -> None:
    for version in flatten.VERSIONS:
        file = tmp_path / f"{version}.json"
        file.write_text(json.dumps(flatten.recorded_rows(version)))
        found = af.findings(af.read_json(file))
        jobs = {(one.code, one.about.get("job_id")) for one in found}
        assert {
            ("AF201", "crashloop"),
            ("AF201", "flaky"),
            ("AF202", "crashloop"),
            ("AF204", "setupfail"),
        } <= jobs
