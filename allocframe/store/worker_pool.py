"""Processes that decode pages while this one downloads, or decodes others."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .capture import Capture, Page

MANY_BYTES = 200 << 20
"""From this many bytes on, processes are worth their start, which takes half a second."""

_MOST = 3

_START = """
import sys, types
package, folder = sys.argv[1:]
sys.path.append(package.removesuffix("allocframe"))
allocframe = sys.modules["allocframe"] = types.ModuleType("allocframe")
allocframe.__path__ = [package]
from allocframe.store import worker
worker.main(folder)
"""
"""Starts a process without what the package imports at its top: pandas alone takes longer than all the rest.

The package's folder comes last, so that nothing beside it is taken for a module of Python.
"""

Take = Callable[[dict[str, Path], list[Any]], None]
"""Takes the files of tables that a process wrote, and the issues of their pages."""


def count_processes() -> int:
    """Return how many processes can decode beside this one."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available - 1, _MOST)


class _Process:
    """One process, and the pages whose tables it has not written yet."""

    def __init__(self, folder: Path) -> None:
        package = str(Path(__file__).parents[1])
        self.unwritten: list[Page] = []
        # -P: a `json.py` in the current folder is none of Python's. Ctrl-C is for this process alone.
        self._child: Any = subprocess.Popen(  # noqa: S603 - the command is this interpreter and this package
            [sys.executable, "-P", "-c", _START, package, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and return the answer; raise OSError if the process has ended."""
        self._child.stdin.write(json.dumps(request) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line.endswith("\n"):
            raise OSError("a decoding process has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._child.kill()
        with contextlib.suppress(OSError):
            self._child.communicate()


class WorkerPool:
    """Processes for one capture.

    Parameters
    ----------
    capture : Capture
    folder : Path
        Where they write tables.
    take : callable
        Is called with what they have written.
    read : callable
        Decodes a page in this process, if the one that had it was killed.
    """

    def __init__(
        self, capture: Capture, folder: Path, take: Take, read: Callable[[Page], Any], count: int
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._capture, self._take, self._read = capture, take, read
        self._free: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._processes = [_Process(folder) for _ in range(count)]
        for process in self._processes:
            self._free.put(process)

    def read(self, page: Page, *, is_file: bool = False) -> list[str] | None:
        """Decode a page in a process; return its IDs.

        Return None if no process is free, if the page is not whole, or if it is a file that is not a list of
        allocations. Then the caller decodes it, and raises the error.
        """
        try:
            process = self._free.get_nowait()
        except queue.Empty:
            return None
        try:
            source = page.source or page.file_name
            file = str(self._capture.file(page))
            answer = process.ask(page=page.number, source=source, file=file, is_file=is_file)
        except (OSError, ValueError):
            self._replace(process)
            return None
        try:
            if "error" in answer:
                return None
            process.unwritten.append(page)
            self._took(process, answer)
        finally:
            self._free.put(process)
        ids: list[str] = answer["ids"]
        return ids

    def _took(self, process: _Process, answer: dict[str, Any]) -> None:
        if "files" in answer:
            process.unwritten.clear()
            self._take({name: Path(path) for name, path in answer["files"].items()}, answer["issues"])

    def _replace(self, process: _Process) -> None:
        """Decode here what a process had that was killed, such as by a system without memory."""
        process.close()
        for page in process.unwritten:
            self._read(page)
        process.unwritten.clear()

    def finish(self) -> None:
        """Take what is left, and end the processes. No page may be under way."""
        for process in self._processes:
            try:
                if process.unwritten:
                    self._took(process, process.ask(flush=True))
            except (OSError, ValueError):
                self._replace(process)
        self.close()

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.close()
