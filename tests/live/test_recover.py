"""Recovery from the Raft folder of a real server: copied while it runs, after a purge and a collection."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import NOMAD, Agent, client, running, server, wait_for

import allocframe as af

pytestmark = [
    pytest.mark.skipif(
        NOMAD is None, reason="needs a nomad program on PATH: it runs an agent, and prints its log"
    ),
    pytest.mark.timeout(300),
]

_WAL = """  raft_logstore {
    backend = "wal"
  }"""
Event = tuple[str, str, int, str]


class Polled:
    """A server and client, whose list of allocations is polled."""

    def __init__(self, agent: Agent) -> None:
        self.agent, self.data, self.address, self.call = agent, agent.data, agent.address, agent.call
        self.events: set[Event] = set()

    def poll(self, seconds: float) -> None:
        """Poll the list of allocations for some time, and keep every event that it shows."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.events |= self.agent.events()
            time.sleep(0.3)


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
def agent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Polled]:
    version = subprocess.run([str(NOMAD), "version"], capture_output=True, text=True, check=True).stdout
    if request.param == "wal" and " v1." in version:
        pytest.skip("this version has no write-ahead log")
    store = _WAL if request.param == "wal" else ""
    with running(tmp_path / "agent", server(more=store) + client()) as started:
        wait_for(started.is_ready)
        yield Polled(started)
        started.end_jobs()


def test_a_copy_of_a_running_servers_folder_gives_back_every_polled_event(
    agent: Polled, tmp_path: Path
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
