"""Jobs that fail in one moment: what joins them, what is named beside them, and what must stay apart."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import diagnosis as benchmark
import pytest
from recorded import SECOND, edited, later, rows_of
from tables import START, alloc, ended, event, restarting, snapshot, started

import allocframe as af
from allocframe.diagnosis._failures import build_case
from allocframe.diagnosis._placed_by import placed_by

Row = dict[str, Any]
BROKER, TOKENS, KILLER = "broker-gone-with-herring", "token-service-new-format", "harmless-deploy-then-killer"


@cache
def diagnosed(name: str) -> af.Diagnosis:
    with af.load(benchmark.REAL / "blind" / f"nomad-{name}.allocframe") as snap:
        return af.diagnose(snap)


def of_rows(folder: Path, rows: list[Row], **more: Any) -> list[Any]:
    """Return the incidents above info of some allocations."""
    incidents = af.diagnose(snapshot(folder, *rows), **more).incidents
    return [each for each in incidents if each.severity != "info"]


def only(incidents: list[Any]) -> Any:
    (incident,) = [each for each in incidents if each.severity != "info"]
    return incident


def causes(incident: Any) -> list[tuple[str, str]]:
    return [(each.kind, each.confidence) for each in incident.hypotheses]


def texts(incident: Any) -> list[str]:
    return [each.text for cause in incident.hypotheses for each in [*cause.supporting, *cause.contradicting]]


def apart(rows: list[Row], seconds: dict[str, float]) -> list[Row]:
    """Return allocations with some jobs moved in time."""
    return [edited([row], later(seconds.get(row["JobID"], 0)))[0] for row in rows]


def likely_together(incidents: list[Any]) -> list[Any]:
    return [each for each in incidents if len(each.jobs) > 1 or each.cause.kind == "common cause"]


# An outage that goes on


@pytest.mark.parametrize("version", ["1.3.1", "2.0.5"])
def test_jobs_that_ran_well_and_fail_since_one_moment_are_one_incident_while_it_goes_on(version: str) -> None:
    incident = only(diagnosed(f"{version}-{BROKER}").incidents)
    assert (incident.severity, incident.state) == ("critical", "ongoing")
    assert incident.title == "4 jobs crash at once: fraud-check, mailer, order-intake, stock-sync"
    assert (incident.cause.kind, incident.cause.confidence) == ("common cause", "likely")
    assert ("job version", "possible") in causes(incident)
    (others,) = [text for text in texts(incident) if text.startswith("Other jobs began to fail")]
    assert all(job in others for job in ("mailer", "order-intake", "fraud-check"))


def test_jobs_that_begin_to_fail_far_apart_are_not_joined(tmp_path: Path) -> None:
    rows = rows_of(f"blind/nomad-2.0.5-{BROKER}")
    moved = apart(rows, {"mailer": -75, "fraud-check": 70, "stock-sync": 150})
    assert likely_together(of_rows(tmp_path, moved)) == []


def test_jobs_that_never_ran_well_are_not_joined_for_their_common_placement(tmp_path: Path) -> None:
    rows = [
        alloc(
            f"{job}-{n}", event("Received", 0), *(each for k in range(3) for each in fails(1 + 6 * k, 5)),
            JobID=job, Name=f"{job}.app[{n}]", CreateTime=START,
        )
        for job in ("a", "b", "c")
        for n in range(2)
    ]  # fmt: skip
    assert likely_together(of_rows(tmp_path, rows)) == []


# Two jobs, and what was changed just before


@pytest.mark.parametrize(
    ("version", "what"), [("1.3.1", "1.5 s, 0.7 s after"), ("2.0.5", "1.3 s, 0.5 s after")]
)
def test_two_jobs_that_fall_after_a_change_are_one_incident_and_the_change_is_named(
    version: str, what: str
) -> None:
    incident = only(diagnosed(f"{version}-{TOKENS}").incidents)
    assert (incident.severity, incident.state) == ("critical", "ongoing")
    assert [job for _, job in incident.jobs] == ["checkout-web", "profile-web"]
    assert causes(incident)[0] == ("common cause", "likely")
    fell = "4 instances of profile-web, checkout-web had run well, and began to fail within "
    assert f"{fell}{what} version 1 of token-service (p = 0.0015)." in texts(incident)
    (change,) = [each for each in incident.hypotheses if each.kind == "job version"]
    assert (change.confidence, change.subject["job_id"]) == ("possible", "token-service")
    nearest = incident.changes[0]
    assert (nearest["job_id"], nearest["version_after"]) == ("token-service", 1)


def test_without_the_change_two_jobs_name_each_other_as_a_possibility(tmp_path: Path) -> None:
    rows = [row for row in rows_of(f"blind/nomad-2.0.5-{TOKENS}") if row["JobID"] != "token-service"]
    incidents = of_rows(tmp_path, rows)
    assert likely_together(incidents) == []
    assert [("common cause", "possible") in causes(each) for each in incidents] == [True, True]
    assert "Other jobs began to fail within a minute of it: profile-web." in [
        text for each in incidents for text in texts(each)
    ]


@pytest.mark.parametrize(
    "moved",
    [
        {"token-service": -20},  # the change came long before
        {"token-service": 5},  # it came after
        {"profile-web": 9},  # the two do not fall in one moment
    ],
)
def test_two_jobs_stay_apart_if_change_and_falls_are_not_of_one_moment(
    tmp_path: Path, moved: dict[str, float]
) -> None:
    rows = apart(rows_of(f"blind/nomad-2.0.5-{TOKENS}"), moved)
    assert likely_together(of_rows(tmp_path, rows)) == []


def test_where_many_jobs_are_changed_one_of_them_came_just_before_by_chance(tmp_path: Path) -> None:
    rows = rows_of(f"blind/nomad-2.0.5-{TOKENS}")
    changed = [row for row in rows if row["JobID"] == "token-service"]
    for k in range(12):
        for row in edited(changed, later(-2 * k - 3)):
            row |= {"JobID": f"other-{k}", "Name": f"other-{k}.app[0]", "ID": f"{row['ID'][:-2]}{k:02}"}
            rows.append({**row, "NextAllocation": "", "PreviousAllocation": ""})
    assert likely_together(of_rows(tmp_path, rows)) == []


def test_a_job_that_was_changed_itself_is_not_joined_with_another(tmp_path: Path) -> None:
    """Its own version came two seconds before it fell."""
    rows = rows_of(f"blind/nomad-2.0.5-{TOKENS}")
    first = min(row["CreateTime"] for row in rows if row["JobID"] == "token-service" and row["JobVersion"])
    for row in rows:
        if row["JobID"] == "checkout-web" and row["CreateTime"] > first:
            row["JobVersion"] = 1
    (mark,) = edited([row for row in rows if row["JobID"] == "token-service" and row["JobVersion"]])
    mark |= {"JobID": "checkout-web", "Name": "checkout-web.app[2]", "ID": "of-version-1", "JobVersion": 1}
    rows.append({**mark, "CreateTime": first - SECOND, "PreviousAllocation": ""})
    assert likely_together(of_rows(tmp_path, rows)) == []


# Killed in the same moments


def test_jobs_that_end_in_the_same_moments_are_one_incident_killed_from_outside() -> None:
    incident = only(diagnosed(f"2.0.5-{KILLER}").incidents)
    assert incident.title == "2 jobs are killed at once: catalog, pickup"
    assert (incident.cause.kind, incident.cause.mechanism) == ("common cause", "killed")
    assert incident.cause.text == "a signal from outside to all of these jobs; who sent it is not on record"
    assert causes(incident) == [("common cause", "likely"), ("out of memory", "possible")]
    assert texts(incident)[1] == (
        "3 times, 4 instances ended within 0.6 s of each other, at ages from 8.6 s to 56.3 s (p < 0.0001). "
        "Something outside made them end."
    )
    assert "SIGKILL that Nomad did not send (12 times)." in texts(incident)


def test_jobs_that_are_killed_some_seconds_apart_are_two_incidents(tmp_path: Path) -> None:
    rows = apart(rows_of(f"blind/nomad-2.0.5-{KILLER}"), {"pickup": -5})
    incidents = of_rows(tmp_path, rows)
    assert [(each.cause.kind, each.cause.confidence) for each in incidents] == [("killed", "likely")] * 2


def test_one_job_whose_instances_are_killed_in_the_same_moments_is_likely_killed_from_outside() -> None:
    (sessions,) = [
        each
        for each in diagnosed("2.0.5-old-crash-new-kill").incidents
        if each.jobs == [("default", "sessions")]
    ]
    assert causes(sessions) == [("killed", "likely"), ("out of memory", "possible")]


def fails(begin: float, length: float, code: int = 1, signal: int = 0) -> list[Row]:
    """Return one run that ends by itself."""
    return [
        started(begin),
        ended(begin + length, code, signal),
        restarting(begin + length),
    ]


def test_instances_that_are_killed_each_at_a_time_of_its_own_are_possibly_killed(tmp_path: Path) -> None:
    lengths = ([70, 31, 55], [44, 83, 38])
    rows = []
    for n, runs in enumerate(lengths):
        begin, events = 1.0, []
        for length in runs:
            events += fails(begin, length, 137, 9)
            begin += length + 1
        rows.append(alloc(f"web-{n}", *events, started(begin), Name=f"web.app[{n}]", CreateTime=START))
    (incident,) = af.diagnose(snapshot(tmp_path, *rows)).incidents
    assert causes(incident)[0] == ("killed", "possible")


# Runs by version


def test_runs_are_counted_since_the_version_that_parts_them() -> None:
    incident = only(diagnosed("2.0.5-periodic-broken-by-v1").incidents)
    assert "4 of 4 runs since version 1 failed, and 0 of 4 before: exit code 2" in incident.summary
    assert ("job version", "possible") in causes(incident)
    assert "4 of 4 runs of version 1 failed, and 0 of 4 of others (p = 0.029)." in texts(incident)


@pytest.mark.parametrize(("place", "ends"), [(0, "failed"), (4, "complete")])
def test_a_version_does_not_part_few_runs_if_one_is_an_exception(
    tmp_path: Path, place: int, ends: str
) -> None:
    """The first run of version 0 failed, too, or that of version 1 did not."""
    rows = sorted(
        (row for row in rows_of("blind/nomad-2.0.5-periodic-broken-by-v1") if "periodic-" in row["JobID"]),
        key=lambda row: int(row["CreateTime"]),
    )
    like = rows[-1] if ends == "failed" else rows[0]
    seconds = (rows[place]["CreateTime"] - like["CreateTime"]) / SECOND
    (other,) = edited([like], later(seconds))
    rows[place] = {**other, **{name: rows[place][name] for name in ("ID", "JobID", "Name")}}
    with af.load(benchmark.REAL / "blind" / "nomad-2.0.5-periodic-broken-by-v1.allocframe") as snap:
        (incident,) = af.diagnose(snapshot(tmp_path, *rows), history=snap.history).incidents
    assert f"{5 if ends == 'failed' else 3} of 8 runs failed" in incident.summary
    assert [each.kind for each in incident.hypotheses] == ["crash"]


# Since when a version counts


def test_a_version_counts_from_its_own_placement_and_not_from_what_it_updated_in_place() -> None:
    incident = only(diagnosed("1.3.1-worker-group-bad-flag").incidents)
    assert "It began 4.6 s after version 1 was first placed." in texts(incident)
    assert incident.changes[0]["before"].total_seconds() == pytest.approx(4.6, abs=0.05)


def test_what_fails_in_its_setup_began_as_soon_as_its_version_was_placed() -> None:
    texts_of = texts(only(diagnosed("2.0.5-artifact-404-after-deploy").incidents))
    assert "It began as soon as version 1 was first placed." in texts_of


def test_an_allocation_was_placed_by_an_older_version_only_if_one_plan_placed_both(tmp_path: Path) -> None:
    def placed(name: str, version: int, created: int) -> Row:
        return alloc(name, started(1), JobVersion=version, CreateTime=START + created, Name=f"web.{name}[0]")

    rows = [placed("a", 0, 0), placed("b", 1, 0), placed("c", 2, 0), placed("d", 1, 1), placed("e", 2, 1)]
    case = build_case(snapshot(tmp_path, *rows))
    names = case.evidence.allocations["alloc_id"].astype("str").tolist()
    made = dict(zip(names, placed_by(case).tolist(), strict=True))
    # one that came a nanosecond later is of another plan
    assert {name: made[name] for name in "abcd"} == {"a": 0, "b": 0, "c": 0, "d": 1}


# Drains


def test_jobs_that_leave_a_node_in_one_moment_were_likely_drained() -> None:
    (note,) = diagnosed("2.0.5-drain-for-patching").incidents
    assert (note.severity, causes(note)) == ("info", [("drain", "likely")])
    assert texts(note) == [
        "The servers moved 2 allocations; the 2 jobs left host-b within 0.2 s of each other."
    ]


@pytest.mark.parametrize(("seconds", "jobs"), [(5, ("wiki", "forum")), (0, ("wiki",))])
def test_jobs_that_leave_one_after_the_other_or_alone_were_possibly_drained(
    tmp_path: Path, seconds: float, jobs: tuple[str, ...]
) -> None:
    rows = [row for row in rows_of("blind/nomad-2.0.5-drain-for-patching") if row["JobID"] in jobs]
    newest = max(row["CreateTime"] for row in rows if row["JobID"] == "wiki")
    moved = [edited([row], later(seconds))[0] if row["CreateTime"] == newest else row for row in rows]
    (note,) = af.diagnose(snapshot(tmp_path, *moved)).incidents
    assert causes(note) == [("drain", "possible")]
