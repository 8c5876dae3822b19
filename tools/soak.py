"""Whether a recorder keeps every event and its memory stays flat while a simulated cluster never rests.

The recorder lists everything and compacts its archive at least ten times as often as otherwise, so that ten
minutes hold as many of these rounds, in which its memory goes up and down, as hours do.

With 2,000 allocations, these make about a hundred changes a second. It prints the size now and then, and
exits with 1 if the last third is larger than the middle one by more than the bound, if an event is missing
without a gap that is reported, or if one is there twice or was never emitted.
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
) -> tuple[list[float], month.Figures]:
    """Return the sizes of a recorder, one a second, and what became of the events that it was told of."""
    sizes: list[float] = []
    figures = month.Figures(allocations, 0.0)
    with af.sim.Cluster("calm", allocations=allocations, seed=13) as cluster:
        archive, before = af.Archive(folder / "archive"), month.rings(cluster)
        with month.recorder(cluster, folder / "archive", every=1.0, program=("-c", OFTEN)) as process:
            assert month.until(lambda: month.caught_up(archive, cluster)), (
                folder / "recorder.log"
            ).read_text()
            churn = month.Month(cluster, Random(3), per_turn=max(4, allocations // 100))
            first, end = cluster.state.index, time.monotonic() + seconds
            while time.monotonic() < end:
                second = time.monotonic() + 1.0
                while time.monotonic() < second:
                    churn.turn(60.0)
                    time.sleep(0.2)
                sizes.append(resident(process.pid))
                if len(sizes) % 30 == 0:
                    rate = (cluster.state.index - first) / len(sizes)
                    say(
                        f"{len(sizes):5d} s  {sizes[-1]:6.0f} MB  {len(churn.journal):,} events, "
                        f"{rate:.0f} changes a second"
                    )
            assert month.until(lambda: month.caught_up(archive, cluster)), "the recorder lags behind"
        month.compare(figures, churn, archive, before)
        figures.gaps_told = sum(gap["since"] is not None for gap in archive.info["gaps"])
    return sizes, figures


def exact(figures: month.Figures) -> bool:
    """Return whether every event is there once, and nothing else, unless a gap is reported."""
    return not (figures.twice or figures.made_up or (figures.missing and not figures.gaps_told))


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
        sizes, figures = soak(given.seconds, given.allocations, Path(folder), print)
    grown = growth(sizes)
    print(
        f"{figures.emitted:,} events in {given.seconds:.0f} s: {figures.archived:,} archived, "
        f"{figures.missing:,} missing, {figures.twice:,} twice, {figures.made_up:,} made up, "
        f"{figures.gaps_told:,} gaps; {min(sizes):.0f} to {max(sizes):.0f} MB, last third {grown:+.0f}"
    )
    return 0 if grown < BOUND_MB and exact(figures) else 1


if __name__ == "__main__":
    sys.exit(main())
