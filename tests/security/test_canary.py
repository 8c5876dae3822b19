"""A canary token is looked for everywhere it must not be."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from children import child
from crashing import crash
from faultserver import any_json, good, http, reset, serving
from IPython.core.ultratb import VerboseTB

import allocframe as af
from allocframe.__main__ import main
from allocframe.archive.recorder import Recorder
from allocframe.nomad import connection as _connection

CANARY = "c4na21e5-dead-beef-0000-secretsecret"


def test_the_token_goes_into_its_header_and_nowhere_else_in_the_request() -> None:
    with serving(good()) as server, af.Client(server.address, token=CANARY) as client:
        client.snapshot(progress=False)
        head = server.raw[0].decode()
        assert head.count(CANARY) == 1
        assert f"x-nomad-token: {CANARY}" in head.lower()


def test_the_token_is_in_no_repr_log_file_or_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(good()) as server, af.Client(server.address, token=CANARY) as client:
        snap = client.snapshot(progress=False)
        alive = client._session.transport._client
        shown = [
            repr(client),
            str(vars(client)),
            str(vars(client._session)),
            repr(client._session.config),
            repr(client._session.transport.__dict__),
        ]
        shown += [
            repr(alive.headers if alive else None),
            repr(snap),
            snap._repr_html_(),
            json.dumps(snap.info),
        ]
        shown += [str(snap.allocations.attrs), caplog.text]
        snap.save(tmp_path / "x.allocframe")
        snap.to_parquet(tmp_path / "p")
        snap.to_csv(tmp_path / "c")
        for file in [*snap._capture.folder.rglob("*"), *tmp_path.rglob("*")]:
            if file.is_file():
                assert CANARY.encode() not in file.read_bytes(), file
    assert CANARY not in "".join(shown)


@pytest.mark.parametrize(
    "answer",
    [
        http(b"Permission denied", "403 Forbidden", length=17),
        http(b"<html>", length=6, kind="text/html"),
        reset,
    ],
)
def test_the_token_is_in_no_error_or_traceback(answer: bytes) -> None:
    with serving(answer) as server, af.Client(server.address, token=CANARY, retries=0) as client:
        with pytest.raises(af.AllocframeError) as caught:
            client.snapshot(progress=False)
        told = "".join(
            traceback.TracebackException.from_exception(caught.value, capture_locals=True).format()
        )
        assert CANARY not in told + repr(caught.value) + str(vars(caught.value))
        assert CANARY.encode() not in pickle.dumps(caught.value)


def test_a_client_with_a_token_is_neither_pickled_nor_copied() -> None:
    with af.Client("http://127.0.0.1:1", token=CANARY) as client:
        with pytest.raises(TypeError) as caught:
            pickle.dumps(client._session.config)
        assert CANARY not in str(caught.value)
        with pytest.raises(TypeError):
            copy.deepcopy(client._session.config)


def test_warnings_name_the_address_and_not_the_token() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        af.Client("http://nomad.example:4646", token=CANARY).close()
    assert caught
    assert CANARY not in "".join(str(w.message) for w in caught)


def test_netrc_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password netrc-secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with serving(good()) as server, af.Client(server.address) as client:
        client.snapshot(progress=False)
        assert b"authorization" not in server.raw[0].lower()


# Every path: what a reader, a notebook, a test runner or an archive would show


ID = "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7"
CALLS: dict[str, Callable[[af.Client], object]] = {
    "snapshot": lambda client: client.snapshot(progress=False),
    "allocation": lambda client: client.allocation(ID),
    "evaluations": lambda client: client.evaluations(),
    "logs": lambda client: client.logs(ID, "web"),
    "stop": lambda client: client.stop(ID),
    "exec": lambda client: client.exec(ID, ["true"], task="web"),
    "watch": lambda client: client.watch().poll(5),
    "blocking watch": lambda client: client.watch(stream=False).poll(5),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_xmode_verbose_shows_every_local_variable_and_no_token(call: Callable[[af.Client], object]) -> None:
    denied = http(b"Permission denied", "403 Forbidden", length=17, kind="text/plain")
    with serving(denied) as server, af.Client(server.address, token=CANARY, retries=0) as client:
        with pytest.raises(af.AllocframeError) as caught:
            call(client)
        told = VerboseTB(theme_name="nocolor").text(caught.type, caught.value, caught.tb, context=5)
    assert "config" in told or "client" in told, "the local variables are shown"
    assert CANARY not in told


_INTERRUPTED = """
import sys, traceback
import allocframe as af
client = af.Client(sys.argv[1], token=sys.argv[2], timeout=60)
try:
    {call}
except KeyboardInterrupt as interrupt:
    shown = traceback.TracebackException.from_exception(interrupt, capture_locals=True)
    print("".join(shown.format()))
"""


@pytest.mark.parametrize(
    "call", [f"client.allocation('{ID}')", f"client.exec('{ID}', ['x'], task='t')"], ids=["read", "exec"]
)
def test_an_interrupt_in_the_middle_of_a_call_shows_the_locals_of_libraries_and_no_token(call: str) -> None:
    reached = threading.Event()

    def hang(connection: socket.socket) -> None:
        reached.set()
        connection.recv(1)

    with serving(hang) as server, child(_INTERRUPTED.format(call=call), server.address, CANARY) as process:
        assert reached.wait(60)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert "client = Client(" in said, "the locals are shown"
    assert CANARY not in said


def test_an_audit_log_that_cannot_be_written_shows_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOCFRAME_AUDIT", "/dev/full")
    with (
        serving(any_json({"ID": ID, "ClientStatus": "running"})) as server,
        af.Client(server.address, token=CANARY, retries=0) as client,
    ):
        with pytest.raises(af.AllocframeError, match="audit log") as caught:
            client.stop(ID)
        shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        told = "".join(shown.format()) + "".join(shown.__context__.format() if shown.__context__ else [])
    assert "arguments = " in told, "the locals are shown"
    assert CANARY not in told


def test_what_is_handed_to_libraries_shows_no_token_either() -> None:
    with af.Client("http://127.0.0.1:1", token=CANARY) as client:
        headers = _connection.credentials(client._session.config)
        assert headers["X-Nomad-Token"] == CANARY
        assert CANARY not in repr(headers) + str(headers) + f"{headers}"


def test_a_failing_test_of_a_user_run_with_showlocals_shows_no_token(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "import os, allocframe as af\n"
        "def test_mine():\n"
        "    client = af.Client(os.environ['MY_ADDRESS'], retries=0)\n"
        "    config, transport, parts = client._session.config, client._session.transport, vars(client)\n"
        "    client.snapshot(progress=False)\n"
    )
    denied = http(b"Permission denied", "403 Forbidden", length=17, kind="text/plain")
    with serving(denied) as server:
        shown = ["--showlocals", "-p", "no:cacheprovider", "--log-level=DEBUG", "--tb=long", "-vv"]
        environ = {**os.environ, "MY_ADDRESS": server.address, "NOMAD_TOKEN": CANARY}
        command = [sys.executable, "-m", "pytest", *shown, str(tmp_path)]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert "PermissionDenied" in done.stdout
    assert "transport" in done.stdout, "the locals are shown"
    assert CANARY not in done.stdout + done.stderr


def test_a_saved_notebook_holds_no_token_neither_in_outputs_nor_in_tracebacks(
    cluster: af.sim.Cluster, tmp_path: Path
) -> None:
    import nbformat  # it takes seconds, so only the worker that runs this imports it
    from nbclient import NotebookClient

    cells = [
        "%xmode Verbose\nimport logging; logging.basicConfig(level=logging.DEBUG)",
        "import allocframe as af\nclient = af.Client()\nclient",
        "snap = client.snapshot(namespace='*')\nsnap",
        "vars(client), vars(client._session), client._session.config, snap.info, snap.allocations.attrs",
        "client.allocation('00000000-0000-0000-0000-000000000000')",
        "import pickle\npickle.dumps(client)",
        "af.Client('http://127.0.0.1:1').snapshot()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    environ = {"NOMAD_ADDR": cluster.address, "NOMAD_TOKEN": cluster.token}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        NotebookClient(notebook, allow_errors=True, timeout=60).execute()
    nbformat.write(notebook, tmp_path / "saved.ipynb")
    saved = (tmp_path / "saved.ipynb").read_text()
    assert saved.count("NotFound") > 0
    assert "ConnectionFailed" in saved
    assert "allocations" in saved
    assert cluster.token not in saved


def test_tables_snapshots_and_clients_are_pickled_without_a_token_or_not_at_all(
    cluster: af.sim.Cluster,
) -> None:
    with (
        af.Client(cluster.address, token=cluster.token) as client,
        client.snapshot(namespace="*", progress=False) as snap,
    ):
        made = [snap.allocations, snap.events, snap.info, client.counters, client.evaluations(namespace="*")]
        assert all(cluster.token.encode() not in pickle.dumps(one) for one in made)
        for one in (client, snap, client._session.transport):
            with contextlib.suppress(TypeError):
                assert cluster.token.encode() not in pickle.dumps(one)


def test_an_archive_that_was_recorded_with_a_token_does_not_hold_it(
    cluster: af.sim.Cluster, tmp_path: Path
) -> None:
    said: list[str] = []
    with (
        af.sim.Cluster("calm", allocations=20, seed=2) as live,
        af.Client(live.address, token=live.token) as client,
    ):
        archive, stop = af.Archive(tmp_path / "archive"), threading.Event()
        recorder = Recorder(client, archive, interval=0.05, on_message=said.append)
        thread = threading.Thread(target=recorder.run, args=(stop,))
        thread.start()
        while not recorder.counts.commits:
            stop.wait(0.01)
        crash(live)
        stop.set()
        thread.join(60)
        token = live.token
    files = [file for file in (tmp_path / "archive").rglob("*") if file.is_file()]
    assert len(files) > 10
    assert not [file for file in files if token.encode() in file.read_bytes()]
    assert token not in "".join(said) + repr(archive.info)


def test_commands_print_no_token(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    denied = http(b"Permission denied", "403 Forbidden", length=17, kind="text/plain")
    for answer in (good(), denied, http(b"<html>", length=6, kind="text/html"), reset):
        with serving(answer) as server:
            monkeypatch.setenv("NOMAD_ADDR", server.address)
            monkeypatch.setenv("NOMAD_TOKEN", CANARY)
            monkeypatch.setattr(sys, "argv", ["allocframe", "fetch"])
            with contextlib.suppress(SystemExit):
                main()
    said = capsys.readouterr()
    assert "Permission denied" in said.err
    assert CANARY not in said.out + said.err


def test_netrc_is_not_read_for_exec_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password netrc-secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with serving(good()) as server, af.Client(server.address) as client:
        with pytest.raises(af.AllocframeError):
            client.exec(ID, ["x"], task="t")
        assert server.raw
        assert not [raw for raw in server.raw if b"authorization" in raw.lower()]
