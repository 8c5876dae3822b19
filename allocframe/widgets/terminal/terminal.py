"""A terminal in the notebook: xterm.js shows the output of a command in a task and sends it what is typed."""

from __future__ import annotations

import atexit
import contextvars
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import anywidget
import traitlets

from ...client import actions
from ...client.client import Client
from ...errors import AllocframeError, ConfigError
from ..saved_copy import SavedCopy
from . import protocol
from .pages import refusal, saved_page
from .session import SessionStatus, TtySession

COMMAND = ("/bin/sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash; exec sh")
"""A shell: bash if the task has it."""

FRAME_TIME = 1 / 60
"""Seconds between two messages of output. Output in between goes into one message."""

SAVE_INTERVAL = 10.0
"""Seconds between two copies of the transcript for a saved notebook, while there is output."""

_STATIC = Path(__file__).parents[1] / "static"
_MAX_INPUT = 64 << 10
_RESET = b"\x1b[!p\x1b[?1049l\x1b[0m"
"""Undoes what a killed program may have left: modes, the alternate screen, colours."""

# What a trait gives, and what it takes.
_Text: TypeAlias = "traitlets.Unicode[str, str | bytes]"
_Number: TypeAlias = "traitlets.Int[int | None, int | None]"


class Terminal(anywidget.AnyWidget):
    """A terminal that runs a command in a task. It needs alloc-exec.

    It is shown as the last expression of a cell. Its memory is bounded, and it comes back after a reload of
    the page. With JupyterLab 4.4 and ipykernel 7 or newer, it works while a cell runs. If widgets cannot be
    shown, use `Client.exec`.

    Parameters
    ----------
    client : Client
    alloc_id : str
        The allocation's UUID, or an unambiguous prefix of it.
    task : str, optional
        The task. It is needed if the allocation has several.
    command : list of str, optional
        Program and arguments; by default, a shell. Servers log them, so they must not contain secrets.

    Attributes
    ----------
    status : str
        connecting, connected, ended (with `exit_code`), refused, lost, or closed.
    message : str
        The status in words.
    exit_code : int or None
    transcript : str
        The output so far, as plain text.

    Raises
    ------
    ConfigError, NotFound, AllocframeError
        If there is no such allocation or task, or the client is read-only. Later errors are in `message`.

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

    title: _Text = traitlets.Unicode(read_only=True).tag(sync=True)
    saved: _Text = traitlets.Unicode(read_only=True).tag(sync=True)
    status: _Text = traitlets.Unicode("connecting", read_only=True).tag(sync=True)
    message: _Text = traitlets.Unicode(read_only=True).tag(sync=True)
    exit_code: _Number = traitlets.Int(None, allow_none=True, read_only=True).tag(sync=True)

    def __init__(
        self, client: Client, alloc_id: str, task: str | None = None, *, command: Sequence[str] = COMMAND
    ) -> None:
        self._changed = threading.Condition()
        self._session: TtySession | None = None
        self._closed = False
        self._client = client
        self._target = actions.exec_request(client._session, alloc_id, command, task, tty=True)
        if (reason := self._refusal()) is not None:
            raise ConfigError(reason)
        super().__init__()
        self.set_trait("title", self._target.title)
        self.ignored: int = 0
        """Number of invalid messages from pages."""
        self._output = protocol.Output()
        self._saved = SavedCopy(lambda: saved_page(self.title, self.message, self.transcript))
        self.set_trait("saved", self._saved.name)
        self._input = protocol.InputOrder()
        self._new_views: list[str] = []
        self._context = contextvars.copy_context()
        self._size = (24, 80)
        self.on_msg(self._on_message)
        # A thread of its own, so that output reaches the page while a cell runs.
        threading.Thread(target=self._publish, name="allocframe-terminal-out", daemon=True).start()
        _terminals.add(self)
        self._start_session()

    @property
    def transcript(self) -> str:
        """The output so far, as plain text; the last 4 MiB."""
        with self._changed:
            return self._output.transcript()

    def reconnect(self) -> None:
        """Start a new session with the same command, if the last one has ended.

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
        if self._session is not None and self._is_open:
            return
        if (reason := self._refusal()) is not None:
            self._on_status(SessionStatus("refused", reason))
            return
        self._start_session()

    def _start_session(self) -> None:
        with self._changed:
            if self._session is not None and self._is_open:
                return
            if self._output.total:
                self._output.add(_RESET + b"\r\n[new session]\r\n")
            self._session = TtySession(
                self._client._session.config, self._target, self._size,
                partial(actions.audited_exec, self._client._session, self._target),
                on_output=self._on_output, wants_output=self._wants_output, on_status=self._on_status,
            )  # fmt: skip
            self._session.start()

    def end(self) -> None:
        """Send Ctrl-C and end the session. Its output stays on the screen.

        Examples
        --------
        >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        ...     with af.Client(cluster.address, token=cluster.token) as client:
        ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
        ...         terminal = af.Terminal(client, running["alloc_id"][0])
        ...         terminal.end()
        ...         terminal.close()
        """
        self._end_session()
        if self._session is not None:
            self._session.join(8.0)

    def close(self) -> None:
        """End the session and remove the terminal from the page."""
        self.end()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        super().close()

    def _refusal(self) -> str | None:
        """Return why no session can start, in words; None if the allocation shows no reason.

        Servers would say "task not running", or only that the connection was closed.
        """
        alloc_id, task = self._target.path.split("/")[-2], self._target.params["task"]
        try:
            alloc = self._client._session.read_allocation(alloc_id)
        except AllocframeError:
            return None  # the session will say what is wrong
        return refusal(alloc, task)

    def _end_session(self) -> None:
        """Begin to end the session, without waiting for it."""
        with self._changed:
            if self._session is not None:
                self._session.close()
            self._changed.notify_all()

    @property
    def _is_open(self) -> bool:
        return self.status in ("connecting", "connected")

    # From the command

    def _on_output(self, data: bytes) -> None:
        with self._changed:
            self._output.add(data)
            self._changed.notify_all()

    def _wants_output(self) -> bool:
        """Return False while the views are behind, so that the command waits, too."""
        with self._changed:
            return self._output.unsent < protocol.BACKLOG

    def _on_status(self, status: SessionStatus) -> None:
        if status.status in ("refused", "lost"):
            self._on_output(b"\r\n\x1b[0;31m" + status.message.encode() + b"\x1b[0m\r\n")
        # The status comes last: who sees it change can rely on the other two.
        for name in ("exit_code", "message", "status"):
            self._in_context(self.set_trait, name, getattr(status, name))
        self._saved.update()

    # To the page

    def _publish(self) -> None:
        """Send output to the views, in at most 60 messages a second. A single key is echoed at once."""
        last, saved_at = 0.0, time.monotonic()
        while not self._closed:
            with self._changed:
                self._changed.wait_for(lambda: self._new_views or self._output.unsent or self._closed, 1.0)
                pause = last + FRAME_TIME - time.monotonic()
                if pause > 0 and not self._new_views and self._output.unsent < protocol.MAX_MESSAGE:
                    self._changed.wait_for(
                        lambda: self._new_views or self._output.unsent >= protocol.MAX_MESSAGE, pause
                    )
                new_views, self._new_views = self._new_views, []
                replays = {view: self._output.attach(view, time.monotonic()) for view in new_views}
                output = None if replays else self._output.take(time.monotonic())
                if self._session is not None:
                    self._session.wake()  # there may be room for output now
                if output is None and not replays and self._output.unsent:
                    self._changed.wait(0.5)  # until the views have drawn more
            for view, replay in replays.items():
                if replay is not None:
                    content = {"type": "replay", "view": view, "end": replay.end}
                    self._in_context(self.send, content, [replay.data])
            if time.monotonic() - saved_at > SAVE_INTERVAL:
                self._saved.update()
                saved_at = time.monotonic()
            if output is not None:
                last = time.monotonic()
                self._in_context(self.send, {"type": "output", "offset": output[0]}, [output[1]])

    def _in_context(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Call in the context of the page's last message.

        Without it, the front end would hold back what a thread sends until the running cell has ended.
        """
        self._context.copy().run(call, *arguments)

    # From the page

    def _on_message(self, _: object, content: object, buffers: list[Any]) -> None:
        message = protocol.parse_message(content)
        if message is None:
            self.ignored += 1
            return
        self._context = contextvars.copy_context()
        if message.kind == "ping":
            self.send({"type": "pong", "number": message.number})
        elif message.kind == "input":
            self._on_input(message, buffers)
        elif message.kind == "reconnect":
            self.reconnect()
        elif message.kind == "close":
            self._end_session()
        else:
            self._on_view_message(message)

    def _on_input(self, message: protocol.Message, buffers: list[Any]) -> None:
        if len(buffers) != 1 or memoryview(buffers[0]).nbytes > _MAX_INPUT:
            self.ignored += 1
            return
        with self._changed:
            data = self._input.add(message.view, message.number, bytes(buffers[0]), time.monotonic())
            if self._session is None or not data or not self._is_open or self._session.send_input(data):
                return
        self.set_trait("message", "connected; the command does not read its input, so some was dropped")

    def _on_view_message(self, message: protocol.Message) -> None:
        """Handle attach, detach, ack and resize of a view."""
        with self._changed:
            if message.kind == "detach":
                self._output.detach(message.view)
            elif message.kind == "ack":
                if not self._output.acknowledge(message.view, message.offset, time.monotonic()):
                    self._new_views.append(message.view)
            else:
                self._resize(message.rows, message.cols)
                if message.kind == "attach":
                    self._new_views.append(message.view)
            self._changed.notify_all()

    def _resize(self, rows: int, cols: int) -> None:
        """Send the size to the command."""
        unchanged, self._size = (rows, cols) == self._size, (rows, cols)
        if self._session is None or (unchanged and not self._output.full_screen):
            return
        if (
            unchanged
        ):  # a full-screen program redraws for a new view only if the size changes, so change it twice
            self._session.resize(max(rows - 1, 1), cols)
        self._session.resize(rows, cols)

    def _ipython_display_(self) -> None:
        bundle = self._repr_mimebundle_()
        data = (bundle[0] if isinstance(bundle, tuple) else bundle) or {}
        self._saved.display({**data, "text/plain": "Terminal: run the cell to use it."})


_terminals: weakref.WeakSet[Terminal] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    """Interrupt running commands when the kernel ends."""
    for terminal in list(_terminals):  # first all of them, so that they end at the same time
        terminal._end_session()
    for terminal in list(_terminals):
        terminal.end()
