"""A terminal in the notebook: what a command in a task writes goes to xterm.js, and what is typed to the command."""

from __future__ import annotations

import atexit
import contextvars
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from ...client import operations
from ...client.client import Client
from . import protocol
from .session import Standing, TtySession

COMMAND = ("/bin/sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash; exec sh")
"""The shell that is there: bash where the task has it."""

JOINED = 1 / 60
"""Seconds for which output is joined, unless nothing was sent lately."""

_STATIC = Path(__file__).parent / "static"
_MAX_PIECE = 64 << 10
_FRESH = b"\x1b[!p\x1b[?1049l\x1b[0m"
"""Takes back what a program that ended in the middle may have left: modes, the other screen, colours."""


class Terminal(anywidget.AnyWidget):
    """A terminal on a command inside a task, as the last expression of a cell shows it. Needs alloc-exec.

    Output stays within bounds whatever the command writes, and is there again after a reload of the page. In JupyterLab 4.4 with
    ipykernel 7 or newer it works while a cell runs. Where widgets cannot be shown, use `Client.exec`.

    Parameters
    ----------
    client : Client
    alloc_id : str
        The allocation's UUID, or a start of it that fits only one.
    task : str, optional
        Which task; needed where there are several.
    command : list of str, optional
        Program and arguments; a shell by default. Servers log them: put no secrets there.

    Attributes
    ----------
    status : str
        connecting, connected, ended (with `exit_code`), refused, lost, or closed.
    message : str
        The same in words.
    exit_code : int or None
    transcript : str
        What was written so far, as plain text.

    Raises
    ------
    ConfigError, NotFound, AllocframeError
        There is no such allocation or task, or the client is read-only. What Nomad refuses later is in `message`.

    Examples
    --------
    >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
    ...     with af.Client(cluster.address, token=cluster.token) as client:
    ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
    ...         terminal = af.Terminal(client, running["alloc_id"][0])
    ...         terminal.close()
    >>> terminal.status
    'closed'
    """

    _esm = _STATIC / "terminal.js"
    _css = _STATIC / "terminal.css"

    title = traitlets.Unicode(read_only=True).tag(sync=True)
    status = traitlets.Unicode("connecting", read_only=True).tag(sync=True)
    message = traitlets.Unicode(read_only=True).tag(sync=True)
    exit_code = traitlets.Int(None, allow_none=True, read_only=True).tag(sync=True)

    def __init__(
        self, client: Client, alloc_id: str, task: str | None = None, *, command: Sequence[str] = COMMAND
    ) -> None:
        self._changed = threading.Condition()
        self._session: TtySession | None = None
        self._gone = False
        self._target = operations.exec_target(client._session, alloc_id, command, task, tty=True)
        super().__init__()
        self.set_trait("title", self._target.title)
        self.ignored = 0
        """Messages from a page that were none of a terminal's."""
        self._client = client
        self._output = protocol.Output()
        self._input = protocol.Typed()
        self._appearing: list[str] = []
        self._context = contextvars.copy_context()
        self._size = (24, 80)
        self.on_msg(self._heard)
        threading.Thread(target=self._publish, name="allocframe-terminal-out", daemon=True).start()
        _terminals.add(self)
        self.reconnect()

    @property
    def transcript(self) -> str:
        """What was written so far, as plain text; of more than 4 MiB the end."""
        with self._changed:
            return self._output.transcript()

    def reconnect(self) -> None:
        """Begin a new session with the same command, where the one before is over.

        Examples
        --------
        >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        ...     with af.Client(cluster.address, token=cluster.token) as client:
        ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
        ...         terminal = af.Terminal(client, running["alloc_id"][0])
        ...         terminal.end()
        ...         terminal.reconnect()
        ...         terminal.close()
        """
        with self._changed:
            if self._session is not None and self._open:
                return
            if self._output.total:
                self._output.add(_FRESH + b"\r\n[new session]\r\n")
            self._session = TtySession(
                self._client._session.config, self._target, self._size,
                partial(operations.audited_exec, self._client._session, self._target),
                self._came, self._stands,
            )  # fmt: skip
            self._session.start()

    def end(self) -> None:
        """Send Ctrl-C and end the session; what it wrote stays on the screen.

        Examples
        --------
        >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        ...     with af.Client(cluster.address, token=cluster.token) as client:
        ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
        ...         terminal = af.Terminal(client, running["alloc_id"][0])
        ...         terminal.end()
        ...         terminal.close()
        """
        self._leave()
        if self._session is not None:
            self._session.join(8.0)

    def close(self) -> None:
        """End the session, and take the terminal off the page."""
        self.end()
        with self._changed:
            self._gone = True
            self._changed.notify_all()
        super().close()

    def _leave(self) -> None:
        with self._changed:
            if self._session is not None:
                self._session.close()
            self._changed.notify_all()

    @property
    def _open(self) -> bool:
        return self.status in ("connecting", "connected")

    @property
    def _leaving(self) -> bool:
        return self._session is not None and self._session.closing

    # From the command

    def _came(self, data: bytes) -> None:
        """Take in output; waits while the views have much to draw, so that the command waits, too."""
        with self._changed:
            self._changed.wait_for(lambda: self._output.unsent < protocol.WINDOW or self._leaving)
            self._output.add(data)
            self._changed.notify_all()

    def _stands(self, standing: Standing) -> None:
        if standing.status in ("refused", "lost"):
            self._came(b"\r\n\x1b[0;31m" + standing.message.encode() + b"\x1b[0m\r\n")
        for name in ("exit_code", "message", "status"):
            self._in_context(self.set_trait, name, getattr(standing, name))

    # To the page

    def _publish(self) -> None:
        """Send what views need, joined to some sixty messages a second; a single key's echo goes at once."""
        last = 0.0
        while not self._gone:
            with self._changed:
                self._changed.wait_for(lambda: self._appearing or self._output.unsent or self._gone, 1.0)
                pause = last + JOINED - time.monotonic()
                if pause > 0 and not self._appearing and self._output.unsent < protocol.MESSAGE:
                    self._changed.wait_for(
                        lambda: self._appearing or self._output.unsent >= protocol.MESSAGE, pause
                    )
                appearing, self._appearing = self._appearing, []
                replays = {view: self._output.attached(view, time.monotonic()) for view in appearing}
                piece = None if replays else self._output.take(time.monotonic())
                self._changed.notify_all()
                if piece is None and not replays and self._output.unsent:
                    self._changed.wait(0.5)  # for the views to draw
            for view, replay in replays.items():
                if replay is not None:
                    content = {"type": "replay", "view": view, "end": replay.end}
                    self._in_context(self.send, content, [replay.data])
            if piece is not None:
                last = time.monotonic()
                self._in_context(self.send, {"type": "output", "offset": piece[0]}, [piece[1]])

    def _in_context(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Call from a thread of ours as if from the page's last message: others wait until the running cell has ended."""
        self._context.copy().run(call, *arguments)

    # From the page

    def _heard(self, _: object, content: object, buffers: list[Any]) -> None:
        message = protocol.checked(content)
        if message is None:
            self.ignored += 1
            return
        self._context = contextvars.copy_context()
        if message.kind == "input":
            self._typed(message, buffers)
        elif message.kind == "reconnect":
            self.reconnect()
        elif message.kind == "close":
            self._leave()
        else:
            self._seen(message)

    def _typed(self, message: protocol.Message, buffers: list[Any]) -> None:
        if len(buffers) != 1 or memoryview(buffers[0]).nbytes > _MAX_PIECE:
            self.ignored += 1
            return
        with self._changed:
            data = self._input.arrived(message.view, message.number, bytes(buffers[0]), time.monotonic())
            if self._session is None or not data or not self._open or self._session.type(data):
                return
        self.set_trait("message", "connected; the command reads nothing, so some input was dropped")

    def _seen(self, message: protocol.Message) -> None:
        """Take in what a view says of itself."""
        with self._changed:
            if message.kind == "detach":
                self._output.detached(message.view)
            elif message.kind == "ack":
                if not self._output.acknowledged(message.view, message.offset, time.monotonic()):
                    self._appearing.append(message.view)
            else:
                self._resized(message.rows, message.cols)
                if message.kind == "attach":
                    self._appearing.append(message.view)
            self._changed.notify_all()

    def _resized(self, rows: int, cols: int) -> None:
        """Tell the command its size; a program that fills the screen draws all of it again only where that changes."""
        same, self._size = (rows, cols) == self._size, (rows, cols)
        if self._session is None or (same and not self._output.full_screen):
            return
        if same:
            self._session.resize(max(rows - 1, 1), cols)
        self._session.resize(rows, cols)


_terminals: weakref.WeakSet[Terminal] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """Interrupt what still runs when the kernel ends."""
    for terminal in list(_terminals):
        terminal._leave()
    for terminal in list(_terminals):
        terminal.end()
