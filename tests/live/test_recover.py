"""Recovery from the Raft folder of a real server: copied while it runs, after a purge and a collection."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import allocframe as af

NOMAD = shutil.which("nomad")
pytestmark = [
    pytest.mark.skipif(
        NOMAD is None, reason="needs a nomad program on PATH: it runs an agent, and prints its log"
    ),
    pytest.mark.timeout(300),
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
  http = {http}
  rpc  = {rpc}
  serf = {serf}
}}
server {{
  enabled = true
  bootstrap_expect = 1
{store}
}}
client {{
  enabled = true
  options = {{ "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,consul,vault" }}
}}
plugin "raw_exec" {{
  config {{ enabled = true }}
}}
"""
_WAL = """  raft_logstore {
    backend = "wal"
  }"""
Event = tuple[str, str, int, str]


class Agent:
    """A server and client with its files on disk, whose list of allocations is polled."""

    def __init__(self, folder: Path, store: str) -> None:
        self.data = folder / "data"
        ports = []
        for _ in range(3):
            with socket.create_server(("127.0.0.1", 0)) as free:
                ports.append(free.getsockname()[1])
        self.address = f"http://127.0.0.1:{ports[0]}"
        config = folder / "agent.hcl"
        config.write_text(
            _AGENT.format(data=self.data, http=ports[0], rpc=ports[1], serf=ports[2], store=store)
        )
        with (folder / "agent.log").open("w") as log:
            self.process = subprocess.Popen(
                [str(NOMAD), "agent", "-config", str(config)], stdout=log, stderr=log
            )
        self.events: set[Event] = set()

    def call(self, path: str, body: Any = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def poll(self, seconds: float) -> None:
        """Poll the list of allocations for some time, and keep every event that it shows."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for row in self.call("/v1/allocations?namespace=*"):
                for task, state in (row["TaskStates"] or {}).items():
                    self.events |= {(row["ID"], task, e["Time"], e["Type"]) for e in state["Events"] or []}
            time.sleep(0.3)

    def wait_until_ready(self) -> None:
        for _ in range(200):
            with contextlib.suppress(OSError):
                if any(node["Status"] == "ready" for node in self.call("/v1/nodes")):
                    return
            time.sleep(0.2)
        raise AssertionError("the agent was not ready within 40 seconds")

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            for job in self.call("/v1/jobs") or []:
                self.call(f"/v1/job/{job['ID']}?purge=true", method="DELETE")
            time.sleep(1)  # so that no task outlives its agent
        self.process.terminate()
        self.process.wait(30)


def crashing_job(name: str, seconds: float) -> dict[str, Any]:
    task = {
        "Name": "server",
        "Driver": "raw_exec",
        "Config": {"command": "/bin/sh", "args": ["-c", f"sleep {seconds}; exit 78"]},
        "Env": {"DB_PASSWORD": "never-shown"},
        "Resources": {"CPU": 1, "MemoryMB": 10},
    }
    restart = {"Attempts": 9, "Interval": 300_000_000_000, "Delay": 200_000_000, "Mode": "delay"}
    group = {
        "Name": "app",
        "Count": 2,
        "RestartPolicy": restart,
        "EphemeralDisk": {"SizeMB": 101},
        "Tasks": [task],
    }
    return {
        "Job": {"ID": name, "Name": name, "Type": "service", "Datacenters": ["dc1"], "TaskGroups": [group]}
    }


@pytest.fixture(params=["bolt", "wal"])
def agent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Agent]:
    version = subprocess.run([str(NOMAD), "version"], capture_output=True, text=True, check=True).stdout
    if request.param == "wal" and " v1." in version:
        pytest.skip("this version has no write-ahead log")
    running = Agent(tmp_path, _WAL if request.param == "wal" else "")
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.stop()


def test_a_copy_of_a_running_servers_folder_gives_back_every_polled_event(
    agent: Agent, tmp_path: Path
) -> None:
    agent.call("/v1/jobs", crashing_job("checkout", 0.8))
    agent.poll(14)
    assert any(kind == "Restarting" for *_, kind in agent.events)
    agent.call("/v1/job/checkout?purge=true", method="DELETE")
    agent.poll(4)
    agent.call("/v1/system/gc", method="PUT")
    agent.poll(2)
    kept = {(row["ID"]) for row in agent.call("/v1/allocations?namespace=*")}
    before = sorted((file, file.stat().st_mtime_ns) for file in (agent.data / "server").rglob("*.db"))
    with af.recover(agent.data) as snap:
        events = set(
            zip(
                snap.events["alloc_id"],
                snap.events["task"],
                snap.events["time"].astype("int64"),
                snap.events["type"],
                strict=True,
            )
        )
        assert agent.events - events == set()
        assert not snap.task_states["events_truncated"].any()
        assert {alloc for alloc, *_ in events} - kept  # the API has forgotten them
        assert snap.task_states["event_count"].max() > 10
        assert snap.history is not None
        assert "purge" in set(snap.history.changes["kind"])
        saved = snap.save(tmp_path / "a.allocframe")
    assert b"never-shown" not in saved.read_bytes()
    assert sorted(file for file, _ in before) == sorted((agent.data / "server").rglob("*.db"))
    agent.call("/v1/jobs", crashing_job("later", 600))
    agent.poll(4)
    kept = {row["ID"] for row in agent.call("/v1/allocations?namespace=*")}
    assert kept
    saved_by_nomad = tmp_path / "backup.snap"
    command = [str(NOMAD), "operator", "snapshot", "save", f"-address={agent.address}", str(saved_by_nomad)]
    subprocess.run(command, check=True, capture_output=True)
    with af.recover(saved_by_nomad) as snap:
        assert kept <= set(snap.allocations["alloc_id"])
        assert snap.info["notes"][0].startswith("recovered from a printed state")
        assert b"never-shown" not in snap.save(tmp_path / "b.allocframe").read_bytes()
