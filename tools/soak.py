"""Whether the memory of a recorder stays flat while it records a simulated cluster that never rests.

The recorder lists everything and compacts its archive at least ten times as often as otherwise, so that ten
minutes hold as many of these rounds, in which its memory goes up and down, as hours do.

Prints its resident size now and then, and exits with 1 if the last third is larger than the middle one by
more than the bound.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import month

import allocframe as af

BOUND_MB = 30.0
"""Growth from the second third to the last that is still called flat."""

OFTEN = """
from allocframe.archive import recorder
from allocframe.__main__ import main
recorder.RESYNC_INTERVAL, recorder.COMPACT_EVERY = 20.0, 50
main()
"""


def resident(pid: int) -> float:
    """Return the resident size of a process in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1000
    raise ProcessLookupError(f"no process {pid}")


def soak(
    seconds: float, allocations: int, folder: Path, say: Callable[[str], None] = lambda text: None
) -> tuple[list[float], int]:
    """Return the sizes of a recorder, one a second, and how many events it was told of."""
    sizes: list[float] = []
    with af.sim.Cluster("calm", allocations=allocations, seed=13) as cluster:
        archive = af.Archive(folder / "archive")
        with month.recorder(cluster, folder / "archive", every=1.0, program=("-c", OFTEN)) as process:
            assert month.until(lambda: month.caught_up(archive, cluster)), (
                folder / "recorder.log"
            ).read_text()
            churn = month.Month(cluster, Random(3), per_turn=max(4, allocations // 100))
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                second = time.monotonic() + 1.0
                while time.monotonic() < second:
                    churn.turn(60.0)
                    time.sleep(0.2)
                sizes.append(resident(process.pid))
                if len(sizes) % 30 == 0:
                    say(f"{len(sizes):5d} s  {sizes[-1]:6.0f} MB  {len(churn.journal):,} events")
    return sizes, len(churn.journal)


def growth(sizes: list[float]) -> float:
    """Return how much larger, in the middle, the last third is than the second."""
    third = len(sizes) // 3
    return statistics.median(sizes[2 * third :]) - statistics.median(sizes[third : 2 * third])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--allocations", type=int, default=2000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="allocframe-soak-") as folder:
        sizes, events = soak(given.seconds, given.allocations, Path(folder), print)
    grown = growth(sizes)
    print(
        f"{events:,} events in {given.seconds:.0f} s: {min(sizes):.0f} to {max(sizes):.0f} MB, "
        f"last third {grown:+.0f} MB"
    )
    return 0 if grown < BOUND_MB else 1


if __name__ == "__main__":
    sys.exit(main())
