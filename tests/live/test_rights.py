"""A real agent with ACLs: rights that are lost and regained, and lists while changes come without a pause."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import allocframe as af
from allocframe.archive import recorder
from allocframe.archive.recorder import Recorder

pytestmark = [
    pytest.mark.skipif(not shutil.which("nomad"), reason="needs a nomad program on PATH"),
    pytest.mark.timeout(200),
]

_AGENT = """
bind_addr = "127.0.0.1"
disable_update_check = true
log_level = "ERROR"
ports {{
  http = {}
  rpc  = {}
  serf = {}
}}
acl {{ enabled = true }}
client {{
  options = {{ "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,consul,vault" }}
}}
plugin "raw_exec" {{
  config {{ enabled = true }}
}}
"""
BOTH = 'namespace "*" { capabilities = ["list-jobs", "read-job"] }'
ONE = 'namespace "default" { capabilities = ["list-jobs", "read-job"] }'


class Agent:
    """A development agent with ACLs and two namespaces, as its operator sees it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.token = ""
        wait_for(self._bootstrap)
        self.call("PUT", "/v1/namespace/team", {"Name": "team"})
        self.allow(BOTH)
        token = {"Name": "reader", "Type": "client", "Policies": ["reader"]}
        self.reader: str = self.call("PUT", "/v1/acl/token", token)["SecretID"]

    def _bootstrap(self) -> bool:
        self.token = self.call("PUT", "/v1/acl/bootstrap", {})["SecretID"]
        return True

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.address + path, data=data, method=method, headers={"X-Nomad-Token": self.token}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def allow(self, rules: str) -> None:
        self.call("PUT", "/v1/acl/policy/reader", {"Name": "reader", "Rules": rules})

    def run(self, namespace: str, name: str, count: int, script: str) -> None:
        task = {
            "Name": "t",
            "Driver": "raw_exec",
            "Config": {"command": "/bin/sh", "args": ["-c", script]},
            "Resources": {"CPU": 1, "MemoryMB": 10},
        }
        policy = {"Attempts": 1000, "Interval": 3600 * 10**9, "Delay": 3 * 10**8, "Mode": "delay"}
        group = {"Name": "g", "Count": count, "Tasks": [task], "RestartPolicy": policy}
        group["EphemeralDisk"] = {"SizeMB": 101}  # less than its logs may take is refused
        job = {"ID": name, "Name": name, "Type": "service", "Namespace": namespace, "Datacenters": ["dc1"]}
        self.call("PUT", f"/v1/jobs?namespace={namespace}", {"Job": {**job, "TaskGroups": [group]}})
        wait_for(lambda: len(self.allocations(namespace, name, "running", "pending")) == count)

    def allocations(self, namespace: str, job: str, *statuses: str) -> list[str]:
        rows = self.call("GET", f"/v1/allocations?namespace={namespace}")
        return [r["ID"] for r in rows if r["JobID"] == job and r["ClientStatus"] in statuses]


def wait_for(reached: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if reached():
                return
        except OSError:
            pass
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    config = tmp_path_factory.mktemp("nomad") / "agent.hcl"
    config.write_text(_AGENT.format(*ports))
    process = subprocess.Popen(
        ["nomad", "agent", "-dev", "-config", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Agent(f"http://127.0.0.1:{ports[0]}")
    finally:
        process.terminate()
        process.wait(30)


def test_a_policy_that_shrinks_under_a_recorder_removes_nothing_and_is_reported(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "RESYNC_INTERVAL", 1.0)
    monkeypatch.setattr(recorder, "HEARTBEAT_INTERVAL", 0.5)
    agent.run("default", "seen", 1, "sleep 9999")
    agent.run("team", "hidden", 2, "sleep 9999")
    wait_for(lambda: len(agent.allocations("team", "hidden", "running")) == 2)
    hidden = set(agent.allocations("team", "hidden", "running"))
    archive, stop = af.Archive(tmp_path / "archive"), threading.Event()
    with af.Client(agent.address, token=agent.reader) as client:
        recording = Recorder(client, archive, interval=0.3)
        thread = threading.Thread(target=recording.run, args=(stop,))
        thread.start()
        try:
            wait_for(lambda: recording.watch is not None and len(recording.watch.snapshot.allocations) >= 3)
            agent.allow(ONE)
            with af.Client(agent.address, token=agent.reader) as reader:
                wait_for(lambda: len(reader.snapshot(namespace="*", progress=False)) == 1)
            wait_for(lambda: "team" in str(recording.watch and recording.watch.last_error))
            agent.allow(BOTH)
            wait_for(lambda: recording.watch is not None and recording.watch.last_error is None)
            wait_for(lambda: recording.counts.gaps)
        finally:
            stop.set()
            thread.join(30)
        assert recording.watch is not None
    rows = archive.snapshot().allocations.set_index("alloc_id")
    assert hidden <= set(rows.index)
    assert rows.loc[sorted(hidden), "client_status"].tolist() == ["running", "running"]
    assert any("namespace team" in gap["reason"] for gap in archive.info["gaps"])


def test_lists_end_while_changes_come_without_a_pause(agent: Agent) -> None:
    agent.run("default", "loops", 4, "exit 1")
    with (
        af.Client(agent.address, token=agent.token) as client,
        client.watch(namespace="*", resync_interval=0.5) as watch,
    ):
        began, changes = time.monotonic(), 0
        while time.monotonic() < began + 8:
            asked = time.monotonic()
            changes += watch.poll(0.3) is not None
            assert time.monotonic() - asked < 5, "a poll ends although changes keep coming"
        assert watch.stats["relists"] >= 3
        assert changes >= 10
        agent.call("DELETE", "/v1/job/loops")
        wait_for(lambda: not agent.allocations("default", "loops", "running", "pending"))
        end = time.monotonic() + 10
        while time.monotonic() < end:
            watch.poll(0.5)
            with client.snapshot(namespace="*", progress=False) as listed:
                keys = ["alloc_id", "modify_index"]
                both = [snap.allocations[keys].sort_values("alloc_id") for snap in (watch.snapshot, listed)]
            if both[0].values.tolist() == both[1].values.tolist():
                return
        raise AssertionError("the watch does not end up at the list")
