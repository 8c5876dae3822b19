"""A server and a client that are two agents: what is asked of the server passes on to the client's node."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from agents import NOMAD, Agent, client, job, running, server, wait_for

import allocframe as af

pytestmark = [
    pytest.mark.skipif(NOMAD is None, reason="needs a nomad program on PATH"),
    pytest.mark.timeout(200),
]


class Pair:
    """A server and its client, as an operator sees them."""

    def __init__(self, server: Agent, node: Agent) -> None:
        self.address, self.call, self.node = server.address, server.call, node.process

    def run(self, name: str, kind: str, script: str, status: str) -> str:
        """Run a job until its allocation has a status; return the allocation's ID."""
        self.call("/v1/jobs", job(name, script, kind=kind), "PUT")
        found: list[str] = []

        def is_there() -> bool:
            rows = self.call(f"/v1/job/{name}/allocations")
            found[:] = [row["ID"] for row in rows if row["ClientStatus"] == status]
            return bool(found)

        wait_for(is_there)
        return found[0]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("nomad")
    with (
        running(folder / "server", server()) as first,
        running(folder / "client", client(first.ports[1])) as node,
    ):
        wait_for(first.is_ready)
        yield Pair(first, node)
        first.end_jobs()


def test_a_server_passes_actions_logs_and_commands_on_to_the_node(pair: Pair) -> None:
    alloc = pair.run("web", "service", "echo hello; sleep 9999", "running")
    with af.Client(pair.address) as client:
        assert client.exec(alloc, ["/bin/cat"], stdin=b"x" * 500_000, timeout=60).stdout == b"x" * 500_000
        wait_for(lambda: client.logs(alloc, "t").text == "hello")
        usage = client.usage([alloc])
        assert usage.samples["alloc_id"].tolist() == [alloc]
        assert usage.errors.empty
        client.signal(alloc, "SIGCONT", task="t")
        with pytest.raises(af.BadRequest, match="Its tasks are: t"):
            client.exec(alloc, ["/bin/true"], task="nope", timeout=60)


def test_a_command_for_an_allocation_that_has_ended_is_refused_with_the_reason_by_a_server_too(
    pair: Pair,
) -> None:
    alloc = pair.run("ok", "batch", "true", "complete")
    with af.Client(pair.address) as client:
        for act in (
            lambda: client.exec(alloc, ["/bin/true"], task="t", timeout=60),
            lambda: client.signal(alloc, "SIGHUP"),
            lambda: client.restart(alloc),
        ):
            with pytest.raises(af.Conflict):
                act()


def test_a_request_to_a_node_that_is_gone_is_an_error_that_says_so(pair: Pair) -> None:
    alloc = pair.run("left", "service", "sleep 9999", "running")
    pair.node.send_signal(19)  # SIGSTOP: it is there, and silent
    try:
        with af.Client(pair.address, timeout=4, retries=0) as client:
            started = time.monotonic()
            with pytest.raises((af.NodeUnreachable, af.RequestTimeout)):
                client.logs(alloc, "t")
            with pytest.raises((af.NodeUnreachable, af.RequestTimeout, af.ExecError)):
                client.exec(alloc, ["/bin/true"], task="t", timeout=4)
            assert time.monotonic() - started < 20
    finally:
        pair.node.send_signal(18)
