"""Permissions in a simulated cluster, and which requests may reach it at all."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .params import Refusal

_READ = [
    "list-jobs", "parse-job", "read-job", "csi-list-volume", "csi-read-volume", "read-job-scaling",
    "list-scaling-policies", "read-scaling-policy",
]  # fmt: skip
_LIFECYCLE = ["alloc-lifecycle", "alloc-exec"]
_LOGS = ["read-logs"]


@dataclass(frozen=True)
class Grant:
    """What a token may do."""

    known: bool
    anonymous: bool = False
    management: bool = False
    readable: frozenset[str] = frozenset()
    lifecycle: frozenset[str] = frozenset()
    logs: frozenset[str] = frozenset()
    nodes: bool = False
    accessor: str = "anonymous"

    def reads(self, namespace: str | None) -> bool:
        return self.management or namespace in self.readable

    def acts(self, namespace: str | None) -> bool:
        """Return whether it may stop, signal, restart and exec in a namespace."""
        return self.management or namespace in self.lifecycle

    def reads_logs(self, namespace: str | None) -> bool:
        return self.management or namespace in self.logs

    @property
    def policy(self) -> str:
        return f"sim-{self.accessor[:8]}"

    def _capabilities(self, namespace: str) -> list[str]:
        more = ((_LIFECYCLE, self.lifecycle), (_LOGS, self.logs))
        return [*_READ, *(name for names, spaces in more if namespace in spaces for name in names)]

    def rules(self) -> str:
        """Return the rules of its policy as HCL."""
        blocks = [
            f'namespace "{name}" {{\n  capabilities = {json.dumps(self._capabilities(name))}\n}}\n'
            for name in sorted(self.readable)
        ]
        if self.nodes:
            blocks.append('node {\n  policy = "read"\n}\n')
        return "".join(blocks)

    def rules_json(self) -> dict[str, Any]:
        """Return the rules of its policy as servers parse them."""
        spaces = [
            {"Capabilities": self._capabilities(name), "Name": name, "Policy": "", "Variables": None}
            for name in sorted(self.readable)
        ]
        others = ("Agent", "HostVolumes", "Node", "Operator", "Plugin", "Quota")
        parsed = {**dict.fromkeys(others), "Namespaces": spaces or None, "Raw": self.rules()}
        return {**parsed, "Node": {"Policy": "read"}} if self.nodes else parsed

    def namespaces(self, existing: Iterable[str], requested: str) -> set[str]:
        """Return the namespaces to list. ``*`` silently leaves out those that the token may not read."""
        if not self.known or (requested != "*" and not self.reads(requested)):
            raise Refusal(403, "Permission denied")
        return {name for name in existing if self.reads(name)} if requested == "*" else {requested}

    def need(self, *, management: bool = False, any_namespace: bool = False, nodes: bool = False) -> None:
        """Refuse unless it is a management token, or may read some namespace, or nodes."""
        missing = management or (any_namespace and not self.readable) or (nodes and not self.nodes)
        if missing and not self.management:
            raise Refusal(403, "Permission denied")


@dataclass
class Access:
    """The tokens of a cluster. Without ACLs, every request may do everything."""

    enabled: bool
    version: str = "2.0.5"
    grants: dict[str, Grant] = field(default_factory=dict)

    def grant(self, token: str | None) -> Grant:
        if not self.enabled:
            return Grant(known=True, management=True)
        return self.grants.get(token or "", Grant(known=False, anonymous=not token))

    def whoami(self, token: str) -> dict[str, Any]:
        """Return the token of the request, including its secret, as real servers do."""
        old, grant = self.version == "1.3.1", self.grant(token)
        if not self.enabled:
            if old:
                raise Refusal(400, "ACL support disabled")
            return self._token("acls-disabled", "ACLs disabled token", "client", [], "")
        if not token:
            if old:
                raise Refusal(500, "acl token lookup failed: missing secret id")
            return self._token("anonymous", "Anonymous Token", "client", ["anonymous"], "")
        if not grant.known:
            raise Refusal(404, "ACL token not found") if old else Refusal(403, "Permission denied")
        kind, policies = ("management", []) if grant.management else ("client", [grant.policy])
        return self._token(grant.accessor, f"sim {kind}", kind, policies, token)

    def _token(self, accessor: str, name: str, kind: str, policies: list[str], secret: str) -> dict[str, Any]:
        newer = {"ExpirationTTL": "", "ExpirationTime": None, "Roles": None}
        return {
            "AccessorID": accessor, "CreateIndex": 1, "CreateTime": "2026-01-01T00:00:00Z", "Global": False,
            "Hash": None, "ModifyIndex": 1, "Name": name, "Policies": policies or None, "SecretID": secret,
            "Type": kind,
            **({} if self.version == "1.3.1" else newer),
        }  # fmt: skip

    def policy(self, token: str, name: str) -> dict[str, Any]:
        """Return a policy to a token that has it or manages the cluster."""
        if not self.enabled:
            raise Refusal(400, "ACL support disabled")
        grant = self.grant(token)
        if not grant.known and token:
            raise Refusal(403, "ACL token not found" if self.version == "1.3.1" else "Permission denied")
        policies = {other.policy: other for other in self.grants.values() if not other.management}
        if name != "anonymous" and not grant.management and (not grant.known or grant.policy != name):
            raise Refusal(403, "Permission denied")
        if name not in policies:
            raise Refusal(404, "ACL policy not found")
        return {
            "CreateIndex": 1, "Description": "", "Hash": None, "ModifyIndex": 1, "Name": name,
            "Rules": policies[name].rules(), "RulesJSON": policies[name].rules_json(),
        }  # fmt: skip


class Guard:
    """Lets in only requests with a local Host and no foreign Origin.

    This keeps web pages from reaching the cluster through the user's browser (DNS rebinding and cross-site
    requests).
    """

    def __init__(self) -> None:
        self.port = 0

    def allows(self, headers: dict[str, str]) -> bool:
        names = {f"{host}:{self.port}" for host in ("127.0.0.1", "localhost", "[::1]")}
        origin = headers.get("origin")
        return headers.get("host", "") in names and (
            origin is None or origin in {f"http://{name}" for name in names}
        )

    def middleware(self, app: ASGIApp) -> ASGIApp:
        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            headers: dict[str, Any] = {
                k.decode("latin-1"): v.decode("latin-1") for k, v in scope.get("headers", [])
            }
            if scope["type"] == "lifespan" or self.allows(headers):
                await app(scope, receive, send)
            else:
                await Response("this address is not served here", 403, media_type="text/plain")(
                    scope, receive, send
                )

        return guarded
