"""What was asked for and what found no room, in the words of who has to act on it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diagnosis as benchmark
import pandas as pd
import pytest
from tables import START, alloc, ended, event, restarting, snapshot, started
from tables import at as at_second

import allocframe as af
from allocframe.diagnosis.evidence_sentences import change as describe_change
from allocframe.diagnosis.incident import Incident


@cache
def incidents_of(name: str) -> list[Incident]:
    with af.load(benchmark.REAL / "blind" / f"nomad-{name}.allocframe") as snap:
        return af.diagnose(snap).incidents


def summary_of(name: str, place: int = 0) -> str:
    return incidents_of(name)[place].summary


def evidence_of(incident: Incident) -> list[str]:
    return [each.text for cause in incident.hypotheses for each in cause.supporting]


# Room


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "2.0.5-distinct-hosts-short",
            "gossip cannot be placed in full. 2 of 5 instances wait, 3 are running: an instance of it "
            "already (distinct_hosts) on 3 nodes. Since version 1 it asks for 5 instances.",
        ),
        # the scheduler says no more than "computed class ineligible"
        (
            "1.3.1-volume-typo",
            "tsdb cannot be placed. 3 of 3 instances wait: no node fits, 1 node filtered out. Since "
            "version 2 it asks for volume scratsh.",
        ),
        (
            "2.0.5-port-reserved",
            "edge version 1 cannot be placed. 1 of 1 instance waits for version 1, 1 is still running "
            "version 0: port http=21003 is taken on 1 node. Since version 1 it asks for port 21003.",
        ),
        (
            "2.0.5-zone-renamed",
            "1 of 2 instances waits for version 1, 2 are still running version 0: no node fits, 1 node "
            "filtered out. 2 instances are still running on m-1; m-1 had changed 11.7 s before.",
        ),
        ("2.0.5-disk-typo", "archive (group cold) cannot be placed in full."),
        (
            "2.0.5-no-gpu",
            "no node fits, 1 node filtered out. Since version 1 it asks for ${meta.gpu} = a100.",
        ),
    ],
)
def test_a_placement_says_what_is_asked_and_what_runs(name: str, told: str) -> None:
    assert told in summary_of(name)


def placed_by(tmp_path: Path, *failures: dict[str, object]) -> Incident:
    """Return the incident of a job that waits, by what its evaluations say, the newest last."""
    evaluations = af.tables.evaluations_frame(
        [
            {
                "ID": f"e{n}", "Namespace": "default", "JobID": "big", "Type": "service", "Status": "blocked",
                "TriggeredBy": "queued-allocs", "CreateTime": START + n * 10**9,
                "QueuedAllocations": {"app": 2}, "FailedTGAllocs": {"app": failed},
            }
            for n, failed in enumerate(failures)
        ]
    )  # fmt: skip
    snap = snapshot(tmp_path, alloc("a", event("Received", 0), started(1)))
    (incident,) = af.diagnose(snap, evaluations=evaluations).incidents
    return incident


def test_jobs_that_wait_for_the_same_are_one_incident(tmp_path: Path) -> None:
    evaluations = af.tables.evaluations_frame(
        [
            {
                "ID": f"e{job}", "Namespace": "default", "JobID": job, "Type": "service", "Status": "blocked",
                "TriggeredBy": "queued-allocs", "CreateTime": START, "QueuedAllocations": {"app": 2},
                "FailedTGAllocs": {"app": {"NodesEvaluated": nodes, "DimensionExhausted": {what: nodes}}},
            }
            for job, what, nodes in [(job, "memory", 3) for job in "abc"] + [("d", "cpu", 1)]
        ]
    )  # fmt: skip
    snap = snapshot(tmp_path, alloc("a", event("Received", 0), started(1)))
    several, alone = af.diagnose(snap, evaluations=evaluations).incidents
    assert several.summary == (
        "3 jobs cannot be placed: a, b, c. 6 of 6 instances wait: not enough memory. It is ongoing."
    )
    assert (several.severity, alone.jobs) == ("critical", [("default", "d")])


def test_the_last_evaluation_that_says_why_is_told_where_a_later_one_only_repeats(tmp_path: Path) -> None:
    first = {"NodesEvaluated": 2, "ConstraintFiltered": {"${meta.gpu} = a100": 2}}
    again = {"NodesEvaluated": 2, "ConstraintFiltered": {"computed class ineligible": 2}}
    assert ": not ${meta.gpu} = a100 on 2 nodes." in placed_by(tmp_path, first, again).summary


def test_a_datacenter_without_any_node_is_told(tmp_path: Path) -> None:
    failed = {"NodesEvaluated": 0, "NodesAvailable": {"dc9": 0}}
    assert "no node is ready and eligible in datacenter dc9" in placed_by(tmp_path, failed).summary


def test_a_placement_names_the_nodes_that_were_looked_at() -> None:
    (evidence, *_) = evidence_of(incidents_of("2.0.5-distinct-hosts-short")[0])
    assert evidence.endswith("on 3 nodes (q-1, q-2, q-3).")


def test_a_node_that_takes_nothing_is_told_with_what_made_it_so() -> None:
    (incident,) = incidents_of("2.0.5-cordon-forgotten")
    assert " z-2 (ineligible) accepts no allocations." in incident.summary
    closed = [each for each in incident.changes if each["kind"] == "eligibility"]
    assert [describe_change(each) for each in closed] == ["10.0 s before: eligibility of z-2 (ineligible)"]


def test_a_placement_that_follows_from_a_lost_node_says_so() -> None:
    lost, waits = incidents_of("1.3.1-lost-and-no-port")
    assert lost.title == "Node w-2 lost"
    assert "; it was lost with w-2." in waits.summary


# Stops, purges, scaling


@pytest.mark.parametrize(("version", "waiting"), [("2.0.5", 7), ("1.3.1", 6)])
def test_runs_that_wait_are_one_job_and_those_that_hang_are_named_with_what_they_hold(
    version: str, waiting: int
) -> None:
    incidents = incidents_of(f"{version}-hung-runs-pile-up")
    runs = next(each for each in incidents if [job for _, job in each.jobs] == ["tally"])
    assert f"tally cannot be placed in full. {waiting} runs wait, 4 are running: not enough" in runs.summary
    waits = [each for each in incidents if each.cause.kind == "placement"]
    assert {job for each in waits for _, job in each.jobs} == {"tally", "desk"}
    for each in waits:
        (held,) = [cause for cause in each.hypotheses if cause.mechanism == "hang"]
        assert held.confidence == "possible"
        assert held.supporting[0].text.startswith("4 allocations of tally hold 800 MB of memory on f-1: ")
    assert "tally: 4 runs do not end. Running for up to " in incidents[-1].summary


def test_a_deployment_that_an_operator_failed_by_hand_is_no_alarm() -> None:
    (incident,) = incidents_of("2.0.5-noise-canary-turned-down")
    assert (incident.severity, [each.code for each in incident.findings]) == ("info", ["AF208"])
    assert incident.summary.endswith(
        "/web: an operator failed the deployment of version 2. "
        'Nomad says at 02:32 UTC: "Deployment marked as failed".'
    )
    assert incident.findings[0].summary.startswith("An operator failed the deployment of version 2 of ")


def test_a_job_whose_purge_took_all_traces_is_told() -> None:
    (incident,) = incidents_of("2.0.5-purged-and-gone")
    assert incident.summary == (
        "purged-in-loop/temp was purged. None of its allocations is left: how they ran is not on record."
    )
    (finding,) = incident.findings
    assert (finding.code, finding.summary) == ("AF208", "1 job purged, with all allocations.")


def test_a_job_that_was_scaled_to_0_is_told_with_who_asked() -> None:
    (incident,) = incidents_of("2.0.5-scaled-to-zero")
    assert incident.summary == (
        "scaled-to-zero/kiosk was scaled to 0. Group app from 3 to 0 at 13:39 UTC, by a scaling request."
    )
    assert incident.findings[0].summary == "kiosk (namespace scaled-to-zero) was scaled to 0 in version 1."


def test_allocations_that_an_operator_stopped_were_not_moved_by_a_drain() -> None:
    stopped = next(each for each in incidents_of("2.0.5-alloc-stop-in-crash") if "moved" in each.facts)
    assert stopped.title == "2 allocations stopped and replaced (by an operator, one by one)"
    assert (stopped.cause.kind, stopped.cause.confidence) == ("operator", "certain")


def test_a_job_that_was_stopped_is_told_unless_it_runs_again() -> None:
    (incident,) = [each for each in incidents_of("2.0.5-many-teams") if each.cause.mechanism == "stop"]
    assert incident.summary == "stop-start/legacy was stopped. Somebody asked for it at 10:28 UTC."
    assert incident.findings[0].summary == "1 job stopped."


# Templates


def test_a_template_that_another_task_rendered_again_is_named_where_its_own_event_is_lost() -> None:
    incident = incidents_of("2.0.5-variable-key-gone")[0]
    assert ("template", "possible") in [(each.kind, each.confidence) for each in incident.hypotheses]
    assert any(
        text.startswith("A template of pulse, hup was rendered again") for text in evidence_of(incident)
    )


def test_a_program_that_its_template_s_signal_ends_did_not_crash() -> None:
    ended_by_signal = incidents_of("2.0.5-variable-key-gone")[1]
    assert ended_by_signal.title == "Restarts on request (template rendered again): variable-key-gone/hup"


def test_restarts_by_a_template_that_go_on_are_told_with_those_that_the_ring_has_lost() -> None:
    (incident,) = incidents_of("2.0.5-template-storm")
    assert incident.summary.endswith("8 earlier are no longer on record. It is ongoing.")


def test_jobs_that_fail_about_then_are_told_with_how_long_before_or_after(tmp_path: Path) -> None:
    """Three jobs, twelve seconds apart, in different ways: who began first matters."""
    rows = [alloc("ok", event("Received", 0), started(1), JobID="ok", ModifyTime=START + 700 * 10**9)]
    for name, begin, code in (("queue", 600, 20), ("ledger", 612, 21), ("mailer", 624, 22)):
        loop = [started(1)]
        for at in range(begin, 690, 8):
            loop += [ended(at, code), restarting(at), started(at + 4)]
        rows.append(alloc(name, event("Received", 0), *loop, JobID=name))
    incidents = af.diagnose(snapshot(tmp_path, *rows)).incidents
    ledger = next(each for each in incidents if each.jobs[0][1] == "ledger")
    told = "queue (about 12.0 s before), mailer (about 12.0 s after)"
    assert f"Other jobs began to fail within a minute of it: {told}." in evidence_of(ledger)


def test_a_change_script_that_fails_is_named_with_its_exit() -> None:
    assert summary_of("2.0.5-change-script-fails").startswith(
        "change-script-fails/prices fails in the change script of its template. 2 failures in 2 instances at "
        '16:36 UTC: "Template ran script /bin/sh with arguments [-c exit 1] on change but it exited with '
    )


# Changes


def test_what_was_tried_since_is_told_and_a_revert_by_what_it_equals() -> None:
    (tried,) = incidents_of("2.0.5-outage-then-two-fixes")
    after = [each["version_after"] for each in tried.changes if each["before"].total_seconds() < 0]
    assert after == [1, 2]
    (reverted,) = [each for each in incidents_of("1.3.1-codec-reverted-by-hand") if each.changes]
    told = [describe_change(each) for each in reverted.changes]
    assert "13.9 s after: job version 2 of encode (version 0 again): Env[CODEC] edited" in told


def test_what_somebody_did_to_jobs_of_other_namespaces_is_told_at_the_beginning_and_at_the_end() -> None:
    (incident,) = incidents_of("2.0.5-upstream-next-door-stopped")
    told = [describe_change(each) for each in incident.changes]
    assert told[1:3] == [
        "at most 13.4 s before: operator stop 1 of n-platform/dns: Stop edited",
        "11.6 s after, as it ended: job version 2 of n-platform/dns (version 0 again): Stop edited",
    ]
    assert {each.confidence for each in incident.hypotheses if each.kind == "job version"} == {"possible"}


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("scale", {"version_after": 1}, 1),
        ("operator stop", {"version_after": 1}, 1),
        ("purge", {"version_after": None}, 1),
        ("job version", {"version_after": 2}, 1),
        ("job version", {"version_after": 0}, 0),
        ("dispatch", {"version_after": 0}, 0),
        ("deployment", {"version_after": 1}, 0),
    ],
)
def test_of_other_jobs_only_what_changes_them_is_told_and_the_nearest_five(
    tmp_path: Path, kind: str, fields: dict[str, Any], expected: int
) -> None:
    loop = [each for at in (600, 610, 620) for each in (ended(at), restarting(at), started(at + 2))]
    rows = [alloc("bad", event("Received", 0), started(1), *loop)]
    near = [
        {
            "namespace": f"team-{n}", "job_id": f"other-{n}", "kind": kind, "at": at_second(600 - 5 * n),
            "node_name": None, "source": "job_versions", **fields,
        }
        for n in range(1, 20)
    ]  # fmt: skip
    history = SimpleNamespace(changes=pd.DataFrame(near))
    incident = af.diagnose(snapshot(tmp_path, *rows), history=history).incidents[0]
    told = [each["job_id"] for each in incident.changes]
    assert told == ([f"other-{n}" for n in range(1, 6)] if expected else [])


def test_jobs_that_got_a_new_version_together_are_told_with_those_of_them_that_fail() -> None:
    east = incidents_of("2.0.5-release-train")[0]
    assert "north, south, west got a new version within 2.5 s of it; north, south fail as well." in (
        evidence_of(east)
    )


def test_a_deployment_is_told_with_its_version_and_not_again() -> None:
    changes = incidents_of("2.0.5-release-train")[0].changes
    assert [(each["kind"], each["version_after"], each["deployment"]) for each in changes[:2]] == [
        ("job version", 1, "running"), ("job version", 0, "successful"),
    ]  # fmt: skip
    assert not [each for each in changes if each["kind"] == "deployment"]


def test_the_loss_of_a_node_is_no_change_before_itself() -> None:
    (incident,) = incidents_of("2.0.5-disconnect-reconnect")
    assert "node down" not in [each["kind"] for each in incident.changes]
    assert incident.began_at is not None
    assert incident.last_at is not None
    assert 9 < (incident.last_at - incident.began_at).total_seconds() < 12


# Versions and namespaces


def test_a_bad_version_that_a_later_one_has_replaced_does_not_go_on(tmp_path: Path) -> None:
    """Version 2 has run for less than twice as long as version 1 did between two crashes."""

    def placed(n: int, version: int, begin: float, *events: dict[str, object], **fields: object) -> object:
        return alloc(
            f"web-{n}-{version}", event("Received", begin), *events, JobID="web", Name=f"web.app[{n}]",
            JobVersion=version, CreateTime=START + int(begin * 10**9), CreateIndex=int(begin) + 1, **fields,
        )  # fmt: skip

    over = {"ClientStatus": "complete", "DesiredStatus": "stop", "state": "dead"}
    rows = [
        placed(n, 0, 0, started(1), event("Killing", 600), event("Killed", 601), **over) for n in range(2)
    ]
    loop = [
        row
        for k in range(3)
        for row in (started(602 + 21 * k), ended(622 + 21 * k, 1), restarting(622 + 21 * k))
    ]
    rows += [placed(n, 1, 601, *loop, event("Killing", 670), event("Killed", 671), **over) for n in range(2)]
    rows += [placed(n, 2, 671, started(672)) for n in range(2)]
    rows.append(alloc("steady", event("Received", 0), started(1), JobID="s", ModifyTime=START + 690 * 10**9))
    (incident,) = af.diagnose(snapshot(tmp_path, *rows)).incidents
    assert (incident.cause.kind, incident.cause.subject["job_version"]) == ("job version", 1)
    assert (incident.severity, incident.state) == ("warning", "stopped")
    assert incident.summary.endswith("Version 2 has replaced it, and runs (for 18.0 s so far).")


def test_a_version_that_came_after_the_first_failure_is_not_blamed_for_what_it_took_over() -> None:
    """Version 4 was an update in place: its number is on allocations that version 3 made."""
    (incident,) = incidents_of("2.0.5-guilty-two-versions-ago")
    assert [each.subject["job_version"] for each in incident.hypotheses if each.kind == "job version"] == [3]


def test_instances_that_ran_for_long_and_fell_in_one_moment_have_no_version_to_blame() -> None:
    (incident,) = incidents_of("2.0.5-two-policies-one-outage")
    (version,) = [each for each in incident.hypotheses if each.kind == "job version"]
    assert version.confidence == "possible"
    against = [each.text for each in version.contradicting]
    assert "Instances of version 1 ran at least 55.7 s before they failed." in against
    assert "4 instances of version 1 began to fail within 0.2 s of each other." in against


def test_the_group_that_a_version_changed_is_named_where_it_failed_before_the_others() -> None:
    (incident,) = incidents_of("2.0.5-store-in-the-same-job")
    assert "Version 1 changed only group store, which failed first." in evidence_of(incident)


def test_runs_are_counted_by_the_version_that_made_them() -> None:
    incident = incidents_of("1.3.1-codec-reverted-by-hand")[0]
    assert "6 of 6 runs of version 1 failed, and 0 of 14 of others (p < 0.0001)." in evidence_of(incident)


def test_jobs_that_fall_in_one_moment_are_joined_across_namespaces_with_how_each_ended() -> None:
    (incident,) = incidents_of("2.0.5-three-namespaces")
    assert incident.jobs == [("n-mail", "mail"), ("n-pay", "pay"), ("n-ship", "ship")]
    assert ": exit code 10 (6 times), exit code 20 (6 times), exit code 30 (6 times), " in incident.summary


def test_faults_of_several_namespaces_that_end_in_different_ways_are_not_joined() -> None:
    joined = [each.jobs for each in incidents_of("2.0.5-many-teams") if len(each.jobs) > 1]
    assert joined == [[("recovered-outage", job) for job in ("ingest", "notify", "score")]]


def test_what_else_begins_in_other_namespaces_does_not_clear_a_bad_version() -> None:
    blamed = {
        each.jobs[0][1]
        for each in incidents_of("2.0.5-many-teams")
        if (each.cause.kind, each.cause.confidence) == ("job version", "likely")
    }
    assert blamed == {"auth", "catalog", "sensor"}


def test_a_start_that_waits_for_a_template_is_told_also_after_its_deployment_failed() -> None:
    (tax,) = [each for each in incidents_of("2.0.5-many-teams") if ("variable-missing", "tax") in each.jobs]
    assert (tax.cause.kind, tax.title) == ("template", "variable-missing/tax does not start")
