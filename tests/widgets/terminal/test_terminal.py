"""The terminal without a page: sessions in the simulated cluster, and messages like those of a view."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import flatten
import pytest
from exec_sessions import server_side, talk
from views import Page, eventually

import allocframe as af
from allocframe import sim
from allocframe.client.audit_log import audit_path
from allocframe.widgets.terminal.protocol import BACKLOG, WINDOW
from allocframe.widgets.terminal.session import MAX_PENDING_INPUT

VIEW = {"view": "a"}


@pytest.fixture(params=flatten.VERSIONS)
def cluster(request: pytest.FixtureRequest) -> Iterator[sim.Cluster]:
    with sim.Cluster("calm", allocations=20, seed=1, version=request.param) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: sim.Cluster) -> Iterator[af.Client]:
    with af.Client(cluster.address, token=cluster.token) as client:
        yield client


@pytest.fixture
def alloc(cluster: sim.Cluster) -> str:
    """A running allocation with one task."""
    allocs = cluster.state.allocs.values()
    return next(a.id for a in allocs if a.client_status == "running" and len(a.tasks) == 1)


@pytest.fixture
def terminal(client: af.Client, alloc: str) -> Iterator[af.Terminal]:
    terminal = af.Terminal(client, alloc)
    yield terminal
    terminal.close()
    eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith("allocframe-terminal")])


def test_a_session_runs_in_a_terminal_and_ends_with_its_exit_code(terminal: af.Terminal) -> None:
    page = Page(terminal)
    page.shows("# ")
    page.type("stty size; echo $TERM; exit 7\r")
    eventually(lambda: terminal.status == "ended")
    assert (terminal.exit_code, terminal.message) == (7, "ended with exit code 7")
    assert terminal.transcript == "# stty size; echo $TERM; exit 7\n30 100\nxterm\n"
    assert page.gaps == 0


def test_a_session_is_in_the_audit_log_without_its_input(terminal: af.Terminal) -> None:
    page = Page(terminal)
    page.type("echo canary; exit 3\r")
    eventually(lambda: terminal.status == "ended")
    row = af.read_audit().iloc[-1]
    assert (row["action"], row["result"], row["message"]) == ("exec", "done", "exit code 3")
    assert json.loads(row["arguments"])["tty"] is True
    assert "canary" not in audit_path().read_text()


def test_a_terminal_that_cannot_be_audited_is_refused(
    client: af.Client, alloc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLOCFRAME_AUDIT", "/dev/full")
    terminal = af.Terminal(client, alloc)
    eventually(lambda: terminal.status == "refused")
    assert "nothing was done: the audit log /dev/full" in terminal.message
    terminal.close()


def test_the_command_gets_a_new_size(terminal: af.Terminal) -> None:
    page = Page(terminal)
    page.shows("# ")
    page.says("resize", rows=12, cols=34)
    page.type("stty size\r")
    page.shows("12 34")


def test_a_full_screen_program_redraws_for_a_new_view(terminal: af.Terminal) -> None:
    page = Page(terminal)
    page.shows("# ")
    page.type("vi notes\r")
    page.shows("notes")
    page.drawn = b""
    page.says("attach", rows=30, cols=100)
    page.shows("30x100")


def test_output_waits_for_a_slow_view_but_not_for_a_detached_one(terminal: af.Terminal) -> None:
    silent = Page(terminal, draws=False)
    silent.shows("# ")
    silent.type("yes\r")
    eventually(lambda: terminal._output.unsent >= BACKLOG)
    total = -1
    while terminal._output.total != total:  # what was under way when the window was full still arrives
        total = terminal._output.total
        assert total <= WINDOW + BACKLOG + 400_000, "the command must wait while a view is behind"
        time.sleep(0.5)
    silent.says("detach")
    eventually(lambda: terminal._output.total > total + (8 << 20))
    assert len(terminal._output._buffer) <= 10 << 20
    silent.type("\x03")
    eventually(lambda: "^C" in terminal.transcript[-100:])


def test_end_interrupts_the_command(terminal: af.Terminal) -> None:
    page = Page(terminal)
    page.shows("# ")
    page.type("sleep 600\r")
    page.shows("sleep 600\r\n")
    terminal.end()
    assert (terminal.status, terminal.message) == ("closed", "closed; the command has ended")
    assert "^C" in terminal.transcript


def test_an_ended_session_can_be_started_again_and_a_running_one_cannot(terminal: af.Terminal) -> None:
    page = Page(terminal)
    page.shows("# ")
    first = terminal._session
    page.says("reconnect")
    assert terminal._session is first
    page.type("exit\r")
    eventually(lambda: terminal.status == "ended")
    page.says("reconnect")
    eventually(lambda: terminal.status == "connected")
    page.shows("[new session]")
    assert terminal.exit_code is None


def test_a_lost_session_is_not_reported_as_ended(cluster: sim.Cluster, terminal: af.Terminal) -> None:
    page = Page(terminal)
    page.shows("# ")
    cluster.close()
    eventually(lambda: terminal.status == "lost")
    assert "may still be running" in terminal.message
    assert terminal.exit_code is None


def test_a_refusal_is_in_the_message_and_on_the_screen(cluster: sim.Cluster, alloc: str) -> None:
    token = cluster.add_token([cluster.state.allocs[alloc].namespace])
    with af.Client(cluster.address, token=token) as client:
        terminal = af.Terminal(client, alloc)
        page = Page(terminal)
        eventually(lambda: terminal.status == "refused")
        assert "alloc-exec" in terminal.message
        page.shows("Permission denied")
        terminal.close()


def test_wrong_arguments_raise_at_once(cluster: sim.Cluster, client: af.Client, alloc: str) -> None:
    with pytest.raises(af.NotFound):
        af.Terminal(client, "00000000-0000-0000-0000-000000000000")
    with pytest.raises(af.ConfigError, match="command"):
        af.Terminal(client, alloc, command="sh")  # type: ignore[arg-type]
    with (
        af.Client(cluster.address, token=cluster.token, read_only=True) as reader,
        pytest.raises(af.AllocframeError, match="read-only"),
    ):
        af.Terminal(reader, alloc)


def test_a_task_that_has_ended_is_said_in_words(cluster: sim.Cluster, client: af.Client) -> None:
    allocs = cluster.state.allocs.values()
    alloc = next(a for a in allocs if a.client_status == "running" and len(a.tasks) == 1)
    (task,) = alloc.tasks
    terminal = af.Terminal(client, alloc.id)
    terminal.end()
    alloc.tasks[task].state = "dead"
    terminal.reconnect()
    expected = f"Task {task} has ended; none of its tasks runs now."
    assert (terminal.status, terminal.message) == ("refused", expected)
    assert expected in terminal.transcript
    with pytest.raises(af.ConfigError, match="has ended; none of its tasks runs now"):
        af.Terminal(client, alloc.id, task)
    terminal.close()


def test_a_page_learns_that_the_kernel_is_there(terminal: af.Terminal) -> None:
    sent: list[Any] = []
    terminal.send = lambda content, buffers=None: sent.append(content)
    terminal._handle_custom_msg({"type": "ping", "number": 4}, [])
    assert {"type": "pong", "number": 4} in sent


def test_row_comm_forged_messages_are_counted_and_do_nothing(terminal: af.Terminal) -> None:
    page = Page(terminal)
    page.shows("# ")
    before = terminal.transcript
    for content, buffers in [
        ({"type": "exec", **VIEW}, []),
        ({"type": "input", **VIEW, "number": 0}, []),
        ({"type": "input", **VIEW, "number": 0}, [b"x" * 70_000]),
        ({"type": "input", **VIEW, "number": 0}, [b"a", b"b"]),
        ({"type": "input", **VIEW}, [b"id\r"]),
        (None, []),
        ({"type": "resize", **VIEW, "rows": -1, "cols": 1}, []),
    ]:
        terminal._handle_custom_msg(content, buffers)
    assert terminal.ignored == 7
    page.type("echo alive\r")
    page.shows("\r\nalive")
    assert terminal.transcript.startswith(before + "echo alive")


def test_messages_from_many_threads_at_once_lose_nothing(terminal: af.Terminal) -> None:
    page = Page(terminal)
    page.shows("# ")
    text = "echo " + "".join(chr(ord("a") + n % 26) for n in range(50))
    threads = [
        threading.Thread(target=page.says, args=("input", letter.encode()), kwargs={"number": n})
        for n, letter in enumerate(text + "\r")
    ]
    for thread in reversed(threads):
        thread.start()
    for thread in threads:
        thread.join()
    page.shows("\r\n" + text[5:])


def test_unread_input_is_bounded_and_reported(terminal: af.Terminal) -> None:
    page = Page(terminal)
    page.shows("# ")
    terminal._session._pending_input = MAX_PENDING_INPUT
    page.type("x")
    assert "dropped" in terminal.message


@pytest.mark.parametrize("version", flatten.VERSIONS)
def test_the_simulated_terminal_sends_the_recorded_frames(version: str) -> None:
    sessions = flatten.recorded(version, "exec-sessions")
    recorded = json.loads(json.dumps(sessions["tty-shell"]))  # type: ignore[call-overload]
    with sim.Cluster("calm", allocations=20, seed=1, version=version) as cluster:
        alloc = next(a for a in cluster.state.allocs.values() if a.client_status == "running")
        frames = talk(cluster, alloc.id, recorded, next(iter(alloc.tasks)))
    assert joined(frames) == joined(server_side(recorded["frames"]))


def joined(frames: list[Any]) -> list[Any]:
    """Join the output: the number of its frames is random."""
    from base64 import b64decode

    result: list[Any] = []
    for frame in frames:
        data = b64decode((frame.get("stdout") or {}).get("data") or "")
        if data and result and isinstance(result[-1], bytes):
            result[-1] += data
        else:
            result.append(data or frame)
    return result


def test_without_widgets_the_error_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['anywidget'] = None\n"
        "import allocframe as af\n"
        "try:\n    af.Terminal\n"
        "except af.MissingExtra as error:\n    print(error)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'allocframe[widgets]'" in output
