"""After a power loss at any moment, an archive has every append that was reported as kept.

The disk is a model: what was not synced may be there, empty, of zeros, or not there at all.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from random import Random

import pytest
from watched import Versions, history, ring

import allocframe as af
from allocframe.archive import delta

STEPS = 12


class Disk:
    """What of a folder is on the disk for sure, because it was synced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.contents: dict[Path, tuple[bytes, int]] = {}
        self.names: dict[Path, set[str]] = {}

    def sync(self, path: Path) -> None:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            self.names[path] = {item.name for item in path.iterdir()}
        else:
            self.contents[path] = path.read_bytes(), status.st_mtime_ns

    def least(self, target: Path) -> None:
        """Write what is left if nothing else reached the disk: files that were deleted are there again."""
        self._write_least(self.folder, target)

    def _write_least(self, folder: Path, target: Path) -> None:
        target.mkdir()
        for name in self.names.get(folder, ()):
            path = folder / name
            if path in self.names or path.is_dir():
                self._write_least(path, target / name)
            else:
                content, changed = self.contents.get(path, (b"", 0))
                _write(target / name, content, changed)

    def most(self, target: Path, rng: Random) -> None:
        """Write what is left if all names did, and of each file that was not synced anything."""
        for path in [self.folder, *sorted(self.folder.rglob("*"))]:
            copy = target / path.relative_to(self.folder)
            if path.is_dir():
                copy.mkdir()
                continue
            content, changed = path.read_bytes(), path.stat().st_mtime_ns
            if self.contents.get(path, (None, 0))[0] != content:
                content = rng.choice([content, b"", bytes(len(content)), content[: len(content) // 2]])
            _write(copy, content, changed)


def _write(file: Path, content: bytes, changed: int) -> None:
    file.write_bytes(content)
    os.utime(file, ns=(changed, changed))


def test_after_a_power_loss_at_any_moment_no_append_is_missing_that_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    rng, events = Random(2), history(STEPS)
    often = 0.3 if pytestconfig.getoption("--deep") else 0.02
    (pages := tmp_path / "pages").mkdir()
    versions = Versions(
        pages, {("a", cut): {"events": ring(events, cut), "restarts": 0} for cut in range(1, STEPS + 1)}
    )
    folder = tmp_path / "archive"
    disk, left, kept, sync = Disk(folder), [], 0, os.fsync

    def lose_power_or_sync(handle: int) -> None:
        if folder.exists() and rng.random() < often:
            for name in ("least", "most"):
                target = tmp_path / f"left-{len(left)}-{name}"
                disk.least(target) if name == "least" else disk.most(target, rng)
                left.append((target, kept))
        sync(handle)
        disk.sync(Path(f"/proc/self/fd/{handle}").readlink())

    monkeypatch.setattr(os, "fsync", lose_power_or_sync)
    # Checkpoints, and the removal of what they replace, as often as in days.
    monkeypatch.setattr(delta, "_CHECKPOINT_INTERVAL", 4)
    monkeypatch.setitem(delta._CONFIGURATION, "delta.logRetentionDuration", "interval 0 seconds")
    archive = af.Archive(folder)
    for cut in range(1, STEPS + 1):
        archive.append(versions.seen(cut, changed=[("a", cut)], before=[("a", cut - 1)]))
        kept = cut
        if cut % 4 == 0:
            archive.compact()
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    assert len(left) >= 10
    for target, count in left:
        _check(af.Archive(target), count)
        shutil.rmtree(target)


def _check(archive: af.Archive, kept: int) -> None:
    archive.repair()
    held = archive.events()["seq"].tolist() if kept or archive.state().at else []
    assert held == list(range(len(held)))
    assert kept <= len(held) <= kept + 1


def test_a_damaged_file_whose_rows_count_is_not_a_power_loss_and_is_never_set_aside(tmp_path: Path) -> None:
    events = history(3)
    (pages := tmp_path / "pages").mkdir()
    versions = Versions(pages, {("a", cut): {"events": ring(events, cut), "restarts": 0} for cut in (1, 2)})
    archive = af.Archive(tmp_path / "archive")
    for cut in (1, 2):
        archive.append(versions.seen(cut, changed=[("a", cut)], before=[("a", cut - 1)]))
    newest = max((tmp_path / "archive" / "events").rglob("*.parquet"), key=lambda file: file.stat().st_mtime)
    whole = newest.read_bytes()
    newest.write_bytes(whole[:-10])
    with pytest.raises(af.DecodeError, match=r"may count.*Restore"):
        archive.repair()
    newest.write_bytes(whole)
    assert archive.repair() == []
    assert len(archive.events()) == 2


@pytest.mark.parametrize("hint", ["", "{}", "[]", '{"version": "../*"}', '{"version": 7}', "[" * 9999])
def test_a_hint_at_a_checkpoint_that_is_not_there_is_set_aside(tmp_path: Path, hint: str) -> None:
    (pages := tmp_path / "pages").mkdir()
    versions = Versions(pages, {("a", 1): {"events": ring(history(1), 1), "restarts": 0}})
    archive = af.Archive(tmp_path / "archive")
    archive.append(versions.seen(1, added=[("a", 1)]))
    file = tmp_path / "archive" / "events" / "_delta_log" / "_last_checkpoint"
    file.write_text(hint)
    with pytest.raises(af.DecodeError, match="is truncated"):
        archive.events()
    assert archive.repair() == [str(file)]
    assert len(archive.events()) == 1
