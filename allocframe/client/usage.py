"""CPU and memory that tasks use, as their nodes measure it, next to what they requested."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from .._utils import html
from .._utils.text import visible
from .._utils.validate import check_count, check_seconds
from ..errors import AllocframeError, ConfigError, DecodeError
from ..nomad.connection import check_workers
from ..nomad.transport import request_pool
from ..snapshot.snapshot import Snapshot
from .session import Session

_CPU = "Percent"
_MEMORY = ("RSS", "Usage")
"""Names in `Measured`: how a driver says what it measures. RSS is preferred, because Usage counts the page
cache.
"""

_MIB = 1 << 20
_STALE_NS = 60 * 10**9

SAMPLES = {
    "alloc_id": "str",
    "namespace": "str",
    "job_id": "str",
    "job_version": "Int64",
    "task_group": "str",
    "task": "str",
    "node_name": "str",
    "sample": "int64",
    "at": "datetime64[ns, UTC]",
    "stale": "boolean",
    "cpu_mhz": "Float64",
    "cpu_requested_mhz": "Float64",
    "memory_mib": "Float64",
    "memory_requested_mib": "Float64",
    "memory_max_mib": "Float64",
    "memory_measured": "str",
}
ERRORS = {"alloc_id": "str", "sample": "Int64", "error": "str"}


class Usage:
    """Samples of the CPU and memory that tasks use, made by `Client.usage`.

    Attributes
    ----------
    samples : pandas.DataFrame
        One row per task and sample: alloc_id, namespace, job_id, job_version, task_group, task, node_name,
        sample (the round, from 0), at (the node's clock; NaT if it has none), stale (measured long before the
        other tasks: this task is not running), cpu_mhz, cpu_requested_mhz, memory_mib, memory_requested_mib,
        memory_max_mib, memory_measured ("RSS", else "Usage"). Values that the driver does not measure are NA.
    errors : pandas.DataFrame
        One row per allocation and round that failed: alloc_id, sample (NA if the allocation itself could not
        be read, so that it was not sampled), error.
    """

    def __init__(self, samples: pd.DataFrame, errors: pd.DataFrame) -> None:
        self.samples = samples
        self.errors = errors

    def __len__(self) -> int:
        return len(self.samples)

    def _summary(self) -> list[str]:
        measured = self.samples.dropna(subset=["at"])
        tasks = len(measured[["alloc_id", "task"]].drop_duplicates())
        counted = f"{len(measured):,} samples of {tasks:,} tasks"
        unmeasured = len(self.samples) - len(measured)
        lines = [f"{counted}, {unmeasured:,} without a measurement" if unmeasured else counted]
        if len(self.errors):
            failed = self.errors["alloc_id"].nunique()
            lines.append(f"errors for {failed:,} allocations, all in .errors; the first:")
            lines += [f"{row.alloc_id}: {row.error}" for row in self.errors.head(3).itertuples()]
        return lines

    def __repr__(self) -> str:
        head, *rest = self._summary()
        return "\n  ".join([f"<Usage: {head}>", *map(visible, rest)])

    def _repr_html_(self) -> str:
        head, *rest = self._summary()
        return html.summary("Usage", head, rest)


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
    """Return one row for each task that has resources in the allocation or a measurement by its node.

    Raises
    ------
    DecodeError
        The answer is not what nodes send.
    """
    try:
        return list(_rows(alloc, stats, sample))
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise DecodeError(f"the node's answer is not a usage report: {visible(error)}") from None


def _rows(alloc: dict[str, Any], stats: dict[str, Any], sample: int) -> Iterator[dict[str, Any]]:
    resources = (alloc.get("AllocatedResources") or {}).get("Tasks") or {}
    measured = stats.get("Tasks") or {}
    newest = int(stats.get("Timestamp") or 0)
    for task in [*resources, *(name for name in measured if name not in resources)]:
        yield {
            "alloc_id": alloc.get("ID"),
            "namespace": alloc.get("Namespace"),
            "job_id": alloc.get("JobID"),
            "job_version": (alloc.get("Job") or {}).get("Version"),
            "task_group": alloc.get("TaskGroup"),
            "task": task,
            "node_name": alloc.get("NodeName"),
            "sample": sample,
            **_requested(resources.get(task) or {}),
            **_used(measured.get(task) or {}, newest),
        }


def _requested(resources: dict[str, Any]) -> dict[str, Any]:
    """Return what a task was given; 0 means that nothing was set."""
    memory = resources.get("Memory") or {}
    return {
        "cpu_requested_mhz": float((resources.get("Cpu") or {}).get("CpuShares") or 0) or None,
        "memory_requested_mib": float(memory.get("MemoryMB") or 0) or None,
        "memory_max_mib": float(memory.get("MemoryMaxMB") or 0) or None,
    }


def _used(measured: dict[str, Any], newest: int) -> dict[str, Any]:
    """Return a task's measurement.

    Drivers set what they do not measure to 0, so only the names in `Measured` tell a real 0 from a missing
    value.
    """
    at_ns = int(measured.get("Timestamp") or 0)
    if not at_ns:
        return {}
    if at_ns.bit_length() > 63:
        raise OverflowError(f"time {at_ns}")
    usage = measured.get("ResourceUsage") or {}
    cpu, memory = usage.get("CpuStats") or {}, usage.get("MemoryStats") or {}
    memory_kind = next((name for name in _MEMORY if name in (memory.get("Measured") or [])), None)
    return {
        "at": at_ns,
        "stale": newest - at_ns > _STALE_NS,
        "cpu_mhz": float(cpu.get("TotalTicks", 0)) if _CPU in (cpu.get("Measured") or []) else None,
        "memory_mib": None if memory_kind is None else memory.get(memory_kind, 0) / _MIB,
        "memory_measured": memory_kind,
    }


def samples_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return samples as a DataFrame, which has all columns and dtypes even without rows."""
    frame = pd.DataFrame(rows, columns=list(SAMPLES))
    times = [row.get("at") for row in rows]  # taken from the rows: a column of floats would lose nanoseconds
    frame["at"] = pd.to_datetime(pd.Series(times, dtype="Int64"), unit="ns", utc=True)
    return frame.astype({name: dtype for name, dtype in SAMPLES.items() if name != "at"})


def errors_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return errors as a DataFrame, which has all columns and dtypes even without rows."""
    return pd.DataFrame(rows, columns=list(ERRORS)).astype(ERRORS)
