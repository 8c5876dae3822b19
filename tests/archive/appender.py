"""Appends a task's history to an archive, an event at a time, until done or killed; prints each one."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))

from watched import Versions, history, ring

import allocframe as af


def main(folder: str, recorder: str, first: int, last: int) -> None:
    events = history(last)
    with tempfile.TemporaryDirectory() as pages:
        versions = Versions(
            Path(pages),
            {
                ("a", cut): {"events": ring(events, cut), "restarts": 0}
                for cut in range(max(1, first - 1), last + 1)
            },
        )
    archive = af.Archive(folder)
    print("ready", flush=True)
    sys.stdin.readline()
    for cut in range(first, last + 1):
        archive.append(versions.seen(cut, changed=[("a", cut)], before=[("a", cut - 1)]), recorder=recorder)
        print(cut, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
