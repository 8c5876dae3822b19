"""The HTTP API of a simulated cluster: routes, paging, permissions and errors, as in real servers."""

from __future__ import annotations

import asyncio
import json
import random
import re
import urllib.error
import urllib.request
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import pairwise
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
from ..cluster.specs import diff_jobs
from ..exec.session import Exec
from .access import Access, Grant, Guard
from .actions import Actions
from .files import Files
from .nodes import Nodes
from .params import Refusal, checked_prefix, compiled, go_bool, go_seconds, numeric, page_size, passes
from .stream import Stream

Answer = Callable[[Request, Grant], tuple[Any, dict[str, str]]]
"""Returns the body and the headers of a response."""

LONGEST_WAIT = 300.0


class Api:
    """Answers requests from a cluster's state."""

    def __init__(self, state: Any, access: Access, regions: Mapping[str, str]) -> None:
        self.state = state
        self.access = access
        self.regions = regions
        self._sorted: tuple[int, list[tuple[int, str]], list[str]] = (-1, [], [])

    # Common to all routes

    def route(self, path: str, table: str, answer: Answer) -> Route:
        """Return a route. `table` is the one whose index it reports and waits for; "" for none."""

        async def endpoint(request: Request) -> Response:
            address = self.regions.get(request.query_params.get("region", ""))
            try:
                if address is not None:
                    return await run_in_threadpool(_forward, request, address)
                grant = self.access.grant(request.headers.get("x-nomad-token"))
                await self._block(request, table)
                body, headers = await run_in_threadpool(self._answer, answer, request, grant)
            except Refusal as refusal:
                return self._error_response(refusal)
            return Response(body, media_type="application/json", headers={**self._headers(table), **headers})

        return Route(path, endpoint, methods=["GET"])

    def _answer(self, answer: Answer, request: Request, grant: Grant) -> tuple[bytes, dict[str, str]]:
        with self.state.changed:
            if request.query_params.get("region", "global") != "global":
                raise Refusal(500, "No path to region")
            # With "stale", any server answers without a leader.
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

    def _error_response(self, refusal: Refusal) -> Response:
        headers = self._headers(refusal.with_index)
        return Response(refusal.text, refusal.status, headers, media_type="text/plain")

    async def _block(self, request: Request, table: str) -> None:
        """Wait until the table has passed the index of a blocking query."""
        wait = go_seconds(request.query_params.get("wait"))
        text = request.query_params.get("index", "0")
        if not re.fullmatch(r"\d{1,20}", text) or int(text) >= 2**64:
            raise Refusal(400, "Invalid index")
        index = int(text)
        if index == 0 or not table:
            return
        wait = min(wait or LONGEST_WAIT, LONGEST_WAIT)
        # Nomad adds up to a sixteenth of the wait, so that clients do not return in step.
        end = asyncio.get_running_loop().time() + wait + random.uniform(0, wait / 16)
        started = self.state.starts
        while self.state.table_index(table) <= index and asyncio.get_running_loop().time() < end:
            if await request.is_disconnected():
                return
            # The server has restarted: real clients see their connection end.
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
        page, next_token = self._page(query, allowed)
        stubs = [
            alloc.stub(self.state.version, task_states=task_states, resources=resources) for alloc in page
        ]
        return stubs, ({"X-Nomad-Nexttoken": next_token} if next_token else {})

    def _order(self, query: Any) -> Iterable[tuple[str, Any]]:
        """Return the allocations in list order, each with the key that a page token is compared with."""
        by_index, by_id = self._sorted_allocs()
        prefix, reverse = query.get("prefix", ""), query.get("reverse") == "true"
        if prefix:
            # "g" sorts after every hexadecimal digit, so it ends the range of the prefix.
            head = checked_prefix(prefix)
            chosen = by_id[bisect_left(by_id, head) : bisect_right(by_id, head + "g")]
            keys: Iterable[tuple[str, str]] = (
                (identity, identity) for identity in _maybe_reversed(chosen, reverse)
            )
        else:
            keys = (
                (f"{index}.{identity}", identity) for index, identity in _maybe_reversed(by_index, reverse)
            )
        return ((key, self.state.allocs[identity]) for key, identity in keys)

    def _before_token(self, query: Any) -> Callable[[str], bool]:
        """Return the test for rows before the page token.

        Up to 1.10.1, Nomad compares tokens as text, so that "102" comes before "99": a plain walk then loops.
        """
        token, reverse = query.get("next_token", ""), query.get("reverse") == "true"
        if not token:
            return lambda key: False
        if self.state.version == "1.3.1" or query.get("prefix"):
            return lambda key: key > token if reverse else key < token
        start = numeric(token)
        return lambda key: numeric(key) > start if reverse else numeric(key) < start

    def _sorted_allocs(self) -> tuple[list[tuple[int, str]], list[str]]:
        """Return the IDs of all allocations by index and by ID. They are sorted again only after a change."""
        index = self.state.table_index("allocs")
        if self._sorted[0] != index:
            by_index = sorted((alloc.create_index, alloc.id) for alloc in self.state.allocs.values())
            self._sorted = (index, by_index, sorted(self.state.allocs))
        return self._sorted[1], self._sorted[2]

    def _page(self, query: Any, allowed: set[str]) -> tuple[list[Any], str | None]:
        size, predicate = page_size(query.get("per_page"), self.state.version), compiled(query.get("filter"))
        before_token, started = self._before_token(query), False
        page: list[Any] = []
        for key, alloc in self._order(query):
            if not started and before_token(key):
                continue
            if alloc.namespace not in allowed:
                continue
            if predicate and not passes(predicate, alloc, self.state.version):
                continue
            started = True
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
        # Nomad answers 500 here and 404 for an unknown ID, with different texts.
        if alloc is not None and not grant.reads(alloc.namespace):
            raise Refusal(500, f'Unknown allocation "{identity}"')
        if alloc is None:
            raise Refusal(404, "alloc not found", with_index="allocs")
        return alloc.full(self.state.version), {"X-Nomad-Index": str(alloc.modify_index)}

    # Other objects

    def list_of(self, table: str) -> Answer:
        """Return the answer for a list of a table's objects."""

        def answer(request: Request, grant: Grant) -> tuple[Any, dict[str, str]]:
            objects = list(getattr(self.state, table).values())
            if table == "nodes":
                grant.need(nodes=True)
                objects = _with_prefix(objects, table, request.query_params.get("prefix", ""))
                return [item.stub(self.state.version) for item in objects], {}
            allowed = grant.namespaces(
                self.state.namespaces, request.query_params.get("namespace", "default")
            )
            objects = [item for item in objects if item.namespace in allowed]
            if "job" in request.path_params:
                objects = [item for item in objects if item.job_id == request.path_params["job"]]
            objects = _with_prefix(objects, table, request.query_params.get("prefix", ""))
            predicate = compiled(request.query_params.get("filter"))
            if predicate is not None:
                objects = [item for item in objects if passes(predicate, item, self.state.version)]
            return [item.stub(self.state.version) for item in objects], {}

        return answer

    def read_of(self, table: str, missing: str, *, render: str = "full") -> Answer:
        """Return the answer for a read of one object. `missing` is the error if there is none."""

        def answer(request: Request, grant: Grant) -> tuple[Any, dict[str, str]]:
            grant.need(any_namespace=table != "nodes", nodes=table == "nodes")
            key: Any = request.path_params["id"]
            if table == "jobs":
                key = (request.query_params.get("namespace", "default"), key)
            item = getattr(self.state, table).get(key)
            if item is None or (item.namespace and not grant.reads(item.namespace)):
                raise Refusal(404, missing)
            body = getattr(item, render)(self.state.version)
            if table == "nodes" and self.state.is_live:
                # Nomad's own tools ask the node itself, with the token: that must be this server, too.
                body["HTTPAddr"] = request.headers["host"]
            return body, {"X-Nomad-Index": str(item.modify_index)}

        return answer

    def job_versions(self, request: Request, grant: Grant) -> tuple[Any, dict[str, str]]:
        namespace = request.query_params.get("namespace", "default")
        if not grant.reads(namespace):
            raise Refusal(403, "Permission denied")
        versions = self.state.job_versions.get((namespace, request.path_params["id"]))
        if not versions:
            raise Refusal(404, "job versions not found", with_index="jobs")
        specs = [job.full(self.state.version) for job in versions]
        deployed = {
            (item.job_id, item.job_version)
            for item in self.state.deployments.values()
            if self.state.is_live and item.namespace == namespace and item.status == "successful"
        }
        for spec in specs if self.state.is_live else ():
            spec["Stable"] = (spec["ID"], spec["Version"]) in deployed
        diffs = [diff_jobs(before, after) for after, before in pairwise(specs)]
        wanted = go_bool(request.query_params, "diffs", default=False)
        answer = {"Diffs": (diffs or None) if wanted else None, "Versions": specs}
        index = versions[0].modify_index
        return {**answer, "Index": index, "KnownLeader": True, "LastContact": 0, "NextToken": ""}, {
            "X-Nomad-Index": str(index)
        }

    def latest_deployment(self, request: Request, grant: Grant) -> tuple[Any, dict[str, str]]:
        """Return a job's newest deployment; null if it has none, or there is no such job."""
        namespace = request.query_params.get("namespace", "default")
        grant.namespaces(self.state.namespaces, namespace)
        found = [
            item
            for item in self.state.deployments.values()
            if (item.namespace, item.job_id) == (namespace, request.path_params["job"])
        ]
        newest = max(found, key=lambda item: item.create_index, default=None)
        return newest and newest.full(self.state.version), {}

    def job_summary(self, request: Request, grant: Grant) -> tuple[Any, dict[str, str]]:
        job, headers = self.read_of("jobs", "job not found", render="stub")(request, grant)
        return job["JobSummary"], headers

    def allocations_of(self, field: str, *, full: bool = False) -> Answer:
        """Return the answer for the allocations of an object, by the field that holds its ID."""

        def answer(request: Request, grant: Grant) -> tuple[Any, dict[str, str]]:
            identity = request.path_params["id"]
            allocs = [
                alloc
                for alloc in self.state.allocs.values()
                if alloc.field(field) == identity and grant.reads(alloc.namespace)
            ]
            render = type(allocs[0]).full if full and allocs else type(allocs[0]).stub if allocs else None
            return [render(alloc, self.state.version) for alloc in allocs] if render else [], {}

        return answer

    def agent(self, request: Request, grant: Grant) -> tuple[Any, dict[str, str]]:
        grant.need(management=True)
        version = {"Version": self.state.version, "VersionMetadata": "", "VersionPrerelease": ""}
        config = {"Region": "global", "Datacenter": "dc1", "Version": version}
        return {"config": config, "member": {"Name": "sim.global", "Status": "alive"}, "stats": {}}, {}

    def members(self, request: Request, grant: Grant) -> tuple[Any, dict[str, str]]:
        """Return the only server, as its gossip shows it."""
        grant.need(nodes=True)
        tags = {"bootstrap": "1", "build": self.state.version, "dc": "dc1", "expect": "1", "port": "4647"}
        tags |= {"raft_vsn": "3", "region": "global", "role": "nomad", "rpc_addr": "127.0.0.1", "vsn": "1"}
        protocol = {"DelegateCur": 4, "DelegateMax": 5, "DelegateMin": 2}
        protocol |= {"ProtocolCur": 2, "ProtocolMax": 5, "ProtocolMin": 1}
        server = {"Addr": "127.0.0.1", "Name": "sim.global", "Port": 4648, "Status": "alive", "Tags": tags}
        answer = {"Members": [{**protocol, **server}], "ServerDC": "dc1", "ServerName": "sim"}
        return {**answer, "ServerRegion": "global"}, {}

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

    def fixed(self, body: Any) -> Answer:
        return lambda request, grant: (body, {})

    def routes(self) -> list[Route]:
        return [
            self.route("/v1/allocations", "allocs", self.allocations),
            self.route("/v1/allocation/{id}", "allocs", self.allocation),
            self.route("/v1/jobs", "jobs", self.list_of("jobs")),
            self.route("/v1/job/{id:path}/versions", "jobs", self.job_versions),
            self.route("/v1/job/{job:path}/deployments", "deployment", self.list_of("deployments")),
            self.route("/v1/job/{job:path}/deployment", "deployment", self.latest_deployment),
            self.route("/v1/job/{id:path}/summary", "jobs", self.job_summary),
            self.route("/v1/job/{id}", "jobs", self.read_of("jobs", "job not found")),
            self.route("/v1/job/{id}/allocations", "allocs", self.allocations_of("JobID")),
            self.route("/v1/job/{job}/evaluations", "evals", self.list_of("evals")),
            self.route("/v1/nodes", "nodes", self.list_of("nodes")),
            self.route("/v1/node/{id}", "nodes", self.read_of("nodes", "node not found")),
            self.route("/v1/node/{id}/allocations", "allocs", self.allocations_of("NodeID", full=True)),
            self.route("/v1/evaluations", "evals", self.list_of("evals")),
            self.route("/v1/evaluation/{id}", "evals", self.read_of("evals", "eval not found")),
            self.route("/v1/evaluation/{id}/allocations", "allocs", self.allocations_of("EvalID")),
            self.route("/v1/deployment/allocations/{id}", "allocs", self.allocations_of("DeploymentID")),
            self.route("/v1/agent/members", "", self.members),
            self.route("/v1/deployments", "deployment", self.list_of("deployments")),
            self.route(
                "/v1/deployment/{id}", "deployment", self.read_of("deployments", "deployment not found")
            ),
            self.route("/v1/agent/self", "", self.agent),
            self.route("/v1/acl/token/self", "", self.token),
            self.route("/v1/acl/policy/{name}", "", self.policy),
            self.route("/v1/namespaces", "nodes", self.namespaces),
            self.route("/v1/regions", "", lambda request, grant: (sorted(["global", *self.regions]), {})),
            self.route("/v1/status/leader", "", self.fixed("127.0.0.1:4647")),
        ]


_LOOKUP = {"nodes": "node lookup failed: ", "evals": "eval lookup failed: ", "deployments": ""}
"""How the error for a bad prefix begins. IDs of jobs are not looked at."""


def _with_prefix(objects: list[Any], table: str, prefix: str) -> list[Any]:
    """Return the objects whose ID starts so."""
    if prefix and table in _LOOKUP:
        prefix = checked_prefix(prefix, _LOOKUP[table])
    return [item for item in objects if item.id.startswith(prefix)] if prefix else objects


def _forward(request: Request, address: str) -> Response:
    """Send a request on to the servers of another region, which check the token themselves."""
    query = urlencode(
        [(name, value) for name, value in request.query_params.multi_items() if name != "region"]
    )
    token = {"X-Nomad-Token": request.headers.get("x-nomad-token", "")}
    forwarded = urllib.request.Request(  # noqa: S310 - the address is a simulated cluster's
        f"{address}{request.url.path}?{query}", headers=token
    )
    try:
        with urllib.request.urlopen(forwarded, timeout=30) as response:  # noqa: S310
            status, body, received = response.status, response.read(), response.headers
    except urllib.error.HTTPError as error:
        status, body, received = error.code, error.read(), error.headers
    except OSError:
        raise Refusal(500, "No path to region") from None
    headers = {name: value for name, value in received.items() if name.lower().startswith("x-nomad-")}
    return Response(body, status, headers, media_type=received.get_content_type())


def _maybe_reversed(items: list[Any], reverse: bool) -> Iterable[Any]:
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
        404: _not_found,
        405: _wrong_method,
    }
    middleware = [
        Middleware(guard.middleware),
        Middleware(GZipMiddleware, minimum_size=1000, compresslevel=1),
    ]
    live_routes: list[BaseRoute] = []
    if engine is not None:  # a recording has no engine, and cannot act, stream or answer for nodes
        sessions = Exec(engine, access, real_pty=real_pty)
        nodes = (Nodes(engine, access), Files(engine, access))
        parts = (Actions(engine, access), sessions, *nodes, Stream(engine, access))
        live_routes = [route for part in parts for route in part.routes()]
    app = Starlette(
        routes=[*Api(state, access, regions).routes(), *live_routes],
        middleware=middleware,
        exception_handlers=handlers,
    )
    # Nomad does not redirect "/v1/jobs/" to "/v1/jobs".
    app.router.redirect_slashes = False
    return app


async def _not_found(request: Request, error: Exception) -> Response:
    return Response(status_code=404)


async def _wrong_method(request: Request, error: Exception) -> Response:
    return Response("Invalid method", 405, media_type="text/plain")
