"""A walk that outlives its process: each page that is kept is noted in a folder, so that the next walk goes on from there.

What is written can be cut at any instant: a page counts once its line in the journal is whole, and a line is written after its
page. Nothing of the token is kept but its accessor, which tells tokens apart and opens nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .._utils.locks import lock_file
from ..errors import AllocframeError, ConfigError
from ..store.capture import Capture, Page

FORMAT = 1
_ABOUT = "walk.json"
_JOURNAL = "pages.ndjson"
_LOCK = "lock"
_OURS = (_ABOUT, _JOURNAL, _LOCK, "*.json", "*.batch", "*.careful", "*.part")


class Resumable(Capture):
    """A capture in a folder that stays until it was used, and what was found there of an earlier walk.

    Parameters
    ----------
    folder : Path
    about : mapping
        What is asked, of whom and as whom; a walk goes on only where it is the same.

    Raises
    ------
    ConfigError
        The folder holds something else, or another process is at it.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        super().__init__(folder, temporary=False)
        self.finished = self.kept = False
        held = contextlib.ExitStack()
        self._release = weakref.finalize(self, held.close)
        with contextlib.ExitStack() as undo:
            undo.callback(self._release)
            held.callback(os.close, _locked(folder))
            self._check(dict(about))
            self.sessions = list(self._read())
            self._journal = os.open(folder / _JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            held.callback(os.close, self._journal)
            undo.pop_all()
        self._before = {_key(page.params): page for page in self.pages}
        self.index = max((page.index or 0 for page in self.pages), default=0)
        self._taken = max(self._pages, default=-1) + 1
        self._note({"session": datetime.now(UTC).isoformat()}, before=b"\n")  # which ends a line that was cut
        self.sessions.append([])

    def _check(self, about: dict[str, Any]) -> None:
        file = self.folder / _ABOUT
        part = file.with_suffix(".part")
        if not file.exists():
            if any(path.name not in (_LOCK, part.name) for path in self.folder.iterdir()):
                raise ConfigError(
                    f"{self.folder} holds something else than an interrupted walk; name a new folder"
                )
            part.write_text(json.dumps({"format": FORMAT, **about}, indent=1), encoding="utf-8")
            part.replace(file)
            return
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            version = found.pop("format")
        except (ValueError, KeyError, AttributeError) as error:
            raise ConfigError(f"{file} is damaged ({error}); remove {self.folder} and start anew") from None
        if version != FORMAT:
            raise ConfigError(f"{self.folder} was begun by another allocframe; finish it there, or remove it")
        for name in about:
            if found.get(name) != about[name]:
                raise ConfigError(
                    f"{self.folder} holds a walk with another {name}: {found.get(name)!r} then, {about[name]!r} now. Rows of "
                    "the two cannot be mixed: resume it as it was begun, or name another folder"
                )

    def _read(self) -> Iterator[list[Page]]:
        """Take in the pages that are whole; yield those of each walk before."""
        file, session = self.folder / _JOURNAL, list[Page]()
        for line in file.read_bytes().split(b"\n") if file.exists() else ():
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # cut, when its process was killed
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
        """Return the page that answered this before, once."""
        return self._before.pop(_key(params), None)

    def add(self, body: bytes, **said: Any) -> Page:
        """Keep one answer, and note that it is kept.

        Raises
        ------
        AllocframeError
            It comes from a state of the cluster before that of the pages that are there.
        """
        index = said.get("index")
        if index is not None and index < self.index and said["params"].get("stale") != "true":
            raise AllocframeError(
                f"the server's index is {index}, but was {self.index} when the pages in {self.folder} were fetched: it was "
                "restored, or is another one, so their rows cannot be mixed. Remove the folder and start anew"
            )
        page = super().add(body, **said)
        self._note(asdict(page))
        with self._lock:
            self.sessions[-1].append(page)
        return page

    def discard(self, page: Page) -> None:
        """Forget a page that turned out broken."""
        self._note({"discarded": page.number})
        with self._lock:
            for session in self.sessions:
                if page in session:
                    session.remove(page)
        super().discard(page)

    def notes(self) -> list[str]:
        """Say of what times the pages are, where they are of several."""
        times = [sorted(page.received_at for page in session) for session in self.sessions if session]
        if self.sessions[-1] and len(times) == 1:
            return []
        spans = ", ".join(f"{len(one):,} from {_clock(one[0])} to {_clock(one[-1])}" for one in times)
        said = "these rows are of several times" if len(times) > 1 else "nothing was fetched anew"
        return [f"resumed: {said}; pages in UTC: {spans}"]

    def _note(self, entry: Mapping[str, Any], before: bytes = b"") -> None:
        with self._lock:
            os.write(self._journal, before + json.dumps(entry).encode() + b"\n")

    def keep(self) -> None:
        self.kept = True

    def close(self) -> None:
        """Let go of the folder, and remove it once its walk has ended and its snapshot was used without an error."""
        if self.finished and not self.kept:
            for pattern in _OURS:
                for file in self.folder.glob(pattern):
                    file.unlink(missing_ok=True)
            shutil.rmtree(self.folder / "spill", ignore_errors=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()
        self._release()


def _locked(folder: Path) -> int:
    """Make the folder and hold it, so that no second walk writes there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = os.open(folder / _LOCK, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        lock_file(held, wait=False)
    except OSError:
        os.close(held)
        raise ConfigError(
            f"another process is fetching into {folder}; wait for it, or name another folder"
        ) from None
    return held


def _key(params: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(params.items()))


def _clock(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M:%S}"
