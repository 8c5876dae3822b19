"""Nomad's rules without I/O: query parameters, response headers, and what an error means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .._utils.validate import check_count
from ..errors import (
    AllocframeError,
    ApiError,
    BadRequest,
    ConfigError,
    Conflict,
    ConnectionFailed,
    NodeUnreachable,
    NotFound,
    PermissionDenied,
    Unsupported,
)

LIST = "/v1/allocations"
REGIONS = "/v1/regions"

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_PREFIX = re.compile(r"[0-9a-f-]+")
_GROUPS = ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
"""Where the digits of a UUID are parted by dashes."""

_READS = re.compile(
    r"/v1/(?:allocations|evaluations|jobs|deployments|nodes|namespaces|regions|agent/self|acl/token/self"
    r"|job/(?:[A-Za-z0-9_.~-]|%[0-9A-F]{2})+/versions|node/[0-9a-f-]{36}"
    r"|acl/policy/[A-Za-z0-9-]{1,128}|acl/role/[0-9a-f-]{36}"
    r"|allocation/[0-9a-f-]{36}|client/fs/logs/[0-9a-f-]{36}|client/allocation/[0-9a-f-]{36}/stats)"
)
_CONFLICT = ("not running", "alloc that should not run", "exec not possible")
_UNKNOWN_TASK = re.compile(r"Could not find task runner|[Tt]ask not found|unknown task name")

NOT_VISIBLE = "It was removed, is in another region, or is hidden from this token"
"""Why a token sees no allocation of an ID."""

FIRST_PAGE = 1000
"""Rows of the first page, unless `per_page` says otherwise."""


@dataclass(frozen=True)
class Query:
    """Which allocations to list. Every value is checked before a request is sent."""

    namespace: str | None = None
    region: str | None = None
    prefix: str | None = None
    filter: str | None = None
    task_states: bool = True
    resources: bool = False
    stale: bool = False
    newest: int | None = None
    per_page: int | None = None

    def __post_init__(self) -> None:
        for name in ("task_states", "resources", "stale"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.per_page is not None:
            check_count("per_page", self.per_page)
        if self.newest is not None:
            check_count("newest", self.newest)
        for name in ("namespace", "filter"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise ConfigError(f"{name} must be a non-empty string or None, got {value!r}")
        if self.prefix is not None:
            object.__setattr__(self, "prefix", check_prefix(self.prefix))

    @property
    def takes_last_page(self) -> bool:
        """Whether the newest allocations are one page. Within a prefix, a list is in the order of IDs."""
        return self.newest is not None and self.prefix is None

    def params(
        self,
        shard: str | None = None,
        token: str | None = None,
        *,
        paged: bool = True,
        per_page: int | None = None,
    ) -> dict[str, str]:
        """Return the query parameters of one page, of `FIRST_PAGE` rows if nothing else was chosen."""
        # Servers accept only the exact strings "true" and "false".
        params = {"task_states": "true" if self.task_states else "false"}
        if self.resources:
            params["resources"] = "true"
        if self.stale:
            params["stale"] = "true"
        optional = {"namespace": self.namespace, "region": self.region, "filter": self.filter}
        params |= {name: value for name, value in optional.items() if value is not None}
        prefix = self.prefix if shard is None else shard
        if prefix is not None:
            params["prefix"] = prefix
        if self.takes_last_page:
            return {**params, "reverse": "true", "per_page": str(self.newest)}
        if paged:
            params["per_page"] = str(self.per_page or per_page or FIRST_PAGE)
        if token is not None:
            params["next_token"] = token
        return params


def check_prefix(prefix: str) -> str:
    """Return a prefix in the form that servers accept: hexadecimal, with an even number of digits."""
    if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix.lower()):
        raise ConfigError(f"prefix must be the hexadecimal start of an allocation ID, got {prefix!r}")
    if len(prefix.replace("-", "")) % 2:
        raise ConfigError(
            f"prefix must have an even number of digits, got {prefix!r}. Leave out the last digit"
        )
    return prefix.lower()


def check_alloc_id(alloc_id: str) -> tuple[str, bool]:
    """Return an allocation's ID or the start of one, and whether it is complete. Dashes may be left out."""
    text = alloc_id.strip().lower() if isinstance(alloc_id, str) else ""
    if re.fullmatch(r"[0-9a-f]{2,32}", text):
        text = "-".join(part for part in (text[i:j] for i, j in _GROUPS) if part)
    if _UUID.fullmatch(text):
        return text, True
    if len(text) < 2 or len(text) >= 36 or not _PREFIX.fullmatch(text):
        raise ConfigError(
            f"an allocation ID must be a UUID, or at least the first two digits of one, got {alloc_id!r}"
        )
    return text, False


def even_head(prefix: str) -> str:
    """Return the longest start of `prefix` that servers accept."""
    return prefix if len(prefix.replace("-", "")) % 2 == 0 else prefix[:-1]


@dataclass(frozen=True)
class Headers:
    """The headers of a response. A missing or unreadable value is None."""

    index: int | None = None
    last_contact: int | None = None
    known_leader: bool | None = None
    next_token: str | None = None

    @classmethod
    def parse(cls, headers: Mapping[str, str]) -> Headers:
        lower = {name.lower(): value for name, value in headers.items()}
        return cls(
            index=_uint(lower.get("x-nomad-index")),
            last_contact=_uint(lower.get("x-nomad-lastcontact")),
            known_leader={"true": True, "false": False}.get(lower.get("x-nomad-knownleader", "")),
            next_token=lower.get("x-nomad-nexttoken") or None,
        )


def _uint(text: str | None) -> int | None:
    if text is None or not re.fullmatch(r"\d{1,20}", text, re.ASCII) or int(text) >= 2**64:
        return None
    return int(text)


def is_read(path: str) -> bool:
    """Return whether a GET of this path only reads."""
    # An allow-list, because some GETs change things: Nomad answers /client/allocation/ID/gc by collecting it.
    return _READS.fullmatch(path) is not None


def is_unknown_task(error: ApiError) -> bool:
    """Return whether a request was refused because the allocation has no task of that name."""
    return _UNKNOWN_TASK.search(error.text) is not None


def error_for(method: str, path: str, status: int, text: str) -> AllocframeError:
    """Return the typed error for a response. Nomad puts the meaning into the text, not the status."""
    if status == 400 and "HTTP request to an HTTPS server" in text:
        return ConnectionFailed(f"{method} {path}: this port speaks TLS. Set NOMAD_ADDR to https://...")

    def make(kind: type[ApiError], hint: str) -> ApiError:
        return kind(status, text, method=method, path=path, hint=hint)

    if "failed to parse signed token" in text or "acl token lookup failed" in text:
        return make(PermissionDenied, "NOMAD_TOKEN is not a Nomad token. Was it copied completely?")
    if status in (401, 403) or "Permission denied" in text or "ACL token" in text:
        return make(
            PermissionDenied, f"Set NOMAD_TOKEN to a token whose policy allows {_required_capability(path)}"
        )
    if "No path to node" in text or "Unknown node" in text:
        return make(NodeUnreachable, "The servers cannot reach the allocation's node")
    if "alloc not found" in text or "allocation not found" in text or "Unknown allocation" in text:
        return make(NotFound, NOT_VISIBLE)
    if "log entry for task" in text or "not found on client" in text:
        return make(NotFound, "The task wrote no log, or its node has removed it")
    if "No logs available" in text:
        return make(Conflict, "The task has not written a log yet")
    if status == 404:
        return make(Unsupported, "This server has no such API. Check the address (NOMAD_ADDR)")
    if _UNKNOWN_TASK.search(text):
        return make(BadRequest, "The allocation has no task of this name")
    if any(mark in text for mark in _CONFLICT):
        return make(Conflict, "Read the allocation again: its tasks have changed state")
    if "No path to region" in text:
        return make(BadRequest, "Check region (NOMAD_REGION) against `nomad server members`")
    if status == 429:
        return make(ApiError, "Nomad allows 100 connections per address. Close other clients")
    if (
        status == 400
        or "must provide task name" in text
        or (status == 500 and ("alloc lookup failed" in text or "Failed to parse" in text))
    ):
        return make(BadRequest, "Check the filter and other parameters")
    return make(ApiError, "")


def _required_capability(path: str) -> str:
    """Return the ACL capability that a request needs."""
    if path.endswith("/exec"):
        return "alloc-exec (and alloc-node-exec for raw_exec)"
    if path.startswith("/v1/client/fs/logs/"):
        return "read-logs (or read-fs)"
    if path.startswith(("/v1/node/", "/v1/nodes")):
        return 'reading nodes (node { policy = "read" })'
    if path == "/v1/jobs":
        return "list-jobs"
    return "alloc-lifecycle" if path.endswith(("/stop", "/signal", "/restart")) else "read-job"
