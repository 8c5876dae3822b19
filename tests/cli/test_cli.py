"""The command line: what it prints, its exit codes, and errors in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import allocframe as af


def run(*arguments: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("NOMAD_")} | environ
    command = [sys.executable, "-W", "error", "-m", "allocframe", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=120)


def test_demo_tells_what_happened_and_saves_the_evidence(tmp_path: Path) -> None:
    done = run("demo", "--story", "oom", "--allocations", "60", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for said in (
        "Allocations by status",
        "Restarts by job",
        "search-indexer",
        "Latest failures",
        "NOMAD_ADDR",
    ):
        assert said in done.stdout
    assert len(af.load(tmp_path / "demo.allocframe")) >= 60
    assert f"the postmortem, for your browser: {tmp_path / 'demo.html'}" in done.stdout
    assert "search-indexer version 1" in (tmp_path / "demo.html").read_text()


@pytest.mark.parametrize("name", ["out.allocframe", "out.parquet", "out.csv"])
def test_fetch_writes_what_the_name_says(cluster: af.sim.Cluster, tmp_path: Path, name: str) -> None:
    done = run("fetch", "-o", name, cwd=tmp_path, NOMAD_ADDR=cluster.address, NOMAD_TOKEN=cluster.token)
    assert done.returncode == 0, done.stderr
    assert f"saved to {name}" in done.stdout
    assert (tmp_path / name).exists()
    assert cluster.token not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["fetch", "--address", "http://127.0.0.1:1"], 1, "NOMAD_ADDR"),
        (["fetch", "--prefix", "abc"], 2, "prefix"),
        (["fetch", "-o", "x.xlsx"], 2, ".allocframe, .parquet or .csv"),
        (["fetch", "-o", "nowhere/x.csv"], 2, "there is no folder"),
        (["fetch", "--bogus"], 2, "--help"),
        (["demo", "--story", "nonsense"], 2, "crash_loop"),
    ],
)
def test_errors_are_one_line_with_a_telling_exit_code(
    tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_help_teaches(tmp_path: Path) -> None:
    assert "NOMAD_ADDR" in run("--help", cwd=tmp_path).stdout
    assert "allocframe fetch -o outage.allocframe" in run("fetch", "--help", cwd=tmp_path).stdout
    assert run("--version", cwd=tmp_path).stdout.strip() == af.__version__
