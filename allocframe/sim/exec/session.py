"""Exec in a simulated cluster: the WebSocket session of a program, as recorded from real agents."""

from __future__ import annotations

import asyncio
import contextlib
import json
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from ..api.access import Access
from ..cluster.engine import Engine
from .commands import NoSuchCommand, ToyCommand
from .real_pty import RealPty
from .shell import ToyShell

CHUNK = 32 << 10
Write = Callable[[Literal["stdout", "stderr"], bytes], Awaitable[None]]


class Program(Protocol):
    """What runs in a session. It ends when `run` is cancelled."""

    async def run(self) -> int:
        """Run to the end; return the exit code."""

    def feed(self, data: bytes) -> None: ...

    def close_stdin(self) -> None: ...

    def resize(self, rows: int, cols: int) -> None: ...


class Exec:
    """The route of exec. After the exit, 1.3.1 closes the connection and 2.0.5 drops it."""

    def __init__(self, engine: Engine, access: Access, *, real_pty: bool) -> None:
        self.engine = engine
        self.access = access
        self.real_pty = real_pty

    def routes(self) -> list[WebSocketRoute]:
        return [WebSocketRoute("/v1/client/allocation/{id}/exec", self.exec)]

    async def exec(self, socket: WebSocket) -> None:
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect, json.JSONDecodeError):
            refusal = await self._refusal(socket)
            if refusal is not None:
                await socket.close(*refusal)
                return
            try:
                program = self._program(socket)
            except NoSuchCommand as command:
                reason = f"failed to start command: fork/exec {command}: no such file or directory"
                await socket.close(1011, f"rpc error: code = Unknown desc = {reason}")
                return
            await self._session(socket, program)

    async def _refusal(self, socket: WebSocket) -> tuple[int, str] | None:
        """Return the close code and reason for a session that is not allowed, or None."""
        token = socket.headers.get("x-nomad-token")
        # A browser cannot set headers on a WebSocket, so the token may come as the first message.
        if socket.query_params.get("ws_handshake") == "true":
            first = json.loads(await socket.receive_text())
            token = first.get("auth_token") or token
        identity, task = socket.path_params["id"], socket.query_params.get("task")
        alloc = self.engine.state.allocs.get(identity)
        grant = self.access.grant(token)
        if not grant.known:
            return 1008, "rpc error: Permission denied"
        if not task:
            return 1008, "must provide task name"
        if alloc is None:
            return 1008, f'Unknown allocation "{identity}"'
        if not grant.acts(alloc.namespace):
            return 1008, "rpc error: Permission denied"
        if task not in alloc.tasks:
            return 1011, "task not found"
        running = alloc.tasks[task].state == "running"
        return None if running else (1008, f'task "{task}" is not running.')

    def _program(self, socket: WebSocket) -> Program:
        async def write(stream: Literal["stdout", "stderr"], data: bytes) -> None:
            for start in range(0, len(data), CHUNK):
                chunk = b64encode(data[start : start + CHUNK]).decode()
                await _send(socket, **{stream: {"data": chunk}})

        command = json.loads(socket.query_params["command"])
        if socket.query_params.get("tty") != "true":
            return ToyCommand(command, write)
        return RealPty(command, write) if self.real_pty else ToyShell(command, write)

    async def _session(self, socket: WebSocket, program: Program) -> None:
        running = asyncio.create_task(program.run())
        try:
            await self._feed_until_exit(socket, program, running)
            code = running.result()
            if socket.query_params.get("tty") != "true":
                await _send(socket, stderr={"close": True})
            await _send(socket, stdout={"close": True})
            await _send(socket, exited=True, result={"exit_code": code} if code else {})
            # 2.0.5 does not close the WebSocket properly; clients must accept that.
            if self.engine.state.version == "1.3.1":
                await socket.close(1000)
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect):
                await running

    async def _feed_until_exit(self, socket: WebSocket, program: Program, running: asyncio.Task[int]) -> None:
        while not running.done():
            receiving = asyncio.create_task(socket.receive_text())
            await asyncio.wait({receiving, running}, return_when=asyncio.FIRST_COMPLETED)
            if not receiving.done():
                receiving.cancel()
                return
            frame: dict[str, Any] = json.loads(receiving.result())
            stdin, size = frame.get("stdin") or {}, frame.get("tty_size") or {}
            if stdin.get("data"):
                program.feed(b64decode(stdin["data"]))
            if stdin.get("close"):
                program.close_stdin()
            if size:
                program.resize(size["height"], size["width"])


async def _send(socket: WebSocket, **frame: Any) -> None:
    await socket.send_text(json.dumps(frame))
