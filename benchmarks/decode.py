"""What `compare.py` decodes with: files of JSON to all DataFrames, by allocframe and by other code."""

from __future__ import annotations

import json
from pathlib import Path

import fetch

TABLES = ("allocations", "task_states", "events", "reschedules", "resources")


def write_pages(folder: Path, megabytes: int) -> int:
    """Write recorded allocations, multiplied under new IDs, as pages; return their number."""
    bodies, count = fetch.shards(megabytes)
    names = sorted(bodies)
    for number in range(0, len(names), 4):
        part = b",".join(bodies[name][1:-1] for name in names[number : number + 4] if len(bodies[name]) > 2)
        (folder / f"{number:04d}.json").write_bytes(b"[" + part + b"]")
    return count


def with_msgspec(files: list[str]) -> int:
    """Read the structs and drop them."""
    import msgspec

    from allocframe.store.decode import struct_type
    from allocframe.tables import wire_schema

    decoder = msgspec.json.Decoder(list.__class_getitem__(struct_type(wire_schema.ALLOCATION)))
    return sum(len(decoder.decode(Path(file).read_bytes())) for file in files)


def with_defaults(files: list[str]) -> int:
    return _frames(files)


def with_one_process(files: list[str]) -> int:
    return _frames(files, workers=1)


def with_all_cores(files: list[str]) -> int:
    from allocframe.snapshot import io

    io.MANY_BYTES = 0  # type: ignore[attr-defined]
    return _frames(files)


def _frames(files: list[str], workers: int | None = None) -> int:
    import allocframe as af

    with af.read_json(files, workers=workers) as snap:
        frames = [getattr(snap, name) for name in TABLES]
        return len(frames[0])


def with_json_normalize(files: list[str]) -> int:
    """Do what people write today: json, `json_normalize`, and lists of dicts for tasks and events."""
    rows = [row for file in files for row in json.loads(Path(file).read_bytes())]
    return len(fetch.flatten(rows)[0])
