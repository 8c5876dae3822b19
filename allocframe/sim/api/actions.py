"""Stop, signal and restart in a simulated cluster, with the responses and errors of real servers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..cluster.alloc import Alloc
from ..cluster.engine import MIGRATED, Engine
from .access import Access, Grant
from .params import Refusal

_OK = {"Index": 0}
_SETTLE_SECONDS = 1.0
"""Virtual seconds that pass after an action, so that its effects can be read."""


class Actions:
    """The routes of actions. Like real servers, it restarts for a GET, too."""

    def __init__(self, engine: Engine, access: Access) -> None:
        self.engine = engine
        self.access = access

    def routes(self) -> list[Route]:
        client = "/v1/client/allocation/{id}"
        return [
            self._route("/v1/allocation/{id}/stop", ["POST", "PUT"], self.stop, "allocation not found"),
            self._route(f"{client}/signal", ["POST", "PUT"], self.signal, 'Unknown allocation "{id}"'),
            self._route(
                f"{client}/restart", ["GET", "POST", "PUT"], self.restart, 'Unknown allocation "{id}"'
            ),
        ]

    def _route(
        self,
        path: str,
        methods: list[str],
        act: Callable[[Request, Alloc, dict[str, Any]], dict[str, Any]],
        missing: str,
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            raw = await request.body()
            try:
                grant = self.access.grant(request.headers.get("x-nomad-token"))
                answer = await run_in_threadpool(self._act, act, request, grant, raw, missing)
            except Refusal as refusal:
                return Response(refusal.text, refusal.status, media_type="text/plain")
            headers = {"X-Nomad-Index": str(answer["Index"])} if answer["Index"] else {}
            return Response(json.dumps(answer), media_type="application/json", headers=headers)

        return Route(path, endpoint, methods=methods)

    def _act(
        self,
        act: Callable[[Request, Alloc, dict[str, Any]], dict[str, Any]],
        request: Request,
        grant: Grant,
        raw: bytes,
        missing: str,
    ) -> dict[str, Any]:
        identity = request.path_params["id"]
        with self.engine.state.changed:
            alloc = self.engine.state.allocs.get(identity)
            if not grant.acts(alloc.namespace if alloc else None):
                raise Refusal(403, "Permission denied")
            if alloc is None:
                raise Refusal(404, missing.format(id=identity))
            try:
                body = json.loads(raw or b"{}")
            except ValueError as error:
                raise Refusal(500, str(error)) from None
            answer = act(request, alloc, body if isinstance(body, dict) else {})
        # Outside the lock: `advance` takes it itself and wakes readers.
        self.engine.advance(_SETTLE_SECONDS)
        return answer

    def stop(self, request: Request, alloc: Alloc, body: dict[str, Any]) -> dict[str, Any]:
        """Stop and replace an allocation. If it is stopped already, only create an evaluation."""
        evaluation = self.engine.evaluate(alloc.job, "alloc-stop")
        if alloc.desired_status == "run" and not alloc.terminal:
            self.engine.stop(alloc, MIGRATED, migrate=True)
            self.engine.replace(alloc, evaluation)
        return {"EvalID": evaluation.id, "Index": evaluation.create_index}

    def signal(self, request: Request, alloc: Alloc, body: dict[str, Any]) -> dict[str, Any]:
        """Emit an event for the signal. These tasks handle every signal, so nothing else happens."""
        name = str(body.get("Signal") or "SIGINT")
        task = body.get("Task")
        if task:
            if task not in alloc.tasks:
                raise Refusal(500, "Task not found")
            if alloc.tasks[task].state != "running":
                raise Refusal(500, "Task not running")
        failed = []
        for task_name, state in alloc.tasks.items():
            if task in (None, "", task_name) and state.state == "running":
                state.emit("Signaling", self.engine.clock(alloc), signal=name)
            elif not task:
                failed.append(f"Failed to signal task: {task_name}, err: Task not running")
        self.engine.touch(alloc)
        if failed:
            raise Refusal(500, _multierror(failed))
        return _OK

    def restart(self, request: Request, alloc: Alloc, body: dict[str, Any]) -> dict[str, Any]:
        """Restart one task or all that run. 1.3.1 restarts them before it reports one that has ended."""
        old = self.engine.state.version == "1.3.1"
        task, all_tasks = body.get("TaskName"), bool(body.get("AllTasks")) and not old
        if task and all_tasks:
            raise Refusal(500, "task name cannot be set when restarting all tasks")
        if task and task not in alloc.tasks:
            raise Refusal(500, f"Could not find task runner for task: {task}")
        # 1.3.1 lacks this check and the option AllTasks.
        if not old and (alloc.terminal or alloc.desired_status != "run"):
            raise Refusal(500, "restart of an alloc that should not run")
        if task and alloc.tasks[task].state != "running":
            raise Refusal(500, "Task not running")
        ended = ["Task not running" for state in alloc.tasks.values() if state.state != "running"]
        scope = "task" if task else "all" if all_tasks else "running"
        reason = "User requested restart" if old else _REASONS[scope]
        self.engine.runner.restart_signaled(alloc, reason, only=task or None)
        if old and not task and ended:
            raise Refusal(500, _multierror(ended))
        return _OK


_REASONS = {
    "task": "User requested task to restart",
    "all": "User requested all tasks to restart",
    "running": "User requested running tasks to restart",
}


def _multierror(errors: list[str]) -> str:
    """Return errors as Go's multierror prints them."""
    head = "1 error occurred:" if len(errors) == 1 else f"{len(errors)} errors occurred:"
    return "\n\t* ".join([head, *errors]) + "\n\n"
