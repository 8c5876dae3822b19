"""Real Nomad agents for the live tests: started on free ports of this machine, and called by plain HTTP."""

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

NOMAD = shutil.which("nomad")

_AGENT = """
name = "{name}"
bind_addr = "127.0.0.1"
disable_update_check = true
log_level = "ERROR"
data_dir = "{data}"
advertise {{
  http = "127.0.0.1"
  rpc  = "127.0.0.1:{ports[1]}"
  serf = "127.0.0.1:{ports[2]}"
}}
ports {{
  http = {ports[0]}
  rpc  = {ports[1]}
  serf = {ports[2]}
}}
"""
CLIENT = """
client {{
  enabled = true
  {servers}
  options = {{ "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,consul,vault" }}
}}
plugin "raw_exec" {{
  config {{ enabled = true }}
}}
"""


def server(count: int = 1, *, join: list[int] | None = None, more: str = "") -> str:
    """Return the configuration of one of `count` servers, which meets those at the serf ports `join`."""
    peers = ", ".join(f'"127.0.0.1:{port}"' for port in join or ())
    meet = f'  server_join {{\n    retry_join = [{peers}]\n    retry_interval = "1s"\n  }}\n' if join else ""
    return f"server {{\n  enabled = true\n  bootstrap_expect = {count}\n{meet}{more}\n}}\n"


def client(*rpc_ports: int) -> str:
    """Return the configuration of a client of the servers at these ports, or of the agent's own server."""
    listed = ", ".join(f'"127.0.0.1:{port}"' for port in rpc_ports)
    return CLIENT.format(servers=f"servers = [{listed}]" if rpc_ports else "")


def free_ports() -> list[int]:
    with contextlib.ExitStack() as opened:
        sockets = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        return [each.getsockname()[1] for each in sockets]


class Agent:
    """One process of the nomad program, which can be ended and started again with the same data."""

    def __init__(self, folder: Path, config: str, ports: list[int] | None = None) -> None:
        self.ports = ports or free_ports()
        self.address = f"http://127.0.0.1:{self.ports[0]}"
        self.data = folder / "data"
        folder.mkdir(exist_ok=True)
        self._file = folder / "agent.hcl"
        self._file.write_text(_AGENT.format(name=folder.name, data=self.data, ports=self.ports) + config)
        self.start()

    def start(self) -> None:
        with self._file.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(NOMAD), "agent", "-config", str(self._file)], stdout=log, stderr=log
            )

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        unmount(self.data)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def call(self, path: str, body: Any = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def events(self) -> set[tuple[str, str, int, str]]:
        """Return allocation, task, time and type of every event that the list shows now."""
        return {
            (row["ID"], task, event["Time"], event["Type"])
            for row in self.call("/v1/allocations?namespace=*")
            for task, state in (row["TaskStates"] or {}).items()
            for event in state["Events"] or []
        }

    def is_ready(self, nodes: int = 1) -> bool:
        return sum(node["Status"] == "ready" for node in self.call("/v1/nodes")) >= nodes

    def end_jobs(self) -> None:
        """Purge every job, so that no task outlives its agent."""
        with contextlib.suppress(OSError):
            for job in self.call("/v1/jobs") or []:
                self.call(f"/v1/job/{job['ID']}?purge=true", method="DELETE")
            time.sleep(1)


def unmount(folder: Path) -> None:
    """Unmount what an agent of root left mounted, so that pytest can delete its folder later."""
    mounts = Path("/proc/mounts")
    places = [line.split()[1] for line in mounts.read_text().splitlines()] if mounts.exists() else []
    for place in places:
        if place.startswith(f"{folder}/"):
            subprocess.run(["umount", "-l", place], check=False, capture_output=True)


@contextlib.contextmanager
def running(folder: Path, config: str, ports: list[int] | None = None) -> Iterator[Agent]:
    agent = Agent(folder, config, ports)
    try:
        yield agent
    finally:
        agent.stop()


def job(name: str, script: str, *, kind: str = "service", count: int = 1, **group: Any) -> dict[str, Any]:
    """Return a job whose task `t` runs a shell script, to be sent to ``/v1/jobs``."""
    task = {
        "Name": "t",
        "Driver": "raw_exec",
        "Config": {"command": "/bin/sh", "args": ["-c", script]},
        "Resources": {"CPU": 1, "MemoryMB": 10},
    }
    groups = [{"Name": "g", "Count": count, "Tasks": [task], "EphemeralDisk": {"SizeMB": 101}, **group}]
    return {"Job": {"ID": name, "Name": name, "Type": kind, "Datacenters": ["dc1"], "TaskGroups": groups}}


def wait_for(reached: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if reached():
                return
        assert time.monotonic() < end
        time.sleep(0.1)
