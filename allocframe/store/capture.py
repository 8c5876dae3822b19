"""Captures: pages kept exactly as Nomad sent them, with what they say of themselves; saved, loaded, or read from files."""

from __future__ import annotations

import contextlib
import errno
import glob
import gzip
import json
import os
import shutil
import tempfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

import pyarrow as pa

from ..errors import DecodeError

FORMAT = 1
"""Version of the file that `Capture.save` writes."""

_MANIFEST = "manifest.json"
_LONGEST_MANIFEST = 256 << 20
"""Bytes: some hundred for each page, and what is known of an archive's days."""

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_GZIP_MAGIC = b"\x1f\x8b"

Kind = Literal["list", "read", "table", "cluster"]


@dataclass(frozen=True)
class Page:
    """One answer as it was sent, and how it was got."""

    number: int
    kind: Kind
    path: str
    params: dict[str, str]
    index: int | None
    last_contact: int | None
    known_leader: bool | None
    next_token: str | None
    received_at: str
    size: int
    source: str

    @property
    def file_name(self) -> str:
        return f"{self.number:06d}.json"


class Capture:
    """A folder of pages and a manifest; temporary, and removed when no longer used, unless a folder is named."""

    def __init__(self, folder: Path, *, temporary: bool) -> None:
        self.folder = folder
        self.info: dict[str, Any] = {}
        self._pages: dict[int, Page] = {}
        self._taken = 0
        self._lock = threading.Lock()
        self._remove = (
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True) if temporary else None
        )

    @classmethod
    def create(cls, folder: Path | None = None) -> Self:
        """Start an empty capture, in a temporary folder of its own where none is given."""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            return cls(folder, temporary=False)
        return cls(Path(tempfile.mkdtemp(prefix="allocframe-")), temporary=True)

    @property
    def pages(self) -> list[Page]:
        """The pages in the order they were asked for."""
        with self._lock:
            return [self._pages[number] for number in sorted(self._pages)]

    def file(self, page: Page) -> Path:
        """Return the file that holds `page`."""
        return self.folder / page.file_name

    def add(
        self,
        body: bytes,
        *,
        kind: Kind = "list",
        path: str,
        params: Mapping[str, str],
        index: int | None = None,
        last_contact: int | None = None,
        known_leader: bool | None = None,
        next_token: str | None = None,
        source: str = "",
    ) -> Page:
        """Keep one answer; safe to call from several threads."""
        with self._lock:
            number, self._taken = self._taken, self._taken + 1
        page = Page(
            number, kind, path, dict(params), index, last_contact, known_leader, next_token,
            datetime.now(UTC).isoformat(), len(body), source,
        )  # fmt: skip
        self.file(page).write_bytes(body)
        with self._lock:
            self._pages[number] = page
        return page

    def discard(self, page: Page) -> None:
        """Forget a page that turned out broken and will be asked for again."""
        with self._lock:
            self._pages.pop(page.number, None)
        self.file(page).unlink(missing_ok=True)

    def measure(self, page: Page) -> None:
        """Take in that the file of `page` was written by somebody else."""
        with self._lock:
            self._pages[page.number] = replace(page, size=self.file(page).stat().st_size)

    def describe(self, **info: Any) -> None:
        """Note plain-JSON facts about the query and the server."""
        self.info.update(info)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything into one compressed file, readable by its owner only.

        The file is a zip of zstandard-compressed pages and a manifest, and appears whole or not at all.
        """
        target = Path(path)
        part = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as raw, zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED) as archive:
                manifest = {
                    "format": FORMAT,
                    "info": self.info,
                    "pages": [asdict(page) for page in self.pages],
                }
                archive.writestr(_MANIFEST, json.dumps(manifest, indent=1))
                for page in self.pages:
                    with archive.open(f"pages/{page.file_name}.zst", "w", force_zip64=True) as member:
                        _copy(
                            self.file(page).open("rb"), pa.CompressedOutputStream(cast(Any, member), "zstd")
                        )
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return target

    def keep(self) -> None:
        """Take in that what was done with the answers failed: a folder that can be resumed from stays."""

    def close(self) -> None:
        """Remove the folder if it is a temporary one."""
        if self._remove is not None:
            self._remove()


def _copy(source: Any, target: Any, most: int | None = None) -> None:
    """Copy a file whole; ValueError where it is longer than it may be."""
    with source, target:
        while block := source.read(1 << 20):
            if most is not None and target.tell() + len(block) > most:
                raise ValueError(f"a page is longer than the {most:,} bytes that it was said to have")
            target.write(block)


_DAMAGED = (
    zipfile.BadZipFile, zlib.error, KeyError, TypeError, ValueError, EOFError, RuntimeError, NotImplementedError,
    RecursionError, pa.ArrowException,
)  # fmt: skip
"""What is raised by a file that is no capture, or that somebody has made up; EINVAL too, where it names a place before its start."""


def _checked_page(entry: Any) -> Page:
    """Return an entry of a manifest as a page; TypeError or ValueError where it is none."""
    page = Page(**entry)
    numbers = (page.number, page.size)
    if any(isinstance(value, bool) or not isinstance(value, int) or value < 0 for value in numbers):
        raise ValueError("the number or size of a page is none")
    if page.number >= 10**9 or page.kind not in get_args(Kind) or not isinstance(page.params, dict):
        raise ValueError("a page is of no known kind")
    if not all(isinstance(text, str) for text in (page.path, page.source, page.received_at)):
        raise TypeError("a page is not described by text")
    return page


def _checked_info(info: Any) -> dict[str, Any]:
    """Return what a manifest tells of its source; TypeError or ValueError where it could not have been written so."""
    found = dict(info)
    notes, filters, gaps = (found.get(name, []) for name in ("notes", "filters", "gaps"))
    if not all(isinstance(one, list) for one in (notes, filters, gaps)):
        raise TypeError("notes, filters and gaps must be lists")
    if not all(isinstance(note, str) for note in notes):
        raise TypeError("a note is no text")
    moments = [found.get(name) for name in ("started_at", "finished_at", "recorded_since", "since", "at")]
    for moment in [*moments, *(gap[name] for gap in gaps for name in ("since", "until"))]:
        if moment is not None:
            datetime.fromisoformat(moment)
    return found


def _check_room(file: Path, size: int, folder: Path) -> None:
    """Refuse a file that says that it needs more than there is, before it fills the disk."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DecodeError(
            f"{file} unpacks to {size:,} bytes, and {folder.parent} has room for {free:,}", file=str(file)
        )


def load_capture(path: str | os.PathLike[str]) -> Capture:
    """Open a file that `Capture.save` wrote. It may come from anybody, so nothing that it says of itself is believed."""
    file = Path(path)
    capture = Capture.create()
    try:
        with file.open("rb") as raw, zipfile.ZipFile(raw) as archive:
            _unpack(archive, file, capture)
    except (*_DAMAGED, OSError) as error:
        capture.close()
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        what = (
            f"{file} is not a file that allocframe saved, or it is damaged ({type(error).__name__}: {error})"
        )
        raise DecodeError(f"{what}; for JSON use af.read_json()", file=str(file)) from error
    except BaseException:
        capture.close()
        raise
    return capture


def _unpack(archive: zipfile.ZipFile, file: Path, capture: Capture) -> None:
    with archive.open(_MANIFEST) as member:
        told = member.read(_LONGEST_MANIFEST + 1)
    if len(told) > _LONGEST_MANIFEST:
        raise ValueError(f"its manifest is longer than {_LONGEST_MANIFEST:,} bytes")
    manifest = json.loads(told)
    if manifest["format"] > FORMAT:
        raise DecodeError(f"{file} was written by a newer allocframe; upgrade to read it", file=str(file))
    pages = {page.number: page for page in map(_checked_page, manifest["pages"])}
    if len(pages) < len(manifest["pages"]):
        raise ValueError("two pages have the same number")
    capture.info = _checked_info(manifest["info"])
    _check_room(file, sum(page.size for page in pages.values()), capture.folder)
    for page in pages.values():
        with archive.open(f"pages/{page.file_name}.zst") as packed:
            unpacked = pa.CompressedInputStream(cast(Any, packed), "zstd")
            _copy(unpacked, capture.file(page).open("wb"), most=page.size)
        if capture.file(page).stat().st_size != page.size:
            raise DecodeError(f"{file}: page {page.number} is cut short; get the file again", file=str(file))
    capture._pages = pages


def capture_files(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Capture:
    """Take in what curl or the Nomad CLI printed: JSON or NDJSON files, also .gz or .zst, or globs."""
    capture = Capture.create()
    with contextlib.ExitStack() as undo:
        undo.callback(capture.close)
        for file in _expand(paths):
            body = _plain(file.read_bytes(), file)
            capture.add(body, path=file.name, params={}, source=str(file))
        undo.pop_all()
    capture.describe(source="files", files=[page.source for page in capture.pages], complete=None)
    return capture


def _expand(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    for path in paths:
        if Path(path).is_file():
            yield Path(path)
            continue
        matches = sorted(glob.glob(os.fspath(path), recursive=True))
        if not matches:
            raise FileNotFoundError(f"no file matches {os.fspath(path)!r}")
        yield from (Path(match) for match in matches if Path(match).is_file())


def _plain(body: bytes, file: Path) -> bytes:
    """Return the text of a file that may be compressed, told by its first bytes."""
    try:
        if body.startswith(_GZIP_MAGIC):
            return gzip.decompress(body)
        if body.startswith(_ZSTD_MAGIC):
            return pa.CompressedInputStream(pa.BufferReader(body), "zstd").read()
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise DecodeError(f"{file} is damaged: {error}", file=str(file)) from error
    return body
