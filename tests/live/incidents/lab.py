"""The incident lab: makes incidents on a real agent and keeps captures of them with their truth.

    python tests/live/incidents/lab.py FOLDER [NOMAD]

runs a development agent of the `nomad` program (of PATH, or NOMAD), makes all incidents at once, each in a
namespace of its own, and writes FOLDER/nomad-VERSION-NAME.allocframe and FOLDER/lab.json, in the form of
tests/data/incidents. It takes about four minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import allocframe as af

SECOND = 1_000_000_000
LENGTH = 170
"""Seconds from the first job to the captures."""

CONFIG = """
bind_addr = "127.0.0.1"
disable_update_check = true
log_level = "ERROR"
data_dir = "{data}"
ports {{
  http = {http}
  rpc  = {rpc}
  serf = {serf}
}}
client {{
  options = {{ "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,consul,vault" }}
}}
plugin "raw_exec" {{
  config {{ enabled = true }}
}}
"""


@dataclass
class Lab:
    """A running agent."""

    address: str
    folder: Path
    version: tuple[int, ...] = (0,)

    def call(self, path: str, body: Any = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=20) as answer:
            text = answer.read()
            return json.loads(text) if text else None

    def submit(self, namespace: str, job: dict[str, Any]) -> None:
        self.call(f"/v1/jobs?namespace={namespace}", {"Job": {**job, "Namespace": namespace}})

    def allocations(self, namespace: str, job: str) -> list[dict[str, Any]]:
        rows = self.call(f"/v1/allocations?namespace={namespace}")
        return [row for row in rows if row["JobID"] == job and row["ClientStatus"] == "running"]


@dataclass
class Incident:
    """One incident: its truth, and what to do when (seconds after the beginning)."""

    name: str
    truth: dict[str, Any]
    steps: list[tuple[float, Callable[[Lab, str], None]]] = field(default_factory=list)
    since: tuple[int, ...] = (0,)
    """The version of Nomad from which it can be made."""


def job(
    name: str, command: str, *, kind: str = "service", count: int = 2, attempts: int = 3, mode: str = "delay",
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return a job of one shell command."""
    group = {
        "Name": "g",
        "Count": count,
        "RestartPolicy": {"Attempts": attempts, "Interval": 15 * SECOND, "Delay": SECOND, "Mode": mode},
        "ReschedulePolicy": more.pop("reschedule", {"Attempts": 0, "Unlimited": False}),
        "EphemeralDisk": {"SizeMB": 20},
        "Tasks": [task("app", command, **more.pop("task", {})), *more.pop("tasks", [])],
        **more.pop("group", {}),
    }
    spec = {
        "ID": name,
        "Name": name,
        "Type": kind,
        "Datacenters": ["*", "dc1"],
        "TaskGroups": [group],
        **more,
    }
    if kind == "system":
        del group["ReschedulePolicy"]
    if kind == "service":
        spec.setdefault(
            "Update",
            {"MaxParallel": 2, "MinHealthyTime": HEALTHY, "HealthyDeadline": 60 * SECOND,
             "ProgressDeadline": 90 * SECOND},
        )  # fmt: skip
    return spec


def task(name: str, command: str, **more: Any) -> dict[str, Any]:
    return {
        "Name": name, "Driver": "raw_exec", "Config": {"command": "/bin/sh", "args": ["-c", command]},
        "Resources": {"CPU": 1, "MemoryMB": 10}, "KillTimeout": 2 * SECOND,
        "LogConfig": {"MaxFiles": 1, "MaxFileSizeMB": 1}, **more,
    }  # fmt: skip


WELL = "exec sleep 9999"
HEALTHY = 8 * SECOND
"""An agent on a busy machine calls a program healthy that ended after a second, if this is near a second."""

RESCHEDULED = {"Unlimited": True, "Delay": 5 * SECOND, "DelayFunction": "constant"}


def submit(spec: dict[str, Any]) -> Callable[[Lab, str], None]:
    return lambda lab, namespace: lab.submit(namespace, spec)


def submit_periodic(spec: dict[str, Any]) -> Callable[[Lab, str], None]:
    """Submit a job that runs every 15 seconds; from Nomad 1.6 on it takes a list of times."""
    times = "*/15 * * * * *"

    def act(lab: Lab, namespace: str) -> None:
        when = {"Specs": [times]} if lab.version >= (1, 6) else {"Spec": times}
        lab.submit(namespace, {**spec, "Periodic": {"Enabled": True, "SpecType": "cron", **when}})

    return act


def stop_job(name: str) -> Callable[[Lab, str], None]:
    return lambda lab, namespace: lab.call(f"/v1/job/{name}?namespace={namespace}", method="DELETE")


def each_allocation(name: str, path: str, body: Any, most: int = 2) -> Callable[[Lab, str], None]:
    def act(lab: Lab, namespace: str) -> None:
        for row in lab.allocations(namespace, name)[:most]:
            lab.call(path.format(id=row["ID"]), body)

    return act


def dispatch(name: str, meta: dict[str, str]) -> Callable[[Lab, str], None]:
    return lambda lab, namespace: lab.call(f"/v1/job/{name}/dispatch?namespace={namespace}", {"Meta": meta})


def touch(name: str, *, there: bool = True) -> Callable[[Lab, str], None]:
    def act(lab: Lab, namespace: str) -> None:
        file = lab.folder / name
        file.touch() if there else file.unlink(missing_ok=True)

    return act


def kill_from_outside(name: str) -> Callable[[Lab, str], None]:
    """Kill the programs of a job as the kernel or another user would."""

    def act(lab: Lab, namespace: str) -> None:
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if entry.name.isdigit() and f"marker-{name}" in (entry / "cmdline").read_text():
                    os.kill(int(entry.name), signal.SIGKILL)

    return act


def crash(jobs: list[str], **more: Any) -> dict[str, Any]:
    return {"expect": [{"jobs": jobs, "cause": ["crash"], **more}],
            "never": ["job version", "node", "common cause"]}  # fmt: skip


def named(jobs: list[str], *causes: str, **more: Any) -> dict[str, Any]:
    return {"expect": [{"jobs": jobs, "cause": list(causes), **more}]}


QUIET: dict[str, Any] = {"quiet": True}


def incidents(folder: Path) -> list[Incident]:
    """Return all incidents."""
    ok = folder / "shared-ok"
    depends = f"while [ -e {ok} ]; do sleep 0.2; done; exit 1"
    alone = f"while [ -e {folder / 'alone-ok'} ]; do sleep 0.2; done; exit 1"
    flaky = (
        "[ -e ../alloc/ran-twice ] && exit 0; [ -e ../alloc/ran ] && touch ../alloc/ran-twice; "
        "touch ../alloc/ran; sleep 1; exit 3"
    )
    deaf = "trap '' INT TERM; while true; do sleep 0.2; done"
    artifact = {"Artifacts": [{"GetterSource": "http://127.0.0.1:9/app.tgz", "RelativeDest": "local/"}]}
    template = {"Templates": [{"EmbeddedTmpl": "{{ broken", "DestPath": "local/x"}]}
    canary = {"MaxParallel": 1, "Canary": 1, "MinHealthyTime": HEALTHY, "HealthyDeadline": 30 * SECOND,
              "ProgressDeadline": 60 * SECOND}  # fmt: skip
    parameterized = {"ParameterizedJob": {"MetaOptional": ["code"], "Payload": "optional"}}
    run = {"kind": "batch", "count": 1, "attempts": 0, "mode": "fail", **parameterized}
    coded = "sleep 1; exit $NOMAD_META_code"  # without braces, which Nomad would read
    check = {"Name": "up", "Provider": "nomad", "PortLabel": "p", "Checks": [
        {"Name": "up-check", "Type": "tcp", "Interval": 2 * SECOND, "Timeout": SECOND,
         "CheckRestart": {"Limit": 2, "Grace": 3 * SECOND}}]}  # fmt: skip
    network = [{"Mode": "host", "DynamicPorts": [{"Label": "p"}]}]
    steady = submit(job("steady", WELL))
    lifecycle = {"Lifecycle": {"Hook": "prestart", "Sidecar": False}}
    sidecar = task("proxy", WELL, Lifecycle={"Hook": "prestart", "Sidecar": True})
    return [
        Incident(
            "crashfast",
            crash(["api"], state=["ongoing", "gave up"]),
            [(0, submit(job("api", "sleep 1; exit 2"))), (0, steady)],
        ),
        Incident(
            "exitzero",
            crash(["api"], state=["ongoing"]),
            [(0, submit(job("api", "sleep 2; exit 0"))), (0, steady)],
        ),
        Incident(
            "segv", crash(["api"], state=["ongoing"]), [(0, submit(job("api", "sleep 1; kill -SEGV $$")))]
        ),
        Incident(
            "abort", crash(["api"], state=["ongoing"]), [(0, submit(job("api", "sleep 1; kill -ABRT $$")))]
        ),
        Incident(
            "termself",
            named(["api"], "killed", "unknown"),
            [(0, submit(job("api", "sleep 2; kill -TERM $$"))), (0, steady)],
        ),
        Incident(
            "killoutside",
            {**named(["cache"], "killed", "unknown"), "never": ["out of memory", "job version", "node"]},
            [
                (0, submit(job("cache", f": marker-cache-{folder.name}; while true; do sleep 0.5; done"))),
                *((20 + 12 * n, kill_from_outside(f"cache-{folder.name}")) for n in range(12)),
                (0, steady),
            ],
        ),
        Incident(
            "nobinary",
            named(["nobin"], "driver", state=["ongoing", "gave up"]),
            [
                (
                    0,
                    submit(
                        job(
                            "nobin",
                            "",
                            reschedule=RESCHEDULED,
                            task={"Config": {"command": "/no/such/program"}},
                        )
                    ),
                )
            ],
        ),
        Incident(
            "badartifact",
            named(["fetcher"], "artifact", state=["ongoing", "gave up"]),
            [
                (
                    0,
                    submit(
                        job("fetcher", WELL, attempts=1, mode="fail", reschedule=RESCHEDULED, task=artifact)
                    ),
                ),
                (0, steady),
            ],
        ),
        Incident(
            "badtemplate",
            named(["tpl"], "template", state=["ongoing", "gave up"]),
            [(0, submit(job("tpl", WELL, attempts=1, mode="fail", reschedule=RESCHEDULED, task=template)))],
        ),
        Incident(
            "badtemplategaveup",
            named(["tpl"], "template", state=["gave up"]),
            [(0, submit(job("tpl", WELL, attempts=0, mode="fail", task=template)))],
        ),
        Incident(
            "batchfailed",
            crash(["etl"], state=["gave up"], severity=["critical"]),
            [
                (0, submit(job("etl", "sleep 1; exit 3", kind="batch", count=1, attempts=1, mode="fail"))),
                (0, steady),
            ],
        ),
        Incident("batchretries", QUIET, [(0, submit(job("etl", flaky, kind="batch", count=2))), (0, steady)]),
        Incident(
            "dispatchfew",
            QUIET,
            [
                (0, submit(job("render", coded, **run))),
                *((3 + n, dispatch("render", {"code": "3" if n in (9, 21) else "0"})) for n in range(40)),
            ],
        ),
        Incident(
            "dispatchall",
            crash(["resize"], state=["ongoing"], severity=["critical"]),
            [
                (0, submit(job("resize", coded, **run))),
                *((3 + 10 * n, dispatch("resize", {"code": "4"})) for n in range(8)),
            ],
        ),
        Incident(
            "dispatchonce",
            crash(["resize"], state=["recovered"], severity=["warning"]),
            [
                (0, submit(job("resize", coded, **run))),
                *((3 + 8 * n, dispatch("resize", {"code": "4" if n < 5 else "0"})) for n in range(10)),
            ],
        ),
        Incident(
            "periodic",
            crash(["nightly"], state=["ongoing"]),
            [(0, submit_periodic(job("nightly", "sleep 1; exit 4", **{**run, "ParameterizedJob": None})))],
        ),
        Incident(
            "badversion",
            named(["shop"], "job version", mechanism=["crash"]),
            [
                (0, submit(job("shop", WELL, count=3))),
                (60, submit(job("shop", "sleep 1; exit 1", count=3))),
                (0, steady),
            ],
        ),
        Incident(
            "badversionartifact",
            named(["shop"], "job version", mechanism=["artifact"]),
            [
                (0, submit(job("shop", WELL, count=4))),
                (
                    60,
                    submit(
                        job(
                            "shop",
                            WELL,
                            count=4,
                            attempts=1,
                            mode="fail",
                            reschedule=RESCHEDULED,
                            task=artifact,
                        )
                    ),
                ),
                (0, steady),
            ],
        ),
        Incident(
            "badversiontemplate",
            named(["shop"], "job version", mechanism=["template"]),
            [
                (0, submit(job("shop", WELL, count=4))),
                (
                    60,
                    submit(
                        job(
                            "shop",
                            WELL,
                            count=4,
                            attempts=1,
                            mode="fail",
                            reschedule=RESCHEDULED,
                            task=template,
                        )
                    ),
                ),
                (0, steady),
            ],
        ),
        Incident(
            "rollback",
            named(["shop"], "job version", state=["recovered", "stopped"], severity=["warning"]),
            [
                (0, submit(job("shop", WELL))),
                (50, submit(job("shop", "sleep 1; exit 1"))),
                (90, submit(job("shop", WELL))),
            ],
        ),
        Incident(
            "canaryfails",
            named(["shop"], "job version", mechanism=["crash"]),
            [
                (0, submit(job("shop", WELL, count=3, Update=canary))),
                (50, submit(job("shop", "sleep 1; exit 1", count=3, attempts=1, mode="fail", Update=canary))),
            ],
        ),
        Incident(
            "gooddeploy",
            QUIET,
            [
                (0, submit(job("shop", WELL, count=3))),
                (40, submit(job("shop", WELL, count=3, Meta={"a": "b"}))),
                (90, submit(job("shop", "exec sleep 8888", count=3))),
            ],
        ),
        Incident(
            "scaling",
            QUIET,
            [
                (0, submit(job("shop", WELL, count=1))),
                (40, submit(job("shop", WELL, count=4))),
                (80, submit(job("shop", WELL, count=2))),
            ],
        ),
        Incident(
            "oprestart",
            QUIET,
            [
                (0, submit(job("svc", WELL))),
                *(
                    (
                        30 * n,
                        each_allocation("svc", "/v1/client/allocation/{id}/restart", {"TaskName": "app"}),
                    )
                    for n in (1, 2, 3)
                ),
            ],
        ),
        Incident(
            "opstop",
            QUIET,
            [
                (0, submit(job("svc", WELL, count=3))),
                *((30 * n, each_allocation("svc", "/v1/allocation/{id}/stop", {})) for n in (1, 2)),
            ],
        ),
        Incident(
            "opsignal",
            QUIET,
            [
                (0, submit(job("svc", WELL))),
                (
                    60,
                    each_allocation(
                        "svc", "/v1/client/allocation/{id}/signal", {"Task": "app", "Signal": "SIGKILL"}
                    ),
                ),
            ],
        ),
        Incident("stopped", QUIET, [(0, submit(job("svc", WELL))), (60, stop_job("svc")), (0, steady)]),
        Incident(
            "crashstopped",
            crash(["api"], state=["stopped"], severity=["warning"]),
            [(0, submit(job("api", "sleep 1; exit 2"))), (80, stop_job("api")), (0, steady)],
        ),
        Incident("killtimeout", QUIET, [(0, submit(job("deaf", deaf))), (60, stop_job("deaf"))]),
        Incident(
            "redherring",
            crash(["api"], state=["ongoing"]),
            [
                (0, submit(job("api", "sleep 1; exit 2"))),
                (60, submit(job("api", "sleep 1; exit 2", Meta={"a": "b"}))),
                (0, steady),
                (70, submit(job("steady", "exec sleep 7777"))),
            ],
        ),
        Incident(
            "twocauses",
            {
                "expect": [
                    {"jobs": ["api"], "cause": ["crash"]},
                    {"jobs": ["fetcher"], "cause": ["artifact"]},
                ],
                "never": ["job version", "node", "common cause"],
            },
            [
                (0, submit(job("api", "sleep 1; exit 2"))),
                (
                    0,
                    submit(
                        job("fetcher", WELL, attempts=1, mode="fail", reschedule=RESCHEDULED, task=artifact)
                    ),
                ),
                (0, steady),
            ],
        ),
        Incident(
            "dependency",
            {**named([f"svc-{n}" for n in range(4)], "common cause"), "never": ["job version", "node"]},
            [
                (0, touch("shared-ok")),
                *((1, submit(job(f"svc-{n}", depends))) for n in range(4)),
                (40, submit(job("svc-0", depends, Meta={"a": "b"}))),
                (120, touch("shared-ok", there=False)),
                (1, steady),
            ],
        ),
        Incident(
            "dependencyalone",
            {**crash(["svc"]), "never": ["job version", "node", "common cause"]},
            [
                (0, touch("alone-ok")),
                (1, submit(job("svc", alone))),
                (30, submit(job("svc", alone, Meta={"a": "b"}))),
                (125, touch("alone-ok", there=False)),
                (1, steady),
            ],
        ),
        Incident(
            "singlecrash",
            QUIET,
            [
                (
                    0,
                    submit(
                        job(
                            "svc", f"[ -e ../alloc/x ] && {WELL}; touch ../alloc/x; sleep 40; exit 1", count=1
                        )
                    ),
                ),
                (0, steady),
            ],
        ),
        Incident(
            "recovers",
            crash(["svc"], state=["recovered"], severity=["warning"]),
            [
                (0, touch("heals", there=False)),
                (1, submit(job("svc", f"sleep 1; [ -e {folder / 'heals'} ] || exit 1; {WELL}"))),
                (60, touch("heals")),
            ],
        ),
        Incident(
            "sidecar",
            crash(["pair"], state=["ongoing", "gave up"]),
            [
                (
                    0,
                    submit(
                        job(
                            "pair",
                            "sleep 3; exit 1",
                            attempts=1,
                            mode="fail",
                            reschedule=RESCHEDULED,
                            tasks=[sidecar],
                        )
                    ),
                )
            ],
        ),
        Incident(
            "prestart",
            crash(["web"], state=["ongoing"]),
            [
                (
                    0,
                    submit(
                        job(
                            "web",
                            WELL,
                            attempts=1,
                            mode="fail",
                            reschedule=RESCHEDULED,
                            tasks=[task("init", "sleep 1; exit 5", **lifecycle)],
                        )
                    ),
                )
            ],
        ),
        Incident(
            "system",
            crash(["agent"], state=["ongoing"]),
            [(0, submit(job("agent", "sleep 2; exit 9", kind="system", count=1)))],
        ),
        Incident(
            "toobig",
            named(["big"], "placement", severity=["critical"]),
            [
                (0, submit(job("big", WELL, task={"Resources": {"CPU": 1, "MemoryMB": 9_000_000}}))),
                (0, steady),
            ],
        ),
        Incident(
            "novolume",
            named(["db"], "placement", severity=["critical"]),
            [
                (
                    0,
                    submit(
                        job(
                            "db",
                            WELL,
                            group={
                                "Volumes": {"data": {"Name": "data", "Type": "host", "Source": "nowhere"}}
                            },
                        )
                    ),
                ),
                (0, steady),
            ],
        ),
        Incident(
            "healthcheck",
            named(["web"], "health check", state=["ongoing"]),
            [(0, submit(job("web", WELL, count=1, group={"Networks": network, "Services": [check]})))],
            since=(1, 4),
        ),
        Incident(
            "slowcrash",
            crash(["api"], state=["ongoing"]),
            [(0, submit(job("api", "sleep 25; exit 7", count=1))), (0, steady)],
        ),
        Incident(
            "crashgaveup",
            crash(["api"], state=["gave up"], severity=["critical"]),
            [(0, submit(job("api", "sleep 1; exit 2", attempts=1, mode="fail"))), (0, steady)],
        ),
    ]


@contextlib.contextmanager
def agent(nomad: str, folder: Path) -> Iterator[str]:
    """Run a development agent."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    config = folder / "agent.hcl"
    data = folder / "data"
    config.write_text(CONFIG.format(http=ports[0], rpc=ports[1], serf=ports[2], data=data))
    with (folder / "agent.log").open("w") as log:
        program = subprocess.Popen([nomad, "agent", "-dev", "-config", str(config)], stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{ports[0]}"
    finally:
        program.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(30)
        program.kill()


def main(output: Path, nomad: str) -> None:
    """Make all incidents and write their captures."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        with agent(nomad, folder) as address:
            lab = Lab(address, folder)
            for _ in range(200):
                with contextlib.suppress(OSError):
                    if lab.call("/v1/nodes"):
                        break
                time.sleep(0.2)
            text = lab.call("/v1/agent/self")["config"]["Version"]["Version"]
            version = tuple(int(part) for part in text.split(".")[:2])
            lab.version = version
            made = [each for each in incidents(folder) if each.since <= version]
            for each in made:
                lab.call("/v1/namespace/" + each.name, {"Name": each.name})
            steps = [(when, each.name, act) for each in made for when, act in each.steps]
            steps.sort(key=lambda step: step[0])
            begin = time.monotonic()
            for when, name, act in steps:
                time.sleep(max(0.0, begin + when - time.monotonic()))
                try:
                    act(lab, name)
                except urllib.error.HTTPError as error:
                    print(f"{name}: {error.read().decode()}", file=sys.stderr)
            time.sleep(max(0.0, begin + LENGTH - time.monotonic()))
            with af.Client(address) as client:
                for each in made:
                    with client.snapshot(namespace=each.name, history=True) as snap:
                        snap.save(output / f"nomad-{text}-{each.name}.allocframe")
            for row in lab.call("/v1/jobs?namespace=*"):
                lab.call(f"/v1/job/{row['ID']}?namespace={row['Namespace']}&purge=true", method="DELETE")
            time.sleep(4)
        truths = {each.name: each.truth for each in incidents(folder)}
        (output / "lab.json").write_text(json.dumps(truths, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "nomad")
