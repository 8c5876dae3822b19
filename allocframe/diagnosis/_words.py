"""What Nomad's errors name besides their kind: a thing that jobs share, a fault of the node, an answer."""

from __future__ import annotations

import re

_HOST = re.compile(
    r"(?:https?|s3|git|docker|oci)(?:::)?://([^/\s\"'?]+)|\blookup (\S+?)[\s:,]|dial tcp (\S+?):? "
)
_VAULT = re.compile(r"\b((?:vault|consul|nomadVar|secret|kv)[\w.]*\([^)]{1,80}\))")
_QUOTED = re.compile(r"volume[^\"']{0,30}[\"']([^\"']{1,80})[\"']")
_PATTERNS = {
    "artifact": _HOST,
    "driver": _HOST,
    "volume": _QUOTED,
    "template": _VAULT,
    "secrets": _VAULT,
}
"""Mechanisms whose errors may name something that jobs share, and where it stands in them."""

_ANSWER = re.compile(
    r"\b(?:response|status)? ?code:? ?4\d\d\b|\b4\d\d (?:not found|forbidden|unauthorized|gone)\b"
    r"|checksums? did not match|manifest unknown|repository does not exist|NoSuchKey|access denied",
    re.IGNORECASE,
)

_NODE_FAULTS = (
    ("disk", r"no space left on device|disk quota exceeded|read-only file system|input/output error"),
    ("memory", r"cannot allocate memory"),
    ("files", r"too many open files"),
    ("docker", r"cannot connect to the docker daemon|dial unix \S*docker\.sock"),
    (
        "driver",
        r"driver \S+ (?:is )?(?:unhealthy|not healthy|not detected)|\braw_exec is disabled|driver not found"
        r"|failed to (?:dispense|initialize) driver",
    ),
)
_FAULTS = tuple((name, re.compile(words, re.IGNORECASE)) for name, words in _NODE_FAULTS)


def shared_thing(kind: str, error: str) -> str | None:
    """Return the host, secret or volume that an error of this kind names."""
    pattern = _PATTERNS.get(kind)
    if pattern is None:
        return None
    found = pattern.search(error) or _HOST.search(error)
    return next(filter(None, found.groups()), None) if found else None


def answered(error: str) -> bool:
    """Return whether a server answered, and refused: then what was asked for is wrong, not the server."""
    return _ANSWER.search(error) is not None


def fault_of_node(error: str) -> str | None:
    """Return what is wrong with the node, if an error says that."""
    return next((name for name, pattern in _FAULTS if pattern.search(error)), None)
