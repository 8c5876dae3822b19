"""The audit log: what is written, for whom to read, and that nothing happens that cannot be written down."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from children import child
from faultserver import any_json, http, reset, serving
from services import services

import allocframe as af
from allocframe import sim
from allocframe.client import audit_log as _audit
from allocframe.nomad.config import Scrubber
from allocframe.sim.cluster.alloc import Alloc

ID = "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7"


@pytest.fixture
def cluster() -> Iterator[sim.Cluster]:
    with sim.Cluster("calm", allocations=90, seed=4) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: sim.Cluster) -> Iterator[af.Client]:
    with af.Client(cluster.address, token=cluster.token) as client:
        yield client


@pytest.fixture
def alloc(cluster: sim.Cluster) -> Alloc:
    return services(cluster)[0]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_action_is_written_before_it_is_asked_for_and_when_it_has_ended(
    cluster: sim.Cluster, client: af.Client, alloc: Alloc, audit_log: Path
) -> None:
    done = client.stop(alloc.id, no_shutdown_delay=True)
    request, result = lines(audit_log)
    accessor = cluster._access.grants[cluster.token].accessor
    assert (request["phase"], request["action"], request["alloc_id"]) == ("asked", "stop", alloc.id)
    assert (request["arguments"], request["accessor"]) == ({"no_shutdown_delay": "true"}, accessor)
    assert (request["address"], request["pid"]) == (cluster.address, os.getpid())
    assert request["user"]
    assert request["host"]
    assert (result["id"], result["phase"], result["result"]) == (request["id"], "result", "done")
    assert done.eval_id in result["message"]


def test_every_action_becomes_one_row(client: af.Client, alloc: Alloc) -> None:
    client.signal(alloc.id, "SIGHUP", task="server")
    client.restart(alloc.id)
    client.exec(alloc.id, ["sh", "-c", "exit 3"], task="server")
    log = af.read_audit()
    assert log["action"].tolist() == ["signal", "restart", "exec"]
    assert log["result"].tolist() == ["done"] * 3
    assert [json.loads(text) for text in log["arguments"]] == [
        {"Signal": "SIGHUP", "Task": "server"},
        {},
        {"command": ["sh", "-c", "exit 3"], "task": "server", "tty": False},
    ]
    assert log["message"].iloc[2] == "exit code 3"
    assert (log["ended_at"] >= log["asked_at"]).all()
    assert str(log["asked_at"].dtype) == "datetime64[ns, UTC]"
    assert log["modify_index"].isna().all()


def test_what_nomad_refuses_is_written_as_refused_and_a_lost_answer_as_unknown(
    cluster: sim.Cluster, alloc: Alloc
) -> None:
    with af.Client(cluster.address, token=cluster.add_token([alloc.namespace])) as reader:
        with pytest.raises(af.PermissionDenied):
            reader.stop(alloc.id)
        with pytest.raises(af.PermissionDenied):
            reader.exec(alloc.id, ["true"], task="server")
    standing = any_json({"ID": ID, "ClientStatus": "running", "ModifyIndex": 7})
    with (
        serving(reset, standing) as server,
        af.Client(server.address) as client,
        pytest.raises(af.ResultUnknown),
    ):
        client.stop(ID)
    with af.Client("http://127.0.0.1:1") as nowhere, pytest.raises(af.ConnectionFailed):
        nowhere.restart(ID)
    log = af.read_audit()
    assert log["result"].tolist() == ["refused", "refused", "unknown", "failed"]
    assert log["message"].str.contains("Permission denied").tolist() == [True, True, False, False]
    assert "ModifyIndex 7" in log["message"].iloc[2]


def test_an_interrupted_action_is_unknown() -> None:
    settings: dict[str, Any] = {"address": "a", "accessor": lambda: None, "scrub": Scrubber()}
    with pytest.raises(KeyboardInterrupt), _audit.audited("exec", ID, {}, **settings):
        raise KeyboardInterrupt
    assert af.read_audit()[["result", "message"]].iloc[0].tolist() == ["unknown", "KeyboardInterrupt"]


def test_an_action_whose_end_was_never_written_is_unknown(
    client: af.Client, alloc: Alloc, audit_log: Path
) -> None:
    client.restart(alloc.id)
    audit_log.write_text(audit_log.read_text().splitlines()[0] + "\n")
    row = af.read_audit().iloc[0]
    assert (row["action"], row["result"]) == ("restart", "unknown")
    assert row["ended_at"] is not row["asked_at"]
    assert str(row["ended_at"]) == "NaT"


def test_a_read_only_client_leaves_no_trace_for_it_asks_for_nothing(
    cluster: sim.Cluster, alloc: Alloc, audit_log: Path
) -> None:
    with af.Client(cluster.address, token=cluster.token, read_only=True) as reader:
        for act in (lambda: reader.stop(alloc.id), lambda: reader.exec(alloc.id, ["true"], task="server")):
            with pytest.raises(af.AllocframeError, match="read-only"):
                act()
    assert not audit_log.exists()


def test_only_its_owner_may_read_it(
    client: af.Client, alloc: Alloc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "audit.jsonl"
    monkeypatch.setenv("ALLOCFRAME_AUDIT", str(path))
    before = os.umask(0)
    try:
        client.restart(alloc.id)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("ALLOCFRAME_AUDIT", "~/x.jsonl", "x.jsonl"),
        ("XDG_STATE_HOME", "{home}/state", "state/allocframe/audit.jsonl"),
        ("XDG_STATE_HOME", "not/absolute", ".local/state/allocframe/audit.jsonl"),
        ("HOME", "{home}", ".local/state/allocframe/audit.jsonl"),
    ],
)
def test_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: str, expected: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ALLOCFRAME_AUDIT")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv(setting, value.format(home=tmp_path))
    assert _audit.audit_path() == tmp_path / expected


def test_neither_the_token_nor_stdin_is_ever_in_it(
    cluster: sim.Cluster, alloc: Alloc, audit_log: Path
) -> None:
    with af.Client(cluster.address, token=cluster.token) as client:
        client.exec(alloc.id, ["cat"], task="server", stdin=b"canary-stdin")
        client.exec(alloc.id, ["echo", f"NOMAD_TOKEN={cluster.token}"], task="server")
        client.stop(alloc.id)
    text = audit_log.read_text()
    assert "NOMAD_TOKEN=(secret)" in text
    assert cluster.token not in text
    assert "canary-stdin" not in text


def test_nomads_words_cannot_smuggle_the_token_or_a_second_line_in(audit_log: Path) -> None:
    words = b'Permission denied for canary-token\n{"id": "x", "phase": "asked"}'
    refused = http(words, "403 Forbidden", length=len(words), kind="text/plain")
    standing = any_json({"ID": ID, "ClientStatus": "running", "ModifyIndex": 7})
    with (
        serving(standing, refused) as server,
        af.Client(server.address, token="canary-token") as client,
        pytest.raises(af.PermissionDenied),
    ):
        client.stop(ID)
    assert len(lines(audit_log)) == 2
    assert "canary-token" not in audit_log.read_text()


@pytest.mark.parametrize("where", ["/dev/full", "/proc/nowhere/audit.jsonl", "/"])
def test_what_cannot_be_written_down_is_not_done(
    client: af.Client, alloc: Alloc, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setenv("ALLOCFRAME_AUDIT", where)
    for act in (lambda: client.stop(alloc.id), lambda: client.exec(alloc.id, ["true"], task="server")):
        with pytest.raises(af.AllocframeError, match=rf"nothing was done.*{where}.*Set ALLOCFRAME_AUDIT"):
            act()
    assert alloc.desired_status == "run"


def test_without_a_home_it_is_said_what_to_set(
    client: af.Client, alloc: Alloc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLOCFRAME_AUDIT", "~no-such-user-here/audit.jsonl")
    with pytest.raises(af.AllocframeError, match=r"nothing was done: .* Set ALLOCFRAME_AUDIT"):
        client.stop(alloc.id)
    assert alloc.desired_status == "run"


def test_an_action_that_was_done_stays_done_where_its_end_cannot_be_written(
    client: af.Client, alloc: Alloc, audit_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    post = client._session.transport.post

    def log_breaks(*arguments: Any) -> Any:
        monkeypatch.setenv("ALLOCFRAME_AUDIT", "/dev/full")
        audit_log.rename(audit_log.with_suffix(".old"))
        audit_log.mkdir()
        return post(*arguments)

    monkeypatch.setattr(client._session.transport, "post", log_breaks)
    with pytest.warns(
        UserWarning, match=r"stop of .* was requested \(done\), but the result could not be written"
    ):
        assert client.stop(alloc.id).eval_id
    assert alloc.desired_status == "stop"


def test_a_torn_line_is_left_out_and_reported_and_does_not_swallow_the_next(
    client: af.Client, alloc: Alloc, audit_log: Path
) -> None:
    client.restart(alloc.id)
    whole = audit_log.read_bytes()
    for cut in (whole[:-1], whole + b'{"id": "1', whole + b"\xff\n", whole + b"7\n", whole + b'{"id": 1}\n'):
        audit_log.write_bytes(cut)
        client.signal(alloc.id, "SIGHUP", task="server")
        if cut == whole[:-1]:
            log = af.read_audit()
        else:
            with pytest.warns(UserWarning, match="1 lines cannot be read and are left out: 3"):
                log = af.read_audit()
        assert log["action"].tolist() == ["restart", "signal"]
        assert log["result"].tolist() == ["done", "done"]


def test_no_log_is_an_empty_table_with_its_columns(tmp_path: Path) -> None:
    log = af.read_audit(tmp_path / "nowhere.jsonl")
    assert len(log) == 0
    assert {"asked_at", "action", "modify_index", "result"} <= set(log.columns)
    assert str(log["asked_at"].dtype) == "datetime64[ns, UTC]"


def test_a_line_is_written_under_a_lock_and_on_the_disk_before_the_action_is_sent(
    client: af.Client, alloc: Alloc, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    lock, sync, post = _audit.lock_file, os.fsync, client._session.transport.post

    def note(name: str, call: Any) -> Any:
        return lambda *given, **more: done.append(name) or call(*given, **more)

    monkeypatch.setattr(_audit, "lock_file", note("lock", lock))
    monkeypatch.setattr(os, "fsync", note("sync", sync))
    monkeypatch.setattr(client._session.transport, "post", note("send", post))
    client.restart(alloc.id)
    assert done == ["lock", "sync", "send", "lock", "sync"]


def test_two_processes_add_to_it_at_the_same_time(audit_log: Path) -> None:
    script = (
        "import sys\nfrom allocframe.client import audit_log\nfrom allocframe.nomad.config import Scrubber\n"
        "for n in range(150):\n"
        "    with audit_log.audited('restart', sys.argv[1], {'n': n, 'pad': 'x' * 3000}, address='a',"
        " accessor=lambda: None, scrub=Scrubber()): pass\n"
    )
    with child(script, "one") as first, child(script, "two") as second:
        assert [process.wait(60) for process in (first, second)] == [0, 0]
    log = af.read_audit()
    assert len(lines(audit_log)) == 600
    assert log.groupby("alloc_id").size().to_dict() == {"one": 150, "two": 150}
    assert set(log["result"]) == {"done"}
