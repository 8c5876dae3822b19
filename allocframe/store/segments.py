"""Arrow tables that grow in parts: in memory, and on disk once they are many."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..tables import TABLES
from .decode import ALLOC_ROW

LIMIT = 192 << 20
"""Bytes of tables in memory. Beyond it they move to files."""

_FILE_ROWS = 64 << 10
"""Rows that are written, and read, at a time."""

_FEW_DELETED = 2000
"""At most this many deleted rows stay in memory, hidden; beyond that, the other rows are copied."""


@dataclass(frozen=True)
class _FilePart:
    """A part on disk: its files, by table, and the numbers of its first and last allocation."""

    files: dict[str, Path]
    first: int
    last: int


class Segments:
    """The tables of a store, in parts.

    A part has every table, with the column `ALLOC_ROW`; deleting rows of allocations deletes them in all.

    Parameters
    ----------
    folder : Path
        Where tables are written that do not fit in memory.
    """

    def __init__(self, folder: Path) -> None:
        self.version: int = 0
        """Grows with each change."""
        self.size: int = 0
        """Bytes of the tables in memory."""
        self._folder = folder
        self._numbers = itertools.count()
        self._memory: list[dict[str, pa.Table]] = []
        self._files: list[_FilePart] = []
        self._deleted: set[int] = set()
        self._lock = threading.RLock()

    @property
    def has_files(self) -> bool:
        """Whether a part of the tables is on disk."""
        return bool(self._files)

    def append(self, tables: dict[str, pa.Table]) -> None:
        """Add a part."""
        with self._lock:
            self.version += 1
            self._memory.append(tables)
            self.size += sum(map(_bytes_of, tables.values()))
            if self.size > LIMIT:
                self.spill()

    def spill(self) -> None:
        """Write what is in memory to files, one for each table, and forget it."""
        self._compact()
        if not self._memory:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self.adopt(write_part(self._folder, f"{next(self._numbers):06d}", self._memory))
        self._memory, self.size = [], 0

    def adopt(self, files: dict[str, Path]) -> None:
        """Add a part that another process wrote."""
        with self._lock:
            self.version += 1
            rows = _read_file(files["allocations"], [ALLOC_ROW])[ALLOC_ROW]
            first, last = pc.min_max(rows).values()
            self._files.append(_FilePart(files, first.as_py() or 0, last.as_py() or -1))

    def delete(self, rows: Iterable[int]) -> None:
        """Delete the rows of allocations, by their numbers."""
        with self._lock:
            self.version += 1
            self._deleted.update(rows)
            if len(self._deleted) > _FEW_DELETED:
                self._compact()

    def _compact(self) -> None:
        """Free the deleted rows' memory: a row is first only marked, since a deletion copies whole tables."""
        if not self._deleted:
            return
        deleted, self._deleted = pa.array(self._deleted, pa.int64()), set()
        for part in self._memory:
            for name, table in part.items():
                part[name] = _without(table, deleted)
        self._memory = [part for part in self._memory if any(map(len, part.values()))]
        self.size = sum(_bytes_of(table) for part in self._memory for table in part.values())
        for stored in self._files:
            for path in stored.files.values():
                table = _read_file(path, None)
                kept = _without(table, deleted)
                if len(kept) < len(table):
                    _write(path, kept)

    def scan(
        self, name: str, columns: Sequence[str] | None = None, selected: pa.Array[Any] | None = None
    ) -> Iterator[pa.Table]:
        """Yield a table in parts: only some `columns`, and the rows of the `selected` allocations.

        There is always one part, which may have no rows.
        """
        with self._lock:
            self._compact()
            memory, files = list(self._memory), list(self._files)
        names = list(columns) if columns is not None else [*TABLES[name].stored_schema().names, ALLOC_ROW]
        yield _empty(name).select(names)
        needed = names if selected is None else list(dict.fromkeys([*names, ALLOC_ROW]))
        if selected is not None:
            first, last = (edge.as_py() for edge in pc.min_max(selected).values())
            if first is None:
                return
            files = [part for part in files if part.first <= last and part.last >= first]
        for table in itertools.chain(
            (_read_file(part.files[name], needed) for part in files),
            (part[name].select(needed) for part in memory),
        ):
            if selected is not None:
                table = table.filter(pc.is_in(table[ALLOC_ROW], selected)).select(names)
            yield table

    def relations(self, name: str, *, apart: bool = False) -> list[Any]:
        """Return what DuckDB can read a table from: the part in memory, and the files.

        With `apart`, each file is a relation of its own.
        """
        with self._lock:
            self._compact()
            relations: list[Any] = [pa.concat_tables([_empty(name), *(part[name] for part in self._memory)])]
            if self._files:
                import pyarrow.dataset as ds  # here alone: it takes a while, and processes need none

                files = [str(part.files[name]) for part in self._files]
                groups = [[path] for path in files] if apart else [files]
                relations += [ds.dataset(group, format="ipc") for group in groups]
        return relations

    def of_allocations(self, name: str, keys: pa.Table) -> Iterator[pa.Table]:
        """Yield the rows of a table whose allocations are among these keys, in parts.

        Files are read some rows at a time: that takes a tenth of the memory that SQL takes for it.
        """
        with self._lock:
            self._compact()
            memory, files = list(self._memory), list(self._files)
        ids = pc.unique(keys["alloc_id"]).cast(pa.large_string())
        yield pa.concat_tables([_empty(name), *(_with_ids(part[name], ids) for part in memory)])
        for part in files:
            with pa.OSFile(str(part.files[name]), "rb") as file:
                reader = pa.ipc.open_file(file)
                batches = map(reader.get_batch, range(reader.num_record_batches))
                found = [_with_ids(pa.Table.from_batches([batch]), ids) for batch in batches]
            if any(map(len, found)):
                yield pa.concat_tables(found)

    def clear(self) -> None:
        """Delete every row."""
        with self._lock:
            self.version += 1
            self.size = 0
            self._memory, self._files, self._deleted = [], [], set()
            shutil.rmtree(self._folder, ignore_errors=True)


def write_part(folder: Path, stem: str, tables: Sequence[dict[str, pa.Table]]) -> dict[str, Path]:
    """Write tables to files, one for each name, and free them; return the files."""
    files = {}
    for name in TABLES:
        path = files[name] = folder / f"{stem}.{name}.arrow"
        # A file has one dictionary for each column, so those of the parts become one.
        _write(path, pa.concat_tables(part[name] for part in tables).unify_dictionaries())
        for part in tables:
            del part[name]
    return files


def _empty(name: str) -> pa.Table:
    return TABLES[name].stored_schema().append(pa.field(ALLOC_ROW, pa.int64())).empty_table()


def _bytes_of(table: pa.Table) -> int:
    # Columns without any value share their memory, see `tables.table.missing`.
    return sum(column.nbytes for column in table.columns if column.null_count < len(column))


def _without(table: pa.Table, deleted: pa.Array[Any]) -> pa.Table:
    is_deleted = pc.is_in(table[ALLOC_ROW], deleted)
    return table.filter(pc.invert(is_deleted)) if pc.any(is_deleted).as_py() else table


def _with_ids(table: pa.Table, ids: Any) -> pa.Table:
    return table.filter(pc.is_in(table["alloc_id"], ids))


def _write(path: Path, table: pa.Table) -> None:
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    part = path.with_suffix(".part")
    with pa.OSFile(str(part), "wb") as file, pa.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=_FILE_ROWS)
    part.replace(path)


def _read_file(path: Path, columns: Sequence[str] | None) -> pa.Table:
    with pa.OSFile(str(path), "rb") as file:
        names = pa.ipc.open_file(file).schema.names
        wanted = None if columns is None else [names.index(column) for column in columns]
        options = pa.ipc.IpcReadOptions(included_fields=wanted)
        table = pa.ipc.open_file(file, options=options).read_all()
    return table if columns is None else table.select(list(columns))
