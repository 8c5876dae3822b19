"""The session of a terminal: input and output never wait for each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from exec_sessions import EXITED, echo, out, scripted
from views import eventually
from websockets.sync.server import ServerConnection

from allocframe.client.audit_log import Outcome
from allocframe.nomad import exec as _exec
from allocframe.nomad.config import Config
from allocframe.widgets.terminal.session import SessionStatus, TtySession

ID = "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7"


@contextmanager
def session_with(
    server: Callable[[ServerConnection], None], **hooks: Any
) -> Iterator[tuple[TtySession, bytearray, list[SessionStatus]]]:
    """Yield a session with a scripted server, what it puts out, and each status."""
    received, statuses = bytearray(), list[SessionStatus]()
    target = _exec.exec_request(ID, ["x"], "t", tty=True, region=None, title="x")
    with scripted(server) as address:
        session = TtySession(
            Config.load(address, environ={}),
            target,
            (24, 80),
            lambda: nullcontext(Outcome()),
            **{
                "on_output": received.extend,
                "wants_output": lambda: True,
                "on_status": statuses.append,
                **hooks,
            },
        )
        session.start()
        yield session, received, statuses
        session.close()
        session.join(60)
        assert not session._thread.is_alive()


def test_kind_reading_never_waits_for_writing_a_large_paste_is_echoed_whole() -> None:
    with session_with(echo) as (session, received, _):
        for number in range(250):
            assert session.send_input(bytes([number]) * 40_000)
        eventually(lambda: len(received) == 10_000_000, 60)
        assert received == b"".join(bytes([number]) * 40_000 for number in range(250))


def test_kind_writing_never_waits_for_reading_keys_are_sent_while_nobody_takes_the_output() -> None:
    """`yes` is ended by Ctrl-C although the page draws nothing."""
    keys: list[str | bytes] = []

    def yes(connection: ServerConnection) -> None:
        while True:
            try:
                keys.append(connection.recv(timeout=0))
            except TimeoutError:
                connection.send(out(b"y" * 1000))
            if "stdin" in str(keys[-1:]):
                connection.send(EXITED)
                return

    is_drawing = False
    hooks = {"wants_output": lambda: is_drawing}
    with session_with(yes, **hooks) as (session, received, statuses):
        eventually(lambda: statuses[-1].status == "connected")
        session.send_input(b"\x03")
        eventually(lambda: "stdin" in str(keys[-1:]) or not session._frames)
        assert len(received) <= 1 << 19  # what came in one packet with the answer to the upgrade
        is_drawing = True
        session.wake()
        eventually(lambda: statuses[-1].status == "ended", 30)
        assert set(received) == set(b"y")


def test_output_is_left_with_the_server_while_nobody_takes_it() -> None:
    sent = 0

    def flood(connection: ServerConnection) -> None:
        nonlocal sent
        while True:
            connection.send(out(bytes(10_000)))
            sent += 10_000

    with session_with(flood, wants_output=lambda: False) as (session, received, statuses):
        eventually(lambda: statuses[-1].status == "connected")
        eventually(lambda: sent > 0)
        before = -1
        while sent != before:
            before = sent
            session._thread.join(0.3)
        assert len(received) <= 1 << 19
        assert sent < 20_000_000  # only what the kernel's buffers take


def test_closing_sends_the_keys_that_end_a_program_and_its_shell() -> None:
    heard: list[str | bytes] = []

    def stubborn(connection: ServerConnection) -> None:
        heard.extend(connection)

    with session_with(stubborn) as (_, _, statuses):
        eventually(lambda: len(heard) >= 2)
    assert heard[2:4] == [_exec.stdin_frame(b"\x03"), _exec.stdin_frame(b"\x04")]
    assert statuses[-1].status == "closed"
    assert "may still run" in statuses[-1].message


def test_closing_ends_a_shell_that_loses_a_key() -> None:
    """One that takes the terminal back from its program drops what was typed meanwhile."""

    def deaf(connection: ServerConnection) -> None:
        lost = 0
        for frame in connection:
            lost += frame == _exec.stdin_frame(b"\x04")
            if lost == 2:
                connection.send(EXITED)
                return

    with session_with(deaf) as (_, _, statuses):
        eventually(lambda: statuses[-1].status == "connected")
    assert statuses[-1].message == "closed; the command has ended"
