"""Findings are the facts of incidents and of the data, under codes that stay the same."""

from __future__ import annotations

import json
from pathlib import Path

import flatten
import pytest
from stories import captured
from tables import alloc, ended, event, restarting, snapshot, started

import allocframe as af
from allocframe.diagnosis.rules import RULES
from allocframe.diagnosis.sentences import WORDINGS
from allocframe.tables import evaluations_frame

PAGES = Path(__file__).parents[2] / "docs" / "findings"


def crashes(times: int = 3) -> list[dict[str, object]]:
    """Return the events of a task that runs for five seconds, again and again."""
    return [
        each
        for minute in range(1, times + 1)
        for each in (started(minute * 60), ended(minute * 60 + 5, 3), restarting(minute * 60 + 5))
    ]


def test_a_finding_holds_subject_numbers_times_and_rows(tmp_path: Path) -> None:
    snap = snapshot(tmp_path, alloc("a", event("Received", 0), *crashes(), JobVersion=7))
    loop = next(finding for finding in af.findings(snap) if finding.code == "AF201")
    assert loop.severity == "critical"
    assert loop.subject == {"namespace": "default", "job_id": "web", "task": "server"}
    names = ("kind", "exit_code", "failures", "instances", "instances_bad")
    facts = {name: loop.facts[name] for name in names}
    assert facts == {"kind": "crash", "exit_code": 3, "failures": 3, "instances": 1, "instances_bad": 1}
    assert loop.facts["median_run"].total_seconds() == pytest.approx(5)
    assert (loop.last_at - loop.began_at).total_seconds() == pytest.approx(120)
    assert loop.evidence_keys == [{"alloc_id": "a", "task": "server"}]


def test_a_summary_is_made_of_the_facts(tmp_path: Path) -> None:
    snap = snapshot(tmp_path, alloc("a", event("Received", 0), *crashes(), JobVersion=7))
    loop = next(finding for finding in af.findings(snap) if finding.code == "AF201")
    assert loop.summary == (
        f"web, task server: 3 failures from {loop.began_at:%H:%M} to {loop.last_at:%H:%M} UTC: exit code 3, "
        "about 5.0 s after each start; 1 of 1 instance do not run well now."
    )
    assert loop.description.startswith(loop.summary)


def test_a_time_on_another_day_than_the_snapshots_has_a_date(tmp_path: Path) -> None:
    day_later = alloc("b", event("Received", 90_000), started(90_000), JobID="other", Name="other.app[0]")
    snap = snapshot(tmp_path, alloc("a", event("Received", 0), *crashes()), day_later)
    loop = next(finding for finding in af.findings(snap) if finding.code == "AF201")
    assert f"from {loop.began_at:%Y-%m-%d %H:%M} to" in loop.summary


def test_values_of_an_unexpected_type_and_lost_events_are_findings(tmp_path: Path) -> None:
    odd = alloc("b", JobID="odd", Name="odd.app[0]")
    rows = [alloc("a", *(event("Signaling", n) for n in range(10))), {**odd, "CreateIndex": "many"}]
    findings = {finding.code: finding for finding in af.findings(snapshot(tmp_path, *rows))}
    assert {code: finding.severity for code, finding in findings.items()} == {
        "AF101": "info",
        "AF103": "warning",
    }
    assert findings["AF101"].summary == (
        "1 of 2 tasks has lost older events (Nomad keeps the last 10 per task)."
    )
    assert "1 value has an unexpected type and is missing from the tables (" in findings["AF103"].summary


def test_a_kill_timeout_a_kill_from_outside_and_a_clock_set_back_are_findings(tmp_path: Path) -> None:
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
    findings = {finding.code: finding for finding in af.findings(snapshot(tmp_path, *rows))}
    assert {code: finding.severity for code, finding in findings.items()} == {
        "AF203": "info", "AF206": "info", "AF104": "info",
    }  # fmt: skip
    assert findings["AF206"].facts["kind"] == "killed"
    assert findings["AF104"].summary == ("1 run on 1 node ends before it starts: clocks were set back there.")


def test_placement_failures_are_found_with_evaluations() -> None:
    with (
        af.sim.Cluster("calm", allocations=20, seed=1) as cluster,
        af.Client(cluster.address, token=cluster.token) as client,
    ):
        findings = af.findings(
            client.snapshot(namespace="*"),
            evaluations=evaluations_frame(flatten.recorded_rows("2.0.5", "evaluations")),
        )
    unplaced = [finding for finding in findings if finding.code == "AF601"]
    assert [finding.subject["task_group"] for finding in unplaced] == ["toolarge"]
    assert "cpu: 1" in unplaced[0].summary


def test_findings_are_shown_without_obeying_the_names_in_them(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>\x1b[31m"
    snap = snapshot(tmp_path, alloc("a", event("Received", 0), *crashes(), JobID=name))
    findings, diagnosis_of_all = af.findings(snap), af.diagnose(snap)
    assert len(findings) == 1
    for html in (findings._repr_html_(), diagnosis_of_all._repr_html_()):
        assert "<script>" not in html
        assert "&lt;script&gt;" in html
    assert "\x1b" not in repr(findings) + repr(diagnosis_of_all)
    assert repr(af.findings(snapshot(tmp_path, alloc("calm")))) == "no findings"


def test_thresholds_decide_what_counts(tmp_path: Path) -> None:
    snap = snapshot(tmp_path, alloc("a", event("Received", 0), *crashes()))
    assert "AF201" in {finding.code for finding in af.findings(snap)}
    strict = af.Thresholds(loop_restarts=9)
    assert "AF201" not in {finding.code for finding in af.findings(snap, thresholds=strict)}


def test_each_code_has_one_wording_and_one_page() -> None:
    pages = {path.stem: path.read_text() for path in PAGES.glob("AF*.md")}
    assert set(WORDINGS) == set(pages)
    assert set(RULES) < set(WORDINGS)
    for code, page in pages.items():
        assert page.startswith(f"# {code}: {WORDINGS[code].title}\n")
        assert "## What to do" in page
    listed = (PAGES / "README.md").read_text()
    assert all(f"| [{code}]({code}.md) | {WORDINGS[code].title} |" in listed for code in pages)


def test_a_rule_finds_nothing_but_its_own_code(tmp_path: Path) -> None:
    from allocframe.diagnosis.rules import Sources

    for story in ("mixed", "artifact_outage"):
        snap = captured(tmp_path, story)[1]
        for code, rule in RULES.items():
            assert {finding.code for finding in rule(Sources(snap))} <= {code}


def test_the_recorded_clusters_are_diagnosed_alike_on_both_versions(tmp_path: Path) -> None:
    for version in flatten.VERSIONS:
        file = tmp_path / f"{version}.json"
        file.write_text(json.dumps(flatten.recorded_rows(version)))
        findings = af.findings(af.read_json(file))
        jobs = {(finding.code, finding.subject.get("job_id")) for finding in findings}
        assert {
            ("AF201", "flaky"),
            ("AF202", "crashloop"),
            ("AF204", "setupfail"),
        } <= jobs
