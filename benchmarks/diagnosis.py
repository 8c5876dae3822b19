"""How often the findings name what really happened: every story of the simulated cluster, over many seeds.

Recall is the share of injected causes that a finding names rightly (job and version, node, or cause); precision the share of findings above
"info" that belong to an injected cause.
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
"""For each kind of cause, the rule that should name it, and what that must say of it."""

SAID = {"artifact_outage": "artifact", "restart_storm": "template"}


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
    """Return whether a finding names a cause rightly."""
    code, wanted = NAMED_BY[cause.kind]
    said = SAID.get(cause.kind)
    return (
        finding.code == code
        and all(finding.subject.get(name) == getattr(cause, name) for name in wanted)
        and (said is None or finding.facts.get("cause") == said)
    )


def belongs(finding: af.Finding, truth: Truth) -> bool:
    """Return whether a finding is about something that was injected."""
    subject, shared_cause = finding.subject, finding.facts.get("cause")
    return any(
        (subject.get("job_id") is not None and subject["job_id"] == cause.job_id)
        or (subject.get("node_name") is not None and subject["node_name"] == cause.node_name)
        or (shared_cause is not None and shared_cause == SAID.get(cause.kind))
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
        causes = named = loud = right = 0
        for seed in range(seeds):
            truth, found = diagnose(story, seed, version=("1.3.1", "2.0.5")[seed % 2])
            above = [one for one in found if one.severity != "info"]
            causes, loud = causes + len(truth.causes), loud + len(above)
            named += sum(any(names(one, cause) for one in found) for cause in truth.causes)
            right += sum(belongs(one, truth) for one in above)
        shares = [f"{hits / of:.0%}" if of else "" for hits, of in ((named, causes), (right, loud))]
        lines.append(f"| {story} | {causes} | {named} | {shares[0]} | {loud} | {right} | {shares[1]} |")
        print(lines[-1], file=sys.stderr)
    table = "\n".join(lines)
    print(table)
    kept = PAGE.read_text()
    PAGE.write_text(
        re.sub(r"(?s)(<!-- table -->\n).*(<!-- end -->)", lambda m: m[1] + table + "\n" + m[2], kept)
    )


if __name__ == "__main__":
    main()
