"""Each dependency does what allocframe needs; `make lowest` runs this with the lowest version of each."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

import allocframe as af


def command(*arguments: str, cwd: Path) -> str:
    """Run allocframe. Any warning about our use of a dependency is an error.

    Deprecations inside a dependency are not ours.
    """
    words = [
        sys.executable,
        "-W",
        "error",
        "-W",
        "ignore::DeprecationWarning",
        "-m",
        "allocframe",
        *arguments,
    ]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_snapshot_is_fetched_saved_and_read_again(client: af.Client, tmp_path: Path) -> None:
    snap = client.snapshot(namespace="*", resources=True)  # httpx, tqdm; starlette and uvicorn answer
    snap.save(tmp_path / "a.allocframe")
    snap.to_parquet(tmp_path / "tables")  # pyarrow
    again = af.load(tmp_path / "a.allocframe")
    assert again.events.equals(snap.events)  # pandas
    assert again.sql("SELECT count(*) AS n FROM events")["n"].item() == len(snap.events) > 100  # duckdb


def test_the_async_client_fetches_the_same(cluster: af.sim.Cluster) -> None:
    async def fetched() -> int:
        async with af.AsyncClient(cluster.address, token=cluster.token) as client:
            return len(await client.snapshot(namespace="*"))

    assert asyncio.run(fetched()) > 100


def test_findings_and_rates_have_numbers(snap: af.Snapshot) -> None:
    assert len(af.findings(snap)) > 0  # narwhals
    rates = af.stats.restarts(snap, by="job_id")
    assert (rates["lower"] <= rates["rate_per_hour"]).all()  # scipy's exact intervals


def test_a_command_runs_in_a_task(client: af.Client, snap: af.Snapshot) -> None:
    running = snap.task_states.query("state == 'running'").iloc[0]
    answer = client.exec(running["alloc_id"], ["echo", "there"], task=running["task"])  # websockets
    assert (answer.text.strip(), answer.exit_code) == ("there", 0)


def test_an_archive_gives_back_what_it_was_given(archive: af.Archive, snap: af.Snapshot) -> None:
    assert len(archive.events()) == len(snap.events)  # deltalake
    archive.compact()
    assert len(archive.snapshot().allocations) == len(snap.allocations)


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_a_report_has_its_pictures(snap: af.Snapshot, tmp_path: Path, name: str) -> None:
    target = af.report(snap, "cluster", output=tmp_path / name)  # matplotlib
    assert ("data:image/png" if name.endswith("html") else "_files/failures.png") in target.read_text()


def test_the_panel_lists_allocations(client: af.Client) -> None:
    panel = af.ControlPanel(client, namespace="*")  # ipywidgets
    try:
        assert "application/vnd.jupyter.widget-view+json" in panel._repr_mimebundle_()
    finally:
        panel.close()


def test_the_terminal_is_a_widget_of_its_own(client: af.Client, snap: af.Snapshot) -> None:
    running = snap.task_states.query("state == 'running'").iloc[0]
    terminal = af.Terminal(client, running["alloc_id"], running["task"])  # anywidget
    try:
        assert terminal.get_state()["_model_module"] == "anywidget"
    finally:
        terminal.end()
        terminal.close()


def test_commands_explain_themselves_and_fetch(
    cluster: af.sim.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "postmortem" in command("report", "--help", cwd=tmp_path)  # typer
    monkeypatch.setenv("NOMAD_ADDR", cluster.address)
    monkeypatch.setenv("NOMAD_TOKEN", cluster.token or "")
    command("fetch", "--namespace", "*", "-o", "a.allocframe", cwd=tmp_path)
    assert len(af.load(tmp_path / "a.allocframe")) > 100


def test_jupyterlab_starts_with_its_extensions() -> None:
    words = [sys.executable, "-m", "jupyterlab", "--version"]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env=dict(os.environ), timeout=60
    )
    assert done.returncode == 0, done.stderr
