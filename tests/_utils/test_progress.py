"""Who sees a progress bar."""

from __future__ import annotations

import io
import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tqdm import auto, autonotebook

import allocframe as af
from allocframe._utils import progress as module
from allocframe._utils.progress import shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)


def bars(progress: bool | None, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many bars are made for a fetch."""
    made = []

    class Bar(auto.tqdm):  # type: ignore[type-arg]
        def __init__(self, **settings: object) -> None:
            made.append(settings)
            super().__init__(**settings)

    monkeypatch.setattr(auto, "tqdm", Bar)
    monkeypatch.setattr(module, "_DELAY", 0)
    with shown(progress) as show:
        show(5, 10)
    return len(made)


@pytest.mark.parametrize(("stderr", "expected"), [(Terminal(), 1), (io.StringIO(), 0)], ids=["tty", "log"])
def test_by_default_a_bar_is_for_a_terminal_and_not_for_the_log_of_a_cron_job(
    stderr: io.StringIO, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    assert bars(None, monkeypatch) == expected
    assert bars(False, monkeypatch) == 0
    assert bars(True, monkeypatch) == 1


def test_in_a_notebook_the_bar_is_shown_although_its_stderr_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setattr(autonotebook, "tqdm", types.new_class("tqdm_notebook"))
    assert bars(None, monkeypatch) == 1


def test_what_takes_less_than_a_second_makes_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(module, "_DELAY", 60)
    with shown(None) as show:
        show(5, 10)
    assert terminal.getvalue() == ""


def test_on_a_terminal_a_step_that_takes_long_is_shown_before_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(module, "_DELAY", 0.01)
    with shown(None) as show:
        show(1, 3, "report: sections")
        until = time.monotonic() + 30
        while "report: sections" not in terminal.getvalue():
            assert time.monotonic() < until
            time.sleep(0.01)
    written = terminal.getvalue()
    assert "1/3" in written
    show(2, 3, "report: file")  # as a thread would that has not ended yet
    assert terminal.getvalue() == written


def test_the_variable_that_turns_tqdm_off_is_obeyed_in_notebooks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert bars(None, monkeypatch) == 0
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setattr(autonotebook, "tqdm", types.new_class("tqdm_notebook"))
    assert bars(None, monkeypatch) == 0


def to_csv(snap: af.Snapshot, folder: Path, progress: Any) -> None:
    snap.to_csv(folder / "csv", progress=progress)


def load(snap: af.Snapshot, folder: Path, progress: Any) -> None:
    af.load(snap.save(folder / "s.allocframe"), progress=progress).close()


def read_json(snap: af.Snapshot, folder: Path, progress: Any) -> None:
    files = [folder / f"{number}.json" for number in range(3)]
    for file in files:
        file.write_text(json.dumps([{"ID": file.stem, "ClientStatus": "running"}]))
    af.read_json(files, progress=progress).close()


def diagnose(snap: af.Snapshot, folder: Path, progress: Any) -> None:
    af.diagnose(snap, progress=progress)


def compact(snap: af.Snapshot, folder: Path, progress: Any) -> None:
    archive = af.Archive(folder / "archive")
    archive.append(snap)
    archive.compact(progress=progress)


@pytest.mark.parametrize("work", [to_csv, load, read_json, diagnose, compact])
def test_each_step_that_can_take_seconds_tells_how_far_it_is(
    work: Callable[[af.Snapshot, Path, Any], None], snap: af.Snapshot, tmp_path: Path
) -> None:
    told: list[tuple[int, int | None]] = []
    work(snap, tmp_path, lambda done, total: told.append((done, total)))
    assert told
    assert told == sorted(told)
    assert all(total is not None and 0 <= done <= total for done, total in told)
    assert len({total for _, total in told}) == 1
