"""A diagnosis says what went wrong, how it stands and why, and how good the data is."""

from __future__ import annotations

import html
import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from stories import captured
from tables import alloc, ended, event, restarting, snapshot, started

import allocframe as af
from allocframe.diagnosis import _attempts, _clocks, _tables, rules
from allocframe.diagnosis._engine import Account
from allocframe.diagnosis.verdict_sentences import verdict


@pytest.fixture(scope="module")
def snap(tmp_path_factory: pytest.TempPathFactory) -> af.Snapshot:
    return captured(tmp_path_factory.mktemp("mixed"), "mixed")[1]


def test_a_version_that_crashes_is_one_incident_with_its_findings_and_both_hypotheses(
    snap: af.Snapshot,
) -> None:
    incident = next(each for each in af.diagnose(snap).incidents if each.title.startswith("checkout version"))
    assert incident.title == "checkout version 1 crashes"
    assert (incident.cause.kind, incident.cause.mechanism) == ("job version", "crash")
    assert incident.cause.confidence == "likely"
    assert incident.cause.subject["job_version"] == 1
    assert [finding.code for finding in incident.findings] == ["AF401", "AF201"]
    assert [each.kind for each in incident.hypotheses][:2] == ["job version", "crash"]
    assert all(each.supporting for each in incident.hypotheses)


def test_findings_are_those_of_the_incidents_and_of_the_data(snap: af.Snapshot) -> None:
    diagnosis = af.diagnose(snap)
    of_incidents = [finding for incident in diagnosis.incidents for finding in incident.findings]
    of_data = [finding for finding in diagnosis.findings if finding.code.startswith("AF1")]
    assert len(diagnosis.findings) == len(of_incidents) + len(of_data)
    assert list(diagnosis.findings) == list(af.findings(snap))


def test_a_diagnosis_that_reads_events_in_parts_says_the_same(
    snap: af.Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = af.diagnose(snap)
    for module, name, rows in (
        (_tables, "PART_ROWS", 40),
        (rules, "PART_ROWS", 20),
        (_attempts, "EVENTS_AT_ONCE", 70),
        (_clocks, "EVENTS_AT_ONCE", 30),
    ):
        monkeypatch.setattr(module, name, rows)
    in_parts = af.diagnose(snap)
    assert len(snap.events) > 200
    assert in_parts.to_dict() == whole.to_dict()
    for one, other in zip(in_parts.findings, whole.findings, strict=True):
        pd.testing.assert_frame_equal(one.evidence, other.evidence)


def test_an_incident_reaches_into_the_windows_that_it_touches(snap: af.Snapshot) -> None:
    node = next(each for each in af.diagnose(snap).incidents if each.cause.kind == "node")
    assert node.began_at is not None
    assert node.reaches_into(None, None)
    assert node.reaches_into(node.began_at - pd.Timedelta("1h"), None)
    assert not node.reaches_into(node.last_at + pd.Timedelta("1h"), None)
    assert not node.reaches_into(None, node.began_at - pd.Timedelta("1h"))


def test_a_diagnosis_is_a_table_a_text_html_and_json(snap: af.Snapshot) -> None:
    diagnosis = af.diagnose(snap)
    frame = diagnosis.to_frame()
    assert frame["title"].tolist() == [incident.title for incident in diagnosis.incidents]
    assert frame["severity"].iloc[0] == "critical"
    text, html = repr(diagnosis), diagnosis._repr_html_()
    assert text.startswith(diagnosis.summary)
    for incident in diagnosis.incidents:
        assert incident.summary in text
        assert incident.state in html
    answer = json.loads(json.dumps(diagnosis.to_dict()))
    assert [each["title"] for each in answer["incidents"]] == frame["title"].tolist()
    assert answer["all_clear"] is False
    assert answer["account"]["unexplained"] == 0


def test_an_incident_shows_its_causes_and_the_evidence_for_and_against_them(snap: af.Snapshot) -> None:
    incident = next(each for each in af.diagnose(snap).incidents if each.cause.kind == "job version")
    first, summary, *others = repr(incident).splitlines()
    assert first == f"{incident.severity}, {incident.state}"
    assert summary == incident.summary
    assert others[0] == f"  {incident.cause.confidence}: {incident.cause.text}"
    evidence = [each.text for each in incident.cause.supporting]
    assert evidence
    assert [line for line in others if line.startswith("    + ")][: len(evidence)] == [
        f"    + {text}" for text in evidence
    ]
    shown = incident._repr_html_()
    assert all(html.escape(text) in shown for text in evidence)


def test_of_many_incidents_ten_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    rows = [
        alloc(f"a{n}", event("Received", 0), started(1), ended(9), restarting(9), started(20),
              JobID=f"job-{n:02}", Name=f"job-{n:02}.app[0]")
        for n in range(13)
    ]  # fmt: skip
    diagnosis = af.diagnose(snapshot(tmp_path, *rows))
    assert len(diagnosis.incidents) == 13
    lines = repr(diagnosis).splitlines()
    assert len(lines) == 12
    assert lines[-1] == "and 3 more"
    assert "and 3 more" in diagnosis._repr_html_()
    assert len(diagnosis.lines(limit=None)) == 14


def test_several_clusters_are_diagnosed_each_by_itself(snap: af.Snapshot, tmp_path: Path) -> None:
    single = af.diagnose(snap)
    again = captured(tmp_path, "mixed")[1]
    with af.combine({"eu": again, "us": again}) as both:
        diagnosis = af.diagnose(both)
        assert len(diagnosis.incidents) == 2 * len(single.incidents)
        assert {incident.cluster for incident in diagnosis.incidents} == {"eu", "us"}
        assert diagnosis.account.restarts == 2 * single.account.restarts
        assert [part.cluster for part in diagnosis.data_quality.coverage] == ["eu", "us"]


def test_the_quality_of_the_data_is_facts_first(snap: af.Snapshot) -> None:
    quality = af.diagnose(snap).data_quality
    (coverage,) = quality.coverage
    assert coverage.facts["allocations"] == len(snap.allocations)
    assert coverage.facts["events"] == len(snap.events)
    gaps = {gap.kind: gap.facts for gap in quality.gaps}
    assert gaps["events truncated"]["tasks_truncated"] == int(snap.task_states["events_truncated"].sum())
    assert quality.to_frame()["kind"].tolist() == [gap.kind for gap in quality.gaps]


def test_of_no_allocations_nothing_is_said(tmp_path: Path) -> None:
    diagnosis = af.diagnose(snapshot(tmp_path))
    assert diagnosis.incidents == []
    assert not diagnosis.all_clear
    assert repr(diagnosis).startswith("No allocation is in the evidence")
    assert diagnosis.to_frame().empty
    assert diagnosis.to_dict()["data_quality"]["coverage"][0]["allocations"] == 0


def test_of_small_incidents_and_things_to_know_each_is_counted() -> None:
    failed, noted = (
        SimpleNamespace(severity="info", state="recovered", facts=facts) for facts in ({"failures": 2}, {})
    )
    none = Account()
    past = "Nothing is wrong now. 1 past minor incident is listed below."
    assert verdict([failed], none, True) == past
    assert verdict([failed, noted, noted], none, True) == f"{past} 2 more notes."
    assert verdict([noted], none, True).endswith(" on record is explained. 1 note.")


def test_an_incident_can_be_pickled(snap: af.Snapshot) -> None:
    incident = af.diagnose(snap).incidents[0]
    assert pickle.loads(pickle.dumps(incident)).title == incident.title
