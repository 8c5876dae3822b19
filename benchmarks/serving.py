"""A cluster of any size for benchmarks: recorded real allocations under new names and times.

It makes the JSON for each request from a few templates, so that a server of a million allocations (6 GB of
JSON) needs hardly any memory. The same request always gets the same response.
"""

from __future__ import annotations

import bisect
import json
import multiprocessing
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit

RECORDED = Path(__file__).parent.parent / "tests" / "data" / "nomad-2.0.5" / "list-all.json"
SHARDS = [f"{byte:02x}" for byte in range(256)]
HOUR_NS = 3_600 * 10**9
COPIES = 300
"""Copies of each recorded job, under different names."""
NODES = 2000

_PLACEHOLDER = re.compile(r"@(ID|COPY|SLOT|NODE|INDEX)@|(?<=Time\":)(\d{19})")


def _template(row: dict[str, Any]) -> tuple[str, list[str | int]]:
    """Return a row as a text with placeholders, and what to put into each: a named value, or a time."""
    job, index = f"{row['JobID']}-@COPY@", 987654321987654321
    row = row | {
        "ID": "@ID@",
        "JobID": job,
        "Name": f"{job}.{row['TaskGroup']}[@SLOT@]",
        "NodeName": "node-@NODE@",
        "NodeID": "5457f16d-0f87-8e6b-5e91-0c7da3a4@NODE@",
        "CreateIndex": index,
        "ModifyIndex": index,
    }
    text = json.dumps(row, separators=(",", ":")).replace("%", "%%").replace(str(index), "@INDEX@")
    values = [match[1] or int(match[2]) for match in _PLACEHOLDER.finditer(text)]
    return _PLACEHOLDER.sub("%s", text), values


class Cluster:
    """The responses of a cluster with `count` allocations."""

    def __init__(self, count: int) -> None:
        self.count = count
        recorded = json.loads(RECORDED.read_text())[0]["json"]
        self._templates = [_template(row) for row in recorded if row["TaskStates"]]

    def ids(self, shard: str) -> list[str]:
        """Return the IDs with a prefix, in order."""
        number = int(shard, 16)
        shard_count = self.count // 256 + (number < self.count % 256)
        rng = Random(number)
        texts = sorted(f"{shard}{rng.getrandbits(120):030x}" for _ in range(shard_count))
        return [f"{t[:8]}-{t[8:12]}-{t[12:16]}-{t[16:20]}-{t[20:]}" for t in texts]

    def row(self, identity: str) -> str:
        """Return one allocation as JSON. Its names and times depend only on its ID."""
        number = int(identity[24:], 16)
        text, values = self._templates[number % len(self._templates)]
        names = {
            "ID": identity,
            "COPY": f"{number // 64 % COPIES:03d}",
            "SLOT": number // 512 % 200,
            "NODE": f"{number // 4096 % NODES:04d}",
            "INDEX": 1000 + int(identity[2:8], 16),
        }
        delay = number * 1_000_003 % HOUR_NS
        return text % tuple([names[value] if isinstance(value, str) else value + delay for value in values])

    def page(self, shard: str, token: str, per_page: int) -> tuple[bytes, str]:
        """Return a page of a shard from a token on, and the next token."""
        ids = self.ids(shard)
        start = bisect.bisect_left(ids, token)
        page, rest = ids[start : start + per_page], ids[start + per_page : start + per_page + 1]
        return ("[" + ",".join(map(self.row, page)) + "]").encode(), rest[0] if rest else ""

    def everything(self) -> Iterator[bytes]:
        """Yield all allocations as one JSON array."""
        separator = b"["
        for shard in SHARDS:
            for identity in self.ids(shard):
                yield separator + self.row(identity).encode()
                separator = b","
        yield b"[]" if separator == b"[" else b"]"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def do_GET(self) -> None:
        target = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        if target.path == "/v1/agent/self":
            self._answer(b'{"config":{"Version":{"Version":"2.0.5"}}}', "")
        elif target.path != "/v1/allocations":
            self.send_error(404)
        elif "prefix" in query:
            per_page = int(query.get("per_page", 10**9))
            self._answer(*self.cluster.page(query["prefix"], query.get("next_token", ""), per_page))
        elif "per_page" in query:
            first, token = self.cluster.page("00", "", int(query["per_page"]))
            self._answer(first, "1." + (token or self.cluster.ids("01")[0]))
        else:
            self._stream()

    def _send_head(self, **headers: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Nomad-Index", "9")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _answer(self, body: bytes, token: str) -> None:
        headers = {"X_Nomad_Nexttoken": token} if token else {}
        self._send_head(Content_Length=str(len(body)), **headers)
        self.wfile.write(body)

    def _stream(self) -> None:
        self._send_head(Transfer_Encoding="chunked")
        parts: list[bytes] = []
        for part in self.cluster.everything():
            parts.append(part)
            if len(parts) == 200:
                self._send_chunk(b"".join(parts))
                parts = []
        self._send_chunk(b"".join(parts))
        self.wfile.write(b"0\r\n\r\n")

    def _send_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def log_message(self, *_: object) -> None:
        pass


def _serve(count: int, ready: Any) -> None:
    _Handler.cluster = Cluster(count)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    ready.put(server.server_port)
    server.serve_forever()


@contextmanager
def served(count: int) -> Iterator[str]:
    """Serve a cluster of `count` allocations from its own process. Yield its address."""
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    server = context.Process(target=_serve, args=(count, ready), daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{ready.get(timeout=60)}"
    finally:
        server.kill()
        server.join()
