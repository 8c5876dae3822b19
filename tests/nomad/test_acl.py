"""What a token may do, judged from its policies as servers judge it."""

from __future__ import annotations

from typing import Any

import flatten
import pytest

import allocframe as af
from allocframe import sim
from allocframe.nomad import acl

ROLE = "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7"


def server(policies: dict[str, Any], *, roles: dict[str, list[str]] | None = None, **token: Any) -> Any:
    """Return a way to ask a server that has these policies (namespace -> capabilities) for one token."""
    mine = {"AccessorID": "me", "Type": "client", "Policies": list(policies), **token}

    def get(path: str) -> Any:
        name = path.rsplit("/", 1)[1]
        if path == acl.TOKEN:
            return mine
        if "/role/" in path:
            return {"Policies": [{"Name": policy} for policy in (roles or {})[name]]}
        rules = policies.get(name)
        if isinstance(rules, int):
            raise af.ApiError(rules, "refused", path=path)
        spaces = [{"Name": space, "Capabilities": granted} for space, granted in (rules or {}).items()]
        return {"RulesJSON": {"Namespaces": spaces or None}}

    return get


ACT = "alloc-lifecycle"


@pytest.mark.parametrize(
    ("policies", "namespace", "expected"),
    [
        ({"p": {"default": [ACT]}}, "default", True),
        ({"p": {"default": ["read-job"]}}, "default", False),
        ({"p": {"default": [ACT]}}, "ops", False),
        ({}, "default", False),
        ({"p": {"*": [ACT]}}, "ops", True),
        ({"p": {"prod-*": [ACT]}}, "prod-api", True),
        ({"p": {"prod-*": [ACT]}}, "test-prod-api", False),
        ({"p": {"*": [ACT], "prod-*": ["read-job"]}}, "prod-api", False),
        ({"p": {"*": [ACT]}, "q": {"prod": ["read-job"]}}, "prod", False),
        ({"p": {"*-api": [ACT], "api-*": []}}, "api-api", None),
        ({"p": {"default": [ACT]}, "q": {"default": ["deny"]}}, "default", False),
        ({"p": {"default": ["read-job"]}, "q": {"default": [ACT]}}, "default", True),
        ({"p": {"default": ["read-job"]}, "q": 403}, "default", None),
        ({"p": {"default": [ACT]}, "gone": 404}, "default", True),
        ({"p": {"default": ["read-job"]}, "q": 500}, "default", None),
    ],
)
def test_policies_decide_as_servers_decide(policies: Any, namespace: str, expected: bool | None) -> None:
    assert acl.read_rights(server(policies)).may(ACT, namespace) is expected


def test_the_policies_of_roles_count() -> None:
    get = server(
        {"p": {"default": [ACT]}}, roles={ROLE: ["p"]}, Policies=None, Roles=[{"ID": ROLE, "Name": "ops"}]
    )
    assert acl.read_rights(get).may(ACT, "default") is True


@pytest.mark.parametrize(
    ("answer", "accessor", "expected"),
    [
        ({"AccessorID": "m", "Type": "management", "Policies": None}, "m", True),
        ({"AccessorID": "acls-disabled", "Type": "client", "Policies": None}, "acls-disabled", True),
        (af.ApiError(400, "ACL support disabled"), None, True),
        (af.PermissionDenied(403, "Permission denied"), None, None),
        (af.ConnectionFailed("gone"), None, None),
        ([], None, None),
        (None, None, None),
        ({"AccessorID": "x", "Type": "client", "Policies": [7]}, "x", None),
    ],
)
def test_what_the_token_is_decides_before_its_policies(
    answer: Any, accessor: str | None, expected: Any
) -> None:
    def get(path: str) -> Any:
        if path != acl.TOKEN:
            raise af.AllocframeError(
                f"GET {path} is not one of the read-only requests that allocframe may send"
            )
        if isinstance(answer, Exception):
            raise answer
        return answer

    rights = acl.read_rights(get)
    assert (rights.accessor, rights.may(ACT, "default")) == (accessor, expected)
    assert acl.read_accessor(get) == accessor


@pytest.mark.parametrize("version", flatten.VERSIONS)
def test_a_client_knows_what_its_token_may_do(version: str) -> None:
    with sim.Cluster("calm", allocations=10, seed=1, version=version) as cluster:
        tokens = {
            cluster.token: (True, True),
            cluster.add_token(["default"]): (False, False),
            cluster.add_token(["default"], lifecycle=True): (True, False),
            "": (None, None) if version == "1.3.1" else (False, False),
        }
        for token, expected in tokens.items():
            with af.Client(cluster.address, token=token) as client:
                rights = client._session.rights()
            assert (rights.may(ACT, "default"), rights.may("alloc-exec", "ops")) == expected, token
        reasons = {
            "": "no token was sent",
            cluster.add_token(["nowhere"]): "may not read-job in namespace default",
            cluster.add_token(["default"]): None,
            cluster.token: None,
        }
        for token, reason in reasons.items():
            with af.Client(cluster.address, token=token) as client:
                said = client._session.explain_nothing("default")
            assert said is None if reason is None else reason in str(said)
    with (
        sim.Cluster("calm", allocations=10, seed=1, version=version, acl=False) as cluster,
        af.Client(cluster.address) as client,
    ):
        assert client._session.rights().may(ACT, "default") is True
