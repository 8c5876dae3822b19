"""What `compare.py` fetches with: a bare download, allocframe, and python-nomad with pandas.

A small HTTP server in its own process serves recorded real allocations, multiplied under new IDs.
"""

from __future__ import annotations

import json
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit

RECORDED = Path(__file__).parent.parent / "tests" / "data" / "nomad-2.0.5" / "list-all.json"


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
