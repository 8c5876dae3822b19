"""What parts a version from other causes of the same moment, and what does not: walks, templates, ages."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import diagnosis as benchmark
import numpy as np
import pandas as pd
import pytest
from tables import START, alloc, ended, event, gave_up, restarting, snapshot, started

import allocframe as af

Row = dict[str, Any]


@cache
def diagnosed(name: str) -> af.Diagnosis:
    with af.load(benchmark.REAL / "blind" / f"nomad-{name}.allocframe") as snap:
        return af.diagnose(snap)


def of_version(diagnosis: af.Diagnosis) -> Any:
    """Return the hypothesis that a version is to blame."""
    (incident,) = [each for each in diagnosis.incidents if each.severity != "info"]
    (found,) = [each for each in incident.hypotheses if each.kind == "job version"]
    return found


def texts(evidence: list[Any]) -> list[str]:
    return [each.text for each in evidence]


def title_of(name: str) -> str:
    return str(diagnosed(name).incidents[0].summary)


# Ends that walk over the instances of a job

WALK = (
    "16 instances ended once each, one by one, every 1.5 s, at ages from 16.9 s to 37.8 s, and none in the "
    "41.6 s since (p < 0.0001). Something outside made them end."
)


def test_ends_in_turn_are_told_and_make_no_version_likely() -> None:
    version = of_version(diagnosed("2.0.5-wave-of-term"))
    assert (version.confidence, version.contradicting[-1].text) == ("possible", WALK)


def fleet(ends: list[list[float]], begins: list[float] | None = None, *, until: float = 900) -> list[Row]:
    """Return instances of version 1 that start about 300 s and end at these times, after a good version 0."""
    rows = []
    for n, times in enumerate(ends):
        begin = 300 if begins is None else begins[n]
        rows.append(
            alloc(
                f"old{n}", event("Received", 0), started(1), event("Killing", begin - 2),
                ended(begin - 1, 143, 15), event("Killed", begin - 1), state="dead",
                ClientStatus="complete", DesiredStatus="stop", Name=f"web.app[{n}]",
                DesiredDescription="alloc is being updated due to job update",
            )
        )  # fmt: skip
        runs = [each for time in times for each in (ended(time, 0), restarting(time), started(time + 0.2))]
        rows.append(
            alloc(
                f"new{n}", event("Received", begin), started(begin), *runs, JobVersion=1, CreateIndex=2,
                Name=f"web.app[{n}]", CreateTime=START + int(begin * 10**9),
                ModifyTime=START + int(until * 10**9),
            )
        )  # fmt: skip
    return rows


def jitter(count: int, size: float) -> list[float]:
    return (size * np.random.default_rng(4).uniform(-1, 1, count)).tolist()


WALKS = {
    "one after the other": [[320 + 2 * n + e] for n, e in enumerate(jitter(10, 0.3))],
    "four at a time": [[320 + 5 * (n // 4) + e] for n, e in enumerate(jitter(24, 0.1))],
    "over and over": [[320 + 2 * n, 350 + 2 * n, 380 + 2 * ((3 * n) % 10)] for n in range(10)],
}


@pytest.mark.parametrize("name", list(WALKS))
def test_ends_at_an_even_pace_are_of_something_outside(name: str, tmp_path: Path) -> None:
    version = of_version(af.diagnose(snapshot(tmp_path, *fleet(WALKS[name]))))
    assert version.confidence == "possible"
    assert "ends in turn" in {each.fact for each in version.contradicting}


def rolled_out() -> list[Row]:
    """Return instances that a rolling deploy starts 8 s apart; each ends 20 s after its start."""
    begins = [300 + 8 * n + e for n, e in enumerate(jitter(10, 0.1))]
    return fleet([[begin + 20] for begin in begins], begins)


def at_random() -> list[Row]:
    return fleet([[time] for time in np.random.default_rng(7).uniform(310, 360, 16)])


@pytest.mark.parametrize("rows", [rolled_out, at_random])
def test_ends_that_follow_their_starts_or_come_at_random_are_no_walk(rows: Any, tmp_path: Path) -> None:
    version = of_version(af.diagnose(snapshot(tmp_path, *rows())))
    assert version.confidence == "likely"
    assert "ends in turn" not in {each.fact for each in version.contradicting}


# A template that was rendered again just before the version


def test_a_version_that_came_with_a_new_template_is_only_possible_and_so_is_the_template() -> None:
    diagnosis = diagnosed("2.0.5-variable-and-deploy-at-once")
    assert of_version(diagnosis).confidence == "possible"
    assert (
        "Its template was rendered again 2.2 s before version 1. With that, version 0 ran for 2.2 s at most, "
        "less than a run that fails (5.0 s): nothing on record tells the two apart."
    ) in texts(of_version(diagnosis).contradicting)
    template = next(each for each in diagnosis.incidents[0].hypotheses if each.kind == "template")
    assert template.confidence == "possible"


def test_what_a_version_ran_with_its_newest_template_is_what_counts() -> None:
    version = of_version(diagnosed("2.0.5-template-first-then-a-bug"))
    assert version.confidence == "likely"
    assert (
        "Version 1: 18 failures in 1.5 min of running; version 0: 0 failures in 45.7 s of running, since its "
        "template was rendered again (p = 0.00065)."
    ) in texts(version.supporting)


# The age at which a version fails


def test_too_few_runs_that_got_past_an_age_leave_a_version_possible() -> None:
    version = of_version(diagnosed("2.0.5-flapping-upstream-restarts-its-reader"))
    assert version.confidence == "possible"
    assert (
        "3 of 3 runs of version 1 on record failed by the age of 7.0 s; 1 of 1 run of version 0 got past "
        "that (p = 0.25): too few to be sure."
    ) in texts(version.supporting)


def test_a_template_that_is_rendered_whenever_another_job_falls_is_no_cause_of_that() -> None:
    incidents = diagnosed("2.0.5-flapping-upstream-restarts-its-reader").incidents
    assert "template" not in {each.kind for each in incidents[0].hypotheses}


@pytest.mark.parametrize("nomad", ["1.3.1", "2.0.5"])
def test_versions_that_are_the_same_but_for_counts_are_one(nomad: str) -> None:
    """1.3.1 writes a scaling as a version equal to the one before, with the same time."""
    version = of_version(diagnosed(f"{nomad}-scaled-on-a-time-bomb"))
    assert (version.confidence, version.subject["job_version"]) == ("likely", 1)
    assert (
        "10 of 10 runs of version 1 failed by the age of 20.1 s; 7 of 7 runs of version 0, 3 got past that "
        "(p = 0.0001)."
    ) in texts(version.supporting)


def after_a_deploy(well: float) -> list[Row]:
    """Return instances of a healthy version that ran well for a while, and end 7 s after each start since.

    Their rings show the last three ends of eight.
    """
    rows = fleet([[]] * 4)
    for row in rows[1::2]:
        ends = [300 + well + 12 * n for n in range(8)]
        runs = [each for end in ends for each in (started(end - 7), ended(end, 3), restarting(end))][-9:]
        row["TaskStates"]["server"] = {"State": "pending", "Restarts": 8, "Events": runs}
        healthy = pd.Timestamp(START + 305 * 10**9, tz="UTC").isoformat()
        row |= {"DeploymentStatus": {"Healthy": True, "Timestamp": healthy}, "ClientStatus": "pending"}
        row["ModifyTime"] = START + int((ends[-1] + 1) * 10**9)
    return rows


@pytest.mark.parametrize(("well", "confidence"), [(7, "likely"), (23, "possible")])
def test_a_version_that_ran_well_for_much_longer_than_it_does_now_met_something_new(
    well: float, confidence: str, tmp_path: Path
) -> None:
    version = of_version(af.diagnose(snapshot(tmp_path, *after_a_deploy(well))))
    assert version.confidence == confidence


# A start that waits


def waiting(elapsed: float) -> list[Row]:
    """Return an instance that its template restarted at 1000 s and that waits for its start since."""
    words = "Template with change_mode restart re-rendered"
    row = alloc(
        "a", event("Received", 0), started(1), event("Restart Signaled", 1000, words), ended(1000, 0),
        restarting(1000, ""), event("Downloading Artifacts", 1000), state="pending", ClientStatus="pending",
    )  # fmt: skip
    now = alloc("z", event("Received", 0), started(1), JobID="z", Name="z.app[0]")
    return [row, {**now, "ModifyTime": START + int((1000 + elapsed) * 10**9)}]


def test_a_start_after_a_restart_waits_from_the_end_of_the_last_run_on(tmp_path: Path) -> None:
    def told(elapsed: float) -> list[str]:
        return [each.summary for each in af.diagnose(snapshot(tmp_path, *waiting(elapsed))).incidents]

    assert not [each for each in told(2) if "does not start" in each]
    begin = "web does not start again. 1 instance has waited for 11.7 min"
    assert [each for each in told(700) if each.startswith(begin)]


def test_what_cannot_start_again_after_it_ran_began_no_earlier_than_that(tmp_path: Path) -> None:
    """Its node was restarted without its driver: the second start fails, the first had run well."""
    words = "failed to launch: raw_exec is disabled"
    rows = fleet([[]])
    rows[1] |= {"ClientStatus": "failed"}
    rows[1]["TaskStates"]["server"] = {
        "State": "dead", "Restarts": 1,
        "Events": [
            event("Received", 300), started(300), ended(350, 137, 9), restarting(350),
            event("Driver Failure", 351, words, driver_error=words), gave_up(351),
        ],
    }  # fmt: skip
    incidents = af.diagnose(snapshot(tmp_path, *rows)).incidents
    told = [text for each in incidents for cause in each.hypotheses for text in texts(cause.supporting)]
    assert [text for text in told if text.startswith("It began")] == [
        "It began 50.0 s after version 1 was first placed.",
        "It began at most 51.0 s after version 1 was first placed.",
    ]


# Which, and how long


def test_the_instance_that_alone_fails_is_named_with_its_versions_and_nodes() -> None:
    (incident, *_) = diagnosed("2.0.5-shard-three-follows").incidents
    assert " failures in 1 of 5 instances (app[3]) since " in incident.summary
    assert "It is app[3] each time, in versions 0, 1 and on s-1, s-2." in texts(incident.cause.supporting)


def test_runs_whose_lengths_differ_widely_are_told_as_a_range() -> None:
    assert ": exit code 0, mostly 11.0 s to 31.0 s after each start." in title_of(
        "2.0.5-ends-at-random-since-v1"
    )
    assert ": exit code 36, about 5.0 s after the 15 starts on record." in title_of(
        "2.0.5-variable-and-deploy-at-once"
    )


def test_a_version_began_to_fail_no_later_than_the_incident_of_it() -> None:
    """Both versions of the rollout fail: the bound of one is no later than that of the other."""
    texts_of = texts(of_version(diagnosed("2.0.5-outage-in-mid-rollout")).supporting)
    assert "It began at most 18.4 s after version 1 was first placed." in texts_of
