"""The client against a simulated cluster: everything the API document names."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import allocframe as af


def test_every_allocation_is_fetched_and_the_info_says_how(
    cluster: af.sim.Cluster, client: af.Client
) -> None:
    snap = client.snapshot(namespace="*")
    assert set(snap.allocations["alloc_id"]) == set(cluster.state.allocs)
    info = snap.info
    assert (info["complete"], info["version"], info["namespace"]) == (True, "2.0.5", "*")
    assert info["index_first"] == info["index_last"] == cluster.state.table_index("allocs")


@pytest.mark.parametrize("version", ["1.3.1", "2.0.5"])
def test_small_pages_and_many_workers_find_the_same_as_one_page(version: str) -> None:
    with (
        af.sim.Cluster("calm", allocations=300, seed=2, version=version, acl=False) as cluster,
        af.Client(cluster.address) as c,
    ):
        snap = c.snapshot(namespace="*", per_page=7, workers=8, progress=False)
        assert (
            snap.allocations["alloc_id"].tolist()
            == c.snapshot(namespace="*").allocations["alloc_id"].tolist()
        )
        assert snap.info["paging"] == "by ID prefix"
        assert snap.events.equals(c.snapshot(namespace="*").events)


def test_a_namespace_a_prefix_and_a_filter_select(cluster: af.sim.Cluster, client: af.Client) -> None:
    allocs = cluster.state.allocs.values()
    expected_ids = {a.id for a in allocs if a.namespace == "platform"}
    assert set(client.snapshot(namespace="platform").allocations["alloc_id"]) == expected_ids
    head = next(iter(expected_ids))[:2]
    expected = {a.id for a in allocs if a.id.startswith(head)}
    assert set(client.snapshot(namespace="*", prefix=head, per_page=1).allocations["alloc_id"]) == expected
    failed = client.snapshot(namespace="*", filter='ClientStatus == "failed"')
    assert set(failed.allocations["alloc_id"]) == {a.id for a in allocs if a.client_status == "failed"}
    assert len(failed)


def test_newest_gives_the_last_created(cluster: af.sim.Cluster, client: af.Client) -> None:
    newest = sorted(cluster.state.allocs.values(), key=lambda a: (a.create_index, a.id))[-5:]
    snap = client.snapshot(namespace="*", newest=5)
    assert snap.allocations["alloc_id"].tolist() == [a.id for a in newest]
    assert "only newest 5" in repr(snap)


def test_newest_with_a_prefix_gives_those_created_last_not_those_with_the_highest_ids(
    cluster: af.sim.Cluster, client: af.Client, tmp_path: Path
) -> None:
    by_head: dict[str, list[Any]] = {}
    for each in sorted(cluster.state.allocs.values(), key=lambda a: (a.create_index, a.id)):
        by_head.setdefault(each.id[:2], []).append(each)
    heads = [
        head
        for head, found in by_head.items()
        if len(found) > 1 and found[-1].id != max(each.id for each in found)
    ]
    assert heads, "a prefix whose last created allocation is not last by ID"
    for head in heads:
        snap = client.snapshot(namespace="*", prefix=head, newest=1, per_page=1)
        assert snap.allocations["alloc_id"].tolist() == [by_head[head][-1].id]
        assert len(af.load(snap.save(tmp_path / f"{head}.allocframe"))) == 1
        assert "only newest 1" in repr(snap)


def test_resources_and_task_states_are_there_when_asked_for(client: af.Client) -> None:
    assert client.snapshot(namespace="*").resources.empty
    lean = client.snapshot(namespace="*", resources=True, task_states=False, stale=True)
    assert lean.task_states.empty
    assert (lean.resources["task"].isna().sum()) == len(lean)
    assert lean.resources["memory_mib"].sum() > 0


def test_one_allocation_is_read_by_its_id_or_a_start_of_it(
    cluster: af.sim.Cluster, client: af.Client
) -> None:
    alloc = next(a for a in cluster.state.allocs.values() if a.client_status == "failed")
    for identity in (alloc.id, alloc.id.upper(), alloc.id[:9], alloc.id[:7]):
        read = client.allocation(identity)
        assert read.raw["ID"] == alloc.id
        assert len(read.events) == sum(len(state.events) for state in alloc.tasks.values())
        assert read.placement["node_id"].tolist() == [alloc.node.id]


def test_an_ambiguous_start_lists_what_fits_and_an_unknown_one_says_so(
    cluster: af.sim.Cluster, client: af.Client
) -> None:
    heads = [identity[:2] for identity in cluster.state.allocs]
    head = next(head for head in heads if heads.count(head) > 1)
    with pytest.raises(af.NotFound, match=r"2|3") as caught:
        client.allocation(head)
    assert all(
        identity in str(caught.value) for identity in cluster.state.allocs if identity.startswith(head)
    )
    with pytest.raises(af.NotFound, match="alloc not found"):
        client.allocation("00000000-0000-0000-0000-000000000000")


def test_refusals_of_the_server_are_errors_with_its_own_words(client: af.Client) -> None:
    with pytest.raises(af.BadRequest, match='struct field with name "Nope"'):
        client.snapshot(namespace="*", filter="Nope == 1")
    with pytest.raises(af.BadRequest, match="no match found, expected"):
        client.snapshot(namespace="*", filter="JobID")


def test_without_a_token_nothing_is_shown_and_a_limited_one_sees_its_namespaces(
    cluster: af.sim.Cluster,
) -> None:
    with af.Client(cluster.address) as anonymous, pytest.raises(af.PermissionDenied, match="NOMAD_TOKEN"):
        anonymous.snapshot(namespace="*")
    token = cluster.add_token(["platform"])
    with af.Client(cluster.address, token=token) as limited:
        snap = limited.snapshot(namespace="*")
        assert set(snap.allocations["namespace"]) == {"platform"}
        assert snap.info["version"] is None
        with pytest.raises(af.PermissionDenied):
            limited.snapshot(namespace="data")


def test_settings_come_from_the_environment(cluster: af.sim.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOMAD_ADDR", cluster.address)
    monkeypatch.setenv("NOMAD_TOKEN", cluster.token)
    monkeypatch.setenv("NOMAD_NAMESPACE", "platform")
    with af.Client() as client:
        assert set(client.snapshot().allocations["namespace"]) == {"platform"}
    monkeypatch.setenv("NOMAD_REGION", "mars")
    with af.Client() as client, pytest.raises(af.BadRequest, match="No path to region"):
        client.snapshot()


def test_progress_is_told_to_a_callable(client: af.Client) -> None:
    calls: list[tuple[int, int | None]] = []
    snap = client.snapshot(namespace="*", per_page=10, progress=lambda done, all_: calls.append((done, all_)))
    assert calls[-1] == (len(snap), len(snap))
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


@pytest.mark.parametrize("arguments", [{"workers": 0}, {"workers": 9}, {"workers": True}, {"per_page": 0}])
def test_bad_arguments_are_refused(client: af.Client, arguments: dict[str, int]) -> None:
    with pytest.raises(af.ConfigError, match=next(iter(arguments))):
        client.snapshot(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"timeout": 0}, {"timeout": "5"}, {"retries": -1}, {"retries": True}])
def test_bad_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(af.ConfigError, match=next(iter(settings))):
        af.Client(**settings)  # type: ignore[arg-type]


def test_no_thread_is_left_after_a_fetch(client: af.Client) -> None:
    before = set(threading.enumerate())
    client.snapshot(namespace="*", per_page=10, workers=8)
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("allocframe")]
