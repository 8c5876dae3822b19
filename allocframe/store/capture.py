"""Captures: answers exactly as Nomad sent them, with their queries; saved, loaded, or read from files."""

from __future__ import annotations

import errno
import glob
import gzip
import json
import os
import secrets
import shutil
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

import pyarrow as pa

from .._utils.interrupts import finalize
from .._utils.temporary import make_folder, remove_folder
from ..errors import DecodeError

FORMAT = 1
"""Version of the file that `Capture.save` writes."""

_MANIFEST = "manifest.json"
_LONGEST_MANIFEST = 256 << 20
"""Bytes. A manifest has a few hundred for each page, and facts about an archive's days."""

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_GZIP_MAGIC = b"\x1f\x8b"

Kind = Literal["list", "read", "table", "cluster", "history"]


@dataclass(frozen=True)
class Page:
    """One answer of Nomad: its query, and what its headers said."""

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
    """A folder of pages and facts about them. It is temporary, and removed after use, unless it was named."""

    def __init__(self, folder: Path, *, temporary: bool) -> None:
        self.folder = folder
        self.info: dict[str, Any] = {}
        self._pages: dict[int, Page] = {}
        self._next_number = 0
        self._lock = threading.Lock()
        self._remove = finalize(self, remove_folder, folder) if temporary else None

    @classmethod
    def create(cls, folder: Path | None = None) -> Self:
        """Return an empty capture, in a temporary folder unless one is given."""
        if folder is not None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)  # evidence holds names and messages
            return cls(folder, temporary=False)
        return cls(make_folder(), temporary=True)

    @property
    def pages(self) -> list[Page]:
        """The pages in the order in which they were added."""
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
        """Write one answer to the folder. Several threads may call this."""
        with self._lock:
            number, self._next_number = self._next_number, self._next_number + 1
        page = Page(
            number, kind, path, dict(params), index, last_contact, known_leader, next_token,
            datetime.now(UTC).isoformat(), len(body), source,
        )  # fmt: skip
        self.file(page).write_bytes(body)
        with self._lock:
            self._pages[number] = page
        return page

    def discard(self, page: Page) -> None:
        """Remove a broken page, which will be fetched again."""
        with self._lock:
            self._pages.pop(page.number, None)
        self.file(page).unlink(missing_ok=True)

    def rewrite(self, page: Page, body: bytes) -> None:
        """Replace what a page holds."""
        self.file(page).write_bytes(body)
        self.update_size(page)

    def update_size(self, page: Page) -> None:
        """Note the size of a page whose file was written from outside."""
        with self._lock:
            self._pages[page.number] = replace(page, size=self.file(page).stat().st_size)

    def describe(self, **info: Any) -> None:
        """Add facts about the query and the server; the values must be plain JSON."""
        self.info.update(info)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything to one compressed file that only its owner can read.

        The file is a zip of zstandard-compressed pages and a manifest. It is complete, or it is not there.
        """
        target = Path(path)
        part = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
        # Exclusively: in a folder that others may write to, somebody could have put a link there.
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
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
                archive.close()
                # On the disk before it has its name, or a power loss could leave an empty file of that name.
                raw.flush()
                os.fsync(raw.fileno())
            part.replace(target)
            sync_path(target.parent)
        finally:
            part.unlink(missing_ok=True)
        return target

    def keep(self) -> None:
        """Keep the folder after an error. Only a `ResumableCapture` has a folder to keep."""

    def close(self) -> None:
        """Remove the folder if it is temporary."""
        if self._remove is not None:
            self._remove()


def sync_path(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _copy(source: Any, target: Any, limit: int | None = None) -> None:
    """Copy a file; raise ValueError if it is longer than `limit` bytes."""
    with source, target:
        while block := source.read(1 << 20):
            if limit is not None and target.tell() + len(block) > limit:
                raise ValueError(f"a page is longer than the {limit:,} bytes in the manifest")
            target.write(block)


_DAMAGED = (
    zipfile.BadZipFile, zlib.error, KeyError, TypeError, ValueError, EOFError, RuntimeError,
    NotImplementedError, RecursionError, pa.ArrowException,
)  # fmt: skip
"""What damaged or forged files raise. An offset before their start raises an OSError with EINVAL, too."""


def _checked_page(entry: Any) -> Page:
    """Return an entry of a manifest as a page; raise TypeError or ValueError if it is invalid."""
    page = Page(**entry)
    numbers = (page.number, page.size)
    if any(isinstance(value, bool) or not isinstance(value, int) or value < 0 for value in numbers):
        raise ValueError("the number or size of a page is invalid")
    if page.number >= 10**9 or page.kind not in get_args(Kind) or not isinstance(page.params, dict):
        raise ValueError("the kind of a page is unknown")
    if not all(isinstance(text, str) for text in (page.path, page.source, page.received_at)):
        raise TypeError("the path, source and time of a page must be text")
    return page


def _checked_info(info: Any) -> dict[str, Any]:
    """Return the facts in a manifest; raise TypeError or ValueError if they are invalid."""
    facts = dict(info)
    newest = facts.get("keep_newest", 0)
    if isinstance(newest, bool) or not isinstance(newest, int) or newest < 0:
        raise TypeError("keep_newest must be a whole number")
    notes, filters, gaps = (facts.get(name, []) for name in ("notes", "filters", "gaps"))
    if not all(isinstance(value, list) for value in (notes, filters, gaps)):
        raise TypeError("notes, filters and gaps must be lists")
    if not all(isinstance(note, str) for note in notes):
        raise TypeError("notes must be text")
    times = [facts.get(name) for name in ("started_at", "finished_at", "recorded_since", "since", "at")]
    for time in [*times, *(gap[name] for gap in gaps for name in ("since", "until"))]:
        if time is not None:
            datetime.fromisoformat(time)
    return facts


def _check_disk_space(file: Path, size: int, folder: Path) -> None:
    """Refuse a file that would fill the disk, before it is unpacked."""
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DecodeError(
            f"{file} unpacks to {size:,} bytes, but {folder.parent} has only {free:,} free", file=str(file)
        )


def load_capture(path: str | os.PathLike[str]) -> Capture:
    """Open a file that `Capture.save` wrote. It may come from anybody, so its manifest is not trusted."""
    file = Path(path)
    capture = Capture.create()
    try:
        with file.open("rb") as raw, zipfile.ZipFile(raw) as archive:
            _unpack(archive, file, capture)
    except (*_DAMAGED, OSError) as error:
        capture.close()
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        reason = f"{type(error).__name__}: {error}"
        raise DecodeError(
            f"{file} is damaged, or allocframe did not save it ({reason}). For JSON use af.read_json()",
            file=str(file),
        ) from error
    except BaseException:
        capture.close()
        raise
    return capture


def _unpack(archive: zipfile.ZipFile, file: Path, capture: Capture) -> None:
    with archive.open(_MANIFEST) as member:
        text = member.read(_LONGEST_MANIFEST + 1)
    if len(text) > _LONGEST_MANIFEST:
        raise ValueError(f"its manifest is longer than {_LONGEST_MANIFEST:,} bytes")
    manifest = json.loads(text)
    if manifest["format"] > FORMAT:
        raise DecodeError(f"{file} was written by a newer allocframe. Upgrade to read it", file=str(file))
    pages = {page.number: page for page in map(_checked_page, manifest["pages"])}
    if len(pages) < len(manifest["pages"]):
        raise ValueError("two pages have the same number")
    capture.info = _checked_info(manifest["info"])
    _check_disk_space(file, sum(page.size for page in pages.values()), capture.folder)
    for page in pages.values():
        with archive.open(f"pages/{page.file_name}.zst") as packed:
            unpacked = pa.CompressedInputStream(cast(Any, packed), "zstd")
            _copy(unpacked, capture.file(page).open("wb"), limit=page.size)
        if capture.file(page).stat().st_size != page.size:
            raise DecodeError(f"{file}: page {page.number} is truncated. Copy the file again", file=str(file))
    capture._pages = pages
    capture._next_number = max(pages, default=-1) + 1


def find_files(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """Yield the files that paths and globs name.

    Raises
    ------
    FileNotFoundError
        A path or glob matches no file.
    DecodeError
        A path is a folder.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    for path in paths:
        if Path(path).is_file():
            yield Path(path)
            continue
        if Path(path).is_dir():
            name = os.fspath(path)
            raise DecodeError(f"{name} is a folder. Name its files, such as {name}/*.json", file=name)
        files = [Path(match) for match in sorted(glob.glob(os.fspath(path), recursive=True))]
        files = [file for file in files if file.is_file()]
        if not files:
            raise FileNotFoundError(f"no file matches {os.fspath(path)!r}")
        yield from files


def read_file(file: Path) -> bytes:
    """Return the content of a file, unpacked if it is compressed.

    Raises
    ------
    DecodeError
        It cannot be unpacked.
    """
    body = file.read_bytes()
    try:
        if body.startswith(_GZIP_MAGIC):
            return gzip.decompress(body)
        if body.startswith(_ZSTD_MAGIC):
            return pa.CompressedInputStream(pa.BufferReader(body), "zstd").read()
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise DecodeError(f"{file} is damaged: {error}", file=str(file)) from error
    return body
