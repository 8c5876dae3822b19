"""A node that went away and came back: one incident of that node, and no killing of each of its jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diagnosis as benchmark
import pytest
from tables import START, alloc, ended, event, gave_up, restarting, snapshot, started

import allocframe as af

SECOND = 10**9
Row = dict[str, Any]


@pytest.mark.parametrize("version", ["2.0.5", "1.3.1"])
def test_a_node_that_comes_back_without_its_driver_is_one_incident(version: str) -> None:
    file = benchmark.REAL / "blind" / f"nomad-{version}-rebooted-without-its-driver.allocframe"
    with af.load(file) as snap:
        (incident,) = af.diagnose(snap).incidents
    assert incident.cause.subject == {"node_name": "o-1"}
    assert " in 2 of 4 instances at " in incident.summary
    assert incident.summary.endswith(
        '"raw_exec is disabled". Nomad has given up on 1 of 4 instances: no retries are left.'
    )
    texts = [each.text for each in incident.cause.supporting]
    assert texts[0] == 'o-1 alone says: "raw_exec is disabled" (2 jobs).'
    assert texts[1].startswith("2 instances of 2 jobs ended on o-1 within ")
    assert texts[2].startswith("o-1 has been ready since ")
    assert {each.kind for each in incident.hypotheses} == {"node", "driver"}


def placed(job: str, node: int, *events: Row, **fields: Any) -> Row:
    where = {"NodeID": f"n{node}", "NodeName": f"node-{node}"}
    name = {"JobID": job, "Name": f"{job}.app[{node}]"}
    return alloc(f"{job}-{node}", event("Received", 0), started(1), *events, **where, **name, **fields)


def killed(at: float) -> list[Row]:
    return [ended(at, 137, 9), restarting(at + 2), started(at + 4)]


def node(name: str, ready: float) -> Row:
    return {
        "ID": name, "Name": name, "Datacenter": "dc1", "Status": "ready", "SchedulingEligibility": "eligible",
        "StatusUpdatedAt": START // SECOND + int(ready),
    }  # fmt: skip


def causes(folder: Path, *rows: Row, ready: float) -> list[tuple[str, str]]:
    clock = placed("clock", 2, ModifyTime=START + 300 * SECOND)
    history = af.History.from_json(nodes=[node("node-1", ready), node("node-2", 0)])
    found = af.diagnose(snapshot(folder, clock, *rows), history=history).incidents
    return [(each.cause.kind, each.cause.confidence) for each in found]


TWO = [placed("web", 1, *killed(100)), placed("api", 1, *killed(100.3)), placed("web", 2)]


def test_all_that_ran_on_a_node_is_killed_with_it_if_it_comes_up_just_after(tmp_path: Path) -> None:
    assert causes(tmp_path, *TWO, ready=110) == [("node", "likely")]


@pytest.mark.parametrize(
    ("rows", "ready"),
    [
        (TWO, 0),  # it was ready all the time
        (TWO, 290),  # came up much later
        ([*TWO, placed("log", 1)], 110),  # something ran on
        ([placed("web", 1, *killed(100)), placed("api", 1, *killed(108))], 110),  # not at once
        ([placed("web", 1, *killed(100)), placed("api", 2, *killed(100))], 110),  # not on one node
        ([placed("web", 1, *killed(100))], 110),  # one job
    ],
)
def test_a_node_is_not_blamed_for_kills_on_less_evidence(
    tmp_path: Path, rows: list[Row], ready: float
) -> None:
    assert "node" not in {kind for kind, _ in causes(tmp_path, *rows, ready=ready)}


def test_a_start_that_fails_there_takes_only_the_kills_of_that_moment(tmp_path: Path) -> None:
    words = "raw_exec is disabled"

    def lost(job: str, at: float) -> Row:
        fails = [
            ended(at, 137, 9),
            restarting(at + 2),
            event("Driver Failure", at + 4, words, driver_error=words),
        ]
        return placed(job, 1, *fails, gave_up(at + 4), state="dead", ClientStatus="failed")

    others = [placed("web", 2), placed("api", 2)]
    found = causes(tmp_path, lost("web", 100), lost("api", 100.2), *others, ready=103)
    assert [kind for kind, _ in found] == ["node"]
    apart = causes(tmp_path, lost("web", 100), lost("api", 160), *others, ready=103)
    assert sorted(kind for kind, _ in apart) == ["killed", "killed", "node"]
