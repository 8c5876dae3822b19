"""A raw-socket server of jobs, deployments, nodes, evaluations and their event stream."""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from faultserver import FaultServer, good, http
from streamserver import Script

JSON = dict[str, Any]
LISTS = ("jobs", "deployments", "nodes", "evaluations")


class HistoryServer(FaultServer):
    """Serves what its attributes hold; `stream` None means that the server has none.

    `versions` are those of each job, and `forbidden` what answers with 403: names of lists or topics.
    """

    def __init__(self, stream: Script | None, **lists: list[JSON]) -> None:
        self.stream = stream
        self.lists: dict[str, list[JSON]] = {name: lists.get(name, []) for name in LISTS}
        self.versions: dict[str, list[JSON]] = {}
        self.forbidden: set[str] = set()
        self.asked: list[str] = []
        super().__init__(b"")

    def _answer(self, connection: socket.socket) -> bool:
        request = self._request(connection)
        if not request:
            return False
        target = request.split()[1].decode()
        self.asked.append(target)
        url = urlsplit(target)
        parts = unquote(url.path).removeprefix("/v1/").split("/")
        topics = parse_qs(url.query).get("topic", [])
        if self.forbidden.intersection([parts[0], *topics]):
            connection.sendall(http(b"Permission denied", "403 Forbidden", length=17, kind="text/plain"))
        elif url.path == "/v1/event/stream" and self.stream is not None:
            self.stream(connection)
        elif parts[0] == "allocations":
            connection.sendall(good(b"[]", X_Nomad_Index="5"))
        elif parts[0] in LISTS:
            connection.sendall(good(json.dumps(self.lists[parts[0]]).encode()))
        elif parts[0] == "job" and parts[1] in self.versions:
            connection.sendall(good(json.dumps({"Versions": self.versions[parts[1]]}).encode()))
        elif parts[0] == "node" and self._node(parts[1]):
            connection.sendall(good(json.dumps(self._node(parts[1])).encode()))
        else:
            connection.sendall(http(b"not found", "404 Not Found", length=9, kind="text/plain"))
        return True

    def _node(self, node_id: str) -> JSON | None:
        return next((node for node in self.lists["nodes"] if node["ID"] == node_id), None)
