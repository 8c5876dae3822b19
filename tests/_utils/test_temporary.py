"""Folders of killed processes are removed; those of processes that live are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from allocframe._utils import temporary
from allocframe._utils.locks import can_lock

pytestmark = pytest.mark.skipif(not can_lock, reason="without locks on files, folders stay")

_OTHER_PROCESS = """
from allocframe._utils.temporary import make_folder
folder = make_folder()
(folder / "000000.json").write_text("{}")
print(folder, flush=True)
input()
"""


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> subprocess.Popen[str]:
    """Another process that has made a folder, and waits."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return subprocess.Popen(
        [sys.executable, "-c", _OTHER_PROCESS],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def look_for_leftovers() -> None:
    temporary._remove_leftovers.cache_clear()  # done once in each process
    temporary.remove_folder(temporary.make_folder())


def test_the_folder_of_a_killed_process_is_removed_by_the_next_one(other: subprocess.Popen[str]) -> None:
    with other:
        assert other.stdout is not None
        folder = Path(other.stdout.readline().strip())
        look_for_leftovers()
        assert (folder / "000000.json").exists(), "its process lives"
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert (folder / "000000.json").exists(), "a killed process cannot remove it"
        look_for_leftovers()
        assert not folder.exists()


def test_what_may_belong_to_others_is_never_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    unmarked, of_machine = tmp_path / "allocframe-unmarked", tmp_path / "allocframe-of-another-machine"
    for folder in (unmarked, of_machine, tmp_path / "notes"):
        folder.mkdir()
    for folder in (of_machine, tmp_path / "notes"):
        (folder / ".in-use").write_bytes(b"another machine, or an earlier run of this one")
    (tmp_path / "allocframe-link").symlink_to(tmp_path / "notes")
    look_for_leftovers()
    assert {path.name for path in tmp_path.iterdir()} == {
        unmarked.name, of_machine.name, "notes", "allocframe-link"
    }  # fmt: skip


def test_a_folder_has_its_mark_while_it_is_used_and_is_gone_afterwards() -> None:
    with temporary.temporary_folder() as path:
        assert (Path(path) / ".in-use").exists()
        assert Path(path) in temporary._held
    assert not Path(path).exists()
    assert Path(path) not in temporary._held
