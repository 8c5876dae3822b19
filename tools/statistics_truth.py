"""Hold every published statistic against worlds of known truth: make truth.

Prints the table and puts it into docs/statistics.md. Ends with 1 where a statistic misses what is wanted.
"""

from __future__ import annotations

import importlib
import re
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "statistics.md"


def main(count: int) -> int:
    sys.path.insert(0, str(ROOT / "tests" / "stats"))
    rows, patterns = (importlib.import_module(f"truth.{name}") for name in ("rows", "patterns"))

    started = time.monotonic()
    lines = ["| statistic | measure | result | worlds | wanted |", "| --- | --- | --- | --- | --- |"]
    missed = 0
    for row in [*rows.all_rows(), *patterns.all_rows()]:
        for result in row(count):
            missed += not result.passed
            value = f"{result.value:.3f}" if result.passed else f"**{result.value:.3f}**"
            lines.append(
                f"| {result.name} | {result.measure} | {value} | {result.worlds:,} | {result.wanted} |"
            )
            print(lines[-1], flush=True)
    print(f"{missed} missed, in {time.monotonic() - started:.0f} s", file=sys.stderr)
    table = "\n".join(lines)
    page = re.sub(
        r"(?s)(<!-- truth -->\n).*(<!-- end truth -->)",
        lambda match: match[1] + table + "\n" + match[2],
        PAGE.read_text(),
    )
    PAGE.write_text(page)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000))
