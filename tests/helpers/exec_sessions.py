"""Play the client's side of a recorded exec session against the simulated cluster."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from allocframe import sim


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
                heard.append(json.loads(socket.recv(timeout=0.5)))
        except TimeoutError:
            pass  # as recorded: nothing ends before stdin is closed
        except ConnectionClosed as closed:
            code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (None, None)
            heard.append({"code": code, "reason": reason})
    return heard
