"""Benchmark of the diagnosis: does it name what really happened, and nothing else?

The judge is incidents of real agents (tests/data/incidents) first, then the stories of the simulated cluster.

right: all that happened is named, and nothing else above "info". missed: something that happened is not
named. wrong blame: a wrong cause, held certain or likely. false alarm: an incident above "info" that did not
happen; false critical: one of them critical. abstained: the right job, and a cause that is "unknown", only
possible, or no more than how it shows (a crash, where a version is to blame). false all-clear: something
happened, and the diagnosis says that all is well.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import allocframe as af
from allocframe.sim.scenarios import STORIES, Truth, run_story

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "findings" / "README.md"
REAL = ROOT / "tests" / "data" / "incidents"

RANK = {"info": 0, "warning": 1, "critical": 2}
LOUD = ("warning", "critical")
OUTCOMES = (
    "missed", "wrong blame", "false alarm", "false critical", "abstained", "false all-clear",
)  # fmt: skip

EXPECTED = {
    "crash_loop": ("crash", "job version"),
    "bad_deploy": ("job version",),
    "oom": ("out of memory", "job version"),
    "node_loss": ("node",),
    "lemon_node": ("node",),
    "artifact_outage": ("common cause", "artifact"),
    "restart_storm": ("template", "common cause"),
}
"""For each kind of fault in a story, the causes that name it."""


@dataclass
class Verdict:
    """What a diagnosis got wrong, as sentences by the kind of mistake; empty if it is right."""

    mistakes: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, text: str) -> None:
        self.mistakes.setdefault(kind, []).append(text)

    @property
    def right(self) -> bool:
        """Whether the diagnosis is right."""
        return not self.mistakes

    def __str__(self) -> str:
        return "; ".join(f"{kind}: {text}" for kind, texts in self.mistakes.items() for text in texts)


def fits(incident: Any, want: dict[str, Any]) -> bool:
    """Return whether an incident is the one that is wanted."""
    cause = incident.cause
    return (
        concerns(incident, want)
        and cause.kind in want["cause"]
        and incident.severity in want.get("severity", LOUD)
        and incident.state in want.get("state", [incident.state])
        and ("version" not in want or cause.subject.get("job_version") == want["version"])
        and ("mechanism" not in want or {cause.mechanism, cause.kind} & set(want["mechanism"]) != set())
    )


def concerns(incident: Any, want: dict[str, Any]) -> bool:
    """Return whether an incident is about the jobs, and the node, that are wanted."""
    jobs = {job for _, job in incident.jobs}
    node = want.get("node")
    return (not want["jobs"] or jobs == set(want["jobs"])) and (
        node is None or incident.cause.subject.get("node_name") == node
    )


def judge(diagnosis: af.Diagnosis, truth: dict[str, Any]) -> Verdict:
    """Hold a diagnosis against the truth: what to expect, what may be, what is never to be blamed."""
    verdict, incidents = Verdict(), diagnosis.incidents
    expected, allowed = truth.get("expect", []), truth.get("may", [])
    for want in expected:
        if any(fits(incident, want) for incident in incidents):
            continue
        near = [
            each for each in incidents if each.severity != "info" and concerns(each, want) and want["jobs"]
        ]
        unsure = [each for each in near if not _is_sure(each) or each.cause.kind in want.get("mechanism", [])]
        what = f"{', '.join(want['jobs']) or 'node'}: {' or '.join(want['cause'])}"
        verdict.add("abstained" if unsure else "missed", what)
    for incident in incidents:
        named = f"{incident.severity} {incident.cause.kind} {incident.title} ({incident.state})"
        sure = _is_sure(incident)
        if incident.cause.kind in truth.get("never", []) and sure:
            verdict.add("wrong blame", named)
        known = any(fits(incident, want) for want in [*expected, *allowed])
        if RANK[incident.severity] == 0 or known or truth.get("open"):
            continue
        about = any(want["jobs"] and concerns(incident, want) for want in expected)
        if not about:
            verdict.add("false critical" if incident.severity == "critical" else "false alarm", named)
        elif sure and not any(incident.cause.kind in want.get("mechanism", []) for want in expected):
            verdict.add("wrong blame", named)
    loud = [want for want in expected if "info" not in want.get("severity", LOUD)]
    if loud and diagnosis.all_clear:
        verdict.add("false all-clear", diagnosis.summary)
    return verdict


def _is_sure(incident: Any) -> bool:
    return incident.cause.confidence in ("certain", "likely")


def real_cases(folder: Path = REAL) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each capture of a real agent with its truth.

    First incidents that others made, then those of the lab, then those made by somebody who did not know the
    rules ("blind"): what the diagnosis had got wrong of them, and their quiet ones.
    """
    for truths in (folder / "truth.json", folder / "lab" / "lab.json", folder / "blind" / "blind.json"):
        for name, truth in json.loads(truths.read_text()).items():
            for file in sorted(truths.parent.glob(f"nomad-*-{name}.allocframe")):
                yield file, truth


def judge_real(file: Path, truth: dict[str, Any]) -> Verdict:
    """Judge one capture."""
    with af.load(file) as snap:
        return judge(af.diagnose(snap), truth)


def truth_of(story: Truth) -> dict[str, Any]:
    """Return the truth about a story in the form of `judge`."""
    expect = []
    for cause in story.causes:
        alone = cause.kind in ("crash_loop", "bad_deploy", "oom")
        quiet = cause.kind == "restart_storm"  # requested restarts are no failure
        expect.append(
            {
                "jobs": [cause.job_id] if alone else [],
                "cause": list(EXPECTED[cause.kind]),
                "node": cause.node_name,
                **({"mechanism": ["crash"]} if alone and cause.kind != "oom" else {}),
                "severity": ["info", *LOUD] if quiet else list(LOUD),
            }
        )
    return {"expect": expect}


def judge_story(
    story: str, seed: int, *, version: str = "2.0.5", allocations: int = 150
) -> tuple[Verdict, af.Diagnosis]:
    """Run a story and judge the diagnosis of it."""
    engine, truth = run_story(story, allocations=allocations, seed=seed, version=version)
    rows = [alloc.stub(version) for alloc in engine.state.allocs.values()]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "allocations.json"
        file.write_text(json.dumps(rows))
        with af.read_json(file) as snap:
            diagnosis = af.diagnose(snap)
            return judge(diagnosis, truth_of(truth)), diagnosis


def _row(name: str, verdicts: list[Verdict]) -> str:
    right = sum(verdict.right for verdict in verdicts)
    counts = [sum(kind in verdict.mistakes for verdict in verdicts) for kind in OUTCOMES]
    cells = [name, len(verdicts), f"{right} ({right / len(verdicts):.0%})", *counts]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="of each simulated story")
    parser.add_argument("--write", action="store_true", help="put the table into docs/findings")
    arguments = parser.parse_args()
    head = ["incidents", "cases", "right", *OUTCOMES]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    by_version: dict[str, list[Verdict]] = {}
    for file, truth in real_cases():
        verdict = judge_real(file, truth)
        by_version.setdefault(file.name.split("-")[1], []).append(verdict)
        if not verdict.right:
            print(f"{file.stem}: {verdict}", file=sys.stderr)
    real = [verdict for verdicts in by_version.values() for verdict in verdicts]
    lines += [_row(f"real agents, Nomad {version}", each) for version, each in sorted(by_version.items())]
    lines.append(_row("**real agents, all**", real))
    simulated: list[Verdict] = []
    for story in STORIES if arguments.seeds else ():
        verdicts = [
            judge_story(story, seed, version=("1.3.1", "2.0.5")[seed % 2])[0]
            for seed in range(arguments.seeds)
        ]
        for seed, verdict in enumerate(verdicts):
            if not verdict.right:
                print(f"{story} {seed}: {verdict}", file=sys.stderr)
        simulated += verdicts
        lines.append(_row(f"simulated: {story}", verdicts))
    if simulated:
        lines.append(_row("simulated, all", simulated))
    table = "\n".join(lines)
    print(table)
    if arguments.write:
        page = PAGE.read_text()
        marked = r"(?s)(<!-- table -->\n).*(<!-- end -->)"
        PAGE.write_text(re.sub(marked, lambda m: m[1] + table + "\n" + m[2], page))
    return int(not all(verdict.right for verdict in real))


if __name__ == "__main__":
    sys.exit(main())
