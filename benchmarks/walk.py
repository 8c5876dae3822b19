"""Requests and bytes of one snapshot, by the number of allocations."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import serving

import allocframe as af

README = Path(__file__).parent / "README.md"
SIZES = [100, 1000, 1001, 10_000, 100_000]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES)
    lines = [
        "| allocations | requests | paging | received, in times of the list |",
        "| --- | --- | --- | --- |",
    ]
    for size in parser.parse_args().sizes:
        with serving.served(size) as address, af.Client(address, timeout=600) as client:
            with client.snapshot(namespace="*", progress=False) as snap:
                paging, pages = snap.info["paging"], snap._capture.pages
                needed = sum(page.size for page in pages) * len(snap) / (len(snap) + snap.info["duplicates"])
            counters = client.counters
        lines.append(
            f"| {size:,} | {counters['requests']} | {paging} | {counters['bytes_received'] / needed:.2f} |"
        )
        print(lines[-1])
    table = "\n".join(lines)
    page = README.read_text()
    README.write_text(
        re.sub(r"(?s)(<!-- walk -->\n).*(<!-- end walk -->)", lambda m: m[1] + table + "\n" + m[2], page)
    )


if __name__ == "__main__":
    main()
