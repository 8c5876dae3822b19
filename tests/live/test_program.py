"""The `nomad` program of PATH speaks with the simulated cluster as with a real one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator

import pytest

from allocframe import sim
from allocframe.sim.cluster.alloc import Alloc

pytestmark = [pytest.mark.skipif(not shutil.which("nomad"), reason="needs a nomad program on PATH")]

Nomad = Callable[..., str]


@pytest.fixture(scope="module")
def version() -> str:
    said = subprocess.run(["nomad", "version"], capture_output=True, text=True, check=True).stdout
    return "1.3.1" if "v1.3." in said else "2.0.5"


@pytest.fixture(scope="module")
def cluster(version: str) -> Iterator[sim.Cluster]:
    with sim.Cluster("bad_deploy", allocations=60, seed=4, version=version) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def alloc(cluster: sim.Cluster) -> Alloc:
    return next(
        a for a in cluster.state.allocs.values() if a.client_status == "running" and a.job.kind == "service"
    )


@pytest.fixture(scope="module")
def nomad(cluster: sim.Cluster) -> Nomad:
    def run(*words: str) -> str:
        settings = {"NOMAD_ADDR": cluster.address, "NOMAD_TOKEN": cluster.token, "NOMAD_NAMESPACE": "default"}
        done = subprocess.run(
            ["nomad", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=os.environ | settings,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_a_job_is_shown_with_its_versions_deployments_and_allocations(nomad: Nomad, alloc: Alloc) -> None:
    job = alloc.job.id
    status = nomad("job", "status", job)
    assert re.search(rf"^ID\s+= {job}$", status, re.MULTILINE)
    assert "Latest Deployment" in status
    assert alloc.id[:8] in status
    history = nomad("job", "history", "-p", job)
    assert re.search(r"^Diff +=", history, re.MULTILINE)
    assert len(nomad("job", "deployments", job).splitlines()) > 1


def test_nodes_and_evaluations_are_found_by_id_and_by_the_start_of_one(
    nomad: Nomad, alloc: Alloc, cluster: sim.Cluster
) -> None:
    for identity in (alloc.node.id, alloc.node.id[:8], alloc.node.id[:5]):
        shown = nomad("node", "status", identity)
        assert alloc.node.name in shown
        assert alloc.id[:8] in shown
        assert "Allocated Resources" in shown
    for identity in (alloc.eval_id, alloc.eval_id[:8]):
        assert re.search(rf"^ID\s+= {alloc.eval_id[:8]}", nomad("eval", "status", identity), re.MULTILINE)


def test_files_and_logs_of_an_allocation_are_shown(nomad: Nomad, alloc: Alloc) -> None:
    task = next(iter(alloc.tasks))
    listed = nomad("alloc", "fs", alloc.id)
    assert re.search(r"^d.* alloc/$", listed, re.MULTILINE)
    assert f"{task}/" in listed
    log = nomad("alloc", "logs", alloc.id, task)
    assert "starting on" in log
    assert nomad("alloc", "fs", alloc.id, f"alloc/logs/{task}.stdout.0") == log
    assert f"{task}.stdout.0" in nomad("alloc", "fs", "-stat", alloc.id, f"alloc/logs/{task}.stdout.0")


def test_servers_and_checks_are_shown(nomad: Nomad, alloc: Alloc, version: str) -> None:
    assert re.search(
        rf"^sim\.global .* alive +true .*{re.escape(version)}", nomad("server", "members"), re.MULTILINE
    )
    if version != "1.3.1":  # which has no such command
        nomad("alloc", "checks", alloc.id)
