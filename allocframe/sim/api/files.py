"""The files of simulated allocations, as nodes show them: folders, and the logs of tasks."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..cluster.alloc import Alloc
from ..cluster.engine import Engine
from ..cluster.model import rfc3339
from .access import Access
from .logs import framed, task_log
from .params import Refusal, reachable

_IN_TASK = ("local", "secrets", "tmp")
_IN_ALLOC = ("data", "logs", "tmp")
_ROOT = "/opt/nomad/alloc"

Answer = Callable[[Alloc, str, Request], Response]


class Files:
    """The routes of reads of files."""

    def __init__(self, engine: Engine, access: Access) -> None:
        self.engine = engine
        self.access = access

    def routes(self) -> list[Route]:
        return [
            self._route("ls", self.ls),
            self._route("stat", self.stat),
            self._route("cat", self.cat),
            self._route("readat", self.read_at),
            self._route("stream", self.stream),
        ]

    def _route(self, name: str, answer: Answer) -> Route:
        def read(request: Request) -> Response:
            with self.engine.state.changed:
                alloc = reachable(self.engine.state, request.path_params["id"])
                if not self.access.grant(request.headers.get("x-nomad-token")).reads_logs(alloc.namespace):
                    raise Refusal(403, "Permission denied")
                path = request.query_params.get("path", "")
                if not path and name != "ls":
                    raise Refusal(400, "must provide a file name")
                return answer(alloc, _inside(path), request)

        async def endpoint(request: Request) -> Response:
            try:
                return await run_in_threadpool(read, request)
            except Refusal as refusal:
                # As in Nomad: whoever reads contents has been sent a status before the node finds the file.
                status = 200 if name in ("cat", "readat") and refusal.status != 403 else refusal.status
                return Response(refusal.text, status, media_type="text/plain")

        return Route(f"/v1/client/fs/{name}/{{id}}", endpoint, methods=["GET"])

    def ls(self, alloc: Alloc, path: str, request: Request) -> Response:
        names = _folder(alloc, path)
        if names is None:
            raise Refusal(404, f"open {_real(alloc, path)}: no such file or directory")
        return _as_json([self._entry(alloc, posixpath.join(path, name)) for name in sorted(names)])

    def stat(self, alloc: Alloc, path: str, request: Request) -> Response:
        if _folder(alloc, path) is None and self._content(alloc, path) is None:
            raise Refusal(404, f"stat {_real(alloc, path)}: no such file or directory")
        entry = self._entry(alloc, path)
        kind = "application/octet-stream" if entry["IsDir"] else "text/plain; charset=utf-8"
        return _as_json({"ContentType": kind, **entry})

    def cat(self, alloc: Alloc, path: str, request: Request) -> Response:
        return Response(self._read(alloc, path), media_type="text/plain")

    def read_at(self, alloc: Alloc, path: str, request: Request) -> Response:
        start, size = (_whole(request, name) for name in ("offset", "limit"))
        return Response(self._read(alloc, path)[start : start + size], media_type="text/plain")

    def stream(self, alloc: Alloc, path: str, request: Request) -> Response:
        """Send a file in frames. Real nodes then follow it; this one ends."""
        data, offset = self._read(alloc, path), _whole(request, "offset")
        from_end = request.query_params.get("origin") == "end"
        start = min(max(len(data) - offset if from_end else offset, 0), len(data))
        return Response(framed(data[start:], posixpath.basename(path), start), media_type="text/plain")

    def _read(self, alloc: Alloc, path: str) -> bytes:
        if _folder(alloc, path) is not None:
            raise Refusal(400, f'file "/{path}" is a directory')
        data = self._content(alloc, path)
        if data is None:
            raise Refusal(400, f"stat {_real(alloc, path)}: no such file or directory")
        return data

    def _entry(self, alloc: Alloc, path: str) -> dict[str, Any]:
        data = self._content(alloc, path)
        return {
            "FileMode": "drwxrwxrwx" if data is None else "-rw-r--r--",
            "IsDir": data is None,
            "ModTime": rfc3339(alloc.modify_time),
            "Name": posixpath.basename(path) or alloc.id,
            "Size": 4096 if data is None else len(data),
        }

    def _content(self, alloc: Alloc, path: str) -> bytes | None:
        """Return what is in a file; None if there is none. The only files are logs."""
        if (match := re.fullmatch(r"alloc/logs/(.+)\.(stdout|stderr)\.0", path)) and match[1] in alloc.tasks:
            return task_log(alloc, match[1], match[2], self.engine.clock(alloc))
        return None


def _inside(path: str) -> str:
    """Return a path below the folder of the allocation, without slashes at its ends."""
    clean = posixpath.normpath(path.strip("/") or ".")
    if clean.startswith(".."):
        raise Refusal(500, "Path escapes the alloc directory")
    return "" if clean == "." else clean


def _folder(alloc: Alloc, path: str) -> list[str] | None:
    """Return the names in a folder; None if it is none."""
    logs = [f"{task}.{stream}.0" for task in alloc.tasks for stream in ("stderr", "stdout")]
    folders = {"": ["alloc", *alloc.tasks], "alloc": [*_IN_ALLOC], "alloc/logs": logs}
    empty = [f"alloc/{name}" for name in ("data", "tmp")]
    empty += [f"{task}/{name}" for task in alloc.tasks for name in _IN_TASK]
    folders |= {task: [*_IN_TASK] for task in alloc.tasks} | {name: [] for name in empty}
    return folders.get(path)


def _real(alloc: Alloc, path: str) -> str:
    return f"{_ROOT}/{alloc.id}/{path}"


def _whole(request: Request, name: str) -> int:
    text = request.query_params.get(name, "0")
    if not re.fullmatch(r"\d{1,18}", text):
        raise Refusal(400, f'error parsing {name}: strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text)


def _as_json(answer: Any) -> Response:
    return Response(json.dumps(answer, separators=(",", ":")), headers={"Content-Type": "application/json"})
