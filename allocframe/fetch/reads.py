"""Full reads of allocations: a single one, or many in parallel, where a failure does not lose the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from .._utils.progress import Progress, shown
from .._utils.thread_pool import Task
from ..errors import AllocframeError, DecodeError, NotFound
from ..nomad.config import Config
from ..nomad.transport import Response, Transport, parse_allocation, request_pool
from ..snapshot.allocation import Allocation
from ..snapshot.snapshot import Snapshot
from ..store.capture import Capture
from ..store.page_store import PageStore

MAX_FAILURES_IN_A_ROW = 10
"""After this many failed reads in a row, the rest are not sent."""

_IDS_IN_NOTES = 3


def read_allocation(transport: Transport, region: str | None, alloc_id: str) -> Allocation:
    """Read one allocation in full, by its complete ID."""
    path = f"/v1/allocation/{alloc_id}"
    params = {"region": region} if region else {}
    capture = Capture.create()
    store = PageStore(capture)

    def keep(response: Response) -> None:
        parse_allocation(alloc_id)(response)
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
    """Read allocations in full, by their complete IDs, as one snapshot.

    Raises
    ------
    AllocframeError
        None could be read, for a reason other than that they no longer exist.
    """
    reads = AllocationReader(transport, config.address, config.region)
    return Snapshot(*reads.run(alloc_ids, workers, progress))


class AllocationReader:
    """Reads allocations in full, by their complete IDs."""

    def __init__(self, transport: Transport, server: str, region: str | None) -> None:
        self._transport = transport
        self._source = {"source": "reads", "server": server, "region": region}
        self._params = {"region": region} if region else {}
        self._capture = Capture.create()
        self._store = PageStore(self._capture)
        self._errors: dict[str, AllocframeError] = {}
        self._failures_in_a_row = 0

    def run(self, ids: Sequence[str], workers: int, progress: Progress) -> tuple[Capture, PageStore]:
        """Read with `workers` parallel requests; return the captured responses and the decoded store.

        Raises
        ------
        AllocframeError
            None could be read, for a reason other than that they no longer exist: the first one's error.
        """
        started = datetime.now(UTC)
        try:
            self._read_all(ids, workers, progress)
            failed = {
                alloc_id: self._errors[alloc_id]
                for alloc_id in ids
                if not isinstance(self._errors.get(alloc_id), NotFound | None)
            }
            if failed and not self._capture.pages:
                raise next(iter(failed.values()))
            self._store.drop_duplicates()
        except BaseException:
            self._store.close()
            self._capture.close()
            raise
        self._capture.describe(**self._info(ids, failed, started))
        return self._capture, self._store

    def _read_all(self, ids: Sequence[str], workers: int, progress: Progress) -> None:
        waiting, done = list(reversed(ids)), 0
        running: dict[Task[None], str] = {}
        with shown(progress) as show, request_pool(self._transport, workers) as pool:
            while running or (waiting and self._failures_in_a_row < MAX_FAILURES_IN_A_ROW):
                while waiting and len(running) < workers and self._failures_in_a_row < MAX_FAILURES_IN_A_ROW:
                    alloc_id = waiting.pop()
                    running[pool.submit(self._read, alloc_id)] = alloc_id
                pool.wait()
                for task in [task for task in running if task.is_done]:
                    self._record_outcome(running.pop(task), task.result)
                    done += 1
                show(done, len(ids))
        skipped = AllocframeError(f"not read, because {MAX_FAILURES_IN_A_ROW} reads in a row had failed")
        self._errors |= dict.fromkeys(waiting, skipped)

    def _record_outcome(self, alloc_id: str, result: Callable[[], None]) -> None:
        try:
            result()
            self._failures_in_a_row = 0
        except NotFound as error:
            self._errors[alloc_id] = error
            self._failures_in_a_row = 0
        except AllocframeError as error:
            self._errors[alloc_id] = error
            self._failures_in_a_row += 1

    def _read(self, alloc_id: str) -> None:
        path = f"/v1/allocation/{alloc_id}"

        def keep(response: Response) -> None:
            body = _drop_job(parse_allocation(alloc_id)(response))
            page = self._capture.add(
                body, kind="read", path=path, params=self._params, index=response.headers.index
            )
            self._store.read(page, body)

        self._transport.get(path, self._params, check=keep)

    def _info(
        self, ids: Sequence[str], failed: dict[str, AllocframeError], started: datetime
    ) -> dict[str, Any]:
        """Return the snapshot's `info`."""
        gone = [alloc_id for alloc_id in ids if alloc_id in self._errors and alloc_id not in failed]
        pages = self._capture.pages
        indexes = [page.index for page in pages if page.index is not None]
        notes = [f"{len(ids):,} allocations were requested by ID, without job specifications"]
        if gone:
            examples = ", ".join(gone[:_IDS_IN_NOTES]) + (", …" if len(gone) > _IDS_IN_NOTES else "")
            notes.append(f"{len(gone):,} no longer exist, or are hidden from this token: {examples}")
        if failed:
            notes.append(f"{len(failed):,} could not be read: {next(iter(failed.values()))}")
        return {
            **self._source,
            "started_at": started.isoformat(),
            "finished_at": datetime.now(UTC).isoformat(),
            "index_first": min(indexes, default=None),
            "index_last": max(indexes, default=None),
            "pages": len(pages),
            "complete": not self._errors,
            "gone": gone,
            "failed": {alloc_id: str(error) for alloc_id, error in failed.items()},
            "notes": notes,
        }


def _drop_job(row: Any) -> bytes:
    """Return an allocation as JSON, with only the type and version of its job. The rest may hold secrets."""
    if not isinstance(row, dict):
        raise DecodeError("the response is not an allocation")
    if isinstance(job := row.get("Job"), dict):
        row["Job"] = {name: job[name] for name in ("Type", "Version", "ParentID") if name in job}
    return json.dumps(row, separators=(",", ":")).encode()
