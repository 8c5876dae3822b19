"""Benchmark of recovery: a printed Raft log to a snapshot and its events, in time and memory.

The recorded log of a real agent is multiplied under new IDs and job names. Printing it is not measured.
"""

from __future__ import annotations

import argparse
import gzip
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

RECORDED = Path(__file__).parent.parent / "tests" / "data" / "changes-2.0.5" / "raft-logs.ndjson.gz"
_ID = re.compile(r"\b[0-9a-f]{8}(?=-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")
_INDEX = re.compile(r'((?:^|,)"(?:Index|JobModifyIndex|JobSpecModifyIndex)":)([1-9]\d*)')
_JOB = re.compile(r'"(checkout|steady|flaky|report|resize)(?=["/.[])')


def lines() -> Iterator[str]:
    """Yield the recorded log again and again, each time under other IDs, names and indexes."""
    recorded = gzip.decompress(RECORDED.read_bytes()).decode().splitlines()
    number = 0
    while True:
        for line in recorded:

            def rename(match: re.Match[str], number: int = number) -> str:
                return f"{(int(match[0], 16) + number * 7919) % 2**32:08x}"

            def shift(match: re.Match[str], by: int = number * len(recorded)) -> str:
                return f"{match[1]}{int(match[2]) + by}"

            line = _ID.sub(rename, line)
            line = _JOB.sub(rf'"\g<1>-{number}', line)
            yield _INDEX.sub(shift, line)
        number += 1


def write_log(file: Path, megabytes: int) -> int:
    """Write a log of some size; return the number of entries."""
    size = count = 0
    with file.open("w") as output:
        for line in lines():
            if size >= megabytes * 10**6:
                break
            output.write(line + "\n")
            size, count = size + len(line) + 1, count + 1
    return count


def measure(file: Path) -> None:
    """Recover a log and print what it took: runs in a process of its own, so that its memory is its own."""
    import allocframe as af

    started = time.perf_counter()
    with af.recover(file) as snap:
        recovered = time.perf_counter() - started
        events = len(snap.events)
        everything = time.perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{len(snap):,} | {events:,} | {recovered:.1f} s | {everything:.1f} s | {peak:,} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.file is not None:
        measure(arguments.file)
        return
    print("| printed log | entries | allocations | events | recovered | with all events | memory |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for megabytes in arguments.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "logs.ndjson"
            entries = write_log(file, megabytes)
            command = [sys.executable, __file__, "--file", str(file)]
            row = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
            print(f"| {megabytes} MB | {entries:,} | {row} |", flush=True)


if __name__ == "__main__":
    main()
