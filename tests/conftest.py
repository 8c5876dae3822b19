"""What tests share: a simulated cluster for the whole run, and an environment without the caller's Nomad."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import labpage
import pandas as pd
import pytest
from playwright.sync_api import Browser

import allocframe as af
from allocframe.watch.change import Change

TESTS = Path(__file__).parent

BROWSER = (
    "tests/ui/", "tests/reports/test_screenshots.py", "tests/reports/test_reports.py",
    "tests/documents/test_site.py",
)  # fmt: skip
"""Tests that one worker runs, since a browser and a JupyterLab take seconds to start."""

SLOWEST = (
    "ui/test_panel.py", "test_spark.py", "reports/test_notebooks.py", "diagnosis/test_incidents.py",
    "archive/test_recorder.py", "documents/test_pages.py", "security/test_hostile_peer.py",
    "client/test_fault_proxy.py", "watch/test_watch.py", "archive/test_archive.py",
    "archive/test_archive_faults.py", "archive/test_past_history.py", "documents/test_examples.py",
    "recovery/test_recover.py", "diagnosis/test_quiet.py", "reports/test_from_archive.py",
    "reports/test_postmortem.py", "archive/test_history.py", "stats/test_truth.py",
    "cli/test_fleet_commands.py", "widgets/panel/test_panel.py", "stats/test_per_cluster.py",
    "stats/test_rates.py", "stats/test_empty.py", "stats/test_explain.py", "plots/test_plots.py",
    "client/test_exec.py", "diagnosis/test_gone.py", "fetch/test_resume.py", "reports/test_people.py",
    "security/test_canary.py", "diagnosis/test_requests_and_room.py", "stats/test_patterns.py",
    "diagnosis/test_unseen.py", "archive/test_power_loss.py", "security/test_hostile_files.py",
    "repo/test_dependencies.py", "archive/test_object_store.py", "reports/test_lab.py",
)  # fmt: skip
"""Files that take longest. They begin first, so that no worker has one left when the others have ended.

Those of the browser (the first), of Spark and of the notebooks mostly wait for other processes.
"""


# A busy machine takes longer to make an example and to run it, which is no fault.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--deep", action="store_true", help="more seeds, and tests marked as deep: minutes")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker one file after the other, and one of them all that need a browser."""
    from xdist.scheduler import LoadFileScheduling

    class BrowserTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "browser" if nodeid.startswith(BROWSER) else super()._split_scope(nodeid)

    return BrowserTogether(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path.relative_to(TESTS).as_posix(), len(place)))
    if not config.getoption("deep"):
        skip = pytest.mark.skip(reason="shows more of what a cheaper test shows: --deep runs it")
        for item in items:
            if item.get_closest_marker("deep"):
                item.add_marker(skip)


def pytest_collection_finish() -> None:
    """Take what is imported out of every later garbage collection, each of which would go through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_nomad_settings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the caller's NOMAD_* away from every test but the live ones, which are there for them."""
    if "live" not in request.node.path.parts:
        for name in [name for name in os.environ if name.startswith("NOMAD_")]:
            monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c() -> Iterator[None]:
    """Restore SIGINT if it is ignored: a shell starts background jobs so, and every child inherits it."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def _audit_logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[Path]]:
    """Keep the audit log out of the caller's home, for servers that are started once, too."""
    folder = tmp_path_factory.mktemp("audit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALLOCFRAME_AUDIT", str(folder / "audit.jsonl"))
        yield (folder / str(number) / "audit.jsonl" for number in itertools.count())


@pytest.fixture(autouse=True)
def audit_log(_audit_logs: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an audit log of its own."""
    path = next(_audit_logs)  # not mktemp: it looks through the folders of all tests before
    path.parent.mkdir()
    monkeypatch.setenv("ALLOCFRAME_AUDIT", str(path))
    return path


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser for the whole run: only one driver may be open at a time."""
    if labpage.CHROMIUM is None:
        pytest.skip("needs a browser: apt-get install chromium (`make test` does so as root)")
    with labpage.browser() as opened:
        yield opened


@pytest.fixture(autouse=True)
def _no_running_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let every test run an event loop: a browser opened earlier leaves its own running in this thread."""
    running = None if "browser" in request.fixturenames else asyncio._get_running_loop()
    if running is not None:
        asyncio._set_running_loop(None)
    yield
    if running is not None:
        asyncio._set_running_loop(running)


@pytest.fixture(scope="session")
def cluster() -> Iterator[af.sim.Cluster]:
    with af.sim.Cluster("mixed", allocations=120, seed=5) as made:
        yield made


@pytest.fixture
def client(cluster: af.sim.Cluster) -> Iterator[af.Client]:
    with af.Client(cluster.address, token=cluster.token) as made:
        yield made


@pytest.fixture(scope="session")
def snap(cluster: af.sim.Cluster) -> Iterator[af.Snapshot]:
    with (
        af.Client(cluster.address, token=cluster.token) as client,
        client.snapshot(namespace="*", resources=True) as made,
    ):
        yield made


@pytest.fixture(scope="session")
def change(snap: af.Snapshot) -> Change:
    """The first answer of a watch: everything is new."""
    none = snap.allocations.iloc[:0]
    return Change(
        at=pd.Timestamp.now("UTC"), index=snap.info["index_last"], source="list", full=True,
        added=snap.allocations, changed=none, removed=none, task_states=snap.task_states, events=snap.events,
        reschedules=snap.reschedules, new_events=snap.events,
    )  # fmt: skip


@pytest.fixture(scope="session")
def archive(change: Change, tmp_path_factory: pytest.TempPathFactory) -> af.Archive:
    made = af.Archive(tmp_path_factory.mktemp("kept") / "archive")
    made.append(change)
    return made
