"""/v1/event/stream of a simulated cluster, with the peculiarities of both server versions."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Callable

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ..cluster.engine import Engine
from .access import Access
from .params import Refusal

_POLL = 0.01


class Stream:
    """The event stream. Only the topic Allocation has events; others are accepted and stay silent."""

    def __init__(self, engine: Engine, access: Access) -> None:
        self.engine = engine
        self.access = access

    def routes(self) -> list[Route]:
        return [Route("/v1/event/stream", self.endpoint, methods=["GET"])]

    async def endpoint(self, request: Request) -> Response:
        old = self.engine.state.version == "1.3.1"
        try:
            keys, index = _topics(request), _index(request)
        except Refusal as refusal:
            return Response(refusal.text, refusal.status, media_type="text/plain")
        try:
            grant = self.access.grant(request.headers.get("x-nomad-token"))
            namespace = request.query_params.get("namespace", "default")
            allowed = grant.namespaces(self.engine.state.namespaces, namespace)
            grant.need(management="*" in keys)
        except Refusal as refusal:
            if old:
                return Response(refusal.text, refusal.status, media_type="text/plain")
            return Response(
                b"", headers={"Connection": "close"}
            )  # 2.0.5 sends the header before it checks permissions
        compress = old and "gzip" in request.headers.get("accept-encoding", "")
        encoding = (
            "gzip" if compress else "identity"
        )  # with any value set, the middleware does not compress again
        headers = {"Content-Encoding": encoding, "Cache-Control": "no-cache"}
        token = request.headers.get("x-nomad-token")
        lines = self._lines(lambda: self.access.grant(token) == grant, allowed, keys, index)
        body = _compress(lines) if compress else lines
        return StreamingResponse(body, media_type="application/json", headers=headers)

    async def _lines(
        self, token_valid: Callable[[], bool], namespaces: set[str], keys: dict[str, set[str]], index: int
    ) -> AsyncIterator[bytes]:
        """Yield lines until the stream is cut. As in Nomad, the namespaces stay those of the subscription."""
        state, broker, clock = self.engine.state, self.engine.broker, asyncio.get_running_loop().time
        reader = object()
        with state.changed:
            # A new generation means that the stream was cut.
            number, generation = broker.start(index), broker.generation
            broker.readers[reader] = number
        filter_keys = keys.get("Allocation", set()) | keys.get("*", set())
        try:
            yield b"{}\n"
            beat = clock() + self.engine.heartbeat
            while broker.generation == generation and token_valid():
                with state.changed:
                    batches = broker.after(number)
                    if batches is None:
                        return
                    lines = [batch.line(state.version, namespaces, filter_keys) for batch in batches[:10]]
                for line in filter(None, lines):
                    yield line.encode() + b"\n"
                number = broker.readers[reader] = number + len(lines)
                if not lines:
                    if clock() >= beat:
                        yield b"{}\n"
                        beat = clock() + self.engine.heartbeat
                    await asyncio.sleep(_POLL)
        finally:
            del broker.readers[reader]


async def _compress(lines: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Compress lines with gzip, and flush after each so that it can be read as soon as it is sent."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, 31)
    async for line in lines:
        yield compressor.compress(line) + compressor.flush(zlib.Z_SYNC_FLUSH)
    yield compressor.flush()


def _topics(request: Request) -> dict[str, set[str]]:
    """Return the requested keys by topic. Without a topic, everything is requested."""
    topics: dict[str, set[str]] = {}
    for text in request.query_params.getlist("topic") or ["*"]:
        topic, *key = text.split(":")
        if len(key) > 1:
            detail = f"error parsing topics: Invalid key value pair for topic, topic: {text}"
            raise Refusal(400, f"Invalid topic query: {detail}")
        topics.setdefault(topic, set()).add(key[0] if key and key[0] else "*")
    return topics


def _index(request: Request) -> int:
    text = request.query_params.get("index", "0")
    if not re.fullmatch(r"\d{1,19}", text):
        raise Refusal(400, f"Unable to parse index: {text}")
    return int(text)
