"""A diagnosis groups findings into incidents, and says how good the data is."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from stories import captured

import allocframe as af
from allocframe.diagnosis.incidents import group_incidents


@pytest.fixture(scope="module")
def snap(tmp_path_factory: pytest.TempPathFactory) -> af.Snapshot:
    return captured(tmp_path_factory.mktemp("mixed"), "mixed")[1]


def test_findings_about_one_version_are_one_incident(snap: af.Snapshot) -> None:
    diagnosis = af.diagnose(snap)
    codes = {
        incident.title: [finding.code for finding in incident.findings] for incident in diagnosis.incidents
    }
    assert codes["checkout version 1"] == ["AF201", "AF401"]
    assert len(codes) == len(diagnosis.incidents)
    assert list(diagnosis.findings) == list(af.findings(snap))


def test_an_incident_begins_with_the_first_and_ends_with_the_last_of_its_findings(snap: af.Snapshot) -> None:
    for incident in af.diagnose(snap).incidents:
        assert incident.began_at == min(finding.began_at for finding in incident.findings)
        assert incident.last_at == max(finding.last_at for finding in incident.findings)


def test_only_incidents_that_reach_into_a_window_are_grouped(snap: af.Snapshot) -> None:
    findings = af.findings(snap)
    nodes = [incident.title for incident in group_incidents(findings, None, None) if "node" in incident.title]
    assert len(nodes) == 1
    late = group_incidents(findings, pd.Timestamp("2026-11-24T10:10Z"), None)
    assert nodes[0] not in [incident.title for incident in late]
    assert group_incidents(findings, None, pd.Timestamp("2026-11-24T05:00Z")) == []


def test_a_diagnosis_is_a_table_a_text_and_html(snap: af.Snapshot) -> None:
    diagnosis = af.diagnose(snap)
    frame = diagnosis.to_frame()
    assert frame.columns.tolist() == ["severity", "title", "began_at", "last_at", "codes", "summary"]
    assert frame["title"].tolist() == [incident.title for incident in diagnosis.incidents]
    text, html = repr(diagnosis), diagnosis._repr_html_()
    assert text.startswith(f"<Diagnosis: {len(diagnosis.incidents)} incidents, ")
    for incident in diagnosis.incidents:
        assert incident.headline in text
        assert incident.title in html


def test_several_clusters_are_diagnosed_each_by_itself(snap: af.Snapshot, tmp_path: Path) -> None:
    single = af.diagnose(snap)
    again = captured(tmp_path, "mixed")[1]
    with af.combine({"eu": again, "us": again}) as both:
        diagnosis = af.diagnose(both)
        assert len(diagnosis.incidents) == 2 * len(single.incidents)
        assert {incident.subject["cluster"] for incident in diagnosis.incidents} == {"eu", "us"}
        assert [part.cluster for part in diagnosis.data_quality.coverage] == ["eu", "us"]


def test_the_quality_of_the_data_is_facts_first(snap: af.Snapshot) -> None:
    quality = af.diagnose(snap).data_quality
    (coverage,) = quality.coverage
    assert coverage.facts["allocations"] == len(snap.allocations)
    assert coverage.facts["events"] == len(snap.events)
    gaps = {gap.kind: gap.facts for gap in quality.gaps}
    assert gaps["events truncated"]["tasks_truncated"] == int(snap.task_states["events_truncated"].sum())
    assert quality.to_frame()["kind"].tolist() == [gap.kind for gap in quality.gaps]
