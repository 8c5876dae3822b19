"""CPU and memory that tasks use, as their nodes measure it, next to what they requested."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from .._utils.text import escaped, visible
from .._utils.validate import check_count, check_seconds
from ..errors import AllocframeError, ConfigError, DecodeError
from ..nomad.connection import check_workers
from ..nomad.transport import request_pool
from ..snapshot.snapshot import Snapshot
from .session import Session

_CPU = "Percent"
_MEMORY = ("RSS", "Usage")
_MIB = 1 << 20
_STALE_NS = 60 * 10**9

SAMPLES = {
    "alloc_id": "str", "namespace": "str", "job_id": "str", "job_version": "Int64", "task_group": "str", "task": "str", "node_name": "str",
    "sample": "int64", "at": "datetime64[ns, UTC]", "stale": "boolean", "cpu_mhz": "Float64", "cpu_requested_mhz": "Float64",
    "memory_mib": "Float64", "memory_requested_mib": "Float64", "memory_max_mib": "Float64", "memory_measured": "str",
}  # fmt: skip
ERRORS = {"alloc_id": "str", "sample": "Int64", "error": "str"}


class Usage:
    """Samples of what tasks use, made by `Client.usage`.

    Attributes
    ----------
    samples : pandas.DataFrame
        One row for each sample of a task: what it is (alloc_id, namespace, job_id, job_version, task_group, task, node_name), sample
        (which round, from 0), at (the node's clock; missing where the node has none), stale (measured long before the others: it does
        not run), cpu_mhz, cpu_requested_mhz, memory_mib, memory_requested_mib, memory_max_mib, memory_measured ("RSS", else "Usage").
        What the driver does not measure is missing.
    errors : pandas.DataFrame
        One row for each allocation and round that could not be had: alloc_id, sample (missing where not even the allocation could be
        read, so that it was not asked again), error.
    """

    def __init__(self, samples: pd.DataFrame, errors: pd.DataFrame) -> None:
        self.samples = samples
        self.errors = errors

    def __len__(self) -> int:
        return len(self.samples)

    def _told(self) -> list[str]:
        measured = self.samples.dropna(subset=["at"])
        found = (
            f"{len(measured):,} samples of {len(measured[['alloc_id', 'task']].drop_duplicates()):,} tasks"
        )
        unmeasured = len(self.samples) - len(measured)
        told = [f"{found}, {unmeasured:,} without a measurement" if unmeasured else found]
        if len(self.errors):
            told.append(
                f"{self.errors['alloc_id'].nunique():,} allocations could not always be asked; see .errors, such as"
            )
            told += [f"{row.alloc_id}: {row.error}" for row in self.errors.head(3).itertuples()]
        return told

    def __repr__(self) -> str:
        return "\n  ".join(["<Usage: " + self._told()[0] + ">", *map(visible, self._told()[1:])])

    def _repr_html_(self) -> str:
        head, *rest = self._told()
        return f"<div><strong>Usage</strong>: {escaped(head)}<ul>{''.join(f'<li>{escaped(one)}</li>' for one in rest)}</ul></div>"


def sample_usage(
    session: Session,
    allocations: Snapshot | Iterable[str],
    *,
    samples: int = 1,
    interval: float = 10.0,
    workers: int = 4,
) -> Usage:
    """Sample what tasks use; see `Client.usage`."""
    check_count("samples", samples)
    check_workers(workers)
    check_seconds("interval", interval, zero=True)
    alloc_ids = list(dict.fromkeys(_alloc_ids(allocations)))
    rows: list[dict[str, Any]] = []
    errors: list[dict[str, Any]] = []
    with request_pool(session.transport, workers) as pool:

        def get_each(ids: list[str], path: str, sample: int | None) -> dict[str, dict[str, Any]]:
            """Return the answer about each allocation; note an error for those without one."""
            answers = dict(zip(ids, pool.map(lambda each: _get(session, path, each), ids), strict=True))
            errors.extend(
                _error(i, sample, answer) for i, answer in answers.items() if isinstance(answer, str)
            )
            return {i: answer for i, answer in answers.items() if not isinstance(answer, str)}

        allocs = get_each(alloc_ids, "/v1/allocation/{}", None)
        started = time.monotonic()
        for number in range(samples):
            # Rounds keep to a fixed schedule, so that slow answers do not stretch the interval.
            session.transport.pause(max(started + number * interval - time.monotonic(), 0.0))
            stats = get_each(list(allocs), "/v1/client/allocation/{}/stats", number)
            for alloc_id, measured in stats.items():
                try:
                    rows += usage_rows(allocs[alloc_id], measured, number)
                except DecodeError as error:
                    errors.append(_error(alloc_id, number, str(error)))
    return Usage(samples_frame(rows), errors_frame(errors))


def _get(session: Session, path: str, alloc_id: str) -> dict[str, Any] | str:
    """Return the answer about an allocation, or the reason why there is none."""
    try:
        answer = session.get_json(path.format(session.resolve_id(alloc_id)))
    except AllocframeError as error:
        return str(error)
    return answer if isinstance(answer, dict) else "the answer is not an object"


def _error(alloc_id: str, sample: int | None, message: str) -> dict[str, Any]:
    return {"alloc_id": alloc_id, "sample": sample, "error": message}


def _alloc_ids(allocations: Snapshot | Iterable[str]) -> list[str]:
    """Return the IDs given, or those of a snapshot's running allocations."""
    if isinstance(allocations, str):
        raise ConfigError(f"allocations must be a Snapshot or a list of IDs, got {allocations!r}")
    if getattr(allocations, "clusters", None):
        raise ConfigError(
            "allocations must be of one cluster, got a snapshot of several. Pass snapshot.clusters[NAME]"
        )
    # Anything with a table of allocations will do: a Snapshot, or a view of one.
    table = getattr(allocations, "allocations", None)
    if table is None:
        return [str(alloc_id) for alloc_id in allocations]  # type: ignore[union-attr]
    return [str(alloc_id) for alloc_id in table.loc[table["client_status"] == "running", "alloc_id"]]


def usage_rows(alloc: dict[str, Any], stats: Any, sample: int) -> list[dict[str, Any]]:
    """Return one row for each task that an allocation was given resources for, or that its node has measured.

    Raises
    ------
    DecodeError
        It is not what nodes send.
    """
    try:
        return list(_rows(alloc, stats, sample))
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise DecodeError(f"this is not how nodes tell of usage: {visible(error)}") from None


def _rows(alloc: dict[str, Any], stats: dict[str, Any], sample: int) -> Iterator[dict[str, Any]]:
    given = (alloc.get("AllocatedResources") or {}).get("Tasks") or {}
    measured = stats.get("Tasks") or {}
    newest = int(stats.get("Timestamp") or 0)
    for task in [*given, *(name for name in measured if name not in given)]:
        yield {
            "alloc_id": alloc.get("ID"),
            "namespace": alloc.get("Namespace"),
            "job_id": alloc.get("JobID"),
            "job_version": (alloc.get("Job") or {}).get("Version"),
            "task_group": alloc.get("TaskGroup"),
            "task": task,
            "node_name": alloc.get("NodeName"),
            "sample": sample,
            **_requested(given.get(task) or {}),
            **_used(measured.get(task) or {}, newest),
        }


def _requested(given: dict[str, Any]) -> dict[str, Any]:
    memory = given.get("Memory") or {}
    return {
        "cpu_requested_mhz": float((given.get("Cpu") or {}).get("CpuShares") or 0) or None,
        "memory_requested_mib": float(memory.get("MemoryMB") or 0) or None,
        "memory_max_mib": float(memory.get("MemoryMaxMB") or 0) or None,
    }


def _used(measured: dict[str, Any], newest: int) -> dict[str, Any]:
    """Return what was measured; drivers fill what they do not measure with 0, and name in `Measured` what they do."""
    moment = int(measured.get("Timestamp") or 0)
    if not moment:
        return {}
    if moment.bit_length() > 63:
        raise OverflowError(f"time {moment}")
    usage = measured.get("ResourceUsage") or {}
    cpu, memory = usage.get("CpuStats") or {}, usage.get("MemoryStats") or {}
    kind = next((name for name in _MEMORY if name in (memory.get("Measured") or [])), None)
    return {
        "at": moment,
        "stale": newest - moment > _STALE_NS,
        "cpu_mhz": float(cpu.get("TotalTicks", 0)) if _CPU in (cpu.get("Measured") or []) else None,
        "memory_mib": None if kind is None else memory.get(kind, 0) / _MIB,
        "memory_measured": kind,
    }


def samples_frame(found: list[dict[str, Any]]) -> pd.DataFrame:
    """Return rows as a DataFrame, with the same columns and dtypes for none."""
    frame = pd.DataFrame(found, columns=list(SAMPLES))
    times = [row.get("at") for row in found]  # not by way of floats, which lose nanoseconds
    frame["at"] = pd.to_datetime(pd.Series(times, dtype="Int64"), unit="ns", utc=True)
    return frame.astype({name: kind for name, kind in SAMPLES.items() if name != "at"})


def errors_frame(found: list[dict[str, Any]]) -> pd.DataFrame:
    """Return what could not be had as a DataFrame."""
    return pd.DataFrame(found, columns=list(ERRORS)).astype(ERRORS)
