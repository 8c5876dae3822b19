"""``allocframe diagnose`` tells people and programs, and its exit code says how it stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tables import alloc, ended, event, restarting, started

from allocframe import cli

REAL = Path(__file__).parents[1] / "data" / "incidents"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["allocframe", "diagnose", *arguments])
    return cli.run()


def written(folder: Path, *rows: dict[str, object]) -> str:
    file = folder / "allocations.json"
    file.write_text(json.dumps(list(rows)))
    return str(file)


def test_a_calm_cluster_is_0(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--from", written(tmp_path, alloc("a", event("Received", 0), started(1)))) == 0
    assert capsys.readouterr().out.startswith("All clear")


def test_something_critical_is_4_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--from", str(REAL / "nomad-1.3.1-badversion.allocframe")) == 4
    out = capsys.readouterr().out
    assert "shop version 1 crashes" in out
    assert "likely: the change to version 1 of shop" in out
    assert "    + Version 1: 21 failures" in out


def test_what_had_changed_before_is_printed_with_the_incident(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--from", str(REAL / "blind" / "nomad-2.0.5-prestart.allocframe")) == 4
    out = capsys.readouterr().out
    assert "  changed " in out
    assert "before: job version 1 of shop (deployment failed): " in out


def test_a_warning_is_3(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "--from", str(REAL / "nomad-1.3.1-canary.allocframe")) == 3


@pytest.mark.parametrize("rows", [[], [{**alloc("a"), "TaskStates": None}]])
def test_incomplete_evidence_is_3_even_if_nothing_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[dict[str, object]],
) -> None:
    assert run(monkeypatch, "--from", written(tmp_path, *rows)) == 3
    assert "Incomplete: " in capsys.readouterr().out


def test_unexplained_restarts_are_3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = alloc("a", *(event("Signaling", n) for n in range(10)), restarts=22)
    assert run(monkeypatch, "--from", written(tmp_path, row)) == 3


def test_json_is_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--json", "--from", str(REAL / "nomad-1.3.1-lemon.allocframe")) == 4
    answer = json.loads(capsys.readouterr().out)
    assert answer["incidents"][0]["cause"]["subject"] == {"node_name": "n13"}
    assert answer["incomplete"] == []


def test_ten_incidents_are_printed_and_all_on_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        alloc(f"a{n}", event("Received", 0), started(1), ended(9), restarting(9), started(20),
              JobID=f"job-{n:02}", Name=f"job-{n:02}.app[0]")
        for n in range(13)
    ]  # fmt: skip
    file = written(tmp_path, *rows)
    run(monkeypatch, "--from", file)
    assert "and 3 more: --all" in capsys.readouterr().out
    run(monkeypatch, "--all", "--from", file)
    assert "job-12 crashes" in capsys.readouterr().out


def test_sources_exclude_each_other_and_a_missing_file_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--from", "a.json", "--archive", "b") == 2
    assert "--from, --archive, --address and --clusters exclude each other" in capsys.readouterr().err
    assert run(monkeypatch, "--from", str(tmp_path / "none.allocframe")) == 1
