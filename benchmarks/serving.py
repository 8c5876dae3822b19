"""A cluster of any size for benchmarks: recorded real allocations under new names and times, written anew for each request.

It holds nothing but a few templates, so that a server of a million allocations, 6 GB of JSON, takes no memory worth
mentioning. The same request always has the same answer.
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
"""How often each recorded job is there under another name."""
NODES = 2000

_PLACE = re.compile(r"@(ID|COPY|SLOT|NODE|INDEX)@|(?<=Time\":)(\d{19})")


def _template(row: dict[str, Any]) -> tuple[str, list[str | int]]:
    """Return a row as a text with places, and what stands in each: a name, or a time."""
    job, index = f"{row['JobID']}-@COPY@", 987654321987654321
    row = row | {
        "ID": "@ID@", "JobID": job, "Name": f"{job}.{row['TaskGroup']}[@SLOT@]", "NodeName": "node-@NODE@",
        "NodeID": "5457f16d-0f87-8e6b-5e91-0c7da3a4@NODE@", "CreateIndex": index, "ModifyIndex": index,
    }  # fmt: skip
    text = json.dumps(row, separators=(",", ":")).replace("%", "%%").replace(str(index), "@INDEX@")
    places = [found[1] or int(found[2]) for found in _PLACE.finditer(text)]
    return _PLACE.sub("%s", text), places


class Cluster:
    """The answers of a cluster with `count` allocations."""

    def __init__(self, count: int) -> None:
        self.count = count
        recorded = json.loads(RECORDED.read_text())[0]["json"]
        self._templates = [_template(row) for row in recorded if row["TaskStates"]]

    def ids(self, shard: str) -> list[str]:
        """Return the IDs with a prefix, in order."""
        number = int(shard, 16)
        own = self.count // 256 + (number < self.count % 256)
        rng = Random(number)
        texts = sorted(f"{shard}{rng.getrandbits(120):030x}" for _ in range(own))
        return [f"{t[:8]}-{t[8:12]}-{t[12:16]}-{t[16:20]}-{t[20:]}" for t in texts]

    def row(self, identity: str) -> str:
        """Return one allocation as JSON; its names and times are made of its ID."""
        chance = int(identity[24:], 16)
        text, places = self._templates[chance % len(self._templates)]
        names = {
            "ID": identity, "COPY": f"{chance // 64 % COPIES:03d}", "SLOT": chance // 512 % 200,
            "NODE": f"{chance // 4096 % NODES:04d}", "INDEX": 1000 + int(identity[2:8], 16),
        }  # fmt: skip
        later = chance * 1_000_003 % HOUR_NS
        return text % tuple([names[what] if isinstance(what, str) else what + later for what in places])

    def page(self, shard: str, token: str, per_page: int) -> tuple[bytes, str]:
        """Return a page of a shard from a token on, and the token after it."""
        ids = self.ids(shard)
        start = bisect.bisect_left(ids, token)
        chosen, rest = ids[start : start + per_page], ids[start + per_page : start + per_page + 1]
        return ("[" + ",".join(map(self.row, chosen)) + "]").encode(), rest[0] if rest else ""

    def whole(self) -> Iterator[bytes]:
        """Yield everything as one array."""
        comma = b"["
        for shard in SHARDS:
            for identity in self.ids(shard):
                yield comma + self.row(identity).encode()
                comma = b","
        yield b"[]" if comma == b"[" else b"]"


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
            self._answer(
                *self.cluster.page(
                    query["prefix"], query.get("next_token", ""), int(query.get("per_page", 10**9))
                )
            )
        elif "per_page" in query:
            first, token = self.cluster.page("00", "", int(query["per_page"]))
            self._answer(first, "1." + (token or self.cluster.ids("01")[0]))
        else:
            self._stream()

    def _head(self, **more: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Nomad-Index", "9")
        for name, value in more.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def _answer(self, body: bytes, token: str) -> None:
        more = {"X_Nomad_Nexttoken": token} if token else {}
        self._head(Content_Length=str(len(body)), **more)
        self.wfile.write(body)

    def _stream(self) -> None:
        self._head(Transfer_Encoding="chunked")
        waiting: list[bytes] = []
        for part in self.cluster.whole():
            waiting.append(part)
            if len(waiting) == 200:
                self._chunk(b"".join(waiting))
                waiting = []
        self._chunk(b"".join(waiting))
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
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
    """Serve a cluster of `count` allocations from a process of its own; yield its address."""
    context = multiprocessing.get_context("spawn")
    ready = context.Queue()
    server = context.Process(target=_serve, args=(count, ready), daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{ready.get(timeout=60)}"
    finally:
        server.kill()
        server.join()
