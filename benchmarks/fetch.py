"""Benchmark of fetching: a bare download, allocframe, and python-nomad with pandas, one after the other.

A small HTTP server in its own process serves recorded real allocations, multiplied under new IDs. Each
contender runs in its own process, too, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import re
import resource
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit

RECORDED = Path(__file__).parent.parent / "tests" / "data" / "nomad-2.0.5" / "list-all.json"
README = Path(__file__).parent / "README.md"


def shards(megabytes: int) -> tuple[dict[str, bytes], int]:
    """Return the allocations of each ID prefix as JSON, and their number."""
    rows = json.loads(RECORDED.read_text())[0]["json"]
    texts = [(row["ID"], json.dumps(row, separators=(",", ":"))) for row in rows]
    parts: list[list[tuple[str, str]]] = [[] for _ in range(256)]
    rng, size, count = Random(1), 0, 0
    while size < megabytes * 1_000_000:
        old, text = texts[count % len(texts)]
        identity = str(uuid.UUID(int=rng.getrandbits(128)))
        parts[int(identity[:2], 16)].append((identity, text.replace(old, identity)))
        size, count = size + len(text), count + 1
    bodies = {
        f"{n:02x}": ("[" + ",".join(t for _, t in sorted(part)) + "]").encode()
        for n, part in enumerate(parts)
    }
    return bodies, count


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bodies: dict[str, bytes]

    def do_GET(self) -> None:
        target = urlsplit(self.path)
        query = parse_qs(target.query)
        body, token = b"[]", ""
        if target.path == "/v1/agent/self":
            body = b'{"config":{"Version":{"Version":"2.0.5"}}}'
        elif "prefix" in query:
            body = self.bodies[query["prefix"][0]]
        elif "per_page" in query:
            token = "100.00000000-0000-0000-0000-000000000000"
        else:
            body = b"[" + b",".join(part[1:-1] for part in self.bodies.values() if len(part) > 2) + b"]"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Nomad-Index", "9")
        self.send_header("Content-Length", str(len(body)))
        if token:
            self.send_header("X-Nomad-Nexttoken", token)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def serve(megabytes: int, ready: Any) -> None:
    """Serve allocations of this size, and put port, count and exact size into the queue `ready`."""
    _Handler.bodies, count = shards(megabytes)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    ready.put((server.server_port, count, sum(map(len, _Handler.bodies.values()))))
    server.serve_forever()


def bare_download(address: str) -> int:
    """Fetch the same pages as allocframe with the same HTTP client, and drop them."""
    import httpx

    with httpx.Client(base_url=address) as http:
        return sum(
            len(http.get("/v1/allocations", params={"prefix": f"{n:02x}"}).content) for n in range(256)
        )


def with_allocframe(address: str) -> int:
    """Fetch all five frames."""
    import allocframe as af

    with af.Client(address, timeout=600) as client, client.snapshot(namespace="*", progress=False) as snap:
        frames = [snap.allocations, snap.task_states, snap.events, snap.reschedules, snap.resources]
        return len(frames[2])


def with_python_nomad(address: str) -> int:
    """Fetch one response and flatten it, as people do today."""
    import nomad

    host, port = address.removeprefix("http://").split(":")
    return len(flatten(nomad.Nomad(host=host, port=int(port), timeout=600).allocations.get_allocations())[2])


def flatten(rows: list[dict[str, Any]]) -> list[Any]:
    """Return DataFrames of allocations, tasks and events, made by json_normalize and lists of dicts."""
    import pandas as pd

    allocations = pd.json_normalize([{k: v for k, v in row.items() if k != "TaskStates"} for row in rows])
    tasks, events = [], []
    for row in rows:
        for task, state in (row["TaskStates"] or {}).items():
            tasks.append(
                {"alloc_id": row["ID"], "task": task, **{k: v for k, v in state.items() if k != "Events"}}
            )
            for event in state["Events"] or []:
                flat = {k: v for k, v in event.items() if k != "Details"}
                events.append({"alloc_id": row["ID"], "task": task, **flat, **(event["Details"] or {})})
    return [allocations, pd.DataFrame(tasks), pd.DataFrame(events)]


CONTENDERS: dict[str, tuple[Callable[[str], int], tuple[str, ...]]] = {
    "bare download": (bare_download, ("httpx",)),
    "allocframe": (with_allocframe, ("allocframe",)),
    "python-nomad + pandas": (with_python_nomad, ("nomad", "pandas")),
}


def _run(name: str, address: str, results: Any) -> None:
    contender, modules = CONTENDERS[name]
    for module in modules:  # imports are not measured
        importlib.import_module(module)
    started = time.perf_counter()
    contender(address)
    results.put((time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def measure(megabytes: int, skip: set[str]) -> Iterator[tuple[str, int, int, float, float]]:
    """Yield name, allocations, bytes, seconds (best of three runs; one run above 100 MB) and peak memory."""
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    server = context.Process(target=serve, args=(megabytes, ready), daemon=True)
    server.start()
    port, count, size = ready.get()
    try:
        for name in CONTENDERS:
            if name in skip:
                continue
            runs = []
            for _ in range(3 if megabytes <= 100 else 1):
                results = context.Queue()
                process = context.Process(target=_run, args=(name, f"http://127.0.0.1:{port}", results))
                process.start()
                runs.append(results.get())
                process.join()
            yield name, count, size, min(run[0] for run in runs), max(run[1] for run in runs)
    finally:
        server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("megabytes", nargs="*", type=int, default=[40, 400, 1000])
    lines = [
        "| JSON | allocations | contender | seconds | MB/s | against download | peak memory |",
        "|" + " --- |" * 7,
    ]
    for megabytes in parser.parse_args().megabytes:
        skip = {"python-nomad + pandas"} if megabytes > 400 else set()
        download = 0.0
        for name, count, size, seconds, memory in measure(megabytes, skip):
            download = download or seconds
            cells = [
                f"{size / 1e6:,.0f} MB", f"{count:,}", name, f"{seconds:.2f}", f"{size / 1e6 / seconds:,.0f}",
                f"{seconds / download:.1f}x", f"{memory / 1e9:.2f} GB",
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
            print(lines[-1], file=sys.stderr)
    table = "\n".join(lines)
    print(table)
    page = README.read_text()
    README.write_text(
        re.sub(r"(?s)(<!-- table -->\n).*(<!-- end -->)", lambda m: m[1] + table + "\n" + m[2], page)
    )


if __name__ == "__main__":
    main()
