"""What an event means: on sequences made by hand, on recorded answers of real agents, on two engines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import flatten
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables import alloc, as_duckdb, ended, event, gave_up, plain, restarting, snapshot, started

from allocframe import stats

TEMPLATE = "Template with change_mode restart re-rendered"
VAULT = "Vault: new Vault token acquired"
HEALTH = 'healthcheck: check "up" unhealthy'
ASKED = "User requested task to restart"


def explained(folder: Path, *events: dict[str, Any]) -> pd.DataFrame:
    return stats.explain_events(snapshot(folder, alloc("a", *events)))


def last(folder: Path, *events: dict[str, Any]) -> dict[str, Any]:
    return explained(folder, event("Received", 0), *events).iloc[-1].to_dict()


@pytest.mark.parametrize(
    ("end", "meaning", "oom", "failure"),
    [
        (ended(9, 0), "ok", "no", False),
        (ended(9, 1), "error", "no", True),
        (ended(9, 2), "usage error", "no", True),
        (ended(9, 77), "error", "no", True),
        (ended(9, 127), "command not found", "no", True),
        (ended(9, 139), "killed by SIGSEGV", "no", True),
        (ended(9, 0, 11), "killed by SIGSEGV", "no", True),
        (ended(9, 143), "killed by SIGTERM", "no", True),
        (ended(9, 137), "killed by SIGKILL", "suspected", True),
        (ended(9, 137, 9, oom_killed=True), "out of memory", "confirmed", True),
        (ended(9, 137, 9, exit_message="OOM Killed"), "out of memory", "confirmed", True),
        (ended(9, 255), "exit code out of range", "no", True),
        (ended(9, -1073741819), "access violation", "no", True),
        ({**ended(9), "Details": {}, "Signal": None}, "unknown", "unknown", False),
    ],
)
def test_an_end_means_what_code_signal_and_driver_say(
    tmp_path: Path, end: dict[str, Any], meaning: str, oom: str, failure: bool
) -> None:
    explanation = last(tmp_path, started(1), end)
    assert (explanation["exit_meaning"], explanation["oom"], explanation["failure"]) == (
        meaning,
        oom,
        failure,
    )


def test_137_after_killing_is_a_kill_timeout_and_no_failure(tmp_path: Path) -> None:
    explanation = last(tmp_path, started(1), event("Killing", 5), ended(10, 137, 9))
    columns = ("exit_meaning", "oom", "failure", "cause")
    assert [explanation[name] for name in columns] == ["kill timeout exceeded", "no", False, "stopped"]


@pytest.mark.parametrize(
    ("before", "cause"),
    [
        ([started(1), ended(2)], "failure"),
        ([started(1), ended(2, 0)], "failure"),  # a service: its restart policy had to decide
        ([started(1), ended(2, 137, 9, oom_killed=True)], "out of memory"),
        ([event("Failed Artifact Download", 1, download_error="503")], "artifact"),
        ([event("Driver Failure", 1, driver_error="no image")], "driver"),
        ([event("Setup Failure", 1)], "setup"),
        ([event("Failed Validation", 1)], "validation"),
        ([started(1), event("Restart Signaled", 2, restart_reason=ASKED), ended(3, 143, 15)], "operator"),
        (
            [
                started(1),
                event("Restart Signaled", 2, restart_reason="User requested restart"),
                ended(3, 143),
            ],
            "operator",
        ),
        ([started(1), event("Restart Signaled", 2, display=TEMPLATE), ended(3, 143)], "template"),
        ([started(1), event("Restart Signaled", 2, display=VAULT), ended(3, 143)], "vault"),
        ([started(1), event("Restart Signaled", 2, restart_reason=HEALTH), ended(3, 143)], "health check"),
        ([started(1), event("Restart Signaled", 2, restart_reason="new in 3.0"), ended(3, 143)], "unknown"),
    ],
)
def test_a_restart_is_explained_by_what_came_before_it(
    tmp_path: Path, before: list[dict[str, Any]], cause: str
) -> None:
    assert last(tmp_path, *before, restarting(4))["cause"] == cause


@pytest.mark.parametrize(
    ("why", "cause"),
    [
        ("Sibling Task Failed", "sibling"),
        ("Leader Task Dead", "leader"),
        ("Main Tasks Dead", "main tasks done"),
    ],
)
def test_a_task_that_goes_with_others_is_no_failure_of_its_own(tmp_path: Path, why: str, cause: str) -> None:
    explanation = last(tmp_path, started(1), event(why, 2), event("Killing", 3), ended(4, 143, 15))
    assert (explanation["cause"], explanation["failure"]) == (cause, False)


@pytest.mark.parametrize(
    ("reason", "decision"),
    [
        ("Restart within policy", "within policy"),
        ("Exceeded allowed attempts, applying a delay", "within policy, delayed"),
        ('Exceeded allowed attempts 2 in interval 30m0s and mode is "fail"', "given up: attempts used up"),
        ("Error was unrecoverable", "given up: unrecoverable"),
        ("Policy allows no restarts", "given up: no restarts allowed"),
        ("", "on request"),
        ("because", "unknown"),
    ],
)
def test_what_the_restart_policy_decided_is_told(tmp_path: Path, reason: str, decision: str) -> None:
    assert last(tmp_path, started(1), ended(2), restarting(3, reason))["decision"] == decision
    assert pd.isna(last(tmp_path, started(1), ended(2))["decision"])


def test_only_a_restart_that_a_health_check_asked_for_counts_as_failure(tmp_path: Path) -> None:
    def failure(**said: Any) -> bool:
        events = explained(
            tmp_path, started(1), event("Restart Signaled", 2, **said), ended(3, 143, 15), restarting(4, "")
        )
        return bool(events.loc[events["type"] == "Terminated", "failure"].item())

    assert failure(restart_reason=HEALTH)
    assert not failure(restart_reason=ASKED)
    assert not failure(display=TEMPLATE)


def test_killing_after_giving_up_does_not_hide_why(tmp_path: Path) -> None:
    explanation = explained(
        tmp_path, event("Received", 0), started(1), ended(2), gave_up(3), event("Killing", 4)
    )
    assert explanation["cause"].tolist()[2:] == ["failure"] * 3


def test_a_cause_that_the_ring_has_lost_is_unknown(tmp_path: Path) -> None:
    assert explained(tmp_path, restarting(5), started(6))["cause"].tolist()[0] == "unknown"


def test_unknown_event_types_pass_through(tmp_path: Path) -> None:
    explanation = explained(tmp_path, event("Quantum Flux", 1), started(2))
    assert explanation["type"].tolist() == ["Quantum Flux", "Started"]
    assert explanation["cause"].isna().all()


KINDS = ["Received", "Started", "Terminated", "Restarting", "Not Restarting", "Killing", "Killed",
         "Restart Signaled", "Failed Artifact Download", "Sibling Task Failed", "Signaling",
         "Unheard Of"]  # fmt: skip
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(KINDS), st.integers(0, 5), st.sampled_from([None, 0, 1, 137, 143]),
        st.sampled_from([None, 0, 9, 15]),
        st.sampled_from(["", ASKED, HEALTH, "Restart within policy", "else"]),
        st.sampled_from(["", TEMPLATE, VAULT]), st.booleans(),
    ),
    max_size=10,
)  # fmt: skip


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(EVENTS, min_size=1, max_size=40))
def test_pandas_and_duckdb_explain_alike_whatever_the_events(
    tmp_path_factory: pytest.TempPathFactory, tasks: list[Any]
) -> None:
    rows = [alloc(f"a{number}", *(_event(*one) for one in events)) for number, events in enumerate(tasks)]
    snap = snapshot(tmp_path_factory.mktemp("s"), *rows)
    columns = ["alloc_id", "task", "seq", "attempt", "exit_meaning", "oom", "failure", "decision", "cause"]
    by_pandas = stats.explain_events(snap)[columns]
    by_duckdb = stats.explain_events(as_duckdb(snap)["events"]).df()[columns]
    order = ("alloc_id", "task", "seq")
    assert plain(by_pandas, *order) == plain(by_duckdb, *order)
    assert len(by_pandas) == sum(len(events) for events in tasks)


def _event(
    kind: str, at: int, code: Any, signal: Any, reason: str, display: str, oom: bool
) -> dict[str, Any]:
    details = {
        "exit_code": code,
        "signal": signal,
        "restart_reason": reason or None,
        "oom_killed": oom or None,
    }
    return event(
        kind, at, display=display, **{name: value for name, value in details.items() if value is not None}
    )


@pytest.mark.parametrize("version", flatten.VERSIONS)
def test_on_recorded_allocations_the_counts_equal_a_plain_count_of_the_json(
    tmp_path: Path, version: str
) -> None:
    rows = flatten.recorded_rows(version)
    snap = snapshot(tmp_path, *rows)
    explanation = stats.explain_events(snap)
    events = [
        (row["ID"], task, event)
        for row in rows for task, state in row["TaskStates"].items() for event in state["Events"]
    ]  # fmt: skip
    raw = Counter(e["Type"] for _, _, e in events)
    assert explanation["type"].value_counts().to_dict() == {kind: n for kind, n in raw.items() if n}
    codes = Counter(int(e["Details"]["exit_code"]) for _, _, e in events if e["Type"] == "Terminated")
    assert {int(c): int(n) for c, n in explanation["exit_code"].value_counts().items()} == codes
    oom = sum(
        e["Details"].get("oom_killed") == "true" or e["Details"].get("exit_message") == "OOM Killed"
        for *_, e in events
    )
    assert (explanation["oom"] == "confirmed").sum() == oom
    assert explanation["failure"].sum() == sum(_failed(rows))
    table = stats.restarts(snap, by=[]).iloc[0]
    states = [state for row in rows for state in row["TaskStates"].values()]
    assert table["count"] == raw["Restarting"]
    assert table["counter"] == sum(state["Restarts"] for state in states)
    assert table["unexplained"] == 0
    cut = [len(s["Events"]) >= 10 and s["Events"][0]["Type"] != "Received" for s in states]
    assert table["truncated_share"] == pytest.approx(sum(cut) / len(cut))


def _failed(rows: list[dict[str, Any]]) -> list[bool]:
    """Return for each event, by plain loops, whether it is a failure: an unasked bad end or failed start."""
    flags = []
    for row in rows:
        for state in row["TaskStates"].values():
            excused = False
            for one in state["Events"]:
                kind, details = one["Type"], one["Details"] or {}
                if kind in ("Killing", "Sibling Task Failed", "Leader Task Dead", "Restart Signaled"):
                    excused = True
                bad = kind == "Terminated" and (details["exit_code"] != "0" or details["signal"] != "0")
                start = kind in (
                    "Driver Failure",
                    "Setup Failure",
                    "Failed Artifact Download",
                    "Failed Validation",
                )
                flags.append(start or (bad and not excused))
                if kind in ("Restarting", "Not Restarting"):
                    excused = False
    return flags
