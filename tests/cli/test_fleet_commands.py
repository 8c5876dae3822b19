"""Several clusters on the command line: one file of evidence for all, an archive for each."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from children import started
from faultserver import serving

import allocframe as af
from allocframe import cli
from allocframe.archive import recorder
from allocframe.archive.recorder import Recorder, run_all
from allocframe.cli import _live_status
from allocframe.cli._live_status import LiveStatus
from allocframe.nomad.config_file import list_sources


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
    path = tmp_path / "clusters.toml"
    for name, cluster in (("eu", eu), ("us", us)):
        monkeypatch.setenv(f"TOKEN_{name.upper()}", cluster.token)
    path.write_text(
        "".join(
            f'[{name}]\naddress = "{cluster.address}"\ntoken_env = "TOKEN_{name.upper()}"\n'
            for name, cluster in (("eu", eu), ("us", us))
        )
    )
    return path


def add_unreachable_cluster(file: Path) -> Path:
    file.write_text(file.read_text() + '[gone]\naddress = "http://127.0.0.1:9"\n')
    return file


def wait_until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.02)


def test_the_command_says_which_variables_and_files_a_clusters_file_sends_where(tmp_path: Path) -> None:
    path = tmp_path / "clusters.toml"
    path.write_text(
        '[eu]\naddress = "https://eu:4646"\ntoken_file = "eu.token"\nca_cert = "ca.pem"\n'
        '[us]\naddress = "https://us:4646"\ntoken_env = "US\\u001b"\n[open]\naddress = "http://open:4646"\n'
    )
    assert list_sources(path) == [
        f"eu at https://eu:4646 reads {tmp_path / 'eu.token'}, {tmp_path / 'ca.pem'}",
        "us at https://us:4646 reads $US\\x1b",
    ]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["allocframe", *map(str, arguments)])
    return cli.run()


def test_fetch_prints_and_saves_all_clusters(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "fleet.allocframe"
    assert run(monkeypatch, "fetch", "--clusters", file, "-o", saved) == 0
    output = capsys.readouterr().out
    assert "allocations fetched from eu (" in output
    assert "us: platform/search-indexer runs out of memory" in output
    with af.load(saved) as snap:
        assert list(snap.clusters) == ["eu", "us"]
    assert run(monkeypatch, "report", "cluster", "--from", saved, "-o", tmp_path / "x.md") == 2
    assert "a report covers one cluster" in capsys.readouterr().err
    assert run(monkeypatch, "report", "cluster", "--from", saved, "--cluster", "mars") == 2
    assert "Its clusters: eu, us" in capsys.readouterr().err
    assert run(monkeypatch, "report", "cluster", "--cluster", "eu") == 2
    assert "--from" in capsys.readouterr().err


def test_a_report_can_be_on_one_of_several_clusters(
    us: af.sim.Cluster, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, page = tmp_path / "fleet.allocframe", tmp_path / "us.md"
    assert run(monkeypatch, "fetch", "--clusters", file, "-o", saved) == 0
    assert run(monkeypatch, "report", "postmortem", "--from", saved, "--cluster", "us", "-o", page) == 0
    assert "search-indexer runs out of memory" in page.read_text()


def test_fetch_exits_with_1_if_a_cluster_is_down_and_saves_the_others(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "fleet.allocframe"
    assert run(monkeypatch, "fetch", "--clusters", add_unreachable_cluster(file), "-o", saved) == 1
    assert "gone is missing: ConnectionFailed" in capsys.readouterr().out
    with af.load(saved) as snap:
        assert len(snap) > 0
        assert snap.info["complete"] is False


@pytest.mark.parametrize("words", [("fetch",), ("record", "--archive", "archives")])
def test_one_address_and_several_clusters_exclude_each_other(
    words: tuple[str, ...], file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *words, "--clusters", file, "--address", "http://127.0.0.1:9") == 2
    assert "--address and --clusters exclude each other" in capsys.readouterr().err


def test_once_records_every_reachable_cluster_and_status_prints_each(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "saved"
    assert run(monkeypatch, "record", "--archive", folder, "--clusters", file, "--once") == 0
    output = capsys.readouterr().err
    assert "eu: 2" in output
    assert "us: " in output
    assert run(monkeypatch, "record", "--archive", folder, "--clusters", file, "--status") == 0
    output = capsys.readouterr().out
    assert output.count("alive") == 2
    assert "cluster        eu" in output
    assert f"archive        {folder}/eu" in output
    words = ["record", "--archive", folder, "--clusters", file, "--json"]
    assert run(monkeypatch, *words, "--status") == 0
    states = json.loads(capsys.readouterr().out)["clusters"]
    assert {name: state["alive"] for name, state in states.items()} == {"eu": True, "us": True}
    assert states["eu"]["allocations"] == len(af.Archive(folder / "eu").state().live)
    assert run(monkeypatch, *words) == 2
    assert "--json needs --status or --once" in capsys.readouterr().err
    add_unreachable_cluster(file)
    assert run(monkeypatch, "record", "--archive", folder, "--clusters", file, "--once") == 1
    output = capsys.readouterr().err
    assert "gone: not recorded: nothing answers" in output
    assert "us: 0 new" in output
    assert run(monkeypatch, *words, "--once") == 1
    totals = json.loads(capsys.readouterr().out)["clusters"]
    assert totals["us"] == {"added": 0, "changed": 0, "removed": 0, "new_events": 0}
    assert "nothing answers" in totals["gone"]["error"]
    assert run(monkeypatch, "record", "--archive", folder, "--clusters", file, "--status") == 1
    assert sorted(path.name for path in folder.iterdir()) == ["eu", "us"]
    back = {name: af.Archive(folder / name).snapshot() for name in ("eu", "us")}
    with af.combine(back) as both:
        assert {name: len(snap) for name, snap in both.clusters.items()} == {
            name: len(snap) for name, snap in back.items()
        }


def test_one_process_records_all_and_ends_cleanly(file: Path, us: af.sim.Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    words = [
        "record",
        "--archive",
        str(folder),
        "--clusters",
        str(add_unreachable_cluster(file)),
        "--interval",
        "0.1",
    ]
    with started([sys.executable, "-m", "allocframe", *words], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        archives = [af.Archive(folder / name) for name in ("eu", "us")]
        wait_until(lambda: all(archive.state().at is not None for archive in archives))
        process.send_signal(signal.SIGTERM)
        output = process.stderr.read()
        assert process.wait(60) == 0
    assert "Traceback" not in output
    assert output.count("gone: cannot watch: ") == 1, "printed once, not at each try"
    assert "eu: recording" in output
    assert "us: stopped, " in output
    with archives[1].snapshot() as snap:
        assert len(snap) == len(us.state.allocs)


def test_a_cluster_that_becomes_reachable_later_is_recorded(
    eu: af.sim.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "TICK", 0.05)
    token = eu.add_token(["default", "platform", "data"])
    grant = eu._access.grants.pop(token)
    messages: list[str] = []
    with af.Client(eu.address, token=token) as client:
        eu_recorder = Recorder(client, af.Archive(tmp_path / "eu"), interval=0.1, on_message=messages.append)
        stop = threading.Event()
        thread = threading.Thread(target=run_all, args=({"eu": eu_recorder}, stop))
        thread.start()
        wait_until(lambda: eu_recorder.status == "cannot watch")
        assert eu_recorder.counts.commits == 0
        eu._access.grants[token] = grant
        wait_until(lambda: eu_recorder.counts.commits)
        [line] = _live_status._status_lines({"eu": eu_recorder})
        assert eu_recorder.watch is not None
        assert line.startswith(f"eu: recording, {eu_recorder.watch.mode}, last seen ")
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    assert eu_recorder.status == "stopped"
    assert sum(line.startswith("cannot watch") for line in messages) == 1


def test_a_hanging_cluster_does_not_hold_up_the_end(
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
        recorders = {
            name: Recorder(client, af.Archive(tmp_path / name), interval=0.1)
            for name, client in clients.items()
        }
        stop = threading.Event()
        thread = threading.Thread(target=run_all, args=(recorders, stop))
        thread.start()
        wait_until(lambda: recorders["good"].counts.commits and hanging.is_set())
        started = time.monotonic()
        stop.set()
        thread.join(60)
        assert not thread.is_alive()
        assert time.monotonic() - started < 30
        # On a busy machine, one may still write what it has when the others are no longer waited for.
        wait_until(lambda: {each.status for each in recorders.values()} == {"stopped"})


def test_a_terminal_shows_a_line_for_each_cluster_below_the_messages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status = LiveStatus()
    status.update(["eu: recording", "us: recording"])
    status.printer("eu")("a gap")
    status.update(["eu: recording", "us: recording"])
    status.update(["eu: stopped", "us: stopped"])
    written = capsys.readouterr().err
    clear = "\r\x1b[1A\x1b[J"
    assert written.startswith("\r\x1b[Jeu: recording\nus: recording" + clear)
    assert "eu: a gap\n\r\x1b[Jeu: recording" in written
    assert written.endswith(clear + "eu: stopped\nus: stopped")
