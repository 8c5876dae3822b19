"""Makes ``tests/data/archive-1``, an archive of schema version 1.

Run only to add the archive of a newer version beside it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "helpers"))

from watched import Versions, history, moment, ring

import allocframe as af
from allocframe.archive.schema import VERSION
from allocframe.watch.change import Gap


def main() -> None:
    folder = Path(__file__).parent.parent / "data" / f"archive-{VERSION}"
    shutil.rmtree(folder, ignore_errors=True)
    events, late = history(25), history(40)
    rows = {("web-1", cut): {"events": ring(events, cut)} for cut in (9, 18, 25)}
    rows[("web-1", 25)]["restarts"] = 8
    rows |= {("web-2", 19): {"events": ring(late, 40)}, ("web-3", 20): {"events": history(2)}}
    with tempfile.TemporaryDirectory() as pages:
        versions = Versions(Path(pages), rows)
    archive = af.Archive(folder)
    archive.append(versions.seen(100, added=[("web-1", 9), ("web-3", 20)]), recorder="golden")
    archive.append(
        versions.seen(110, added=[("web-2", 19)], changed=[("web-1", 18)], before=[("web-1", 9)]),
        recorder="golden",
    )
    gap = Gap(moment(110), moment(120), "the recorder was stopped")
    archive.append(
        versions.seen(120, changed=[("web-1", 25)], before=[("web-1", 18)], removed=[("web-3", 20)], gap=gap),
        recorder="golden",
    )


if __name__ == "__main__":
    main()
