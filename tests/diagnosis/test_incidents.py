"""Incidents of real agents and simulated ones are named right; what is not known is not claimed."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diagnosis as benchmark
import pandas as pd
import pytest
from tables import START, alloc, at, ended, event, gave_up, restarting, snapshot, started

import allocframe as af
from allocframe.sim.scenarios import STORIES

CASES = [pytest.param(file, truth, id=file.stem) for file, truth in benchmark.real_cases()]


@cache
def diagnosed(file: Path) -> af.Diagnosis:
    """Return the diagnosis of a capture, made once for all tests."""
    with af.load(file) as snap:
        return af.diagnose(snap)


@pytest.mark.parametrize(("file", "truth"), CASES)
def test_an_incident_of_a_real_agent_is_named_right(file: Path, truth: dict[str, Any]) -> None:
    verdict = benchmark.judge(diagnosed(file), truth)
    assert verdict.right, verdict


@pytest.mark.parametrize(("file", "truth"), CASES)
def test_the_verdict_and_the_incidents_never_contradict_each_other(file: Path, truth: dict[str, Any]) -> None:
    del truth
    diagnosis = diagnosed(file)
    if diagnosis.summary.startswith(("Nothing is wrong now.", "All clear:")):
        assert [each.summary for each in diagnosis.incidents if each.state == "ongoing"] == []
    for each in diagnosis.incidents:
        assert ("It is ongoing." in each.summary) <= (each.state == "ongoing")
        assert ("It has recovered." in each.summary) <= (each.state == "recovered")
        assert ("Nomad has given up" in each.summary) <= (each.state == "gave up")


@pytest.mark.parametrize("story", list(STORIES))
def test_over_many_seeds_stories_are_named_right_and_nothing_else_is_loud(
    story: str, pytestconfig: pytest.Config
) -> None:
    seeds = 20 if pytestconfig.getoption("deep") else 2
    verdicts = [
        benchmark.judge_story(story, seed, version=("1.3.1", "2.0.5")[seed % 2])[0] for seed in range(seeds)
    ]
    assert [str(verdict) for verdict in verdicts if not verdict.right] == []


def title_of(name: str) -> str:
    return str(only(diagnosed(benchmark.REAL / f"{name}.allocframe")).summary)


def test_of_several_tasks_the_title_names_the_one_that_fails() -> None:
    assert title_of("blind/nomad-2.0.5-prestart").startswith(
        "prestart/shop version 1 (task db-migrate) crashes."
    )
    assert title_of("blind/nomad-2.0.5-sidecar").startswith("sidecar/media (task log-shipper) crashes.")


def test_the_summary_says_which_part_of_a_job_fails_and_how_many_of_its_instances() -> None:
    assert "/gate version 1 (group east) crashes. At least 18 failures in 2 of 4 instances " in title_of(
        "blind/nomad-2.0.5-one-datacenter"
    )
    canary = title_of("blind/nomad-2.0.5-canary-aborts")
    assert "/site version 1 (canary) crashes." in canary
    assert canary.endswith("Nomad has given up on 1 of 5 instances: no retries are left.")
    assert "3 of 12 instances wait, 9 are running: not enough memory on 1 node" in title_of(
        "blind/nomad-2.0.5-count-beyond-room"
    )
    assert title_of("blind/nomad-1.3.1-purged-in-loop").endswith(" The job was purged.")


def texts_of(name: str) -> list[str]:
    """Return the evidence for and against the causes of a capture."""
    incidents = diagnosed(benchmark.REAL / f"{name}.allocframe").incidents
    causes = [cause for incident in incidents for cause in incident.hypotheses]
    return [each.text for cause in causes for each in [*cause.supporting, *cause.contradicting]]


def test_what_failed_allocations_have_in_common_is_told() -> None:
    assert "What failed (2 allocations) was in datacenter eu; 2 allocations in us run well." in texts_of(
        "blind/nomad-2.0.5-one-datacenter"
    )
    (new,) = [text for text in texts_of("blind/nomad-2.0.5-scaled-past-licence") if text.startswith("Only")]
    assert new.startswith("Only the 4 instances placed since ")
    assert new.endswith(" UTC fail; the 2 placed before run well.")
    assert "The servers moved 2 allocations; a drain of m-1 is on record." in texts_of(
        "blind/nomad-2.0.5-drain-in-crash-loop"
    )
    assert "Version 2, which is version 0 again, fails as well." in texts_of(
        "blind/nomad-2.0.5-rollback-no-help"
    )


def test_an_outage_that_returns_is_one_incident_and_its_times_are_told() -> None:
    texts = texts_of("blind/nomad-2.0.5-flaps-twice")
    (again,) = [text for text in texts if "failed together" in text]
    assert again.startswith("2 jobs failed together 2 times (12:06:07, 12:06:29 UTC): ")


def test_a_deployment_that_failed_without_any_crash_is_no_all_clear() -> None:
    assert title_of("blind/nomad-2.0.5-hang-then-revert") == (
        "hang-then-revert/atlas version 1 fails to deploy. "
        'Nomad says: "Failed due to unhealthy allocations - rolling back to job version 0". It has recovered.'
    )


def test_a_deployment_whose_crashes_are_told_is_not_told_again(tmp_path: Path) -> None:
    """Its events are truncated: the first crash left is of a time after the deployment failed."""
    rows = [place for place in versions(well=1) if place["ID"].startswith("new")]
    for row in rows:
        row["TaskStates"]["server"]["Restarts"] = 40
    ledger = history()
    ledger.deployments = pd.DataFrame(
        [
            {
                "namespace": "default", "job_id": "web", "job_version": 1, "status": "failed",
                "status_description": "Failed due to unhealthy allocations", "started_at": at(300),
                "ended_at": at(400), "desired": 2, "create_index": 9,
            }
        ]
    )  # fmt: skip
    told = [each.title for each in af.diagnose(snapshot(tmp_path, *rows), history=ledger).incidents]
    assert not [title for title in told if "deploy" in title]


@pytest.mark.parametrize(("version", "again"), [("1.3.1", "02:46"), ("2.0.5", "02:34")])
def test_the_next_try_is_told_where_nomad_waits_for_minutes(version: str, again: str) -> None:
    assert title_of(f"blind/nomad-{version}-delay-mode-sleeps").endswith(
        f" 2 of 2 instances do not run well now; Nomad tries again at {again} UTC."
    )


def test_runs_that_end_in_several_ways_are_counted_apart_and_nodes_are_named() -> None:
    ways = "signal SIGSEGV (8 times), exit code 1 (7 times), exit code 2 (7 times), mostly 26.0 s to 60.7 s"
    assert ways in title_of("blind/nomad-2.0.5-twelve-at-random")
    assert (
        "What failed (6 allocations) was on x-1, x-2; 6 allocations on x-3, x-4 run or ended well."
        in texts_of("blind/nomad-2.0.5-rack-storage")
    )


def test_where_a_ring_is_cut_times_are_bounds() -> None:
    """The canary crashed two seconds after each start from its first one on."""
    texts = texts_of("blind/nomad-2.0.5-canary-aborts")
    assert "It began at most 57.2 s after version 1 was first placed." in texts
    assert not [text for text in texts if " ran " in text and "before they failed" in text]
    changes = only(diagnosed(benchmark.REAL / "blind" / "nomad-2.0.5-canary-aborts.allocframe")).changes
    assert all(change["at_most"] for change in changes)


def test_a_version_is_compared_only_where_and_since_the_one_before_failed() -> None:
    """Version 1 of a system job ran on the bad node most of the time, and version 0 before it, no better."""
    (node,) = (benchmark.REAL / "blind").glob("nomad-2.0.5-system-bad-node-and-deploy.allocframe")
    with af.load(node) as snap:
        kinds = {cause.kind for cause in only(af.diagnose(snap)).hypotheses}
    assert kinds == {"crash", "node"}
    assert not [text for text in texts_of("blind/nomad-2.0.5-rollback-no-help") if "p = " in text]


def test_a_job_that_waits_for_room_says_what_took_it_and_what_it_lacks() -> None:
    assert "; it was preempted by vip" in title_of("blind/nomad-2.0.5-preempted")
    assert "Since version 1 it asks for ${meta.gpu} = a100." in title_of("blind/nomad-2.0.5-no-gpu")


def test_a_run_made_just_before_a_version_is_not_of_it() -> None:
    texts = texts_of("blind/nomad-2.0.5-periodic-one-group")
    assert "5 of 5 runs of version 1 failed, and 0 of 5 of others (p = 0.0079)." in texts
    outage = texts_of("blind/nomad-2.0.5-periodic-outage-after-good-runs")
    assert not [text for text in outage if "runs of" in text]


def crashes(*times: float, run: float = 5, code: int = 1, signal: int = 0) -> list[dict[str, Any]]:
    """Return runs that start at these times and end after `run` seconds."""
    return [
        each
        for time in times
        for each in (started(time), ended(time + run, code, signal), restarting(time + run))
    ]


def only(diagnosis: af.Diagnosis) -> Any:
    """Return the only incident above info."""
    (incident,) = [each for each in diagnosis.incidents if each.severity != "info"]
    return incident


# What counts as a failure


def test_a_service_that_ends_with_success_crashes(tmp_path: Path) -> None:
    rows = alloc("a", event("Received", 0), *crashes(1, 20, 40, 60, code=0), state="pending")
    incident = only(af.diagnose(snapshot(tmp_path, rows)))
    assert (incident.cause.kind, incident.state) == ("crash", "ongoing")


def test_a_batch_job_that_ends_with_success_does_not(tmp_path: Path) -> None:
    done = alloc(
        "a",
        event("Received", 0),
        started(1),
        ended(9, 0),
        state="dead",
        JobType="batch",
        ClientStatus="complete",
    )
    assert af.diagnose(snapshot(tmp_path, done)).incidents == []


@pytest.mark.parametrize(
    ("code", "signal", "kind"),
    [
        (139, 11, "crash"), (134, 6, "crash"), (134, 0, "crash"), (137, 9, "killed"), (137, 0, "killed"),
        (143, 15, "killed"), (130, 2, "killed"), (1, 0, "crash"), (-1073741819, 0, "crash"),
    ],
)  # fmt: skip
def test_a_programs_own_signal_is_a_crash_and_one_from_outside_a_kill(
    tmp_path: Path, code: int, signal: int, kind: str
) -> None:
    rows = alloc("a", event("Received", 0), *crashes(1, 20, 40, code=code, signal=signal), state="pending")
    assert only(af.diagnose(snapshot(tmp_path, rows))).cause.kind == kind


def test_nothing_is_said_of_memory_without_a_sign_of_it(tmp_path: Path) -> None:
    rows = alloc("a", event("Received", 0), *crashes(1, 20, 40, code=137, signal=9), state="pending")
    incident = only(af.diagnose(snapshot(tmp_path, rows)))
    assert incident.cause.confidence == "possible"
    memory = next(each for each in incident.hypotheses if each.kind == "out of memory")
    assert memory.confidence == "possible"
    assert memory.contradicting


def test_the_drivers_word_makes_out_of_memory_certain(tmp_path: Path) -> None:
    runs = [
        each
        for time in (1, 20, 40)
        for each in (started(time), ended(time + 5, 137, 9, oom_killed=True), restarting(time + 5))
    ]
    incident = only(af.diagnose(snapshot(tmp_path, alloc("a", event("Received", 0), *runs, state="pending"))))
    assert (incident.cause.kind, incident.cause.confidence) == ("out of memory", "certain")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("Template failed: (dynamic): parse: template: :1: unclosed action", "template"),
        ("Template failed: vault.read(kv/data/api): Code: 403. Errors:", "template"),
        ("Vault: server failed to derive vault token: 403 permission denied", "secrets"),
        ("allocation exceeded max_run_duration", "run duration"),
        ("failed to mount volume: no such volume", "volume"),
    ],
)
def test_a_kill_that_fails_the_task_is_a_failure_with_its_own_cause(
    tmp_path: Path, words: str, kind: str
) -> None:
    rows = alloc(
        "a",
        event("Received", 0),
        event("Killing", 5, words, fails_task=True, kill_reason=words),
        state="dead",
        ClientStatus="failed",
    )
    incident = only(af.diagnose(snapshot(tmp_path, rows)))
    assert (incident.cause.kind, incident.cause.confidence) == (kind, "certain")
    assert incident.state == "gave up"


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ('failed to setup alloc: pre-run hook "csi_hook" failed: timeout', "volume"),
        ('prestart hook "artifacts" failed: no such host', "artifact"),
        ('prestart hook "vault" failed: permission denied', "secrets"),
        ('prestart hook "template" failed: no such file', "template"),
        ('pre-run hook "network" failed: no plugin', "driver"),
    ],
)
def test_a_hook_that_fails_names_the_cause(tmp_path: Path, words: str, kind: str) -> None:
    rows = alloc(
        "a",
        event("Received", 0),
        event("Setup Failure", 1, words, setup_error=words),
        gave_up(1),
        state="dead",
        ClientStatus="failed",
    )
    assert only(af.diagnose(snapshot(tmp_path, rows))).cause.kind == kind


def test_a_requested_restart_is_no_failure_whatever_its_words_and_its_kill_no_memory(tmp_path: Path) -> None:
    rows = [
        alloc(
            name,
            event("Received", 0),
            started(1),
            *([event("Restart Signaled", 50, words)] if words else []),
            ended(55, 137, 9),
            restarting(55, ""),
            started(56),
            JobID=name,
            Name=f"{name}.app[0]",
        )
        for name, words in (("a", "User requested restart"), ("b", "The moon is full"), ("c", ""))
    ]
    diagnosis = af.diagnose(snapshot(tmp_path, *rows))
    assert diagnosis.all_clear
    assert {each.cause.kind for each in diagnosis.incidents} == {"operator", "unknown", "kill timeout"}


def test_a_requested_end_and_a_forced_kill_are_info(tmp_path: Path) -> None:
    rows = alloc(
        "a", event("Received", 0), started(1), event("Killing", 5), ended(10, 137, 9), event("Killed", 10),
        state="dead", DesiredStatus="stop", ClientStatus="complete",
    )  # fmt: skip
    diagnosis = af.diagnose(snapshot(tmp_path, rows))
    assert [(each.severity, each.cause.kind) for each in diagnosis.incidents] == [("info", "kill timeout")]


def test_a_task_that_ends_with_its_sibling_did_nothing_wrong(tmp_path: Path) -> None:
    row = alloc(
        "a", event("Received", 0), *crashes(1, 20)[:-1], gave_up(26), state="dead", ClientStatus="failed"
    )
    row["TaskStates"]["proxy"] = {
        "State": "dead", "Restarts": 0,
        "Events": [event("Received", 0), started(1), event("Sibling Task Failed", 26), event("Killing", 26),
                   ended(27, 130, 2), event("Killed", 27)],
    }  # fmt: skip
    (incident,) = af.diagnose(snapshot(tmp_path, row)).incidents
    assert incident.facts["tasks"] == ["server"]


def test_a_failed_allocation_without_tasks_counts(tmp_path: Path) -> None:
    row = alloc("a", ClientStatus="failed", ClientDescription="failed to initialize task: driver config")
    row["TaskStates"] = None
    incident = only(af.diagnose(snapshot(tmp_path, row)))
    assert (incident.cause.kind, incident.severity) == ("driver", "critical")


def test_a_failed_allocation_that_says_nothing_is_unexplained(tmp_path: Path) -> None:
    row = alloc("a", ClientStatus="failed", ClientDescription="Failed tasks")
    row["TaskStates"] = None
    diagnosis = af.diagnose(snapshot(tmp_path, row))
    assert only(diagnosis).cause.kind == "unknown"
    assert diagnosis.account.unexplained == 1
    assert not diagnosis.all_clear


def test_restarts_that_only_the_counter_knows_forbid_the_all_clear(tmp_path: Path) -> None:
    events = [event("Signaling", n) for n in range(10)]
    diagnosis = af.diagnose(snapshot(tmp_path, alloc("a", *events, restarts=22)))
    assert diagnosis.account.unexplained == 22
    assert not diagnosis.all_clear
    (incident,) = diagnosis.incidents
    assert (incident.cause.kind, incident.facts["restarts"]) == ("unknown", 22)


# State


def test_a_loop_of_a_health_check_shows_by_its_counter(tmp_path: Path) -> None:
    def unhealthy(time: float) -> list[dict[str, Any]]:
        words = 'healthcheck: check "web-up" unhealthy'
        return [
            event("Restart Signaled", time, words, restart_reason=words), ended(time + 1, 137, 9),
            restarting(time + 1), started(time + 2),
        ]  # fmt: skip

    rows = alloc("a", started(0), *unhealthy(60), *unhealthy(120), restarts=21)
    incident = only(af.diagnose(snapshot(tmp_path, rows)))
    assert (incident.cause.kind, incident.state, incident.severity) == ("health check", "ongoing", "critical")
    assert incident.facts["failures"] == 21
    assert incident.began_before
    assert "web-up" in incident.summary


def test_a_service_that_runs_longer_than_its_cycles_has_recovered(tmp_path: Path) -> None:
    later = alloc("b", event("Received", 0), started(1), JobID="other", ModifyTime=START + 2000 * 10**9)
    loop = alloc("a", event("Received", 0), *crashes(1, 20, 40, 60), started(80), Name="web.app[0]")
    incident = only(af.diagnose(snapshot(tmp_path, loop, later)))
    assert (incident.state, incident.severity) == ("recovered", "warning")


def test_a_failed_allocation_that_waits_for_its_replacement_is_ongoing(tmp_path: Path) -> None:
    rows = alloc(
        "a", event("Received", 0), *crashes(1, 20)[:-1], gave_up(26), state="dead", ClientStatus="failed",
        FollowupEvalID="e1",
    )  # fmt: skip
    assert only(af.diagnose(snapshot(tmp_path, rows))).state == "ongoing"


def test_a_batch_job_without_retries_left_gave_up(tmp_path: Path) -> None:
    rows = alloc(
        "a", event("Received", 0), *crashes(1, 20)[:-1], gave_up(26), state="dead", ClientStatus="failed",
        JobType="batch",
    )  # fmt: skip
    incident = only(af.diagnose(snapshot(tmp_path, rows)))
    assert (incident.state, incident.severity) == ("gave up", "critical")


def test_batch_work_that_succeeds_after_retries_is_info(tmp_path: Path) -> None:
    rows = alloc(
        "a", event("Received", 0), *crashes(1, 20, 40), started(60), ended(70, 0), state="dead",
        ClientStatus="complete", JobType="batch",
    )  # fmt: skip
    (incident,) = af.diagnose(snapshot(tmp_path, rows)).incidents
    assert (incident.state, incident.severity) == ("recovered", "info")


def test_what_failed_and_was_stopped_is_no_longer_critical(tmp_path: Path) -> None:
    rows = alloc(
        "a", event("Received", 0), *crashes(1, 20)[:-1], gave_up(26), state="dead", ClientStatus="failed",
        DesiredStatus="stop", DesiredDescription="alloc not needed due to job update",
    )  # fmt: skip
    incident = only(af.diagnose(snapshot(tmp_path, rows)))
    assert (incident.state, incident.severity) == ("stopped", "warning")


# Instances and runs


def test_a_slot_rescheduled_ten_times_is_one_instance(tmp_path: Path) -> None:
    rows = [
        alloc(
            f"a{n}", event("Received", n * 60), started(n * 60 + 1), ended(n * 60 + 5), gave_up(n * 60 + 5),
            state="dead", ClientStatus="failed", CreateIndex=n + 1, DesiredStatus="stop" if n < 9 else "run",
            DesiredDescription="alloc was rescheduled because it failed" if n < 9 else "",
            FollowupEvalID=f"e{n}",
        )
        for n in range(10)
    ]  # fmt: skip
    well = [alloc(f"w{n}", event("Received", 0), started(1), Name=f"web.app[{n}]") for n in range(1, 4)]
    incident = only(af.diagnose(snapshot(tmp_path, *rows, *well)))
    assert (incident.facts["instances"], incident.facts["instances_wanted"]) == (1, 4)
    assert incident.severity == "warning"


def test_runs_of_one_job_are_one_job_and_the_rate_is_of_runs(tmp_path: Path) -> None:
    def run(number: int, *, failed: bool) -> dict[str, Any]:
        name = f"render/dispatch-17956564{number:02}-{number:08x}"
        begin = number * 100
        return alloc(
            f"a{number}", event("Received", begin), started(begin + 1), ended(begin + 9, 3 if failed else 0),
            *([gave_up(begin + 9)] if failed else []), state="dead", JobType="batch",
            ClientStatus="failed" if failed else "complete", JobID=name, Name=f"{name}.app[0]",
        )  # fmt: skip

    few = [run(n, failed=n in (5, 20)) for n in range(40)]
    (incident,) = af.diagnose(snapshot(tmp_path, *few)).incidents
    assert incident.jobs == [("default", "render")]
    assert (incident.severity, incident.facts["failed_runs"], incident.facts["runs"]) == ("info", 2, 40)
    most = [run(n, failed=n > 10) for n in range(40)]
    incident = only(af.diagnose(snapshot(tmp_path, *most)))
    assert (incident.severity, incident.state) == ("critical", "ongoing")
    over = [run(n, failed=10 < n < 39) for n in range(40)]
    incident = only(af.diagnose(snapshot(tmp_path, *over)))
    assert (incident.severity, incident.state) == ("warning", "recovered")
    assert incident.summary.endswith(" Its last run succeeded.")


def test_two_groups_whose_names_collide_are_two_instances(tmp_path: Path) -> None:
    rows = [
        alloc("a", event("Received", 0), *crashes(1, 20, 40), state="pending", JobID="web", TaskGroup="api.x",
              Name="web.api.x[0]"),
        alloc("b", event("Received", 0), started(1), JobID="web.api", TaskGroup="x", Name="web.api.x[0]"),
    ]  # fmt: skip
    incident = only(af.diagnose(snapshot(tmp_path, *rows)))
    assert incident.jobs == [("default", "web")]
    assert incident.facts["instances_wanted"] == 1


# Causes


def versions(
    well: float, *, healthy: bool | None = None, others: int = 0, start: float = 600
) -> list[dict[str, Any]]:
    """Return a version 0 that ran ten minutes, and a version 1 that ran `well` seconds and then crashes."""
    rows = []
    for n in range(3):
        old = alloc(
            f"old{n}", event("Received", 0), started(1), event("Killing", start), ended(start + 1, 143, 15),
            event("Killed", start + 1), state="dead", ClientStatus="complete", DesiredStatus="stop",
            Name=f"web.app[{n}]", DesiredDescription="alloc is being updated due to job update",
        )  # fmt: skip
        first = [started(start + 2), ended(start + 2 + well), restarting(start + 2 + well)]
        loop = crashes(*(start + 2 + well + 10 * k for k in range(1, 3)), run=0.5)
        new = alloc(
            f"new{n}", event("Received", start), *first, *loop, state="pending", JobVersion=1,
            Name=f"web.app[{n}]", CreateTime=START + int(start) * 10**9, CreateIndex=2,
            **({"DeploymentStatus": {"Healthy": healthy}} if healthy is not None else {}),
        )  # fmt: skip
        rows += [old, new]
    for n in range(others):
        loop = crashes(*(start + 2 + well + 10 * k for k in range(3)), run=0.5)
        rows.append(
            alloc(f"o{n}", event("Received", 0), started(1), ended(start + well), restarting(start + well),
                  *loop,                  state="pending", JobID=f"other-{n}", Name=f"other-{n}.app[0]")
        )  # fmt: skip
    return rows


def test_a_version_that_crashes_from_its_start_is_to_blame(tmp_path: Path) -> None:
    cause = only(af.diagnose(snapshot(tmp_path, *versions(well=1)))).cause
    assert (cause.kind, cause.mechanism, cause.confidence) == ("job version", "crash", "likely")
    assert {each.fact for each in cause.supporting} == {"version compared", "soon after version"}


def test_a_stray_failure_of_the_version_before_does_not_clear_the_new_one(tmp_path: Path) -> None:
    rows = versions(well=1)
    stray = rows[0]["TaskStates"]["server"]["Events"]
    stray[2:2] = [ended(300), restarting(300), started(316)]
    diagnosis = af.diagnose(snapshot(tmp_path, *rows), history=history(submitted=600))
    cause = next(each for each in diagnosis.incidents if each.severity != "info").cause
    assert (cause.kind, cause.confidence) == ("job version", "likely")


def test_a_replacement_that_crashes_does_not_count_as_running_again() -> None:
    (file,) = (benchmark.REAL / "blind").glob("nomad-2.0.5-lost-while-crashing.allocframe")
    with af.load(file) as snap:
        lost = next(each for each in af.diagnose(snap).incidents if each.cause.kind == "node")
    assert (lost.facts["lost"], lost.facts["running_again"]) == (2, 1)


def test_small_incidents_of_the_past_are_no_plain_all_clear(tmp_path: Path) -> None:
    row = alloc("a", event("Received", 0), started(1), ended(4000), restarting(4000), started(4015))
    later = alloc("b", event("Received", 0), started(1), JobID="other", ModifyTime=START + 40000 * 10**9)
    diagnosis = af.diagnose(snapshot(tmp_path, row, later))
    assert diagnosis.all_clear
    assert diagnosis.summary == "Nothing is wrong now. 1 past minor incident is listed below."


def test_a_version_that_ran_well_before_it_began_to_crash_is_only_possible(tmp_path: Path) -> None:
    incident = only(af.diagnose(snapshot(tmp_path, *versions(well=200, healthy=True))))
    assert incident.cause.kind == "crash"
    version = next(each for each in incident.hypotheses if each.kind == "job version")
    assert version.confidence == "possible"
    assert {"ran well", "healthy deploy"} <= {each.fact for each in version.contradicting}


def killed_together(*ages: float, apart: float, own: bool, start: float = 600) -> list[dict[str, Any]]:
    """Return a version 0 that ran ten minutes, and three instances of version 1 that end several times.

    By their `own` time each ends so long after its start; else all end at once, some milliseconds apart.
    """
    rows = [row for row in versions(well=1, healthy=True, start=start) if row["ID"].startswith("old")]
    for n in range(3):
        end, events = 0.0, [event("Received", start)]
        for age in ages:
            begin = end + apart * n
            end = (begin if own else end) + age + (0.002 * n)
            events += [
                started(start + 2 + begin),
                ended(start + 2 + end, 137, 9),
                restarting(start + 2 + end),
            ]
        rows.append(
            alloc(f"new{n}", *events, started(start + 2 + end), JobVersion=1, Name=f"web.app[{n}]",
                  CreateIndex=2, CreateTime=START + int(start) * 10**9, DeploymentStatus={"Healthy": True})
        )  # fmt: skip
    return rows


def version_of(incident: Any) -> Any:
    return next((each for each in incident.hypotheses if each.kind == "job version"), None)


def test_instances_that_end_at_once_at_different_ages_were_ended_from_outside(tmp_path: Path) -> None:
    rows = killed_together(20, 13, 13, apart=0.1, own=False)
    incident = only(af.diagnose(snapshot(tmp_path, *rows), history=history()))
    assert (incident.cause.kind, incident.cause.confidence) == ("killed", "likely")
    assert "3 times, 3 instances ended within" in " ".join(each.text for each in incident.cause.supporting)
    assert "after each start" not in incident.summary
    version = version_of(incident)
    assert version is None or version.confidence == "possible"
    assert not any("about as long" in each.text for cause in incident.hypotheses for each in cause.supporting)


def test_instances_that_end_at_one_age_in_different_moments_end_by_themselves(tmp_path: Path) -> None:
    rows = killed_together(13, 13, 13, 13, apart=0.1, own=True)
    incident = only(af.diagnose(snapshot(tmp_path, *rows), history=history()))
    assert (incident.cause.kind, incident.cause.confidence) == ("job version", "likely")
    assert "ends by age" in {each.fact for each in incident.cause.supporting}
    outside = next(each for each in incident.hypotheses if each.kind == "killed")
    assert [each.fact for each in outside.contradicting] == ["ends by age"]


def test_tasks_of_one_allocation_that_end_together_tell_of_nothing_outside(tmp_path: Path) -> None:
    rows = killed_together(20, 13, 13, apart=0.1, own=False)
    first, second = (row for row in rows if row["ID"] in ("new0", "new1"))
    first["TaskStates"]["log"] = second["TaskStates"].popitem()[1]
    rows = [first, *(row for row in rows if not row["ID"].startswith("new"))]
    diagnosis = af.diagnose(snapshot(tmp_path, *rows), history=history())
    killed = [each for each in diagnosis.incidents if each.severity != "info"]
    assert len(killed) == 1
    facts = {e.fact for each in killed[0].hypotheses for e in (*each.supporting, *each.contradicting)}
    assert "ends by clock" not in facts


def test_instances_in_step_whose_first_run_is_longer_do_not_show_who_ends_them(tmp_path: Path) -> None:
    rows = killed_together(20, 13, 13, apart=0, own=True)
    incident = only(af.diagnose(snapshot(tmp_path, *rows), history=history()))
    facts = {e.fact for each in incident.hypotheses for e in (*each.supporting, *each.contradicting)}
    assert not {"ends by age", "ends by clock"} & facts


def test_onset_alone_makes_a_version_that_was_healthy_no_more_than_possible(tmp_path: Path) -> None:
    rows = killed_together(20, 13, 13, apart=0, own=True, start=25)
    incident = only(af.diagnose(snapshot(tmp_path, *rows), history=history(submitted=24)))
    version = version_of(incident)
    assert [each.fact for each in version.supporting] == ["soon after version"]
    assert version.confidence == "possible"


def test_a_deploy_is_not_blamed_for_what_others_suffer_at_the_same_time(tmp_path: Path) -> None:
    incident = only(af.diagnose(snapshot(tmp_path, *versions(well=110, healthy=True, others=3))))
    assert (incident.cause.kind, incident.cause.confidence) == ("common cause", "likely")
    assert {job for _, job in incident.jobs} == {"web", "other-0", "other-1", "other-2"}


def test_a_job_with_one_version_is_never_blamed_on_it(tmp_path: Path) -> None:
    rows = alloc("a", event("Received", 0), *crashes(1, 20, 40), state="pending")
    hypotheses = only(af.diagnose(snapshot(tmp_path, rows))).hypotheses
    assert "job version" not in {each.kind for each in hypotheses}


def history(*, submitted: float = 599, path: str = "Env[DSN]", stable: bool = True) -> Any:
    """Return a ledger in which version 1 of web was submitted, and what it changed."""
    web = {"namespace": "default", "job_id": "web"}
    change = {
        **web, "kind": "job version", "at": at(submitted), "node_name": None, "version_before": 0,
        "version_after": 1, "source": "job_versions",
    }  # fmt: skip
    field = {**web, "version": 1, "task_group": "app", "task": "server", "path": path, "kind": "edited"}
    versions = [
        {**web, "version": number, "submitted_at": at(time), "stable": stable}
        for number, time in ((0, 0), (1, submitted))
    ]
    return SimpleNamespace(
        changes=pd.DataFrame([change]),
        job_changes=pd.DataFrame([field]),
        job_versions=pd.DataFrame(versions).astype({"submitted_at": "datetime64[ns, UTC]"}),
    )


def test_a_change_that_touches_what_failed_makes_one_failure_enough(tmp_path: Path) -> None:
    words = "failed to launch command: no such file"
    old = [row for row in versions(well=1) if row["ID"].startswith("old")]
    bad = alloc(
        "new0", event("Received", 600), event("Driver Failure", 601, words, driver_error=words), gave_up(601),
        state="dead", ClientStatus="failed", JobVersion=1, CreateTime=START + 600 * 10**9, CreateIndex=2,
    )  # fmt: skip
    snap = snapshot(tmp_path, *old, bad)
    assert only(af.diagnose(snap)).cause.kind == "driver"
    assert only(af.diagnose(snap, history=history(path="Meta[owner]"))).cause.kind == "driver"
    incident = only(af.diagnose(snap, history=history(path="Config[command]")))
    assert (incident.cause.kind, incident.cause.confidence) == ("job version", "likely")
    assert "Version 1 changed Config[command]." in [each.text for each in incident.cause.supporting]


def test_a_version_submitted_after_the_beginning_is_not_to_blame(tmp_path: Path) -> None:
    """Updated in place: the allocations look as if they had always been of version 1."""
    snap = snapshot(tmp_path, *versions(well=1))
    assert only(af.diagnose(snap, history=history())).cause.kind == "job version"
    incident = only(af.diagnose(snap, history=history(submitted=700)))
    assert {each.kind for each in incident.hypotheses} == {"crash"}


@pytest.mark.parametrize("version", ["1.3.1", "2.0.5"])
def test_a_deploy_of_another_job_just_before_is_listed_where_no_cause_is_known(version: str) -> None:
    file = benchmark.REAL / "blind" / f"nomad-{version}-upstream-redeployed.allocframe"
    incident = only(diagnosed(file))
    listed = {(change["kind"], change["job_id"], change.get("version_after")) for change in incident.changes}
    assert ("job version", "catalog", 1) in listed
    assert ("job version", "catalog", 0) not in listed  # a first version changes nothing


def test_a_change_just_before_is_told_although_older_allocations_are_gone(tmp_path: Path) -> None:
    bad = [row for row in versions(well=1) if row["ID"].startswith("new")]
    snap = snapshot(tmp_path, *bad)
    assert {each.kind for each in only(af.diagnose(snap)).hypotheses} == {"crash"}
    incident = only(af.diagnose(snap, history=history()))
    version = next(each for each in incident.hypotheses if each.kind == "job version")
    assert incident.cause.kind == "crash"
    assert {each.fact for each in version.supporting} == {
        "soon after version", "change touches", "stable before",
    }  # fmt: skip
    late = only(af.diagnose(snap, history=history(submitted=100)))
    assert "job version" not in {each.kind for each in late.hypotheses}


def jobs_on_nodes(*, lemon: bool) -> list[dict[str, Any]]:
    """Return four jobs on three nodes; one instance of each crashes, on one node or on several."""
    rows = []
    for job in range(4):
        for n in range(3):
            node = n + 1
            bad = node == 3 if lemon else n == job % 3
            begin = 1000 * job
            events = crashes(*(begin + 30 * k for k in range(3))) if bad else [started(begin)]
            rows += [
                alloc(
                    f"a{job}{n}{k}", event("Received", begin), *events, JobID=f"job-{job}",
                    CreateIndex=job + 1, Name=f"job-{job}.app[{n + 3 * k}]", NodeID=f"n{node}",
                    NodeName=f"node-{node}",
                    state="pending" if bad else "running",
                )
                for k in range(2)
            ]  # fmt: skip
    return rows


def test_a_node_on_which_several_jobs_fail_is_one_incident(tmp_path: Path) -> None:
    incident = only(af.diagnose(snapshot(tmp_path, *jobs_on_nodes(lemon=True))))
    assert (incident.cause.kind, incident.cause.confidence) == ("node", "likely")
    assert incident.cause.subject == {"node_name": "node-3"}
    assert len(incident.jobs) == 4


def test_a_node_is_not_blamed_for_jobs_that_fail_everywhere(tmp_path: Path) -> None:
    incidents = af.diagnose(snapshot(tmp_path, *jobs_on_nodes(lemon=False))).incidents
    assert {each.cause.kind for each in incidents} == {"crash"}


def test_errors_of_three_jobs_that_name_one_host_are_one_incident(tmp_path: Path) -> None:
    words = 'failed to download artifact "https://files.example/app.tgz": no such host'
    rows = [
        alloc(
            f"a{n}", event("Received", 0), event("Failed Artifact Download", 2, words, download_error=words),
            gave_up(3), state="dead", ClientStatus="failed", JobID=f"job-{n}", Name=f"job-{n}.app[0]",
        )
        for n in range(3)
    ]  # fmt: skip
    incident = only(af.diagnose(snapshot(tmp_path, *rows)))
    assert (incident.cause.kind, incident.cause.mechanism) == ("common cause", "artifact")
    assert incident.cause.subject == {"shared": "files.example"}


def test_a_lost_node_stays_lost_after_it_came_back(tmp_path: Path) -> None:
    rows = [
        alloc(
            "a", event("Received", 0), started(1), ended(500, 0), state="dead", ClientStatus="complete",
            DesiredStatus="stop", DesiredDescription="alloc is lost since its node is down",
        ),
        alloc("b", event("Received", 400), started(401), NodeName="node-2", NodeID="n2", CreateIndex=3),
    ]  # fmt: skip
    incident = only(af.diagnose(snapshot(tmp_path, *rows)))
    assert (incident.cause.kind, incident.cause.mechanism, incident.state) == ("node", "lost", "recovered")


def test_a_second_start_without_an_end_is_a_restart_of_the_node(tmp_path: Path) -> None:
    row = alloc("a", event("Received", 0), started(1), started(500))
    (incident,) = af.diagnose(snapshot(tmp_path, row)).incidents
    assert (incident.cause.kind, incident.severity) == ("node", "info")
    assert incident.cause.mechanism == "restart"


def test_a_job_that_waits_for_room_now_is_critical_and_past_waits_are_not(tmp_path: Path) -> None:
    def evaluation(status: str) -> pd.DataFrame:
        return af.tables.evaluations_frame(
            [
                {
                    "ID": "e1", "Namespace": "default", "JobID": "big", "Type": "service", "Status": status,
                    "TriggeredBy": "queued-allocs", "CreateTime": START, "QueuedAllocations": {"app": 2},
                    "FailedTGAllocs": {"app": {"NodesEvaluated": 3, "DimensionExhausted": {"memory": 3}}},
                }
            ]
        )  # fmt: skip

    snap = snapshot(tmp_path, alloc("a", event("Received", 0), started(1)))
    incident = only(af.diagnose(snap, evaluations=evaluation("blocked")))
    assert (incident.cause.kind, incident.severity) == ("placement", "critical")
    assert "not enough memory on 3 nodes" in incident.summary
    assert af.diagnose(snap, evaluations=evaluation("complete")).incidents == []


def test_an_allocation_that_never_starts_is_an_incident(tmp_path: Path) -> None:
    later = alloc("b", event("Received", 0), started(1), JobID="other", ModifyTime=START + 2000 * 10**9)
    waits = alloc(
        "a", event("Received", 0), event("Template", 5, "Missing: nomad.var.block(nomad/jobs/web)"),
        state="pending", ClientStatus="pending",
    )  # fmt: skip
    incident = only(af.diagnose(snapshot(tmp_path, waits, later)))
    assert (incident.cause.kind, incident.severity, incident.state) == ("template", "critical", "ongoing")


def test_an_operator_who_sends_a_signal_is_not_a_crash(tmp_path: Path) -> None:
    row = alloc(
        "a", event("Received", 0), started(1), event("Signaling", 50, task_signal="SIGKILL"),
        ended(50.1, 137, 9),        restarting(50.1), started(60),
    )  # fmt: skip
    diagnosis = af.diagnose(snapshot(tmp_path, row))
    assert [(each.severity, each.cause.kind) for each in diagnosis.incidents] == [("info", "operator")]


def test_times_that_are_missing_do_not_stop_a_diagnosis(tmp_path: Path) -> None:
    row = alloc("a", event("Received", 0), *crashes(1, 20, 40), state="pending", CreateTime=0, ModifyTime=0)
    for each in row["TaskStates"]["server"]["Events"]:
        each["Time"] = 0
    incident = only(af.diagnose(snapshot(tmp_path, row)))
    assert (incident.cause.kind, incident.began_at) == ("crash", None)
    assert incident.summary
