"""What the client asks of nodes: what tasks have written, and what they use."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Literal

import pandas as pd

from . import _logs, _protocol
from ._config import Config
from ._errors import ConfigError, NotFound
from ._logs import Logs
from ._transport import Response, Transport


class Observing:
    """The part of a client that asks nodes; servers pass it on."""

    _config: Config
    _transport: Transport
    _region: str | None

    def _whole_id(self, alloc_id: str) -> str:
        raise NotImplementedError

    def logs(
        self,
        alloc_id: str,
        task: str,
        *,
        stream: Literal["stdout", "stderr", "both"] = "both",
        around: pd.Timestamp | datetime | str | None = None,
        lines: int = 50,
        max_bytes: int = _logs.MOST_BYTES,
    ) -> Logs:
        """Read lines of a task's logs: the last, or those around a time. Needs read-logs, or read-fs.

        Nomad keeps no times of lines. `around` can be answered only where lines begin with one (RFC 3339, syslog, klog, access logs,
        Unix time, a field ``time``, ``ts`` or ``timestamp``); `Logs.missing` says what was found. Nodes keep few files of a log, and
        remove them with the allocation.

        Parameters
        ----------
        alloc_id : str
            Its UUID, or a start of it that fits only one allocation.
        task : str
            Which task.
        stream : str
            "stdout", "stderr" or "both".
        around : time, optional
            UTC where no offset is given; else the last lines.
        lines : int
            How many of each stream.
        max_bytes : int
            How far back from the end of each stream to read, at most, 64 MiB at the utmost.

        Raises
        ------
        ConfigError
            A parameter cannot be used; nothing was sent.
        Conflict
            The task has not started.
        NotFound, NodeUnreachable
            The allocation is gone, or the servers cannot reach its node.
        PermissionDenied, BadRequest
            Nomad refused: the token, or a task that is not there.

        Examples
        --------
        >>> failed = snap.events[(snap.events["type"] == "Terminated") & (snap.events["exit_code"] > 0)].iloc[-1]
        >>> found = client.logs(failed["alloc_id"], failed["task"], around=failed["time"], lines=3)
        >>> found.frame.columns.tolist()
        ['stream', 'file', 'offset', 'time', 'line']
        """
        if stream not in (*_logs.STREAMS, "both"):
            raise ConfigError(f'stream must be "stdout", "stderr" or "both", not {stream!r}')
        if not isinstance(task, str) or not task:
            raise ConfigError(f"task must be the name of a task, not {task!r}")
        if _protocol.check_count("max_bytes", max_bytes) > _logs.UTMOST_BYTES:
            raise ConfigError(f"max_bytes must be {_logs.UTMOST_BYTES:,} or less, not {max_bytes!r}")
        _protocol.check_count("lines", lines)
        moment = None if around is None else _moment(around)
        path = f"/v1/client/fs/logs/{self._whole_id(alloc_id)}"
        rows, missing = [], []
        for name in _logs.STREAMS if stream == "both" else (stream,):
            got = self._tail(path, {"task": task, "type": name}, lines, moment, max_bytes)
            shown, notes = _logs.chosen(got, name, lines, moment, time.time_ns())
            rows += [(name, line, when) for line, when in shown]
            missing += notes
        frame = _logs.frame_of(rows)
        frame.attrs = {"table": "logs", "alloc_id": path.rpartition("/")[2], "task": task, "missing": missing}
        return Logs(frame, missing)

    def _tail(
        self, path: str, asked: dict[str, str], lines: int, around_ns: int | None, max_bytes: int
    ) -> _logs.Tail:
        """Read the end of one stream, and more of it until it holds what is wanted, or the bound is reached."""
        size = min(_logs.FIRST_BYTES, max_bytes)
        while True:
            params = {**asked, "origin": "end", "offset": str(size)}
            params |= {"region": self._region} if self._region else {}

            def kept(response: Response, size: int = size) -> _logs.Tail:
                return _logs.tail(response.body, size)

            try:
                got: _logs.Tail = self._transport.get(path, params, check=kept)
            except NotFound as error:
                if "log entry for task" not in error.text:
                    raise
                return _logs.Tail([], 0, cut=False, rotated=False)
            if size == max_bytes or _logs.enough(got, lines, around_ns):
                return got
            size = min(size * 8, max_bytes)


def _moment(given: pd.Timestamp | datetime | str) -> int:
    try:
        stamp = pd.Timestamp(given)
        if pd.isna(stamp):
            raise ValueError
        return (stamp.tz_convert("UTC") if stamp.tzinfo else stamp.tz_localize("UTC")).as_unit("ns").value
    except (ValueError, TypeError, OverflowError):
        raise ConfigError(f"around must be a time such as 2026-11-24T09:30, not {given!r}") from None
