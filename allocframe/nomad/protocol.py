"""Nomad's rules without I/O: which request comes next, and what an answer means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .._utils.validate import check_count
from ..errors import (
    ApiError,
    BadRequest,
    ConfigError,
    Conflict,
    NodeUnreachable,
    NotFound,
    PermissionDenied,
    Unsupported,
)

LIST = "/v1/allocations"
REGIONS = "/v1/regions"

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_PREFIX = re.compile(r"[0-9a-f-]+")
_READS = re.compile(
    r"/v1/(?:allocations|evaluations|regions|agent/self|acl/token/self|acl/policy/[A-Za-z0-9-]{1,128}|acl/role/[0-9a-f-]{36}"
    r"|allocation/[0-9a-f-]{36}|client/fs/logs/[0-9a-f-]{36}|client/allocation/[0-9a-f-]{36}/stats)"
)
_CONFLICT = ("not running", "alloc that should not run", "Could not find task runner", "ask not found")


@dataclass(frozen=True)
class Query:
    """What to list; every value is checked before anything is sent."""

    namespace: str | None = None
    region: str | None = None
    prefix: str | None = None
    filter: str | None = None
    task_states: bool = True
    resources: bool = False
    stale: bool = False
    newest: int | None = None
    per_page: int = 1000

    def __post_init__(self) -> None:
        for name in ("task_states", "resources", "stale"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False, not {getattr(self, name)!r}")
        check_count("per_page", self.per_page)
        if self.newest is not None:
            check_count("newest", self.newest)
        for name in ("namespace", "filter"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise ConfigError(f"{name} must be a text that is not empty, or None, not {value!r}")
        if self.prefix is not None:
            object.__setattr__(self, "prefix", check_prefix(self.prefix))

    def params(
        self, shard: str | None = None, token: str | None = None, *, paged: bool = True
    ) -> dict[str, str]:
        """Return the query string of one page; servers understand only the exact text ``true``."""
        params = {"task_states": "true" if self.task_states else "false"}
        if self.resources:
            params["resources"] = "true"
        if self.stale:
            params["stale"] = "true"
        named = {"namespace": self.namespace, "region": self.region, "filter": self.filter}
        params |= {name: value for name, value in named.items() if value is not None}
        prefix = self.prefix if shard is None else shard
        if prefix is not None:
            params["prefix"] = prefix
        if self.newest is not None:
            return {**params, "reverse": "true", "per_page": str(self.newest)}
        if paged:
            params["per_page"] = str(self.per_page)
        if token is not None:
            params["next_token"] = token
        return params


def check_prefix(prefix: str) -> str:
    """Return a prefix as servers take it: hexadecimal, with an even number of digits."""
    if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix.lower()):
        raise ConfigError(f"prefix must be hexadecimal digits of an allocation's ID, not {prefix!r}")
    if len(prefix.replace("-", "")) % 2:
        raise ConfigError(
            f"prefix {prefix!r} has an odd number of digits; Nomad takes an even one: leave out the last"
        )
    return prefix.lower()


def check_alloc_id(alloc_id: str) -> tuple[str, bool]:
    """Return an allocation's ID, or the start of one, and whether it is whole."""
    text = alloc_id.strip().lower() if isinstance(alloc_id, str) else ""
    if _UUID.fullmatch(text):
        return text, True
    if len(text) < 2 or len(text) >= 36 or not _PREFIX.fullmatch(text):
        raise ConfigError(
            f"{alloc_id!r} is neither an allocation's ID nor at least two digits of the start of one"
        )
    return text, False


def even_head(prefix: str) -> str:
    """Return the longest start of `prefix` that servers take."""
    return prefix if len(prefix.replace("-", "")) % 2 == 0 else prefix[:-1]


@dataclass(frozen=True)
class Headers:
    """What an answer's headers say; a value that cannot be read is None."""

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
    """Tell whether a GET of this path only reads: Nomad restarts by GET, too."""
    return _READS.fullmatch(path) is not None


def error_for(method: str, path: str, status: int, text: str) -> ApiError:
    """Return the error that an answer stands for; Nomad puts the meaning into the text, not the status."""

    def made(kind: type[ApiError], hint: str) -> ApiError:
        return kind(status, text, method=method, path=path, hint=hint)

    if status in (401, 403) or "Permission denied" in text or "ACL token" in text:
        return made(PermissionDenied, f"Set NOMAD_TOKEN to a token whose policy allows {_needed(path)}")
    if "No path to node" in text or "Unknown node" in text:
        return made(NodeUnreachable, "The allocation's node cannot be reached by the servers")
    if "alloc not found" in text or "allocation not found" in text or "Unknown allocation" in text:
        return made(NotFound, "It is gone, in another region, or this token may not see it")
    if "log entry for task" in text or "not found on client" in text:
        return made(NotFound, "Nothing was written, or its node has removed it")
    if "No logs available" in text:
        return made(Conflict, "It has written nothing so far")
    if status == 404:
        return made(Unsupported, "This server does not have that call; is the address (NOMAD_ADDR) right?")
    if any(mark in text for mark in _CONFLICT):
        return made(Conflict, "Read the allocation again: its tasks have moved on")
    if "No path to region" in text:
        return made(BadRequest, "Check region (NOMAD_REGION) against `nomad server members`")
    if status == 429:
        return made(ApiError, "Nomad allows 100 connections from one address; close other clients")
    if (
        status == 400
        or "must provide task name" in text
        or (status == 500 and ("alloc lookup failed" in text or "Failed to parse" in text))
    ):
        return made(BadRequest, "Check the filter and other parameters")
    return made(ApiError, "")


def _needed(path: str) -> str:
    """Return the capability that a call needs."""
    if path.endswith("/exec"):
        return "alloc-exec (and alloc-node-exec for raw_exec)"
    if path.startswith("/v1/client/fs/logs/"):
        return "read-logs (or read-fs)"
    return "alloc-lifecycle" if path.endswith(("/stop", "/signal", "/restart")) else "read-job"
