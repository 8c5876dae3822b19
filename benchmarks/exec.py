"""Benchmark of exec and of `nomad alloc exec`, on a development agent of the `nomad` program on PATH."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import allocframe as af

README = Path(__file__).parent / "README.md"
SIZES = (1_000_000, 20_000_000, 100_000_000)
TIMES = 20
AGENT = """
bind_addr = "127.0.0.1"
disable_update_check = true
ports {{
  http = {}
  rpc  = {}
  serf = {}
}}
client {{
  options = {{ "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,consul,vault" }}
}}
plugin "raw_exec" {{
  config {{ enabled = true }}
}}
"""
JOB = {
    "ID": "web",
    "Name": "web",
    "Datacenters": ["dc1"],
    "TaskGroups": [
        {
            "Name": "g",
            "Tasks": [
                {"Name": "t", "Driver": "raw_exec", "Config": {"command": "/bin/sleep", "args": ["9999"]}}
            ],
        }
    ],
}
Run = Callable[[list[str], bytes], bytes]


def call(address: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(address + path, data=data), timeout=10) as answer:
        return json.load(answer)


def eventually(condition: Callable[[], Any]) -> Any:
    for _ in range(300):
        with contextlib.suppress(OSError):
            if value := condition():
                return value
        time.sleep(0.2)
    raise TimeoutError("the agent did not do it within a minute")


@contextlib.contextmanager
def agent(folder: Path) -> Iterator[tuple[str, str]]:
    """Run an agent with one running task; yield its address and the allocation."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    config, address = folder / "agent.hcl", f"http://127.0.0.1:{ports[0]}"
    config.write_text(AGENT.format(*ports))
    with (folder / "agent.log").open("w") as log:
        process = subprocess.Popen(["nomad", "agent", "-dev", "-config", str(config)], stdout=log, stderr=log)
    try:
        eventually(lambda: call(address, "/v1/nodes"))
        call(address, "/v1/jobs", {"Job": JOB})
        is_running = lambda row: row["ClientStatus"] == "running"  # noqa: E731
        row = eventually(lambda: next(filter(is_running, call(address, "/v1/allocations")), None))
        yield address, row["ID"]
    finally:
        process.terminate()
        process.wait(30)


def by_cli(address: str, alloc: str) -> Run:
    def run(command: list[str], stdin: bytes) -> bytes:
        words = ["nomad", "alloc", "exec", "-i", "-t=false", "-task", "t", alloc, *command]
        environ = {**os.environ, "NOMAD_ADDR": address}
        with tempfile.TemporaryFile() as file:
            file.write(stdin)
            file.seek(0)
            done = subprocess.run(words, stdin=file, env=environ, capture_output=True, check=True)
        return done.stdout

    return run


def measure(run: Run) -> list[str]:
    """Return the cells of a row: seconds and speed for each size, and the results that were kept."""
    cells = []
    for size in SIZES:
        data = os.urandom(size)
        started = time.perf_counter()
        if run(["/bin/cat"], data) != data:
            raise ValueError("not the same bytes")
        seconds = time.perf_counter() - started
        cells.append(f"{seconds:.1f} s ({size / seconds / 1e6:.0f} MB/s)")
    data, kept = os.urandom(500_000), 0
    for _ in range(TIMES):
        with contextlib.suppress(af.ExecError, subprocess.CalledProcessError):
            kept += run(["head", "-c", "5"], data) == data[:5]
    return [*cells, f"{kept} of {TIMES}"]


def main() -> None:
    if not shutil.which("nomad"):
        raise SystemExit("exec.py needs a nomad program on PATH")
    rows = []
    with tempfile.TemporaryDirectory() as folder, agent(Path(folder)) as (address, alloc):
        version = call(address, "/v1/agent/self")["config"]["Version"]["Version"]
        with af.Client(address) as client:
            rows.append(
                ["allocframe", *measure(lambda c, d: client.exec(alloc, c, task="t", stdin=d).stdout)]
            )
        rows.append(["nomad alloc exec", *measure(by_cli(address, alloc))])
    head = [f"Nomad {version}", *(f"{size // 10**6} MB both ways" for size in SIZES), "head: results kept"]
    lines = [head, ["---"] * len(head), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    print(table)
    page = README.read_text()
    README.write_text(
        re.sub(r"(?s)(<!-- exec -->\n).*(<!-- end exec -->)", lambda m: m[1] + table + "\n" + m[2], page)
    )


if __name__ == "__main__":
    main()
