"""Benchmark of the interactive timeline: frames while panning and zooming over 100,000 events.

In a headless browser. A frame is the time from one picture to the next; drawing is the part that the script
takes.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from allocframe.widgets.timeline.columns import KINDS, _packed
from allocframe.widgets.timeline.page import page_fragment

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "ui"))
import labpage

EVENTS = 100_000
LANES = 2000
JOBS = 100
FRAMES = 150
DAY = 86_400_000

_PAN = """async ([frames, part]) => {
  const its = document.querySelector(".allocframe-timeline").allocframeTimeline, times = [];
  const whole = its.view.whole[1] - its.view.whole[0];
  its.view.show(its.view.whole[0], its.view.whole[0] + whole * part);
  its.drawTimes = [];
  let last = await new Promise(requestAnimationFrame);
  for (let n = 0; n < frames; n++) {
    its.view.pan(its.view.length * 0.01 * (n % 100 < 50 ? 1 : -1));
    its.schedule();
    const now = await new Promise(requestAnimationFrame);
    times.push(now - last);
    last = now;
  }
  return [times, its.drawTimes];
}"""


def columns() -> dict[str, Any]:
    """Return a timeline of one day in which every event is a failure: the most that can be drawn."""
    rng = np.random.default_rng(1)
    lane = np.sort(rng.integers(0, LANES, EVENTS))
    at = rng.integers(0, DAY, EVENTS)
    order = np.lexsort((at, lane))
    begin = np.sort(at)[:: EVENTS // (LANES * 4)][: LANES * 4]
    return {
        "format": 1, "base": 1_790_000_000_000, "unit": 1, "span": DAY, "observed": DAY, "open": [0, DAY],
        "kinds": KINDS, "summary": f"{EVENTS:,} events",
        "incidents": [
            {
                "title": f"incident {n}", "summary": "", "severity": "critical", "state": "ongoing",
                "cause": "", "began": n * DAY // 10, "last": DAY,
                "lanes": _packed(np.arange(n * LANES // 4, (n + 1) * LANES // 4)),
            }
            for n in range(4)
        ],
        "jobs": {"name": [f"job-{n}" for n in range(JOBS)], "namespace": ["default"] * JOBS},
        "lanes": {
            "name": [f"job-{n * JOBS // LANES}.app[{n}] server" for n in range(LANES)],
            "task": ["server"] * LANES, "job": _packed(np.arange(LANES) * JOBS // LANES),
        },
        "allocs": [f"{n:08x}" for n in range(LANES)],
        "events": {
            "lane": _packed(lane), "at": _packed(at[order]),
            "kind": _packed(rng.integers(1, len(KINDS) + 1, EVENTS), "uint8"),
            "type": _packed(np.zeros(EVENTS), "uint16"), "text": _packed(np.zeros(EVENTS)),
            "alloc": _packed(lane), "types": ["Terminated"], "texts": ["Exit Code: 1"],
        },
        "runs": {
            "lane": _packed(np.arange(LANES * 4) // 4), "from": _packed(begin),
            "to": _packed(np.minimum(begin + 3_600_000, DAY)), "end": _packed(np.ones(LANES * 4), "uint8"),
            "version": _packed(np.ones(LANES * 4)), "alloc": _packed(np.arange(LANES * 4) // 4),
            "ends": ["running", "failed", "lost", "ended", "unknown"],
        },
        "changes": [], "gaps": [], "notes": [],
    }  # fmt: skip


def main() -> None:
    page_text = f'<!doctype html><meta charset="utf-8">{page_fragment(columns())}'
    with tempfile.TemporaryDirectory() as folder, labpage.browser() as browser:
        path = Path(folder) / "page.html"
        path.write_text(page_text, encoding="utf-8")
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        started = time.perf_counter()
        page.goto(path.as_uri())
        page.locator(".af-tl-label").first.wait_for()
        print(f"page: {len(page_text) / 1e6:.1f} MB, shown after {time.perf_counter() - started:.1f} s")
        title = f"panning over {EVENTS:,} events"
        print(f"{title:38}{'frame, median':>14}{'95th':>9}{'drawing':>12}")
        for name, part in (("the whole day in view", 0.98), ("two hours in view", 1 / 12)):
            frames, drawing = page.evaluate(_PAN, [FRAMES, part])
            high = statistics.quantiles(frames, n=20)[-1]
            print(
                f"{name:38}{statistics.median(frames):11.1f} ms{high:6.1f} ms"
                f"{statistics.median(drawing):9.1f} ms"
            )


if __name__ == "__main__":
    main()
