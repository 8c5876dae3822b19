"""Who may do what in a simulated cluster, and which requests reach it at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .params import Refusal


@dataclass(frozen=True)
class Grant:
    """What the bearer of a token may do."""

    known: bool
    anonymous: bool = False
    management: bool = False
    readable: frozenset[str] = frozenset()
    lifecycle: frozenset[str] = frozenset()

    def reads(self, namespace: str | None) -> bool:
        return self.management or namespace in self.readable

    def acts(self, namespace: str | None) -> bool:
        """Whether it may stop, signal and restart in a namespace."""
        return self.management or namespace in self.lifecycle

    def namespaces(self, known: Iterable[str], asked: str) -> set[str]:
        """Return the namespaces to list: ``*`` leaves out silently what may not be read."""
        if not self.known or (asked != "*" and not self.reads(asked)):
            raise Refusal(403, "Permission denied")
        return {name for name in known if self.reads(name)} if asked == "*" else {asked}

    def need(self, *, management: bool = False, any_namespace: bool = False) -> None:
        if (management and not self.management) or (any_namespace and not (self.management or self.readable)):
            raise Refusal(403, "Permission denied")


@dataclass
class Access:
    """The tokens of a cluster; without ACLs everyone may do everything."""

    enabled: bool
    grants: dict[str, Grant] = field(default_factory=dict)

    def grant(self, token: str | None) -> Grant:
        if not self.enabled:
            return Grant(known=True, management=True)
        return self.grants.get(token or "", Grant(known=False, anonymous=not token))


class Guard:
    """Lets in only requests that were meant for this server: a local name, and no other site's page."""

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
