"""The Delta Lake tables in a folder or an object store: create, append, replace, list."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from deltalake import DeltaTable, PostCommitHookProperties, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from .._utils.text import visible
from ..errors import ConfigError, DecodeError
from ..store.capture import sync_path
from ..tables import HISTORY
from .schema import STORED, VERSION

_VERSION = "allocframe.schemaVersion"
_CHECKPOINT_INTERVAL = 50
"""Commits between two checkpoints, and appends before a table is opened again.

An open table reads every commit since it was opened, so it gets slower.
"""

_CONFIGURATION = {
    _VERSION: str(VERSION),
    "delta.dataSkippingStatsColumns": "alloc_id,seen_at",
    # Opening a table lists its log folder and reads the log since the last checkpoint. Keep both short.
    "delta.checkpointInterval": str(_CHECKPOINT_INTERVAL),
    "delta.logRetentionDuration": "interval 1 hours",
}
_UNSYNCED = 3
"""Commits that may not be on the disk yet: an append, or the two that clearing up makes, and one before."""

_ABANDONED_AFTER_HOURS = 24
_MAX_ATTEMPTS = 20
_UNFIT = frozenset("%[]|^\\") | frozenset(map(chr, range(32)))
"""Characters that delta-rs reads as another path, or ends on in a panic that no `except` catches."""

_WRITER_PROPERTIES = WriterProperties(compression="ZSTD")

_NO_CHECKPOINT = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
"""delta-rs would remove the commits that a checkpoint replaces before the checkpoint is on the disk."""

CommitConflict = CommitFailedError
"""Another process committed first."""


class DeltaTables:
    """The tables of one archive."""

    def __init__(self, path: str | os.PathLike[str], storage_options: Mapping[str, str] | None) -> None:
        self.location: str = os.fspath(path)
        url = urlsplit(self.location)
        local = unquote(url.path) if url.scheme == "file" else self.location
        self.folder: Path | None = None if "://" in local else Path(local).absolute()
        if self.folder and (odd := sorted(_UNFIT.intersection(str(self.folder)))):
            raise ConfigError(
                f"an archive's path must not contain {visible(' '.join(map(repr, odd)))}, got "
                f"{visible(str(self.folder))}. delta-rs cannot open it, or opens another one"
            )
        self._options = dict(storage_options) if storage_options else None
        self._made: set[str] = set()
        self._existing: set[str] = set()
        self._open_tables: dict[str, tuple[DeltaTable, int]] = {}

    def uri(self, name: str) -> str:
        return str(self.folder / name) if self.folder else f"{self.location.rstrip('/')}/{name}"

    def open(self, name: str) -> DeltaTable:
        """Return the current version of a table.

        Raises
        ------
        FileNotFoundError
            There is no archive.
        DecodeError
            The archive was written by a newer allocframe.
        """
        if torn := self._torn_files(name):
            raise DecodeError(
                f"{torn[0]} is truncated: the machine lost its power, or the archive was copied while it was "
                "written. Archive.repair() goes back to the last whole step",
                file=str(torn[0]),
            )
        with _as_os_errors(self.location):
            try:
                table = DeltaTable(self.uri(name), storage_options=self._options)
            except TableNotFoundError as error:
                raise FileNotFoundError(f"there is no archive in {self.location}") from error
        if self.schema_version(table) > VERSION:
            raise DecodeError(
                f"{self.location} was written by a newer allocframe. Upgrade to read it", file=name
            )
        return table

    def schema_version(self, table: DeltaTable) -> int:
        """Return the version of the schema that a table was last written with."""
        version = table.metadata().configuration.get(_VERSION) or "0"
        if not re.fullmatch(r"\d{1,9}", version, re.ASCII):
            raise DecodeError(f"{self.location}: a table has no valid schema version", file=table.table_uri)
        return int(version)

    def _torn_files(self, name: str, *, with_data: bool = False) -> list[Path]:
        """Return the files of a local table's log that a power loss cut, each commit with those after it.

        With `with_data`, the newest commit is also cut if a data file that it added is: they reach the disk
        in any order.
        """
        if self.folder is None:
            return []
        log = self.folder / name / "_delta_log"
        for pattern, is_whole in (("*.checkpoint*.parquet", _is_parquet), ("_last_checkpoint", _is_hint)):
            newest = max(log.glob(pattern), default=None)
            # If there is a newer one by now, another process may have removed what this one needs.
            if newest and not is_whole(newest) and newest == max(log.glob(pattern), default=None):
                return [newest]
        commits = sorted(log.glob("*.json"))
        for place, commit in list(enumerate(commits))[0 if with_data else -_UNSYNCED :]:
            if not _is_json(commit):
                return commits[place:]
        if with_data and commits and not _is_commit(commits[-1]) and commits == sorted(log.glob("*.json")):
            return commits[-1:]
        return []

    def repair(self) -> list[str]:
        """Set torn files aside; return them. What is synced before a batch counts cannot be torn.

        Raises
        ------
        DecodeError
            A commit is torn that may count already, so that it was not a power loss.
        """
        repaired: list[str] = []
        for name in STORED:
            while torn := self._torn_files(name, with_data=True):
                if name != "snapshots" and torn[0].suffix == ".json" and self._may_count(torn[0]):
                    raise DecodeError(
                        f"{torn[0]} or a data file that it names is truncated, and its rows may count. "
                        "Restore them from a backup, or rename it to continue without these rows",
                        file=str(torn[0]),
                    )
                for file in reversed(torn):  # so that no commit is ever missing between two others
                    file.rename(file.with_name(f"{file.name}.torn"))
                sync_path(torn[0].parent)
                repaired += map(str, torn)
        return repaired

    def _may_count(self, commit: Path) -> bool:
        """Return whether a batch has been counted since a commit."""
        assert self.folder is not None  # noqa: S101 - only local files are torn
        counted = max((self.folder / "snapshots" / "_delta_log").glob("*.json"), default=None)
        return counted is not None and counted.stat().st_mtime_ns >= commit.stat().st_mtime_ns

    def names(self) -> list[str]:
        """Return the tables that an archive has, in the order of writing."""
        return [name for name in STORED if name not in HISTORY or self.exists(name)]

    def exists(self, name: str) -> bool:
        """Return whether a table exists. Those of a history do not, until something was recorded."""
        if self.folder is not None:
            return len(list((self.folder / name / "_delta_log").glob("*.json"))) > 0
        if name not in self._existing:
            # Not `is_deltatable`: it holds up every thread of the process until the store has answered.
            try:
                with _as_os_errors(self.location, but=TableNotFoundError):
                    DeltaTable(self.uri(name), storage_options=self._options)
            except TableNotFoundError:
                return False
            self._existing.add(name)
        return True

    def make(self, more: Iterable[str] = ()) -> None:
        """Create missing tables, and upgrade older ones to this version.

        Several processes may do so at once. The tables of a history are created only if `more` names them.
        """
        names = [name for name in STORED if (name not in HISTORY or name in more) and name not in self._made]
        if not names:
            return
        with private(self.folder), _as_os_errors(self.location):
            if self.folder:
                _make_folder(self.folder)
            for name in names:
                with contextlib.suppress(CommitFailedError):
                    DeltaTable.create(
                        self.uri(name), STORED[name].schema(), mode="ignore", partition_by="day",
                        configuration=_CONFIGURATION, storage_options=self._options,
                        raise_if_key_not_exists=False,
                    )  # fmt: skip
                table = self.open(name)
                if self.schema_version(table) != VERSION:
                    table.alter.set_table_properties(dict(_CONFIGURATION), raise_if_not_exists=False)
                self._sync(name, 0, table.version())
            if self.folder:
                sync_path(self.folder)
        self._made.update(names)

    def append(self, name: str, rows: pa.Table) -> None:
        """Append rows to a table in one commit. Several processes may append at once.

        Raises
        ------
        OSError
            The rows could not be written, for instance because the disk is full.
        """
        for attempts_left in reversed(range(_MAX_ATTEMPTS)):
            try:
                with private(self.folder), _as_os_errors(self.location, but=CommitConflict):
                    # Popped, so that a table whose append failed is opened again.
                    table, used = (
                        self._open_tables.pop(name) if name in self._open_tables else (self.open(name), 1)
                    )
                    before = table.version()
                    write_deltalake(
                        table, rows, mode="append", schema_mode="merge", writer_properties=_WRITER_PROPERTIES,
                        post_commithook_properties=_NO_CHECKPOINT,
                    )  # fmt: skip
                    self._sync(name, before, table.version())
                    self._checkpoint(name, table, before)
                    if used < _CHECKPOINT_INTERVAL:
                        self._open_tables[name] = table, used + 1
            except CommitConflict as error:
                # A compaction committed first. delta-rs cannot know that an append does not depend on what it
                # read.
                if not attempts_left:
                    raise OSError(
                        errno.EAGAIN,
                        f"{self.location}: other processes kept writing to {name}. Append it again",
                    ) from error
                time.sleep(random.uniform(0, 0.1))  # noqa: S311
            else:
                return

    def _sync(self, name: str, first: int, last: int) -> None:
        """Wait until these commits are on the disk: their files, then they, then the folder.

        The rows of a batch count with the last table's commit. So after a power loss, whatever counts is
        there. The first is usually on the disk already, but another process may have just written it.
        """
        if self.folder is None:
            return
        root = self.folder / name
        log = root / "_delta_log"
        for version in range(first, last + 1):
            commit = log / f"{version:020d}.json"
            if not commit.exists():
                continue  # a checkpoint has replaced it
            actions = map(json.loads, commit.read_text().splitlines())
            files = [root / unquote(action["add"]["path"]) for action in actions if "add" in action]
            for path in (*files, *{file.parent for file in files}, root, commit):
                if path.exists():
                    sync_path(path)
        sync_path(log)

    def _checkpoint(self, name: str, table: DeltaTable, before: int) -> None:
        """Now and then, put all commits into one file, and remove old ones once it is on the disk."""
        if before // _CHECKPOINT_INTERVAL == table.version() // _CHECKPOINT_INTERVAL:
            return
        table.create_checkpoint()
        if self.folder is not None:
            log = self.folder / name / "_delta_log"
            for file in (*log.glob("*.checkpoint*.parquet"), log / "_last_checkpoint", log):
                with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                    sync_path(file)
        table.cleanup_metadata()

    def replace(self, name: str, table: DeltaTable, day: str, rows: pa.RecordBatchReader) -> None:
        """Replace one day of a table, opened as `table`, by `rows`, all or nothing.

        Raises
        ------
        CommitConflict
            Another process has written to that day since `table` was opened.
        OSError
            The rows could not be written.
        """
        with private(self.folder), _as_os_errors(self.location, but=CommitConflict):
            before = table.version()
            write_deltalake(
                table, rows, mode="overwrite", predicate=f"day = '{day}'", schema_mode="merge",
                writer_properties=_WRITER_PROPERTIES, storage_options=self._options,
                post_commithook_properties=_NO_CHECKPOINT,
            )  # fmt: skip
            # The files that these rows replace are deleted next.
            self._sync(name, before, table.version())

    def sources(self, table: DeltaTable, days: Any = None) -> list[str] | Any:
        """Return what DuckDB can read: the files of a local table, or an Arrow dataset of a remote one.

        Raises
        ------
        DecodeError
            The table lists files outside of the archive, so it was not written by allocframe.
        """
        if self.folder:
            files = [unquote(str(uri)) for uri in table.file_uris(file_pruning_predicate=days)]
            for file in files:
                if not _is_inside(Path(file), self.folder):
                    raise DecodeError(
                        f"{self.location} lists a file outside of the archive: {visible(file)}",
                        file=file,
                    )
            return files
        return table.to_pyarrow_dataset(file_pruning_predicate=days)

    def clear(self) -> None:
        """Remove unused files, and files that killed appends left more than a day ago."""
        with private(self.folder), _as_os_errors(self.location):
            for name in self.names():
                for hours, all_files in ((0, False), (_ABANDONED_AFTER_HOURS, True)):
                    table = self.open(name)
                    before = table.version()
                    table.vacuum(
                        hours, dry_run=False, enforce_retention_duration=False, full=all_files,
                        post_commithook_properties=_NO_CHECKPOINT,
                    )  # fmt: skip
                    self._sync(name, before, table.version())


def _is_json(file: Path) -> bool:
    """Return whether a file of the log is whole. delta-rs overlooks an empty commit."""
    try:
        return file.read_bytes().rstrip().endswith(b"}")
    except FileNotFoundError:
        return True  # another process has just removed it


def _is_hint(file: Path) -> bool:
    """Return whether the name of the last checkpoint is whole, and the checkpoint is there."""
    try:
        text = file.read_bytes()
        version = json.loads(text)["version"]
        if isinstance(version, int) and list(file.parent.glob(f"{version:020d}.checkpoint*.parquet")):
            return True
        return file.read_bytes() != text  # another process has just made a newer one
    except FileNotFoundError:
        return True
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _is_commit(file: Path) -> bool:
    """Return whether a commit and the data files that it added are whole."""
    if not _is_json(file):
        return False
    root = file.parent.parent
    # What somebody forged is not a power loss: delta-rs, or `sources`, refuses it.
    with contextlib.suppress(
        ValueError, TypeError, KeyError, AttributeError, RecursionError, FileNotFoundError
    ):
        for action in map(json.loads, file.read_text().splitlines()):
            if (added := action.get("add")) is not None:
                path = root / unquote(added["path"])
                if _is_inside(path, root) and not _is_parquet(path, added["size"]):
                    return False
    return True


def _is_parquet(file: Path, size: int | None = None) -> bool:
    """Return whether a Parquet file is there and has its end, and its size if that is known."""
    try:
        with file.open("rb") as data:
            length = data.seek(0, os.SEEK_END)
            data.seek(max(length - 4, 0))
            return data.read() == b"PAR1" and size in (None, length)
    except FileNotFoundError:
        return False


def _make_folder(folder: Path) -> None:
    """Create a folder and those above it, and wait until their names are on the disk."""
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for part in missing:
        sync_path(part.parent)


def _is_inside(file: Path, folder: Path) -> bool:
    """Return whether a path is below a folder, without "..", symbolic links or patterns."""
    if ".." in file.parts or not file.is_relative_to(folder) or file.is_symlink() or file.parent.is_symlink():
        return False
    return not any(character in "*?[" for character in str(file.relative_to(folder)))


_COLOUR = re.compile("\x1b\\[[0-9;]*m")
_ERRNO = re.compile(r"os error (\d+)")


@contextlib.contextmanager
def _as_os_errors(location: str, *, but: type[Exception] = FileNotFoundError) -> Iterator[None]:
    """Turn delta-rs errors into OSError with one line of plain text."""
    try:
        yield
    except but:
        raise
    except (DeltaError, OSError) as error:
        text = _COLOUR.sub("", " ".join(str(error).split()))
        match = _ERRNO.search(text)
        raise OSError(int(match.group(1)) if match else errno.EIO, f"{location}: {text}") from error


_UMASK_LOCK = threading.RLock()


@contextlib.contextmanager
def private(folder: Path | None) -> Iterator[None]:
    """Make new files of a local archive readable by their owner only."""
    if folder is None:
        yield
        return
    with _UMASK_LOCK:  # the umask belongs to the whole process
        before = os.umask(0o077)
        try:
            yield
        finally:
            os.umask(before)
