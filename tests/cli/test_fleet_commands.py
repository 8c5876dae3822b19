"""Several clusters on the command line: fetched into one file of evidence, recorded each into an archive of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faultserver import serving

import allocframe as af
from allocframe import cli
from allocframe.archive import recorder
from allocframe.archive.recorder import Recorder, run_all
from allocframe.cli._live_status import Status


@pytest.fixture(scope="module")
def eu() -> Iterator[af.sim.Cluster]:
    with af.sim.Cluster("calm", allocations=20, seed=3) as cluster:
        yield cluster


@pytest.fixture
def us() -> Iterator[af.sim.Cluster]:
    with af.sim.Cluster("oom", allocations=30, seed=4) as cluster:
        yield cluster


@pytest.fixture
def file(eu: af.sim.Cluster, us: af.sim.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "clusters.toml"
    for name, cluster in (("eu", eu), ("us", us)):
        monkeypatch.setenv(f"TOKEN_{name.upper()}", cluster.token)
    made.write_text(
        "".join(
            f'[{name}]\naddress = "{cluster.address}"\ntoken_env = "TOKEN_{name.upper()}"\n'
            for name, cluster in (("eu", eu), ("us", us))
        )
    )
    return made


def with_one_down(file: Path) -> Path:
    file.write_text(file.read_text() + '[gone]\naddress = "http://127.0.0.1:9"\n')
    return file


def until(reached: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["allocframe", *map(str, arguments)])
    return cli.run()


def test_fetch_prints_and_keeps_all_clusters(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "fleet.allocframe"
    assert run(monkeypatch, "fetch", "--clusters", file, "-o", kept) == 0
    said = capsys.readouterr().out
    assert "allocations as fetched from eu (" in said
    assert "us: search-indexer version 1 was killed for memory" in said
    with af.load(kept) as snap:
        assert list(snap.clusters) == ["eu", "us"]
    assert run(monkeypatch, "report", "cluster", "--from", kept, "-o", tmp_path / "x.md") == 2
    assert "a report is of one cluster" in capsys.readouterr().err
    assert run(monkeypatch, "report", "cluster", "--from", kept, "--cluster", "mars") == 2
    assert "there is eu, us" in capsys.readouterr().err
    assert run(monkeypatch, "report", "cluster", "--cluster", "eu") == 2
    assert "--from" in capsys.readouterr().err


def test_a_report_on_one_of_several_clusters(
    us: af.sim.Cluster, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, page = tmp_path / "fleet.allocframe", tmp_path / "us.md"
    assert run(monkeypatch, "fetch", "--clusters", file, "-o", kept) == 0
    assert run(monkeypatch, "report", "postmortem", "--from", kept, "--cluster", "us", "-o", page) == 0
    assert "search-indexer version 1" in page.read_text()


def test_fetch_ends_with_1_where_one_is_down_and_keeps_the_others(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "fleet.allocframe"
    assert run(monkeypatch, "fetch", "--clusters", with_one_down(file), "-o", kept) == 1
    assert "gone is missing: ConnectionFailed" in capsys.readouterr().out
    with af.load(kept) as snap:
        assert len(snap) > 0
        assert snap.info["complete"] is False


@pytest.mark.parametrize("words", [("fetch",), ("record", "--archive", "kept")])
def test_one_address_and_several_clusters_exclude_each_other(
    words: tuple[str, ...], file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *words, "--clusters", file, "--address", "http://127.0.0.1:9") == 2
    assert "--address or --clusters, not both" in capsys.readouterr().err


def test_once_records_every_cluster_it_can_and_status_tells_of_each(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "kept"
    assert run(monkeypatch, "record", "--archive", folder, "--clusters", file, "--once") == 0
    said = capsys.readouterr().err
    assert "eu: 2" in said
    assert "us: " in said
    assert run(monkeypatch, "record", "--archive", folder, "--clusters", file, "--status") == 0
    said = capsys.readouterr().out
    assert said.count("alive") == 2
    assert "cluster        eu" in said
    with_one_down(file)
    assert run(monkeypatch, "record", "--archive", folder, "--clusters", file, "--once") == 1
    said = capsys.readouterr().err
    assert "gone: not recorded: nothing answers" in said
    assert "us: 0 new" in said
    assert run(monkeypatch, "record", "--archive", folder, "--clusters", file, "--status") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["eu", "us"]
    back = {name: af.Archive(folder / name).snapshot() for name in ("eu", "us")}
    with af.combine(back) as both:
        assert {name: len(one) for name, one in both.clusters.items()} == {
            name: len(one) for name, one in back.items()
        }


def test_one_process_records_all_and_ends_cleanly(file: Path, us: af.sim.Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    words = ["record", "--archive", str(folder), "--clusters", str(with_one_down(file)), "--interval", "0.1"]
    with subprocess.Popen(
        [sys.executable, "-m", "allocframe", *words], env=dict(os.environ), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        archives = [af.Archive(folder / name) for name in ("eu", "us")]
        until(lambda: all(archive.state().at is not None for archive in archives))
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
        assert process.wait(60) == 0
    assert "Traceback" not in said
    assert said.count("gone: cannot watch: ") == 1, "it is said once, not at each try"
    assert "eu: recording" in said
    assert "us: stopped: stopped" in said
    with archives[1].snapshot() as snap:
        assert len(snap) == len(us.state.allocs)


def test_a_cluster_that_comes_up_later_is_recorded_from_then_on(
    eu: af.sim.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "TICK", 0.05)
    token = eu.add_token(["default", "platform", "data"])
    grant = eu._access.grants.pop(token)
    said: list[str] = []
    with af.Client(eu.address, token=token) as client:
        made = Recorder(client, af.Archive(tmp_path / "eu"), interval=0.1, say=said.append)
        stop = threading.Event()
        thread = threading.Thread(target=run_all, args=({"eu": made}, stop))
        thread.start()
        until(lambda: made.status == "cannot watch")
        assert made.counts.commits == 0
        eu._access.grants[token] = grant
        until(lambda: made.counts.commits)
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
    assert made.status == "stopped"
    assert sum(line.startswith("cannot watch") for line in said) == 1


def test_one_that_hangs_does_not_hold_up_the_end(
    eu: af.sim.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "STOP_TIMEOUT", 0.5)
    hanging = threading.Event()

    def hang(connection: Any) -> None:
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n["
        )
        hanging.set()
        connection.recv(1)

    with (
        serving(hang) as server,
        af.Client(server.address) as slow,
        af.Client(eu.address, token=eu.token) as good,
    ):
        clients = {"slow": slow, "good": good}
        made = {
            name: Recorder(client, af.Archive(tmp_path / name), interval=0.1)
            for name, client in clients.items()
        }
        stop = threading.Event()
        thread = threading.Thread(target=run_all, args=(made, stop))
        thread.start()
        until(lambda: made["good"].counts.commits and hanging.is_set())
        began = time.monotonic()
        stop.set()
        thread.join(30)
        assert not thread.is_alive()
        assert time.monotonic() - began < 15
        assert {one.status for one in made.values()} == {"stopped"}


def test_a_terminal_shows_a_line_for_each_cluster_below_what_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = Status()
    shown.show(["eu: recording", "us: recording"])
    shown.of("eu")("a gap")
    shown.show(["eu: recording", "us: recording"])
    shown.show(["eu: stopped", "us: stopped"])
    written = capsys.readouterr().err
    clear = "\r\x1b[1A\x1b[J"
    assert written.startswith("\r\x1b[Jeu: recording\nus: recording" + clear)
    assert "eu: a gap\n\r\x1b[Jeu: recording" in written
    assert written.endswith(clear + "eu: stopped\nus: stopped")
