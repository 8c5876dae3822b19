"""Benchmark of the findings: how often do they name what really happened in the simulated cluster?

Recall is the share of injected causes that a finding names correctly (job and version, node, or cause).
Precision is the share of findings above "info" that belong to an injected cause.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path

import allocframe as af
from allocframe.sim.scenarios import STORIES, Cause, Truth, run_story

PAGE = Path(__file__).parent.parent / "docs" / "findings" / "README.md"
NAMED_BY = {
    "crash_loop": ("AF201", ("job_id", "job_version")),
    "oom": ("AF202", ("job_id", "job_version")),
    "bad_deploy": ("AF401", ("job_id", "job_version")),
    "node_loss": ("AF301", ("node_name",)),
    "lemon_node": ("AF302", ("node_name",)),
    "artifact_outage": ("AF204", ()),
    "restart_storm": ("AF501", ()),
}
"""For each kind of cause, the finding that should name it, and the subject fields that must match."""

SHARED_CAUSES = {"artifact_outage": "artifact", "restart_storm": "template"}


def diagnose(
    story: str, seed: int, *, version: str = "2.0.5", allocations: int = 150
) -> tuple[Truth, af.Findings]:
    """Return the truth about a story, and the findings on its snapshot."""
    engine, truth = run_story(story, allocations=allocations, seed=seed, version=version)
    rows = [alloc.stub(version) for alloc in engine.state.allocs.values()]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "allocations.json"
        file.write_text(json.dumps(rows))
        with af.read_json(file) as snap:
            return truth, af.findings(snap)


def names(finding: af.Finding, cause: Cause) -> bool:
    """Return whether a finding names a cause correctly."""
    code, fields = NAMED_BY[cause.kind]
    shared_cause = SHARED_CAUSES.get(cause.kind)
    return (
        finding.code == code
        and all(finding.subject.get(name) == getattr(cause, name) for name in fields)
        and (shared_cause is None or finding.facts.get("cause") == shared_cause)
    )


def belongs(finding: af.Finding, truth: Truth) -> bool:
    """Return whether a finding is about an injected cause."""
    subject, shared_cause = finding.subject, finding.facts.get("cause")
    return any(
        (subject.get("job_id") is not None and subject["job_id"] == cause.job_id)
        or (subject.get("node_name") is not None and subject["node_name"] == cause.node_name)
        or (shared_cause is not None and shared_cause == SHARED_CAUSES.get(cause.kind))
        for cause in truth.causes
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    seeds = parser.parse_args().seeds
    lines = [
        "| story | causes | named | recall | findings above info | of them right | precision |",
        "|" + " --- |" * 7,
    ]
    for story in STORIES:
        causes = named = reported = correct = 0
        for seed in range(seeds):
            truth, findings = diagnose(story, seed, version=("1.3.1", "2.0.5")[seed % 2])
            above_info = [finding for finding in findings if finding.severity != "info"]
            causes, reported = causes + len(truth.causes), reported + len(above_info)
            named += sum(any(names(finding, cause) for finding in findings) for cause in truth.causes)
            correct += sum(belongs(finding, truth) for finding in above_info)
        recall = f"{named / causes:.0%}" if causes else ""
        precision = f"{correct / reported:.0%}" if reported else ""
        lines.append(f"| {story} | {causes} | {named} | {recall} | {reported} | {correct} | {precision} |")
        print(lines[-1], file=sys.stderr)
    table = "\n".join(lines)
    print(table)
    page = PAGE.read_text()
    PAGE.write_text(
        re.sub(r"(?s)(<!-- table -->\n).*(<!-- end -->)", lambda m: m[1] + table + "\n" + m[2], page)
    )


if __name__ == "__main__":
    main()
