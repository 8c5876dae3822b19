"""Exec sessions: the client's side of a recorded one, and servers that do what a test says."""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from allocframe import sim

EXITED = json.dumps({"exited": True, "result": {}})


def server_side(frames: list[dict[str, Any]]) -> list[Any]:
    return [
        frame.get("server") or frame.get("close") for frame in frames if "server" in frame or "close" in frame
    ]


def talk(cluster: sim.Cluster, identity: str, recorded: dict[str, Any], task: str | None) -> list[Any]:
    """Send what the recorded client sent; return what comes back, and how it ends."""
    query = {**recorded["query"], **({"task": task} if task else {})}
    query.pop("task") if not task and "task" in query else None
    url = cluster.address.replace("http", "ws") + f"/v1/client/allocation/{identity}/exec?{urlencode(query)}"
    heard: list[Any] = []
    with connect(url, proxy=None) as socket:
        for frame in recorded["frames"]:
            if "client" in frame:
                sent = frame["client"]
                sent = {**sent, "auth_token": cluster.token} if "auth_token" in sent else sent
                socket.send(json.dumps(sent))
        try:
            while True:
                heard.append(json.loads(socket.recv(timeout=2)))
        except TimeoutError:
            pass  # as recorded: nothing ends before stdin is closed
        except ConnectionClosed as closed:
            code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (None, None)
            heard.append({"code": code, "reason": reason})
    return heard


@contextmanager
def scripted(handler: Callable[[ServerConnection], None]) -> Iterator[str]:
    """Run a WebSocket server whose every session is `handler`; yield its address."""
    server = serve(handler, "127.0.0.1", 0, max_size=None)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
    finally:
        server.shutdown()
        thread.join()


def out(data: bytes) -> str:
    return json.dumps({"stdout": {"data": b64encode(data).decode()}})


def echo(connection: ServerConnection) -> None:
    """Answer each piece of stdin at once, and read no more while the answer is not taken."""
    connection.recv()
    while "close" not in (stdin := json.loads(connection.recv()).get("stdin", {})):
        if stdin:
            connection.send(json.dumps({"stdout": stdin}))
    connection.send(EXITED)
