"""``allocframe archive``: contents and maintenance of an archive."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import allocframe as af
from allocframe import cli

Run = Callable[..., tuple[int, str, str]]
GOLDEN = Path(__file__).parents[1] / "data" / "archive-1"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["allocframe", "archive", *arguments])
        code = cli.run()
        output = capsys.readouterr()
        return code, output.out, output.err

    return command


def test_info_prints_recorders_gaps_and_sizes(run: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "archive")
    code, output, _ = run("info", str(folder))
    assert code == 0
    for part in ("schema version 1", "2 allocations", "golden", "the recorder was stopped", "task_states"):
        assert part in output


def test_each_command_prints_json_for_programs(run: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "archive")
    code, output, _ = run("info", str(folder), "--json")
    assert (code, json.loads(output)) == (0, af.Archive(folder).info)
    code, output, _ = run("compact", str(folder), "--json")
    sizes = json.loads(output)
    assert sizes["now"]["files"] == sum(t["files"] for t in af.Archive(folder).info["tables"].values())
    assert sizes["before"]["files"] >= sizes["now"]["files"]


def test_compact_and_retain_leave_the_same_snapshot(run: Run, tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN, tmp_path / "archive")
    archive = af.Archive(folder)
    with archive.snapshot() as before:
        counts = len(before), len(before.events), len(before.reschedules)
        code, output, _ = run("compact", str(folder))
        assert (code, output.count("files")) == (0, 2)
        assert archive.info["tables"]["events"]["files"] == 1
        code, output, _ = run("retain", str(folder), "--days", "1")
        assert code == 0
        with archive.snapshot() as after:
            assert (len(after), len(after.events), len(after.reschedules)) == counts
            assert after.events.equals(before.events)


@pytest.mark.parametrize("command", [["info"], ["compact"], ["retain", "--days", "3"]])
def test_a_missing_archive_is_an_error_of_one_line(run: Run, tmp_path: Path, command: list[str]) -> None:
    code, _, error = run(command[0], str(tmp_path / "nothing"), *command[1:])
    assert code == 1
    assert error == f"allocframe: there is no archive in {tmp_path / 'nothing'}\n"
    assert not (tmp_path / "nothing").exists()
