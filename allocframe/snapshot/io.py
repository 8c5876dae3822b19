"""Read snapshots from files: saved evidence, and JSON that curl or the Nomad CLI printed."""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..errors import ConfigError, DecodeError
from ..store.capture import Capture, capture_files, load_capture
from ..store.page_store import PageStore
from ..store.table_store import TableStore
from .multi_cluster import MultiSnapshot, joined
from .snapshot import Snapshot


def load(path: str | os.PathLike[str]) -> Snapshot:
    """Open what `Snapshot.save` wrote; the tables are the same as then.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    DecodeError
        It is not such a file, or it is damaged.

    Examples
    --------
    >>> path = snap.save("outage.allocframe")
    >>> len(af.load(path)) == len(snap)
    True
    """
    capture = load_capture(path)
    if any(page.kind == "cluster" for page in capture.pages):
        return loaded(capture)
    tables = any(page.kind == "table" for page in capture.pages)
    snapshot = Snapshot(capture, TableStore.of(capture)) if tables else _decoded(capture)
    try:
        for column, value in snapshot._capture.info.get("filters", []):
            snapshot = snapshot.filter(**{column: value})
    except (TypeError, ValueError) as error:
        snapshot.close()
        raise DecodeError(f"{path} was saved with a filter that is none: {error}", file=str(path)) from None
    return snapshot


def read_json(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Snapshot:
    """Read allocations from files: what curl or the Nomad CLI printed.

    Parameters
    ----------
    paths : path, glob, or several of them
        JSON arrays, NDJSON, or single objects; ``.gz`` and ``.zst`` too.

    Raises
    ------
    FileNotFoundError
        A path or glob matches no file.
    DecodeError
        A file is not whole JSON; says which file and record.

    Examples
    --------
    >>> from pathlib import Path
    >>> _ = Path("curl.json").write_text('[{"ID": "5457f16d", "ClientStatus": "running"}]')
    >>> af.read_json("*.json").allocations["client_status"].tolist()
    ['running']
    """
    return _decoded(capture_files(paths))


def _decoded(capture: Capture) -> Snapshot:
    store = PageStore(capture)
    try:
        for page in capture.pages:
            store.read(page)
        store.settle()
    except BaseException:
        store.close()
        capture.close()
        raise
    return Snapshot(capture, store)


def loaded(capture: Capture) -> MultiSnapshot:
    """Return what `MultiSnapshot.save` wrote.

    Raises
    ------
    DecodeError
        It is not that.
    """
    members: dict[str, Snapshot] = {}
    try:
        for page in capture.pages:
            if page.kind != "cluster":
                raise DecodeError("the file holds more than the evidence of clusters")
            members[page.path] = load(capture.file(page))
        found = joined(members, capture.info["failed"])
        for column, value in capture.info["filters"]:
            found = found.filter(**{column: value})
    except (ConfigError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise DecodeError(f"the saved evidence of several clusters cannot be read: {error}") from None
    finally:
        capture.close()
    return found
