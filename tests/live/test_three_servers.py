"""A recorder beside three servers and two nodes that are killed, stopped, drained and started again.

Somebody else polls the list of allocations meanwhile, by plain HTTP, and counts.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import NOMAD, Agent, client, free_ports, job, server, wait_for

import allocframe as af
from allocframe.archive.recorder import Recorder

pytestmark = [
    pytest.mark.skipif(NOMAD is None, reason="needs a nomad program on PATH"),
    pytest.mark.timeout(400),
]

Event = tuple[str, str, int, str]

# After a change of leader, nodes may be silent for five minutes by default.
_HEARTBEATS = """
  min_heartbeat_ttl      = "2s"
  heartbeat_grace        = "2s"
  failover_heartbeat_ttl = "5s"
"""


class Cluster:
    """Three servers and two nodes; `seen` is what polling saw."""

    def __init__(self, folder: Path) -> None:
        ports = [free_ports() for _ in range(3)]
        serf, rpc = [each[2] for each in ports], [each[1] for each in ports]
        self.servers = [
            Agent(folder / f"server-{number}", server(3, join=serf, more=_HEARTBEATS), mine)
            for number, mine in enumerate(ports)
        ]
        # Nodes pass on what they are asked, so their address works whichever server is gone.
        self.nodes = [Agent(folder / f"node-{number}", client(*rpc)) for number in range(2)]
        self.door = self.nodes[0]
        self.seen: set[Event] = set()
        self._stop = threading.Event()
        self._poller = threading.Thread(target=self._poll)

    def poll(self) -> None:
        wait_for(lambda: self.door.is_ready(nodes=2), 90)
        self._poller.start()

    def _poll(self) -> None:
        while not self._stop.wait(0.3):
            with contextlib.suppress(OSError):
                self.seen |= self.door.events()

    def stop_polling(self) -> None:
        self._stop.set()
        if self._poller.is_alive():
            self._poller.join(30)

    def leader(self) -> Agent:
        address = self.door.call("/v1/status/leader")
        return next(each for each in self.servers if address.endswith(f":{each.ports[1]}"))

    def has_leader(self) -> bool:
        return bool(self.door.call("/v1/status/leader")) and self.door.is_ready(nodes=1)

    def close(self) -> None:
        for agent in (*self.servers, *self.nodes):
            if agent.process.poll() is not None:
                agent.start()
        with contextlib.suppress(AssertionError):
            wait_for(self.has_leader, 30)
        self.door.end_jobs()
        for agent in (*self.nodes, *self.servers):
            agent.stop()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        made.poll()
        yield made
    finally:
        made.stop_polling()
        made.close()


def test_a_recorder_has_every_event_that_polling_saw_or_says_that_it_does_not(
    cluster: Cluster, tmp_path: Path
) -> None:
    archive, stop = af.Archive(tmp_path / "archive"), threading.Event()
    with af.Client(cluster.door.address) as reader:
        recorder = Recorder(reader, archive, interval=0.5)
        thread = threading.Thread(target=recorder.run, args=(stop,))
        thread.start()
        try:
            wait_for(lambda: recorder.counts.commits)
            disturb(cluster)
            cluster.stop_polling()
            last = cluster.door.events()
            wait_for(lambda: last <= held(archive))
        finally:
            stop.set()
            thread.join(60)
    events = archive.events()
    assert len(cluster.seen) > 100
    assert events["alloc_id"].nunique() >= 6
    assert not events.duplicated(["alloc_id", "task", "time", "type"]).any()
    missing = cluster.seen - held(archive)
    coverage = archive.coverage()
    complete = coverage[coverage["complete"].fillna(value=False)]
    is_complete = set(zip(complete["alloc_id"], complete["task"], strict=True))
    assert {(alloc, task) for alloc, task, *_ in missing} & is_complete == set()
    assert len(missing) <= len(cluster.seen) / 20, "what the servers still reported came through"
    assert not archive.snapshot().allocations["client_status"].isin(["unknown"]).any()


def held(archive: af.Archive) -> set[Event]:
    events = archive.events()
    columns = (events["alloc_id"], events["task"], events["time"].astype("int64"), events["type"])
    return set(zip(*(column.tolist() for column in columns), strict=True))


def disturb(cluster: Cluster) -> None:
    """Do to the cluster what a bad week does."""
    restart = {"Attempts": 50, "Interval": 600_000_000_000, "Delay": 300_000_000, "Mode": "delay"}
    cluster.door.call("/v1/jobs", job("loops", "sleep 0.8; exit 3", count=2, RestartPolicy=restart))
    cluster.door.call("/v1/jobs", job("steady", "sleep 9999", count=2))
    time.sleep(5)
    killed = cluster.leader()
    killed.kill()
    wait_for(cluster.has_leader)
    time.sleep(3)
    killed.start()
    stopped = next(each for each in cluster.servers if each not in (cluster.leader(), killed))
    stopped.stop()
    time.sleep(3)
    stopped.start()
    time.sleep(2)
    for each in cluster.servers:
        each.stop()
    for each in cluster.servers:
        each.start()
    wait_for(cluster.has_leader, 90)
    time.sleep(3)
    names = {row["Name"]: row["ID"] for row in cluster.door.call("/v1/nodes")}
    other = cluster.nodes[1]
    of_other = other.call("/v1/agent/self")["stats"]["client"]["node_id"]
    assert of_other in names.values()
    drain = {"DrainSpec": {"Deadline": 10_000_000_000, "IgnoreSystemJobs": False}}
    cluster.door.call(f"/v1/node/{of_other}/drain", drain)
    time.sleep(4)
    cluster.door.call(f"/v1/node/{of_other}/drain", {"DrainSpec": None, "MarkEligible": True})
    cluster.door.call("/v1/jobs", job("late", "sleep 9999", count=4))
    time.sleep(3)
    other.kill()
    wait_for(lambda: cluster.door.call(f"/v1/node/{of_other}")["Status"] == "down", 90)
    other.start()
    wait_for(lambda: cluster.door.is_ready(nodes=2), 90)
    cluster.door.call("/v1/job/steady?purge=true", method="DELETE")
    time.sleep(3)
    cluster.door.call("/v1/system/gc", method="PUT")
    time.sleep(3)
