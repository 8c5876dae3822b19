"""What a token may do in a namespace, judged from its policies as servers judge it. No I/O: `read` is given a way to ask."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import AllocframeError, ApiError

TOKEN = "/v1/acl/token/self"  # noqa: S105 - a path
_NO_ACLS = "acls-disabled"
"""The accessor that newer servers give to everyone where ACLs are off; older ones answer with a refusal."""


@dataclass(frozen=True)
class Rights:
    """What is known of a token: its accessor, and what its policies grant by namespace or pattern of namespaces."""

    accessor: str | None = None
    everything: bool = False
    complete: bool = False
    granted: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def may(self, capability: str, namespace: str) -> bool | None:
        """Tell whether a capability is granted in a namespace; None where that cannot be known."""
        if self.everything:
            return True
        if not self.complete:
            return None
        exact = self.granted.get(namespace)
        found = {exact} if exact is not None else self._closest(namespace)
        answers = {capability in one and "deny" not in one for one in found}
        return answers.pop() if len(answers) == 1 else None if answers else False

    def _closest(self, namespace: str) -> set[frozenset[str]]:
        """Return what the pattern grants that differs least from the name; several where servers pick one of a draw."""
        fitting = {
            pattern: len(namespace) - len(pattern) + pattern.count("*")
            for pattern in self.granted
            if re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), namespace)
        }
        least = min(fitting.values(), default=0)
        return {self.granted[pattern] for pattern, distance in fitting.items() if distance == least}


def read_accessor(get: Callable[[str], Any]) -> str | None:
    """Ask only for the accessor of the client's own token; None where it cannot be read."""
    try:
        return str(get(TOKEN)["AccessorID"])
    except (AllocframeError, KeyError, TypeError):
        return None


def read_rights(get: Callable[[str], Any]) -> Rights:
    """Ask for the client's own token and its policies; what cannot be read is not known."""
    try:
        token = get(TOKEN)
        mine = str(token["AccessorID"])
        kind, names, roles = token.get("Type"), token.get("Policies") or [], token.get("Roles") or []
    except ApiError as error:
        return Rights(everything="ACL support disabled" in error.text)
    except (AllocframeError, KeyError, TypeError, AttributeError):
        return Rights()
    if kind == "management" or mine == _NO_ACLS:
        return Rights(mine, everything=True)
    try:
        for role in roles:
            names = [*names, *(link["Name"] for link in _read(get, f"/v1/acl/role/{role['ID']}", "Policies"))]
        granted = _merged(
            space for name in names for space in _read(get, f"/v1/acl/policy/{name}", "RulesJSON")
        )
    except (AllocframeError, KeyError, TypeError, AttributeError):
        return Rights(mine)
    return Rights(mine, complete=True, granted=granted)


def _read(get: Callable[[str], Any], path: str, part: str) -> list[dict[str, Any]]:
    """Return a part of a role or policy as a list; one that is not there grants nothing."""
    try:
        found = get(path)[part]
    except ApiError as error:
        if error.status == 404:
            return []
        raise
    return (found["Namespaces"] if part == "RulesJSON" else found) or []


def _merged(spaces: Iterable[dict[str, Any]]) -> dict[str, frozenset[str]]:
    """Join what several policies grant; servers spell out ``policy = "write"`` as capabilities."""
    granted: dict[str, frozenset[str]] = {}
    for space in spaces:
        granted[space["Name"]] = granted.get(space["Name"], frozenset()) | set(space["Capabilities"] or [])
    return granted
