"""Memory and time in proportion to what came; the figures at full size are in benchmarks/."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import flatten

_READ = """
import resource, sys
import allocframe as af
usage = lambda: resource.getrusage(resource.RUSAGE_SELF)
peak = lambda: usage().ru_maxrss * 1024
with af.read_json(sys.argv[1]) as small:
    rows = len(small), len(small.events), len(small.task_states)
before, cpu = peak(), usage().ru_utime
with af.read_json(sys.argv[2]) as snap:
    print(len(snap), len(snap.events), peak() - before, usage().ru_utime - cpu)
"""


def test_memory_stays_below_a_small_multiple_of_the_answers_and_time_is_seconds(
    tmp_path: Path,
) -> None:
    row = max(flatten.recorded_rows("2.0.5"), key=lambda row: len(json.dumps(row)))
    text, events = json.dumps(row), sum(len(state["Events"]) for state in row["TaskStates"].values())
    pages, each = 12, 500
    for page in range(pages):
        rows = (text.replace(row["ID"], f"{page:08x}-0000-0000-0000-{n:012x}") for n in range(each))
        (tmp_path / f"page-{page:03}.json").write_text("[" + ",".join(rows) + "]")
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    command = [sys.executable, "-c", _READ, str(tmp_path / "page-000.json"), str(tmp_path / "*.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=150)
    allocations, events_read, more, cpu = map(float, done.stdout.split())
    assert (allocations, events_read) == (pages * each, pages * each * events)
    assert size > 60e6
    assert more < 4 * size, f"{more / 1e6:.0f} MB more for {size / 1e6:.0f} MB of answers"
    assert cpu < 60, "processor seconds, which do not depend on what else runs here"
