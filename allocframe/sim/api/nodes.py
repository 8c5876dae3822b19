"""Reads that servers pass on to the nodes of a simulated cluster: logs and usage."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..cluster.alloc import Alloc
from ..cluster.engine import Engine
from ..cluster.model import NODE_MEMORY_MB
from .access import Access
from .logs import framed, task_log
from .params import FALSE, TRUE, Refusal, reachable
from .usage import node_usage, resource_usage


@dataclass(frozen=True)
class _LogRequest:
    """The parameters of a log read. `follow` is accepted, but the response ends all the same."""

    task: str
    stream: str
    offset: int
    from_end: bool
    plain: bool


class Nodes:
    """The routes of reads from nodes."""

    def __init__(self, engine: Engine, access: Access) -> None:
        self.engine = engine
        self.access = access

    def routes(self) -> list[Route]:
        return [
            Route("/v1/client/fs/logs/{id:path}", self.logs, methods=["GET"]),
            Route("/v1/client/allocation/{id}/stats", self.stats, methods=["GET"]),
            Route("/v1/client/stats", self.node_stats, methods=["GET"]),
            Route("/v1/client/allocation/{id}/checks", self.checks, methods=["GET"]),
        ]

    async def stats(self, request: Request) -> Response:
        return await self._json(self._usage, request)

    async def node_stats(self, request: Request) -> Response:
        return await self._json(self._node_usage, request)

    async def checks(self, request: Request) -> Response:
        return await self._json(self._checks, request)

    async def _json(self, read: Callable[[Request], Any], request: Request) -> Response:
        try:
            answer = await run_in_threadpool(read, request)
        except Refusal as refusal:
            return Response(refusal.text, refusal.status, media_type="text/plain")
        return Response(
            json.dumps(answer, separators=(",", ":")), headers={"Content-Type": "application/json"}
        )

    def _usage(self, request: Request) -> dict[str, Any]:
        with self.engine.state.changed:
            alloc = self._reachable(request)
            if not self.access.grant(request.headers.get("x-nomad-token")).reads(alloc.namespace):
                raise Refusal(403, "Permission denied")
            return resource_usage(alloc, request.query_params.get("task"), self.engine.clock(alloc))

    async def logs(self, request: Request) -> Response:
        """Answer a log read. 1.3.1 sets the content type before the node refuses, so its errors keep it."""
        content_type = "text/plain"
        try:
            parsed = _parse_log_request(request)
            content_type = "text/plain" if parsed.plain else "application/json"
            body = await run_in_threadpool(self._log, request, parsed)
        except Refusal as refusal:
            error_type = content_type if self.engine.state.version == "1.3.1" else "text/plain"
            return Response(refusal.text, refusal.status, media_type=error_type)
        return Response(body, headers={"Content-Type": content_type})

    def _log(self, request: Request, parsed: _LogRequest) -> bytes:
        with self.engine.state.changed:
            alloc = self._reachable(request)
            if not self.access.grant(request.headers.get("x-nomad-token")).reads_logs(alloc.namespace):
                raise Refusal(403, "Permission denied")
            if parsed.task not in alloc.tasks:
                raise Refusal(400, f'unknown task name "{parsed.task}"')
            if not alloc.tasks[parsed.task].started_at:
                raise Refusal(404, f'task "{parsed.task}" not started yet. No logs available')
            data = task_log(alloc, parsed.task, parsed.stream, self.engine.clock(alloc))
        start = min(max(len(data) - parsed.offset if parsed.from_end else parsed.offset, 0), len(data))
        if parsed.plain:
            return data[start:]
        return framed(data[start:], f"{parsed.task}.{parsed.stream}.0", start)

    def _node_usage(self, request: Request) -> dict[str, Any]:
        with self.engine.state.changed:
            self.access.grant(request.headers.get("x-nomad-token")).need(nodes=True)
            identity = request.query_params.get("node_id", "")
            node = self.engine.state.nodes.get(identity)
            if node is None:
                raise Refusal(404, f'Unknown node "{identity}"')
            if node.status == "down":
                raise Refusal(404, "No path to node")
            mine = [alloc for alloc in self.engine.state.allocs.values() if alloc.node is node]
            return node_usage(mine, NODE_MEMORY_MB << 20, self.engine.state.now_ns)

    def _checks(self, request: Request) -> None:
        """Answer a read of health checks. No simulated service has any; 1.3.1 lacks the route."""
        with self.engine.state.changed:
            alloc = self._reachable(request)
            if self.engine.state.version == "1.3.1":
                raise Refusal(404, "resource not found")
            if not self.access.grant(request.headers.get("x-nomad-token")).reads(alloc.namespace):
                raise Refusal(403, "Permission denied")

    def _reachable(self, request: Request) -> Alloc:
        alloc: Alloc = reachable(self.engine.state, request.path_params["id"])
        return alloc


def _parse_log_request(request: Request) -> _LogRequest:
    query = request.query_params
    if not request.path_params["id"]:
        raise Refusal(400, "must provide a valid alloc id")
    if not query.get("task"):
        raise Refusal(400, "must provide task name")
    flags = {name: query.get(name, "") for name in ("follow", "plain")}
    for name, text in flags.items():
        if text and text not in TRUE | FALSE:
            detail = f'strconv.ParseBool: parsing "{text}": invalid syntax'
            raise Refusal(400, f"failed to parse {name} field to boolean: {detail}")
    if query.get("type") not in ("stdout", "stderr"):
        raise Refusal(400, "must provide log type (stdout/stderr)")
    offset = query.get("offset") or "0"
    if not re.fullmatch(r"[+-]?\d{1,18}", offset):
        raise Refusal(400, f'error parsing offset: strconv.ParseInt: parsing "{offset}": invalid syntax')
    origin = query.get("origin") or "start"
    if origin not in ("start", "end"):
        raise Refusal(400, "origin must be start or end")
    return _LogRequest(query["task"], query["type"], int(offset), origin == "end", flags["plain"] in TRUE)
