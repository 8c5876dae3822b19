"""A process that decodes pages while its parent does, too; `worker_pool` starts it.

It reads one request a line from its input, and answers each with a line. Decoding in threads would not help,
since Python runs one at a time, and `multiprocessing` would run the user's script again.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pyarrow as pa

from .._utils.memory import keep_freed_memory
from ..errors import DecodeError
from .capture import read_file
from .decode import BATCH, Records, build_tables, decode_list, decode_parts
from .segments import write_part

FILE = 16 << 20
"""Bytes of tables that are written together."""


class Worker:
    """Decodes pages and writes their tables to files.

    Parameters
    ----------
    folder : Path
        Where the files go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pending: list[Records] = []
        self._tables: list[dict[str, pa.Table]] = []
        self._issues: list[tuple[Any, ...]] = []
        self._count = 0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Decode a page and return its IDs; or write what is left, and return the files and what was odd."""
        if "page" in request:
            return {"ids": self._read(request), **self._write(FILE)}
        return self._write(0)

    def _read(self, request: dict[str, Any]) -> list[str]:
        ids: list[str] = []
        parts = []
        page, source, file = request["page"], request["source"], Path(request["file"])
        found: Iterable[Records] | None
        if request["original"] is None:
            found = decode_parts(file.read_bytes(), page, source)
        else:
            try:
                body = read_file(Path(request["original"]))
            except OSError as error:
                raise DecodeError(str(error)) from error
            found = decode_list(body, page, source)
            if found is None:
                raise DecodeError("the file is not a list of allocations")
            file.write_bytes(body)
        for records in found:
            ids += records.ids
            parts.append(records)
        # Only whole pages count: the parent reads one again that is not.
        self._pending += parts
        if sum(records.size for records in self._pending) >= BATCH:
            self._build()
        return ids

    def _build(self) -> None:
        self._tables.append(build_tables(self._pending))
        for page in self._pending:
            self._issues += [(page.source, page.page, astuple(issue)) for issue in page.issues]
        self._pending = []

    def _write(self, least: int) -> dict[str, Any]:
        """Write the tables if they have `least` bytes."""
        if not least and self._pending:
            self._build()
        if not self._tables or sum(table.nbytes for part in self._tables for table in part.values()) < least:
            return {}
        # The name tells the process, since all write to one folder.
        files = write_part(self._folder, f"{os.getpid()}-{self._count:06d}", self._tables)
        self._count += 1
        done = {"files": {name: str(path) for name, path in files.items()}, "issues": self._issues}
        self._tables, self._issues = [], []
        return done


class _NoPandas:
    """A finder of modules that keeps Arrow from importing pandas, which it does to know its arrays."""

    @staticmethod
    def find_spec(name: str, *_: Any) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name)


def main(folder: str) -> None:
    """Answer requests until the input ends."""
    # Structs make no circles, and looking for some takes a tenth of the time.
    gc.disable()
    keep_freed_memory()
    sys.meta_path.insert(0, _NoPandas)
    worker = Worker(Path(folder))
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except DecodeError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)
