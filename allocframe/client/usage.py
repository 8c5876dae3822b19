"""What tasks use, as nodes measure it, beside what they were given. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from .._utils.text import escaped, visible
from ..errors import DecodeError

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


def rows(alloc: dict[str, Any], stats: Any, sample: int) -> list[dict[str, Any]]:
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
