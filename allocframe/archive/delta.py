"""The Delta Lake tables in a folder or an object store: made, appended to, rewritten, listed."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from deltalake import DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from .._utils.text import visible
from ..errors import ConfigError, DecodeError
from .schema import STORED, VERSION

_VERSION = "allocframe.schemaVersion"
_CHECKPOINTS = 50
"""Commits between two checkpoints; a table that is held open reads every commit since it was opened, so not longer."""

_CONFIGURATION = {
    _VERSION: str(VERSION),
    "delta.dataSkippingStatsColumns": "alloc_id,seen_at",
    # Opening a table reads its log from the last checkpoint on, and lists the folder: both are kept short.
    "delta.checkpointInterval": str(_CHECKPOINTS),
    "delta.logRetentionDuration": "interval 1 hours",
}
_LEFT_BEHIND_H = 24
_TRIES = 20
_WRITING = WriterProperties(compression="ZSTD")

Overtaken = CommitFailedError
"""Somebody else wrote there first."""


class DeltaTables:
    """Every table of one archive."""

    def __init__(self, path: str | os.PathLike[str], storage_options: Mapping[str, str] | None) -> None:
        self.where = os.fspath(path)
        url = urlsplit(self.where)
        local = unquote(url.path) if url.scheme == "file" else self.where
        self.folder = None if "://" in local else Path(local).absolute()
        if self.folder and "%" in str(self.folder):
            raise ConfigError(
                f"{self.folder}: delta-rs cannot open a folder with % in its path; choose another"
            )
        self._options = dict(storage_options) if storage_options else None
        self._checked = False
        self._held: dict[str, tuple[DeltaTable, int]] = {}

    def uri(self, name: str) -> str:
        return str(self.folder / name) if self.folder else f"{self.where.rstrip('/')}/{name}"

    def open(self, name: str) -> DeltaTable:
        """Return a table as it now is.

        Raises
        ------
        FileNotFoundError
            There is no archive.
        DecodeError
            A newer allocframe wrote it.
        """
        with _as_os_errors(self.where):
            try:
                table = DeltaTable(self.uri(name), storage_options=self._options)
            except TableNotFoundError as error:
                raise FileNotFoundError(f"there is no archive in {self.where}") from error
        version = table.metadata().configuration.get(_VERSION) or "0"
        if not re.fullmatch(r"\d{1,9}", version, re.ASCII):
            raise DecodeError(f"{self.where}: {name} has no version that can be read", file=name)
        if int(version) > VERSION:
            raise DecodeError(
                f"{self.where} was written by a newer allocframe; upgrade to read it", file=name
            )
        return table

    def make(self) -> None:
        """Make the tables that are not there yet, and bring older ones to this version; safe for several at once."""
        if self._checked:
            return
        with private(self.folder), _as_os_errors(self.where):
            if self.folder:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name, stored in STORED.items():
                with contextlib.suppress(CommitFailedError):
                    DeltaTable.create(
                        self.uri(name), stored.schema(), mode="ignore", partition_by="day",
                        configuration=_CONFIGURATION, storage_options=self._options, raise_if_key_not_exists=False,
                    )  # fmt: skip
                table = self.open(name)
                if table.metadata().configuration.get(_VERSION) != str(VERSION):
                    table.alter.set_table_properties(dict(_CONFIGURATION), raise_if_not_exists=False)
        self._checked = True

    def append(self, name: str, rows: pa.Table) -> None:
        """Add rows to a table in one commit; appends of several writers do not hinder each other.

        Raises
        ------
        OSError
            They could not be written, for instance because the disk is full.
        """
        for left in reversed(range(_TRIES)):
            try:
                with private(self.folder), _as_os_errors(self.where, but=Overtaken):
                    table, used = self._held.pop(name) if name in self._held else (self.open(name), 1)
                    write_deltalake(
                        table, rows, mode="append", schema_mode="merge", writer_properties=_WRITING
                    )
                    if used < _CHECKPOINTS:
                        self._held[name] = table, used + 1
            except Overtaken as error:  # by a compaction; delta-rs cannot know that an append read nothing
                if not left:
                    raise OSError(
                        errno.EAGAIN, f"{self.where}: others kept writing to {name}; give it again"
                    ) from error
                time.sleep(random.uniform(0, 0.1))  # noqa: S311
            else:
                return

    def replace(self, table: DeltaTable, day: str, rows: pa.RecordBatchReader) -> None:
        """Put `rows` in the place of a whole day of `table` as it was opened.

        Raises
        ------
        Overtaken
            Somebody wrote to that day since; nothing has changed.
        OSError
            The day could not be written; nothing has changed.
        """
        with private(self.folder), _as_os_errors(self.where, but=Overtaken):
            write_deltalake(
                table, rows, mode="overwrite", predicate=f"day = '{day}'", schema_mode="merge",
                writer_properties=_WRITING, storage_options=self._options,
            )  # fmt: skip

    def sources(self, table: DeltaTable, days: Any = None) -> list[str] | Any:
        """Return what DuckDB reads of a table: its files in a folder, an Arrow dataset of an object store.

        Raises
        ------
        DecodeError
            The table names files that lie elsewhere: somebody has made it up.
        """
        if self.folder:
            files = [unquote(str(uri)) for uri in table.file_uris(file_pruning_predicate=days)]
            for file in files:
                if not _is_inside(Path(file), self.folder):
                    raise DecodeError(
                        f"{self.where} names a file outside of it, which no recorder does: {visible(file)}",
                        file=file,
                    )
            return files
        return table.to_pyarrow_dataset(file_pruning_predicate=days)

    def clear(self) -> None:
        """Remove files that no table needs any more, and what appends that were killed left a day ago."""
        with private(self.folder), _as_os_errors(self.where):
            for name in STORED:
                for hours, all_files in ((0, False), (_LEFT_BEHIND_H, True)):
                    self.open(name).vacuum(
                        hours, dry_run=False, enforce_retention_duration=False, full=all_files
                    )


def _is_inside(file: Path, folder: Path) -> bool:
    """Tell whether a file lies below a folder, without a way up, a link or a pattern that stands for others."""
    if ".." in file.parts or not file.is_relative_to(folder) or file.is_symlink() or file.parent.is_symlink():
        return False
    return not any(character in "*?[" for character in str(file.relative_to(folder)))


_COLOUR = re.compile("\x1b\\[[0-9;]*m")
_ERRNO = re.compile(r"os error (\d+)")


@contextlib.contextmanager
def _as_os_errors(where: str, *, but: type[Exception] = FileNotFoundError) -> Iterator[None]:
    """Raise what delta-rs could not write as one kind of error, in one line of plain text."""
    try:
        yield
    except but:
        raise
    except (DeltaError, OSError) as error:
        text = _COLOUR.sub("", " ".join(str(error).split()))
        said = _ERRNO.search(text)
        raise OSError(int(said.group(1)) if said else errno.EIO, f"{where}: {text}") from error


_MASK = threading.RLock()


@contextlib.contextmanager
def private(folder: Path | None) -> Iterator[None]:
    """Make files of a local archive readable by their owner only; the mask is the whole process's, hence the lock."""
    if folder is None:
        yield
        return
    with _MASK:
        before = os.umask(0o077)
        try:
            yield
        finally:
            os.umask(before)
