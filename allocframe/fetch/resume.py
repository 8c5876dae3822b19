"""A fetch that survives its process: the next one continues with the pages in its folder.

The process can be killed at any instant. A page counts once its line in the journal is complete, and the line
is written after the page. Of the token, only the accessor is stored: it identifies a token and grants
nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .._utils.interrupts import finalize
from .._utils.locks import lock_file
from ..errors import AllocframeError, ConfigError
from ..store.capture import Capture, Page

FORMAT = 1
_IDENTITY = "walk.json"
_JOURNAL = "pages.ndjson"
_LOCK = "lock"
_OWN_FILES = (_IDENTITY, _JOURNAL, _LOCK, "*.json", "*.batch", "*.lenient", "*.part")


class ResumableCapture(Capture):
    """A capture in a folder, with the pages of earlier, interrupted fetches.

    The folder stays until the snapshot was used.

    Parameters
    ----------
    folder : Path
    identity : mapping
        The server, query and token. A fetch continues only if they are the same.

    Raises
    ------
    ConfigError
        The folder holds something else, or another process uses it.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        super().__init__(folder, temporary=False)
        self.finished: bool = False
        self.kept: bool = False
        resources = contextlib.ExitStack()
        self._release = finalize(self, resources.close)
        with contextlib.ExitStack() as undo:
            undo.callback(self._release)
            resources.callback(os.close, _lock_folder(folder))
            self._check_identity(dict(identity))
            self.sessions: list[list[Page]] = list(self._read_journal())
            self._journal = os.open(folder / _JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            resources.callback(os.close, self._journal)
            undo.pop_all()
        self._earlier_pages = {_key(page.params): page for page in self.pages}
        self.index: int = max((page.index or 0 for page in self.pages), default=0)
        self._next_number = max(self._pages, default=-1) + 1
        # The line end closes a line that was cut when the last process was killed.
        self._log({"session": datetime.now(UTC).isoformat()}, before=b"\n")
        self.sessions.append([])

    def _check_identity(self, identity: dict[str, Any]) -> None:
        file = self.folder / _IDENTITY
        part = file.with_suffix(".part")
        if not file.exists():
            if any(path.name not in (_LOCK, part.name) for path in self.folder.iterdir()):
                raise ConfigError(
                    f"{self.folder} is not empty and holds no interrupted fetch. Name a new folder"
                )
            part.write_text(json.dumps({"format": FORMAT, **identity}, indent=1), encoding="utf-8")
            part.replace(file)
            return
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            version = stored.pop("format")
        except (ValueError, KeyError, AttributeError) as error:
            raise ConfigError(f"{file} is damaged ({error}). Remove {self.folder} and start again") from None
        if version != FORMAT:
            raise ConfigError(
                f"{self.folder} was written by another version of allocframe. Finish it there, or remove it"
            )
        for name in identity:
            if stored.get(name) != identity[name]:
                raise ConfigError(
                    f"{self.folder} holds a fetch with another {name}: {stored.get(name)!r} then, "
                    f"{identity[name]!r} now. Their rows cannot be mixed. Resume it with the same {name}, "
                    "or name another folder"
                )

    def _read_journal(self) -> Iterator[list[Page]]:
        """Register the complete pages; yield those of each earlier session."""
        file, session = self.folder / _JOURNAL, list[Page]()
        for line in file.read_bytes().split(b"\n") if file.exists() else ():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the line was cut when its process was killed
            if "session" in entry:
                yield session
                session = []
            elif "discarded" in entry:
                self._pages.pop(entry["discarded"], None)
            else:
                page = Page(**entry)
                if self.file(page).exists() and self.file(page).stat().st_size == page.size:
                    self._pages[page.number] = page
                    session.append(page)
        yield session

    def take(self, params: Mapping[str, str]) -> Page | None:
        """Return the page that an earlier session fetched with these parameters.

        Each page is returned once.
        """
        return self._earlier_pages.pop(_key(params), None)

    def add(self, body: bytes, **metadata: Any) -> Page:
        """Store one page and log it.

        Raises
        ------
        AllocframeError
            The page shows an older state of the cluster than the pages that are stored already.
        """
        index = metadata.get("index")
        if index is not None and index < self.index and metadata["params"].get("stale") != "true":
            raise AllocframeError(
                f"the server's index is {index}, but was {self.index} when the pages in {self.folder} "
                "were fetched. The server was restored, or is another one, so their rows cannot be mixed. "
                "Remove the folder and start again"
            )
        page = super().add(body, **metadata)
        self._log(asdict(page))
        with self._lock:
            self.sessions[-1].append(page)
        return page

    def discard(self, page: Page) -> None:
        """Remove a broken page."""
        self._log({"discarded": page.number})
        with self._lock:
            for session in self.sessions:
                if page in session:
                    session.remove(page)
        super().discard(page)

    def notes(self) -> list[str]:
        """Return a note on when the pages were fetched, unless all are from this session."""
        sessions = [sorted(page.received_at for page in session) for session in self.sessions if session]
        if self.sessions[-1] and len(sessions) == 1:
            return []
        spans = ", ".join(
            f"{len(times):,} from {_clock(times[0])} to {_clock(times[-1])}" for times in sessions
        )
        summary = (
            "these rows were fetched at several times"
            if len(sessions) > 1
            else "no page had to be fetched again"
        )
        return [f"resumed: {summary}; pages in UTC: {spans}"]

    def _log(self, entry: Mapping[str, Any], before: bytes = b"") -> None:
        with self._lock:
            os.write(self._journal, before + json.dumps(entry).encode() + b"\n")

    def keep(self) -> None:
        """Keep the folder when the capture is closed."""
        self.kept = True

    def close(self) -> None:
        """Unlock the folder.

        Remove it if the fetch has finished and its snapshot was used without an error.
        """
        if self.finished and not self.kept:
            for pattern in _OWN_FILES:
                for file in self.folder.glob(pattern):
                    file.unlink(missing_ok=True)
            shutil.rmtree(self.folder / "spill", ignore_errors=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()
        self._release()


def _lock_folder(folder: Path) -> int:
    """Make the folder and lock it, so that no second fetch writes there; return the lock's descriptor."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / _LOCK, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        lock_file(lock, wait=False)
    except OSError:
        os.close(lock)
        raise ConfigError(
            f"another process is fetching into {folder}. Wait for it, or name another folder"
        ) from None
    return lock


def _key(params: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(params.items()))


def _clock(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M:%S}"
