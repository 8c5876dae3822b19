"""Full reads of allocations: one alone, or many side by side, where one that fails does not lose the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from datetime import UTC, datetime
from typing import Any

from .._utils.progress import Progress, shown
from ..errors import AllocframeError, DecodeError, NotFound
from ..nomad.config import Config
from ..nomad.transport import Response, Transport, parse_json, request_pool
from ..snapshot.allocation import Allocation
from ..snapshot.snapshot import Snapshot
from ..store.capture import Capture
from ..store.page_store import PageStore

MOST_IN_A_ROW = 10
"""Reads that fail one after the other before the rest are not asked for."""

_SHOWN = 3


def read_allocation(transport: Transport, region: str | None, alloc_id: str) -> Allocation:
    """Read one allocation in full, by its whole ID."""
    path = f"/v1/allocation/{alloc_id}"
    params = {"region": region} if region else {}
    capture = Capture.create()
    store = PageStore(capture)

    def keep(response: Response) -> None:
        page = capture.add(response.body, kind="read", path=path, params=params, index=response.headers.index)
        try:
            store.read(page)
        except BaseException:
            capture.discard(page)
            raise

    try:
        transport.get(path, params, check=keep)
        return Allocation(capture, store)
    except BaseException:
        store.close()
        capture.close()
        raise


def read_allocations(
    transport: Transport,
    config: Config,
    alloc_ids: Sequence[str],
    *,
    workers: int = 4,
    progress: Progress = None,
) -> Snapshot:
    """Read allocations in full, by their whole IDs, as one snapshot.

    Raises
    ------
    AllocframeError
        None could be read, and not because they are gone.
    """
    reads = AllocationReader(transport, config.address, config.region)
    return Snapshot(*reads.run(alloc_ids, workers, progress))


class AllocationReader:
    """Reads allocations by their whole IDs."""

    def __init__(self, transport: Transport, server: str, region: str | None) -> None:
        self._transport = transport
        self._about = {"source": "reads", "server": server, "region": region}
        self._params = {"region": region} if region else {}
        self._capture = Capture.create()
        self._store = PageStore(self._capture)
        self._errors: dict[str, AllocframeError] = {}
        self._in_a_row = 0

    def run(self, ids: Sequence[str], workers: int, progress: Progress) -> tuple[Capture, PageStore]:
        """Read with so many requests at a time; return what was captured, and its typed columns.

        Raises
        ------
        AllocframeError
            Not one could be read, and not because it is gone: what the first one met.
        """
        started = datetime.now(UTC)
        try:
            self._read_all(ids, workers, progress)
            errors = {identity: self._errors[identity] for identity in ids if identity in self._errors}
            failed = {i: error for i, error in errors.items() if not isinstance(error, NotFound)}
            if failed and not self._capture.pages:
                raise next(iter(failed.values()))
            self._store.flush()
            self._store.drop_duplicates()
        except BaseException:
            self._store.close()
            self._capture.close()
            raise
        self._capture.describe(**self._facts(ids, failed, started))
        return self._capture, self._store

    def _read_all(self, ids: Sequence[str], workers: int, progress: Progress) -> None:
        waiting, done = list(reversed(ids)), 0
        running: dict[Future[None], str] = {}
        with shown(progress) as show, request_pool(self._transport, workers) as pool:
            while running or (waiting and self._in_a_row < MOST_IN_A_ROW):
                while waiting and len(running) < workers and self._in_a_row < MOST_IN_A_ROW:
                    identity = waiting.pop()
                    running[pool.submit(self._read, identity)] = identity
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    self._ended(running.pop(future), future.result)
                    done += 1
                show(done, len(ids))
        unasked = AllocframeError(f"not asked for: {MOST_IN_A_ROW} reads in a row had failed")
        self._errors |= dict.fromkeys(waiting, unasked)

    def _ended(self, alloc_id: str, result: Callable[[], None]) -> None:
        try:
            result()
            self._in_a_row = 0
        except NotFound as error:
            self._errors[alloc_id] = error
            self._in_a_row = 0
        except AllocframeError as error:
            self._errors[alloc_id] = error
            self._in_a_row += 1

    def _read(self, alloc_id: str) -> None:
        path = f"/v1/allocation/{alloc_id}"

        def keep(response: Response) -> None:
            body = _without_job(parse_json(response))
            page = self._capture.add(
                body, kind="read", path=path, params=self._params, index=response.headers.index
            )
            self._store.defer(page, b"[" + body + b"]")

        self._transport.get(path, self._params, check=keep)

    def _facts(
        self, ids: Sequence[str], failed: dict[str, AllocframeError], started: datetime
    ) -> dict[str, Any]:
        gone = [identity for identity in ids if identity in self._errors and identity not in failed]
        pages = self._capture.pages
        indexes = [page.index for page in pages if page.index is not None]
        notes = [f"{len(ids):,} allocations were asked for by ID; job specifications are left out"]
        if gone:
            few = ", ".join(gone[:_SHOWN]) + (", …" if len(gone) > _SHOWN else "")
            notes.append(f"{len(gone):,} are gone, or not to be seen with this token: {few}")
        if failed:
            notes.append(f"{len(failed):,} could not be read: {next(iter(failed.values()))}")
        return {
            **self._about,
            "started_at": started.isoformat(),
            "finished_at": datetime.now(UTC).isoformat(),
            "index_first": min(indexes, default=None),
            "index_last": max(indexes, default=None),
            "pages": len(pages),
            "complete": not self._errors,
            "gone": gone,
            "failed": {identity: str(error) for identity, error in failed.items()},
            "notes": notes,
        }


def _without_job(row: Any) -> bytes:
    """Return an answer as JSON with nothing of the job's specification, which may hold secrets, but type and version."""
    if not isinstance(row, dict):
        raise DecodeError("the answer is not an allocation")
    if isinstance(job := row.get("Job"), dict):
        row["Job"] = {name: job[name] for name in ("Type", "Version", "ParentID") if name in job}
    return json.dumps(row, separators=(",", ":")).encode()
