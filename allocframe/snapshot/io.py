"""Read snapshots from files: those that `Snapshot.save` wrote, and JSON from curl or the Nomad CLI."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .._utils.memory import decoding
from .._utils.progress import Progress, Show, shown
from .._utils.thread_pool import ThreadPool
from ..errors import ConfigError, DecodeError
from ..store.capture import Capture, find_files, load_capture
from ..store.page_store import PageStore
from ..store.table_store import TableStore
from ..store.worker_pool import MANY_BYTES, count_processes, count_threads
from .history import take_history
from .multi_cluster import MultiSnapshot, combine_available
from .snapshot import Snapshot


def load(path: str | os.PathLike[str], *, workers: int | None = None, progress: Progress = None) -> Snapshot:
    """Open a file that `Snapshot.save` wrote; the tables are the same as then.

    Parameters
    ----------
    path : path
    workers : int, optional
        ``1`` decodes in this process alone. The default uses every core from 200 MB of JSON on.
    progress : bool or callable, optional
        Whether to show how many pages are read; by default after a second, on a terminal or in a notebook. A
        function is called with the number of pages so far and of all.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    DecodeError
        The file is damaged, or something else.

    Examples
    --------
    >>> path = snap.save("outage.allocframe")
    >>> len(af.load(path)) == len(snap)
    True
    """
    capture = load_capture(path)
    if any(page.kind == "cluster" for page in capture.pages):
        return _load_clusters(capture)
    history = take_history(capture)
    has_tables = any(page.kind == "table" for page in capture.pages)
    snapshot = (
        Snapshot(capture, TableStore.load(capture)) if has_tables else _decode(capture, workers, progress)
    )
    snapshot.history = history
    try:
        for column, value in snapshot._capture.info.get("filters", []):
            snapshot = snapshot.filter(**{column: value})
    except (TypeError, ValueError) as error:
        snapshot.close()
        raise DecodeError(f"{path} was saved with an invalid filter: {error}", file=str(path)) from None
    return snapshot


def read_json(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    workers: int | None = None,
    progress: Progress = None,
) -> Snapshot:
    """Read allocations from JSON that curl or the Nomad CLI printed.

    Parameters
    ----------
    paths : path, glob, or several of them
        Lists of allocations, one or several in a row; NDJSON; single allocations; lines of the event stream,
        of which the newest version of each allocation is kept; the state that ``nomad operator snapshot
        state`` prints. ``.gz``, ``.zst`` and UTF-16 too.
    workers : int, optional
        ``1`` decodes in this process alone. The default uses every core from 200 MB of JSON on.
    progress : bool or callable, optional
        Whether to show how many files are read; by default after a second, on a terminal or in a notebook. A
        function is called with the number of files so far and of all.

    Raises
    ------
    FileNotFoundError
        A path or glob matches no file.
    DecodeError
        A file is not complete JSON, or holds something else, such as a list of jobs or a login page. The
        message names the file and shows how it begins. Or a path is a folder.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("curl.json").write_text('[{"ID": "5457f16d", "ClientStatus": "running"}]')
    >>> af.read_json("*.json").allocations["client_status"].tolist()
    ['running']
    """
    with _capturing(Capture.create()) as store, shown(progress) as show:
        files = list(find_files(paths))
        notes = [note for note in _read_files(store, files, workers, show) if note]
        about = {"source": "files", "files": [str(file) for file in files], "complete": None}
        store.capture.describe(**about, **({"notes": notes} if notes else {}))
        store.drop_duplicates()
    return Snapshot(store.capture, store)


def _read_files(store: PageStore, files: Sequence[Path], workers: int | None, show: Show) -> list[str | None]:
    """Capture and decode files; return the note on each."""
    capture = store.capture
    pages = [capture.add(b"", path=file.name, params={}, source=str(file)) for file in files]
    processes = 0 if workers == 1 else count_processes()
    expected = total = sum(file.stat().st_size for file in files)
    notes: list[str | None] = []
    size = unpacked = 0
    for number, (file, page) in enumerate(zip(files, pages, strict=True)):
        show(number, len(files), "files")
        if processes and expected > MANY_BYTES:
            store.use_processes()
            with ThreadPool(count_threads()) as pool:
                for note in pool.map(store.read_file, pages[number:]):
                    notes.append(note)
                    show(len(notes), len(files), "files")
            break
        notes.append(store.read_file(page))
        size, unpacked = size + file.stat().st_size, unpacked + capture.file(page).stat().st_size
        expected = total * unpacked // max(size, 1)
    return notes


@contextlib.contextmanager
def _capturing(capture: Capture) -> Iterator[PageStore]:
    """Yield a store for the pages of a capture; on error, close both."""
    store = PageStore(capture)
    try:
        with decoding():
            yield store
    except BaseException:
        store.close()
        capture.close()
        raise


def _decode(capture: Capture, workers: int | None, progress: Progress) -> Snapshot:
    pages = capture.pages
    with _capturing(capture) as store, shown(progress) as show, contextlib.ExitStack() as stack:
        each: Iterable[object] = map(store.read, pages)
        if workers != 1 and sum(page.size for page in pages) > MANY_BYTES:
            store.use_processes()
            each = stack.enter_context(ThreadPool(count_threads())).map(store.read, pages)
        for number, _ in enumerate(each, start=1):
            show(number, len(pages), "pages")
        store.drop_duplicates()
        if (newest := capture.info.get("keep_newest")) is not None:
            store.keep_newest(newest)
    return Snapshot(capture, store)


def _load_clusters(capture: Capture) -> MultiSnapshot:
    """Return what `MultiSnapshot.save` wrote.

    Raises
    ------
    DecodeError
        The file holds something else.
    """
    snapshots: dict[str, Snapshot] = {}
    try:
        for page in capture.pages:
            if page.kind != "cluster":
                raise DecodeError("the file mixes clusters with other pages")
            snapshots[page.path] = load(capture.file(page), progress=False)
        combined = combine_available(snapshots, capture.info["failed"])
        for column, value in capture.info["filters"]:
            combined = combined.filter(**{column: value})
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DecodeError(f"the saved snapshots of several clusters cannot be read: {error}") from None
    finally:
        capture.close()
    return combined
