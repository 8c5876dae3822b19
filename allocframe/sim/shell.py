"""Exec in a simulated cluster: a WebSocket, and a toy shell that runs nothing on the machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any

from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from .access import Access
from .engine import Engine

_SHELLS = ("sh", "/bin/sh", "bash", "/bin/bash")


@dataclass
class Ran:
    """What a toy command wrote, and its exit code; `echoes` gives stdin back."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0
    echoes: bool = False
    seconds: float = 0.0


class NoSuchCommand(Exception):
    """The toy knows no such program."""


def run(command: list[str]) -> Ran:
    """Return what a command does: echo, cat, uname, true, false, sleep, and sh -c with a few of them."""
    program, *arguments = command
    name = program.rsplit("/", 1)[-1]
    if program in _SHELLS and arguments[:1] == ["-c"] and len(arguments) > 1:
        return _script(arguments[1])
    simple = {"true": Ran(), "false": Ran(exit_code=1), "cat": Ran(echoes=True), "uname": Ran(b"Linux\n")}
    if name == "echo":
        return Ran(" ".join(arguments).encode() + b"\n")
    if name == "sleep" and arguments:
        return Ran(seconds=float(arguments[0]))
    if name == "seq" and arguments:
        return Ran(b"".join(b"%d\n" % n for n in range(1, int(arguments[0]) + 1)))
    if name not in simple:
        raise NoSuchCommand(program)
    return simple[name]


def _script(text: str) -> Ran:
    """Run the parts of a script, separated by semicolons, one after the other."""
    total = Ran()
    for part in re.split(r"\s*;\s*", text.strip()):
        if found := re.fullmatch(r"exit (\d+)", part):
            total.exit_code = int(found[1])
            return total
        if part == "kill -9 $$":
            total.exit_code = 137
            return total
        to_stderr = part.endswith(">&2")
        done = run(shlex.split(part.removesuffix(">&2")))
        total.stderr += done.stdout if to_stderr else b""
        total.stdout += b"" if to_stderr else done.stdout
        total.exit_code, total.seconds = done.exit_code, total.seconds + done.seconds
        total.echoes = total.echoes or done.echoes
    return total


class Shell:
    """Answers exec as recorded: nothing ends before stdin is closed; 2.0.5 drops the connection after the exit."""

    def __init__(self, engine: Engine, access: Access) -> None:
        self.engine = engine
        self.access = access

    def routes(self) -> list[WebSocketRoute]:
        return [WebSocketRoute("/v1/client/allocation/{id}/exec", self.exec)]

    async def exec(self, socket: WebSocket) -> None:
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect, json.JSONDecodeError):
            refused = await self._refusal(socket)
            if refused is not None:
                await socket.close(*refused)
                return
            try:
                ran = run(json.loads(socket.query_params["command"]))
            except NoSuchCommand as unknown:
                said = f"rpc error: code = Unknown desc = failed to start command: fork/exec {unknown}: no such file or directory"
                await socket.close(1011, said)
                return
            await self._session(socket, ran)

    async def _refusal(self, socket: WebSocket) -> tuple[int, str] | None:
        token = socket.headers.get("x-nomad-token")
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
        return None if alloc.tasks[task].state == "running" else (1011, "task is not running")

    async def _session(self, socket: WebSocket, ran: Ran) -> None:
        for stream, data in (("stdout", ran.stdout), ("stderr", ran.stderr)):
            for start in range(0, len(data), 32 << 10):
                await _send(
                    socket, **{stream: {"data": b64encode(data[start : start + (32 << 10)]).decode()}}
                )
        while True:
            frame: dict[str, Any] = json.loads(await socket.receive_text())
            stdin = frame.get("stdin") or {}
            if stdin.get("data") and ran.echoes:
                await _send(socket, stdout={"data": b64encode(b64decode(stdin["data"])).decode()})
            if stdin.get("close"):
                break
        await asyncio.sleep(ran.seconds)
        await _send(socket, stderr={"close": True})
        await _send(socket, stdout={"close": True})
        await _send(socket, exited=True, result={"exit_code": ran.exit_code} if ran.exit_code else {})
        if self.engine.state.version == "1.3.1":
            await socket.close(1000)


async def _send(socket: WebSocket, **frame: Any) -> None:
    await socket.send_text(json.dumps(frame))
