"""How things stand, and the reasons that Nomad gives, in sentences that are true of what is on record."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diagnosis as benchmark
import pytest
from tables import START, alloc, at, ended, event, gave_up, restarting, snapshot, started

import allocframe as af
from allocframe.diagnosis.incident import Incident

SECOND = 10**9
BLIND = benchmark.REAL / "blind"
Row = dict[str, Any]


def diagnosis_of(name: str, history: Any = None) -> af.Diagnosis:
    with af.load(BLIND / f"nomad-{name}.allocframe") as snap:
        return af.diagnose(snap, history=history)


def incident_of(name: str, history: Any = None) -> Incident:
    (incident,) = diagnosis_of(name, history).incidents
    return incident


def place(name: str, n: int, begin: float, *events: Row, **fields: Any) -> Row:
    return alloc(
        f"{name}-{n}-{begin:g}", event("Received", begin), *events, JobID=name, Name=f"{name}.app[{n}]",
        CreateTime=START + int(begin * SECOND), CreateIndex=int(begin) + 1, **fields,
    )  # fmt: skip


def clock(time: float) -> Row:
    return place("clock", 0, 0, started(1), ModifyTime=START + int(time * SECOND))


def only(folder: Path, *rows: Row, history: Any = None) -> Incident:
    (incident,) = af.diagnose(snapshot(folder, *rows), history=history).incidents
    return incident


def texts(incident: Incident) -> list[str]:
    return [each.text for cause in incident.hypotheses for each in cause.supporting]


# Deployments that wait for health


def test_a_deployment_of_which_nothing_becomes_healthy_is_open_and_its_numbers_are_told() -> None:
    diagnosis = diagnosis_of("2.0.5-health-path-renamed")
    assert diagnosis.summary == (
        "No failure is left unexplained, but 1 thing is open: accounts version 1 is not healthy yet."
    )
    (incident,) = diagnosis.incidents
    assert incident.summary.endswith(
        "1 of 2 instances has been running for 60.0 s, and the deployment has not marked it healthy; 2 "
        "earlier allocations were healthy within 11.1 s. "
        "Version 1 changed Services[accounts].Checks[up].Path. "
        "Its deployment has placed 1 of 2 instances, none of them healthy, in 60.0 s; the last one needed "
        "13.5 s."
    )
    cause = incident.cause
    assert (cause.kind, cause.confidence, cause.subject["job_version"]) == ("job version", "possible", 1)


def service(path: str) -> Row:
    check = {"Name": "up", "Type": "http", "Path": path}
    return {"TaskGroups": [{"Name": "app", "Count": 2, "Services": [{"Name": "web", "Checks": [check]}]}]}


def rollout(waits: float, status: str = "running") -> af.History:
    """Return the history of a job whose version 1 has another health check, and a deployment for `waits`."""
    jobs = [
        {
            "ID": "web", "Namespace": "default", "Version": version, "Type": "service",
            "JobModifyIndex": version, "SubmitTime": START + 1000 * version * SECOND, **service(path),
        }
        for version, path in enumerate(("/healthz", "/ready"))
    ]  # fmt: skip
    group = {
        "PlacedAllocs": 1,
        "HealthyAllocs": 0,
        "UnhealthyAllocs": 0,
        "DesiredTotal": 2,
        "DesiredCanaries": 0,
    }
    deployment = {
        "ID": "d1", "Namespace": "default", "JobID": "web", "JobVersion": 1, "Status": status,
        "CreateTime": START + 1000 * SECOND, "CreateIndex": 10, "ModifyIndex": 11,
        "TaskGroups": {"app": {**group, "ProgressDeadline": 600 * SECOND}},
    }  # fmt: skip
    return af.History.from_json(jobs=[jobs], deployments=[deployment])


def healthy(time: float) -> Row:
    return {"DeploymentStatus": {"Healthy": True, "Timestamp": at(time).isoformat()}}


OLD = [place("web", n, 0, started(1), **healthy(5)) for n in range(2)]
NEW = place("web", 2, 1000, started(1001), JobVersion=1)


@pytest.mark.parametrize(("waits", "severity"), [(45, "info"), (280, "info"), (320, "warning")])
def test_with_another_health_check_a_deployment_is_a_warning_only_late_in_its_deadline(
    tmp_path: Path, waits: float, severity: str
) -> None:
    incident = only(tmp_path, *OLD, NEW, clock(1000 + waits), history=rollout(waits))
    assert (incident.severity, incident.state, incident.cause.kind) == (severity, "ongoing", "job version")


def test_a_young_deployment_is_no_incident_and_the_all_clear_says_that_it_is_under_way(
    tmp_path: Path,
) -> None:
    rows = [*OLD, NEW, clock(1015)]
    young = af.diagnose(snapshot(tmp_path, *rows), history=rollout(15))
    assert young.incidents == []
    assert young.summary == (
        "All clear: every failure, loss and restart on record is explained. "
        "A deployment is under way: web version 1."
    )
    done = af.diagnose(snapshot(tmp_path, *rows), history=rollout(15, status="successful"))
    assert done.summary == "All clear: every failure, loss and restart on record is explained."


@pytest.mark.parametrize(
    ("others", "waits", "told"),
    [
        ([], 100, True),
        ([], 40, False),  # not far longer than usual
        # one of this version was healthy: the other may have replaced one after the deployment
        ([place("web", 3, 1000, started(1001), JobVersion=1, **healthy(1006))], 100, False),
        # a newer version is there
        ([place("web", 3, 1050, started(1051), JobVersion=2)], 100, False),
    ],
)
def test_without_a_history_a_newest_version_that_was_never_healthy_is_told(
    tmp_path: Path, others: list[Row], waits: float, told: bool
) -> None:
    found = af.diagnose(snapshot(tmp_path, *OLD, NEW, *others, clock(1000 + waits))).incidents
    assert [(each.severity, "not healthy yet" in each.title) for each in found] == [("info", True)] * told


def test_where_no_deployment_ever_called_anything_healthy_nothing_waits_for_it(tmp_path: Path) -> None:
    old = [place("web", n, 0, started(1)) for n in range(2)]
    assert af.diagnose(snapshot(tmp_path, *old, NEW, clock(2000))).incidents == []


# Hooks


@pytest.mark.parametrize("version", ["1.3.1", "2.0.5"])
def test_a_template_that_cannot_be_read_is_the_reason_that_nomad_gives(version: str) -> None:
    diagnosis = diagnosis_of(f"{version}-template-source-gone")
    assert not diagnosis.account.unexplained
    (incident,) = diagnosis.incidents
    assert "cannot render its template" in incident.title
    assert "template: failed to read template: " in incident.summary
    assert "Error was unrecoverable" not in incident.summary
    template = next(each for each in incident.hypotheses if each.kind == "template")
    assert template.confidence == "certain"


def test_without_a_history_a_version_that_never_started_is_compared_and_no_more_than_possible() -> None:
    incident = incident_of("2.0.5-template-source-gone")
    version = next(each for each in incident.hypotheses if each.kind == "job version")
    assert version.confidence == "possible"
    assert version.supporting[0].text.startswith(
        "Version 1: 12 failures in 12 attempts; version 0: 0 failures"
    )


def failed_hook(words: str, *events: Row) -> Row:
    return place(
        "web", 0, 0, *events, event("Task hook failed", 2, words),
        event("Not Restarting", 2.1, restart_reason="Error was unrecoverable"),
        state="dead", ClientStatus="failed",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "kind", "title"),
    [
        ("template: failed to read template: no such file", "template", "web cannot render its template"),
        ("artifacts: no such host", "artifact", "web cannot download its artifact"),
        ("volumes: no such volume", "volume", "web cannot mount its volume"),
        ("secrets: provider not found", "secrets", "web cannot get its secrets"),
        ("consul_task: unknown role", "secrets", "web cannot get its secrets"),
        ("validate: user root is not allowed", "driver", "web cannot be set up"),
        ("envoy_bootstrap: exit status 1", "driver", "web cannot be set up"),
    ],
)
def test_every_hook_that_fails_before_the_start_is_the_reason(
    tmp_path: Path, words: str, kind: str, title: str
) -> None:
    incident = only(tmp_path, failed_hook(words))
    assert (incident.cause.kind, incident.title) == (kind, title)
    assert f'"{words}"' in incident.summary
    assert not [text for text in texts(incident) if "no reason on record" in text]


def test_a_hook_that_fails_after_the_start_is_not_why_the_program_ends(tmp_path: Path) -> None:
    late = event("Task hook failed", 2, "script_checks: oops")
    ends = [started(1), late, ended(30, 3), gave_up(30)]
    incident = only(tmp_path, place("web", 0, 0, *ends, state="dead", ClientStatus="failed"))
    assert (incident.cause.kind, incident.facts["exit_code"]) == ("crash", 3)


def test_without_any_word_there_is_still_no_reason_on_record(tmp_path: Path) -> None:
    row = place(
        "web", 0, 0, event("Not Restarting", 2, restart_reason="Error was unrecoverable"),
        state="dead", ClientStatus="failed",
    )  # fmt: skip
    assert texts(only(tmp_path, row)) == ["1 failure with no reason on record."]


# States


@pytest.mark.parametrize("version", ["1.3.1", "2.0.5"])
def test_what_failed_a_moment_ago_and_is_always_replaced_is_not_given_up(version: str) -> None:
    incident = incident_of(f"{version}-binary-not-installed")
    assert (incident.state, incident.cause.kind) == ("ongoing", "driver")
    assert incident.summary.endswith(" 1 of 1 instance does not run well now.")


def failed_start(begin: float, followed: bool, **fields: Any) -> Row:
    return place(
        "web", 0, begin, event("Driver Failure", begin + 1, "no such binary"),
        event("Not Restarting", begin + 1, restart_reason="Error was unrecoverable"),
        state="dead", ClientStatus="failed", DesiredStatus="stop" if followed else "run",
        FollowupEvalID="e1" if followed else "", ModifyTime=START + int((begin + 1) * SECOND), **fields,
    )  # fmt: skip


@pytest.mark.parametrize(("after", "state"), [(3, "ongoing"), (9, "ongoing"), (20, "gave up")])
def test_a_replacement_is_missing_only_after_the_usual_pause(
    tmp_path: Path, after: float, state: str
) -> None:
    tries = [failed_start(begin, followed=begin < 20) for begin in (0, 10, 20)]
    assert only(tmp_path, *tries, clock(21 + after)).state == state


def test_what_was_replaced_on_request_and_what_waits_for_minutes_is_given_up(tmp_path: Path) -> None:
    by_hand = [failed_start(0, followed=False), failed_start(40, followed=False), clock(70)]
    assert only(tmp_path, *by_hand).state == "gave up"
    long = [failed_start(0, followed=True), failed_start(600, followed=False), clock(700)]
    assert only(tmp_path, *long).state == "gave up"


def test_without_an_earlier_replacement_no_pause_is_usual(tmp_path: Path) -> None:
    assert only(tmp_path, failed_start(0, followed=False), clock(3)).state == "gave up"


def test_the_pause_of_a_version_says_nothing_of_the_first_failure_of_the_next(tmp_path: Path) -> None:
    """What a deploy replaced waited for people, not for a policy."""
    rows = [failed_start(0, followed=True), failed_start(300, followed=False, JobVersion=1), clock(330)]
    assert only(tmp_path, *rows).state == "gave up"


def test_a_node_that_is_down_has_not_recovered() -> None:
    down = incident_of("1.3.1-node-powers-off")
    assert (down.severity, down.state) == ("warning", "ongoing")
    assert down.summary.endswith("3 replaced and running. The node is still down.")
    unknown = incident_of("1.3.1-node-powers-off", SimpleNamespace())
    assert unknown.state == "recovered"
    assert unknown.summary.endswith("3 replaced and running. Whether the node is back is not on record.")
    # without a history, but its client says what became of the allocations
    back = incident_of("1.3.1-node-powers-off-over")
    assert (back.state, back.summary.endswith("3 replaced and running. It has recovered.")) == (
        "recovered",
        True,
    )


@pytest.mark.parametrize(
    ("status", "state"), [("ready", "recovered"), ("down", "ongoing"), ("initializing", "recovered")]
)
def test_the_list_of_nodes_says_whether_a_lost_one_is_back(tmp_path: Path, status: str, state: str) -> None:
    lost = place(
        "web", 0, 0, started(1), ClientStatus="lost", DesiredStatus="stop",
        DesiredDescription="alloc is lost since its node is down", ModifyTime=START + 100 * SECOND,
    )  # fmt: skip
    again = place("web", 0, 100, started(101), NodeID="n2", NodeName="node-2", PreviousAllocation=lost["ID"])
    node = {
        "ID": "n1", "Name": "node-1", "Datacenter": "dc1", "Status": status,
        "SchedulingEligibility": "eligible", "StatusUpdatedAt": START // SECOND + 100,
    }  # fmt: skip
    elsewhere = {**clock(300), "NodeID": "n2", "NodeName": "node-2"}
    history = af.History.from_json(nodes=[node])
    assert only(tmp_path, lost, again, elsewhere, history=history).state == state


def test_a_dispatched_run_without_retries_is_over_and_the_only_one_is_named() -> None:
    diagnosis = diagnosis_of("2.0.5-dispatch-one-bad-payload")
    assert diagnosis.summary == "Nothing is wrong now. 1 past minor incident is listed below."
    (incident,) = diagnosis.incidents
    assert (incident.severity, incident.state) == ("info", "gave up")
    assert incident.summary == (
        "transcode crashes. 1 of 6 runs failed for good (dispatch-1795759415-17215f71): exit code 65, about "
        "5.0 s after each start. Nomad does not try it again."
    )


def runs(kind: str, codes: list[int]) -> list[Row]:
    """Return runs of a periodic or parameterized job, a minute apart, by their exit codes."""
    rows = []
    for number, code in enumerate(codes):
        name = f"job/{kind}-{1000 + number}{'-0123abcd' if kind == 'dispatch' else ''}"
        begin = 60.0 * number
        end = [ended(begin + 5, code), *([gave_up(begin + 5)] if code else [])]
        rows.append(
            place(
                name, 0, begin, started(begin + 1), *end, JobType="batch", state="dead",
                ClientStatus="failed" if code else "complete",
            )
        )  # fmt: skip
    return rows


@pytest.mark.parametrize(
    ("kind", "codes", "state", "verdict"),
    [
        (
            "periodic",
            [0, 0, 0, 0, 0, 0, 0, 3],
            "ongoing",
            "No failure is left unexplained, but 1 thing is open: ",
        ),
        ("periodic", [0, 0, 0, 0, 0, 0, 3, 0], "recovered", "Nothing is wrong now. "),
        ("dispatch", [0, 0, 0, 0, 0, 0, 0, 3], "gave up", "Nothing is wrong now. "),
        ("dispatch", [3, 3, 3], "ongoing", "1 incident: 1 critical."),
    ],
)
def test_the_verdict_and_the_state_of_runs_agree(
    tmp_path: Path, kind: str, codes: list[int], state: str, verdict: str
) -> None:
    diagnosis = af.diagnose(snapshot(tmp_path, *runs(kind, codes)))
    assert [each.state for each in diagnosis.incidents] == [state]
    assert diagnosis.summary.startswith(verdict)


# Words


def test_exit_code_137_without_a_signal_is_no_kill_on_record() -> None:
    incident = incident_of("2.0.5-leak-outlives-each-start")
    assert incident.title == "image-resizer ends with exit code 137"
    assert (
        "Exit code 137 without a signal (6 times): a container or a shell reports a SIGKILL in this way."
        in (texts(incident))
    )
    assert not [text for text in texts(incident) if "Nomad did not send" in text]


@pytest.mark.parametrize(
    ("signal", "title", "told"),
    [(9, "web is killed", "SIGKILL that Nomad"), (0, "web ends with exit code 137", "Exit code 137 without")],
)
def test_a_kill_is_told_only_where_a_signal_is_on_record(
    tmp_path: Path, signal: int, title: str, told: str
) -> None:
    kills = [each for t in (1, 20, 40) for each in (started(t), ended(t + 8, 137, signal), restarting(t + 8))]
    incident = only(tmp_path, place("web", 0, 0, *kills))
    assert incident.title == title
    assert sum(text.startswith(told) for text in texts(incident)) == 1


def test_the_run_before_a_loop_is_told_by_itself(tmp_path: Path) -> None:
    """It ran well for 50 s; then it fails two seconds after each start."""
    loop = [each for t in (52, 56, 60) for each in (started(t), ended(t + 2, 7), restarting(t + 2))]
    first = [started(1), ended(51, 7), restarting(51)]
    incident = only(tmp_path, place("web", 0, 0, *first, *loop))
    assert "exit code 7, about 2.0 s after each start (the first time after 50.0 s)." in incident.summary
    alike = only(tmp_path, place("web", 0, 49, *loop))
    assert "exit code 7, about 2.0 s after each start." in alike.summary


def test_one_stray_failure_after_hours_is_no_run_before_the_loops_of_others(tmp_path: Path) -> None:
    loop = [each for t in (1, 5, 9) for each in (started(t), ended(t + 2, 7), restarting(t + 2))]
    stray = [started(-3000), ended(3, 7), restarting(3), started(4), ended(6, 7), restarting(6), started(7)]
    rows = [place("web", 0, -3001, *stray), *(place("web", n, 0, *loop) for n in (1, 2))]
    assert "the first time" not in only(tmp_path, *rows).summary


def test_in_an_incident_of_several_jobs_no_list_hides_one() -> None:
    with af.load(benchmark.REAL / "lab" / "nomad-2.0.5-dependency.allocframe") as snap:
        title = af.diagnose(snap).incidents[0].title
    assert title.endswith("dependency/svc-0, dependency/svc-1, dependency/svc-2, dependency/svc-3")


def test_counters_tell_about_when_a_loop_began_before_a_request_that_did_not_start_it() -> None:
    summary = incident_of("2.0.5-crashes-before-the-scale").summary
    assert " since about 06:13 UTC: " in summary
    assert "or earlier" not in summary


@pytest.mark.parametrize(("seen", "said"), [(3, "since about "), (1, "or earlier")])
def test_a_beginning_is_estimated_only_from_a_pace(tmp_path: Path, seen: int, said: str) -> None:
    """Forty more are off the record; one that is left has no pace."""
    times = [200 + 4 * k for k in range(seen)]
    events = [each for t in times for each in (started(t), ended(t + 3), restarting(t + 3))]
    events.append(started(times[-1] + 4))
    row = place("web", 0, 20, *events, restarts=43)
    row["TaskStates"]["server"]["Events"] = events
    assert said in only(tmp_path, row).summary


def test_a_job_that_runs_on_every_node_names_the_one_where_it_fails() -> None:
    assert incident_of("2.0.5-sysbatch-bad-mount").summary.startswith(
        "disk-audit crashes. 3 failures in 1 of 3 instances (on stor-3) at "
    )


# Few of many runs on record


def test_the_length_of_runs_is_told_of_those_on_record_if_most_are_not() -> None:
    summaries = [each.summary for each in diagnosis_of("2.0.5-two-crashers-two-teams").incidents]
    assert len(summaries) == 2
    assert "about 15.0 s after the 3 starts on record" in " ".join(summaries)
    assert "after each start" not in " ".join(summaries)


def test_a_step_before_the_start_is_compared_by_its_starts_and_not_by_how_long_it_ran() -> None:
    (incident,) = diagnosis_of("2.0.5-prestart-fails-in-v1").incidents
    assert (incident.cause.kind, incident.cause.confidence) == ("job version", "likely")
    evidence = [each.text for each in incident.cause.supporting]
    assert (
        "Version 1: 16 failures in 16 attempts; version 0: 0 failures in 2 attempts (p = 0.0065)." in evidence
    )
