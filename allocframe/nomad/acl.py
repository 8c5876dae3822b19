"""What a token may do in a namespace, worked out from its policies in the way servers do.

No I/O: the caller passes a function that sends GET requests.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import AllocframeError, ApiError

TOKEN = "/v1/acl/token/self"  # noqa: S105 - a path
_NO_ACLS = "acls-disabled"
"""The accessor that newer servers return for everyone if ACLs are off. Older servers return an error."""


@dataclass(frozen=True)
class Rights:
    """A token's accessor, and the capabilities that its policies grant, by namespace or namespace pattern."""

    accessor: str | None = None
    everything: bool = False
    complete: bool = False
    granted: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def may(self, capability: str, namespace: str) -> bool | None:
        """Return whether a capability is granted in a namespace; None if that cannot be determined."""
        if self.everything:
            return True
        if not self.complete:
            return None
        exact = self.granted.get(namespace)
        candidates = {exact} if exact is not None else self._closest_grants(namespace)
        verdicts = {capability in grant and "deny" not in grant for grant in candidates}
        return verdicts.pop() if len(verdicts) == 1 else None if verdicts else False

    def _closest_grants(self, namespace: str) -> set[frozenset[str]]:
        """Return the grants of the patterns that are closest to the namespace.

        If several are equally close, servers pick one of them at random, so all are returned.
        """
        distances = {
            pattern: len(namespace) - len(pattern) + pattern.count("*")
            for pattern in self.granted
            if re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), namespace)
        }
        smallest = min(distances.values(), default=0)
        return {self.granted[pattern] for pattern, distance in distances.items() if distance == smallest}


def read_accessor(get: Callable[[str], Any]) -> str | None:
    """Return the accessor of the client's own token; None if it cannot be read."""
    try:
        return str(get(TOKEN)["AccessorID"])
    except (AllocframeError, KeyError, TypeError):
        return None


def read_rights(get: Callable[[str], Any]) -> Rights:
    """Read the client's own token and its policies. If a policy cannot be read, the rights are incomplete."""
    try:
        token = get(TOKEN)
        accessor = str(token["AccessorID"])
        kind, policies, roles = token.get("Type"), token.get("Policies") or [], token.get("Roles") or []
    except ApiError as error:
        return Rights(everything="ACL support disabled" in error.text)
    except (AllocframeError, KeyError, TypeError, AttributeError):
        return Rights()
    if kind == "management" or accessor == _NO_ACLS:
        return Rights(accessor, everything=True)
    try:
        for role in roles:
            links = _read_list(get, f"/v1/acl/role/{role['ID']}", "Policies")
            policies = [*policies, *(link["Name"] for link in links)]
        granted = _merge_rules(
            rule for policy in policies for rule in _read_list(get, f"/v1/acl/policy/{policy}", "RulesJSON")
        )
    except (AllocframeError, KeyError, TypeError, AttributeError):
        return Rights(accessor)
    return Rights(accessor, complete=True, granted=granted)


def _read_list(get: Callable[[str], Any], path: str, key: str) -> list[dict[str, Any]]:
    """Return the policies of a role, or the namespace rules of a policy. A deleted one grants nothing."""
    try:
        value = get(path)[key]
    except ApiError as error:
        if error.status == 404:
            return []
        raise
    return (value["Namespaces"] if key == "RulesJSON" else value) or []


def _merge_rules(rules: Iterable[dict[str, Any]]) -> dict[str, frozenset[str]]:
    """Return the union of the capabilities for each namespace."""
    # Servers expand the short form ``policy = "write"`` into capabilities, so it needs no care here.
    granted: dict[str, frozenset[str]] = {}
    for rule in rules:
        granted[rule["Name"]] = granted.get(rule["Name"], frozenset()) | set(rule["Capabilities"] or [])
    return granted
