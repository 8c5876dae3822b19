"""The Delta Lake tables in a folder or an object store: made, appended to, rewritten, listed."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from deltalake import DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, TableNotFoundError

from .._errors import DecodeError
from ._schema import STORED, VERSION

_VERSION = "allocframe.schemaVersion"
_CONFIGURATION = {
    _VERSION: str(VERSION),
    "delta.dataSkippingStatsColumns": "alloc_id,seen_at",
    # Opening a table reads its log from the last checkpoint on, and lists the folder: both are kept short.
    "delta.checkpointInterval": "50",
    "delta.logRetentionDuration": "interval 1 hours",
}
_LEFT_BEHIND_H = 24
_WRITING = WriterProperties(compression="ZSTD")

Overtaken = CommitFailedError
"""Somebody else wrote there first."""


class Tables:
    """Every table of one archive."""

    def __init__(self, path: str | os.PathLike[str], storage_options: Mapping[str, str] | None) -> None:
        self.where = os.fspath(path)
        scheme = urlsplit(self.where).scheme
        self.folder = Path(self.where).absolute() if len(scheme) < 2 else None
        self._options = dict(storage_options) if storage_options else None
        self._checked = False

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
        try:
            table = DeltaTable(self.uri(name), storage_options=self._options)
        except TableNotFoundError as error:
            raise FileNotFoundError(f"there is no archive in {self.where}") from error
        version = table.metadata().configuration.get(_VERSION) or "0"
        if int(version) > VERSION:
            raise DecodeError(
                f"{self.where} was written by a newer allocframe; upgrade to read it", file=name
            )
        return table

    def make(self) -> None:
        """Make the tables that are not there yet, and bring older ones to this version; safe for several at once."""
        if self._checked:
            return
        with private(self.folder):
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
        """Add rows to a table in one commit; appends of several writers do not hinder each other."""
        with private(self.folder):
            write_deltalake(
                self.uri(name), rows, mode="append", schema_mode="merge",
                writer_properties=_WRITING, storage_options=self._options,
            )  # fmt: skip

    def replace(self, table: DeltaTable, day: str, rows: pa.RecordBatchReader) -> None:
        """Put `rows` in the place of a whole day of `table` as it was opened.

        Raises
        ------
        Overtaken
            Somebody wrote to that day since; nothing has changed.
        """
        with private(self.folder):
            write_deltalake(
                table, rows, mode="overwrite", predicate=f"day = '{day}'", schema_mode="merge",
                writer_properties=_WRITING, storage_options=self._options,
            )  # fmt: skip

    def sources(self, table: DeltaTable, days: Any = None) -> list[str] | Any:
        """Return what DuckDB reads of a table: its files in a folder, an Arrow dataset of an object store."""
        if self.folder:
            return [str(uri) for uri in table.file_uris(partition_filters=days)]
        return table.to_pyarrow_dataset(partitions=days)

    def clear(self) -> None:
        """Remove files that no table needs any more, and what appends that were killed left a day ago."""
        for name in STORED:
            table = self.open(name)
            table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
            table.vacuum(_LEFT_BEHIND_H, dry_run=False, enforce_retention_duration=False, full=True)


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
