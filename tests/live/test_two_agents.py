"""A server and a client that are two agents: what is asked of the server passes on to the client's node."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import allocframe as af

NOMAD = shutil.which("nomad")
pytestmark = [
    pytest.mark.skipif(NOMAD is None, reason="needs a nomad program on PATH"),
    pytest.mark.timeout(200),
]

_AGENT = """
bind_addr = "127.0.0.1"
disable_update_check = true
log_level = "ERROR"
data_dir = "{data}"
advertise {{
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}}
ports {{
  http = {ports[0]}
  rpc  = {ports[1]}
  serf = {ports[2]}
}}
"""
_SERVER = """
server {
  enabled = true
  bootstrap_expect = 1
}
"""
_CLIENT = """
client {{
  enabled = true
  servers = ["127.0.0.1:{rpc}"]
  options = {{ "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,consul,vault" }}
}}
plugin "raw_exec" {{
  config {{ enabled = true }}
}}
"""


def free_ports() -> list[int]:
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def agent(folder: Path, config: str, ports: list[int]) -> Iterator[subprocess.Popen[bytes]]:
    folder.mkdir()
    file = folder / "agent.hcl"
    file.write_text(_AGENT.format(data=folder / "data", ports=ports) + config)
    process = subprocess.Popen(
        [str(NOMAD), "agent", "-config", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


class Pair:
    """A server and its client, as an operator sees them."""

    def __init__(self, address: str, node: subprocess.Popen[bytes]) -> None:
        self.address, self.node = address, node

    def call(self, path: str, body: Any = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def run(self, name: str, kind: str, script: str, status: str) -> str:
        """Run a job until its allocation has a status; return the allocation's ID."""
        task = {
            "Name": "t",
            "Driver": "raw_exec",
            "Config": {"command": "/bin/sh", "args": ["-c", script]},
            "Resources": {"CPU": 1, "MemoryMB": 10},
        }
        group = {"Name": "g", "Count": 1, "Tasks": [task], "EphemeralDisk": {"SizeMB": 101}}
        job = {"ID": name, "Name": name, "Type": kind, "Datacenters": ["dc1"], "TaskGroups": [group]}
        self.call("/v1/jobs", {"Job": job}, "PUT")
        found: list[str] = []

        def is_there() -> bool:
            rows = self.call(f"/v1/job/{name}/allocations")
            found[:] = [row["ID"] for row in rows if row["ClientStatus"] == status]
            return bool(found)

        wait_for(is_there)
        return found[0]


def wait_for(reached: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if reached():
                return
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder, ports = tmp_path_factory.mktemp("nomad"), free_ports()
    with (
        agent(folder / "server", _SERVER, ports),
        agent(folder / "client", _CLIENT.format(rpc=ports[1]), free_ports()) as node,
    ):
        made = Pair(f"http://127.0.0.1:{ports[0]}", node)
        wait_for(lambda: any(node["Status"] == "ready" for node in made.call("/v1/nodes")))
        yield made
        for job in made.call("/v1/jobs"):
            made.call(f"/v1/job/{job['ID']}?purge=true", method="DELETE")
        time.sleep(1)  # so that no task outlives its agent


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


def test_a_command_for_an_allocation_that_has_ended_is_told_so_by_a_server_too(pair: Pair) -> None:
    alloc = pair.run("ok", "batch", "true", "complete")
    with af.Client(pair.address) as client:
        for act in (
            lambda: client.exec(alloc, ["/bin/true"], task="t", timeout=60),
            lambda: client.signal(alloc, "SIGHUP"),
            lambda: client.restart(alloc),
        ):
            with pytest.raises(af.Conflict):
                act()


def test_what_is_asked_of_a_node_that_is_gone_is_told_as_that(pair: Pair) -> None:
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
