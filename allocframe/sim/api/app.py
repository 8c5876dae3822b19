"""The HTTP side of a simulated cluster: routes, parameters, paging, permissions and errors as real servers have them."""

from __future__ import annotations

import asyncio
import json
import random
import re
import urllib.error
import urllib.request
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ..cluster.engine import Engine
from ..exec.session import Exec
from .access import Access, Grant, Guard
from .actions import Actions
from .nodes import Nodes
from .params import Refusal, checked_prefix, compiled, go_bool, go_seconds, numeric, page_size, passes
from .stream import Stream

LONGEST_WAIT = 300.0


class Api:
    """Answers requests from a cluster's state."""

    def __init__(self, state: Any, access: Access, regions: Mapping[str, str]) -> None:
        self.state = state
        self.access = access
        self.regions = regions
        self._sorted: tuple[int, list[tuple[int, str]], list[str]] = (-1, [], [])

    # What every route does

    def route(
        self, path: str, table: str, answer: Callable[[Request, Grant], tuple[Any, dict[str, str]]]
    ) -> Route:
        async def endpoint(request: Request) -> Response:
            elsewhere = self.regions.get(request.query_params.get("region", ""))
            try:
                if elsewhere is not None:
                    return await run_in_threadpool(_forwarded, request, elsewhere)
                grant = self.access.grant(request.headers.get("x-nomad-token"))
                await self._block(request, table)
                body, headers = await run_in_threadpool(self._locked, answer, request, grant)
            except Refusal as refusal:
                return self._refused(refusal)
            return Response(body, media_type="application/json", headers={**self._headers(table), **headers})

        return Route(path, endpoint, methods=["GET"])

    def _locked(
        self, answer: Callable[[Request, Grant], tuple[Any, dict[str, str]]], request: Request, grant: Grant
    ) -> tuple[bytes, dict[str, str]]:
        with self.state.changed:
            if request.query_params.get("region", "global") != "global":
                raise Refusal(500, "No path to region")
            if not self.state.has_leader and "stale" not in request.query_params:
                raise Refusal(500, "No cluster leader")
            body, headers = answer(request, grant)
        return json.dumps(body, separators=(",", ":")).encode(), headers

    def _headers(self, table: str) -> dict[str, str]:
        if not table:
            return {}
        return {
            "X-Nomad-Index": str(self.state.table_index(table)),
            "X-Nomad-Knownleader": "true",
            "X-Nomad-Lastcontact": "0",
        }

    def _refused(self, refusal: Refusal) -> Response:
        headers = self._headers(refusal.with_index)
        return Response(refusal.text, refusal.status, headers, media_type="text/plain")

    async def _block(self, request: Request, table: str) -> None:
        """Wait, as a blocking query does, until the table has moved past the index that was given."""
        wait = go_seconds(request.query_params.get("wait"))
        text = request.query_params.get("index", "0")
        if not re.fullmatch(r"\d{1,20}", text) or int(text) >= 2**64:
            raise Refusal(400, "Invalid index")
        index = int(text)
        if index == 0 or not table:
            return
        wait = min(wait or LONGEST_WAIT, LONGEST_WAIT)
        end = asyncio.get_running_loop().time() + wait + random.uniform(0, wait / 16)
        started = self.state.starts
        while self.state.table_index(table) <= index and asyncio.get_running_loop().time() < end:
            if await request.is_disconnected():
                return
            if self.state.starts != started:
                raise Refusal(500, "EOF")
            await asyncio.sleep(0.02)

    # Allocations

    def allocations(self, request: Request, grant: Grant) -> tuple[Any, dict[str, str]]:
        query = request.query_params
        resources = go_bool(query, "resources", default=False)
        task_states = go_bool(query, "task_states", default=True)
        namespace = query.get("namespace", "default")
        allowed = grant.namespaces(self.state.namespaces, namespace)
        page, following = self._page(query, allowed)
        stubs = [
            alloc.stub(self.state.version, task_states=task_states, resources=resources) for alloc in page
        ]
        return stubs, ({"X-Nomad-Nexttoken": following} if following else {})

    def _order(self, query: Any) -> Iterable[tuple[str, Any]]:
        """Yield the key that tokens are held against, and the allocation, in the order of a list."""
        by_index, by_id = self._orders()
        prefix, reverse = query.get("prefix", ""), query.get("reverse") == "true"
        if prefix:
            head = checked_prefix(prefix)
            chosen = by_id[bisect_left(by_id, head) : bisect_right(by_id, head + "g")]
            keys: Iterable[tuple[str, str]] = (
                (identity, identity) for identity in _turned(chosen, reverse=reverse)
            )
        else:
            keys = (
                (f"{index}.{identity}", identity) for index, identity in _turned(by_index, reverse=reverse)
            )
        return ((key, self.state.allocs[identity]) for key, identity in keys)

    def _skips(self, query: Any) -> Callable[[str], bool]:
        """Return the test for rows before the token; up to 1.10.1 it compares text, so that 102 comes before 99."""
        token, reverse = query.get("next_token", ""), query.get("reverse") == "true"
        if not token:
            return lambda key: False
        if self.state.version == "1.3.1" or query.get("prefix"):
            return lambda key: key > token if reverse else key < token
        asked = numeric(token)
        return lambda key: numeric(key) > asked if reverse else numeric(key) < asked

    def _orders(self) -> tuple[list[tuple[int, str]], list[str]]:
        index = self.state.table_index("allocs")
        if self._sorted[0] != index:
            by_index = sorted((alloc.create_index, alloc.id) for alloc in self.state.allocs.values())
            self._sorted = (index, by_index, sorted(self.state.allocs))
        return self._sorted[1], self._sorted[2]

    def _page(self, query: Any, allowed: set[str]) -> tuple[list[Any], str | None]:
        size, wanted = page_size(query.get("per_page"), self.state.version), compiled(query.get("filter"))
        skips, found = self._skips(query), False
        page: list[Any] = []
        for key, alloc in self._order(query):
            if not found and skips(key):
                continue
            if alloc.namespace not in allowed or (wanted and not passes(wanted, alloc, self.state.version)):
                continue
            found = True
            if size and len(page) >= max(size, 0):
                return page, key
            page.append(alloc)
        return page, None

    def allocation(self, request: Request, grant: Grant) -> tuple[Any, dict[str, str]]:
        identity = request.path_params["id"]
        if len(identity) != 36:
            raise Refusal(500, "alloc lookup failed: index error: UUID must be 36 characters")
        alloc = self.state.allocs.get(identity)
        if not grant.known and not grant.anonymous:
            raise Refusal(403, "Permission denied")
        if alloc is not None and not grant.reads(alloc.namespace):
            raise Refusal(500, f'Unknown allocation "{identity}"')
        if alloc is None:
            raise Refusal(404, "alloc not found", with_index="allocs")
        return alloc.full(self.state.version), {"X-Nomad-Index": str(alloc.modify_index)}

    # Everything else

    def listing(self, table: str) -> Callable[[Request, Grant], tuple[Any, dict[str, str]]]:
        def answer(request: Request, grant: Grant) -> tuple[Any, dict[str, str]]:
            things = list(getattr(self.state, table).values())
            if table == "nodes":
                grant.need(any_namespace=True)
                return [thing.stub(self.state.version) for thing in things], {}
            allowed = grant.namespaces(
                self.state.namespaces, request.query_params.get("namespace", "default")
            )
            chosen = [thing for thing in things if thing.namespace in allowed]
            if "job" in request.path_params:
                chosen = [thing for thing in chosen if thing.job_id == request.path_params["job"]]
            wanted = compiled(request.query_params.get("filter"))
            if wanted is not None:
                chosen = [thing for thing in chosen if passes(wanted, thing, self.state.version)]
            return [thing.stub(self.state.version) for thing in chosen], {}

        return answer

    def one(self, table: str, missing: str) -> Callable[[Request, Grant], tuple[Any, dict[str, str]]]:
        def answer(request: Request, grant: Grant) -> tuple[Any, dict[str, str]]:
            grant.need(any_namespace=True)
            key: Any = request.path_params["id"]
            if table == "jobs":
                key = (request.query_params.get("namespace", "default"), key)
            thing = getattr(self.state, table).get(key)
            if thing is None or (thing.namespace and not grant.reads(thing.namespace)):
                raise Refusal(404, missing)
            return thing.full(self.state.version), {"X-Nomad-Index": str(thing.modify_index)}

        return answer

    def placed(self, field: str) -> Callable[[Request, Grant], tuple[Any, dict[str, str]]]:
        def answer(request: Request, grant: Grant) -> tuple[Any, dict[str, str]]:
            wanted = request.path_params["id"]
            mine = [
                a for a in self.state.allocs.values() if a.field(field) == wanted and grant.reads(a.namespace)
            ]
            return [alloc.stub(self.state.version) for alloc in mine], {}

        return answer

    def agent(self, request: Request, grant: Grant) -> tuple[Any, dict[str, str]]:
        grant.need(management=True)
        version = {"Version": self.state.version, "VersionMetadata": "", "VersionPrerelease": ""}
        config = {"Region": "global", "Datacenter": "dc1", "Version": version}
        return {"config": config, "member": {"Name": "sim.global", "Status": "alive"}, "stats": {}}, {}

    def namespaces(self, request: Request, grant: Grant) -> tuple[Any, dict[str, str]]:
        readable = sorted(name for name in self.state.namespaces if grant.reads(name))
        return [
            {"Name": name, "Description": "", "CreateIndex": 1, "ModifyIndex": 1} for name in readable
        ], {}

    def token(self, request: Request, grant: Grant) -> tuple[Any, dict[str, str]]:
        return self.access.whoami(request.headers.get("x-nomad-token", "")), {}

    def policy(self, request: Request, grant: Grant) -> tuple[Any, dict[str, str]]:
        secret = request.headers.get("x-nomad-token", "")
        return self.access.policy(secret, request.path_params["name"]), {}

    def fixed(self, body: Any) -> Callable[[Request, Grant], tuple[Any, dict[str, str]]]:
        return lambda request, grant: (body, {})

    def routes(self) -> list[Route]:
        return [
            self.route("/v1/allocations", "allocs", self.allocations),
            self.route("/v1/allocation/{id}", "allocs", self.allocation),
            self.route("/v1/jobs", "jobs", self.listing("jobs")),
            self.route("/v1/job/{id}", "jobs", self.one("jobs", "job not found")),
            self.route("/v1/job/{id}/allocations", "allocs", self.placed("JobID")),
            self.route("/v1/job/{job}/evaluations", "evals", self.listing("evals")),
            self.route("/v1/nodes", "nodes", self.listing("nodes")),
            self.route("/v1/node/{id}", "nodes", self.one("nodes", "node not found")),
            self.route("/v1/node/{id}/allocations", "allocs", self.placed("NodeID")),
            self.route("/v1/evaluations", "evals", self.listing("evals")),
            self.route("/v1/evaluation/{id}", "evals", self.one("evals", "eval not found")),
            self.route("/v1/deployments", "deployment", self.listing("deployments")),
            self.route("/v1/deployment/{id}", "deployment", self.one("deployments", "deployment not found")),
            self.route("/v1/agent/self", "", self.agent),
            self.route("/v1/acl/token/self", "", self.token),
            self.route("/v1/acl/policy/{name}", "", self.policy),
            self.route("/v1/namespaces", "nodes", self.namespaces),
            self.route("/v1/regions", "", lambda request, grant: (sorted(["global", *self.regions]), {})),
            self.route("/v1/status/leader", "", self.fixed("127.0.0.1:4647")),
        ]


def _forwarded(request: Request, address: str) -> Response:
    """Ask the servers of another region, as those of this one do; they judge the token."""
    query = urlencode(
        [(name, value) for name, value in request.query_params.multi_items() if name != "region"]
    )
    token = {"X-Nomad-Token": request.headers.get("x-nomad-token", "")}
    asked = urllib.request.Request(f"{address}{request.url.path}?{query}", headers=token)  # noqa: S310 - a simulated cluster's
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
            status, body, told = answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as refused:
        status, body, told = refused.code, refused.read(), refused.headers
    except OSError:
        raise Refusal(500, "No path to region") from None
    headers = {name: value for name, value in told.items() if name.lower().startswith("x-nomad-")}
    return Response(body, status, headers, media_type=told.get_content_type())


def _turned(items: list[Any], *, reverse: bool) -> Iterable[Any]:
    return reversed(items) if reverse else items


def build(
    state: Any,
    access: Access,
    guard: Guard,
    engine: Engine | None,
    regions: Mapping[str, str],
    *,
    real_pty: bool = False,
) -> Starlette:
    """Return the application that serves a cluster."""
    handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
        404: _nothing,
        405: _wrong_method,
    }
    middleware = [
        Middleware(guard.middleware),
        Middleware(GZipMiddleware, minimum_size=1000, compresslevel=1),
    ]
    actions: list[BaseRoute] = []
    if engine is not None:
        sessions = Exec(engine, access, real_pty=real_pty)
        parts = (Actions(engine, access), sessions, Nodes(engine, access), Stream(engine, access))
        actions = [route for part in parts for route in part.routes()]
    app = Starlette(
        routes=[*Api(state, access, regions).routes(), *actions],
        middleware=middleware,
        exception_handlers=handlers,
    )
    app.router.redirect_slashes = False
    return app


async def _nothing(request: Request, error: Exception) -> Response:
    return Response(status_code=404)


async def _wrong_method(request: Request, error: Exception) -> Response:
    return Response("Invalid method", 405, media_type="text/plain")
