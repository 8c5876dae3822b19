"""Processes that decode pages while this one downloads, or decodes others."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .capture import Capture, Page

MANY_BYTES = 200 << 20
"""From this many bytes on, processes are worth their start: a fifth of a second of another core."""

_MOST = 3

_IN_FLIGHT = 2
"""Pages that a process has at a time, so that it need not wait for the next until a thread here has run."""

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

The package's folder comes last, so that no file next to it is taken for a module of Python.
"""

Take = Callable[[dict[str, Path], list[Any]], None]
"""Takes the files of tables that a process wrote, and the issues of their pages."""


def count_processes() -> int:
    """Return how many processes can decode in addition to this one."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available - 1, _MOST)


def count_threads() -> int:
    """Return how many threads keep those processes and this one busy."""
    return 1 + _IN_FLIGHT * count_processes()


class _Process:
    """One process, and the pages whose tables it has not written yet."""

    def __init__(self, folder: Path) -> None:
        package = str(Path(__file__).parents[1])
        self.unwritten: list[Page] = []
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        # -P: a `json.py` in the current folder is none of Python's. Ctrl-C is for this process alone.
        self._child: Any = subprocess.Popen(  # noqa: S603 - the command is this interpreter and this package
            [sys.executable, "-P", "-c", _START, package, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def ask(self, note: Callable[[dict[str, Any]], None], **request: Any) -> None:
        """Send one request and `note` its answer; raise OSError if the process has ended.

        Other threads may send more meanwhile. Answers come, and are noted, in the order of the requests.
        """
        with self._sending:
            self.send(**request)
            self._receiving.acquire()  # before anybody else sends
        try:
            note(self.receive())
        finally:
            self._receiving.release()

    def send(self, **request: Any) -> None:
        """Send one request."""
        self._child.stdin.write(json.dumps(request) + "\n")
        self._child.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Wait for the answer to the oldest request."""
        line = self._child.stdout.readline()
        if not line.endswith("\n"):
            raise OSError("a decoding process has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> list[Page]:
        """End the process, and return the pages that it had, to the first thread that calls this."""
        self.close()
        with self._receiving:
            pages, self.unwritten = self.unwritten, []
        return pages

    def close(self) -> None:
        """End the process. Can be called twice, and while another thread asks."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            with contextlib.suppress(OSError, ValueError):
                pipe.close()


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
        for process in self._processes * _IN_FLIGHT:
            self._free.put(process)

    def read(self, page: Page, *, is_file: bool = False) -> list[str] | None:
        """Decode a page in a process; return its IDs. If the page `is_file`, capture that file, too.

        Return None if no process is free, if the page is not whole, or if it is a file that is not a list of
        allocations. Then the caller decodes it, and raises the error.
        """
        try:
            process = self._free.get_nowait()
        except queue.Empty:
            return None
        ids: list[str] | None = None

        def note(answer: dict[str, Any]) -> None:
            nonlocal ids
            if "error" not in answer:
                process.unwritten.append(page)
                ids = answer["ids"]
                self._took(process, answer)

        try:
            source = page.source or page.file_name
            file = str(self._capture.file(page))
            original = str(Path(source).absolute()) if is_file else None
            process.ask(note, page=page.number, source=source, file=file, original=original)
        except (OSError, ValueError):
            self._replace(process)
            return None
        self._free.put(process)
        return ids

    def _took(self, process: _Process, answer: dict[str, Any]) -> None:
        if "files" in answer:
            self._take({name: Path(path) for name, path in answer["files"].items()}, answer["issues"])
            process.unwritten.clear()

    def _replace(self, process: _Process) -> None:
        """Decode here what a process had that was killed, such as by a system without memory."""
        for page in process.end():
            self._read(page)

    def finish(self, meanwhile: Callable[[], None]) -> None:
        """Take what is left, and end the processes. No page may be under way.

        `meanwhile` is called while they write.
        """
        waiting = [process for process in self._processes if process.unwritten]
        try:
            for process in waiting:
                with contextlib.suppress(OSError, ValueError):  # then no answer comes, either
                    process.send(flush=True)
            meanwhile()
            for process in waiting:
                try:
                    self._took(process, process.receive())
                except (OSError, ValueError):
                    self._replace(process)
        finally:
            self.close()

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.close()
