"""What the client asks of nodes: what tasks have written, and what they use."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from ._utils.validate import check_count
from .client import logs as _logs
from .client import usage as _usage
from .client.logs import Logs
from .client.usage import Usage
from .errors import AllocframeError, ConfigError, DecodeError, NotFound
from .nomad.config import Config
from .nomad.connection import check_workers
from .nomad.transport import Response, Transport, parse_json, request_pool

if TYPE_CHECKING:
    from .snapshot.snapshot import Snapshot


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
        Unix time, a field ``time``, ``ts`` or ``timestamp``); `Logs.notes` says what was found. Nodes keep few files of a log, and
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
        ResponseTooLarge
            Far more came than was asked for.

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
        if check_count("max_bytes", max_bytes) > _logs.UTMOST_BYTES:
            raise ConfigError(f"max_bytes must be {_logs.UTMOST_BYTES:,} or less, not {max_bytes!r}")
        check_count("lines", lines)
        moment = None if around is None else _moment(around)
        path = f"/v1/client/fs/logs/{self._whole_id(alloc_id)}"
        rows, notes = [], []
        for name in _logs.STREAMS if stream == "both" else (stream,):
            got = self._tail(path, {"task": task, "type": name}, lines, moment, max_bytes)
            shown, said = _logs.chosen(got, name, lines, moment, time.time_ns())
            rows += [(name, line, when) for line, when in shown]
            notes += said
        frame = _logs.frame_of(rows)
        frame.attrs = {"table": "logs", "alloc_id": path.rpartition("/")[2], "task": task, "notes": notes}
        return Logs(frame, notes)

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
                got: _logs.Tail = self._transport.get(path, params, check=kept, most=2 * size + _logs.GROWTH)
            except NotFound as error:
                if "log entry for task" not in error.text:
                    raise
                return _logs.Tail([], 0, cut=False, rotated=False)
            if size == max_bytes or _logs.enough(got, lines, around_ns):
                return got
            size = min(size * 8, max_bytes)

    def usage(
        self,
        allocations: Snapshot | Iterable[str],
        *,
        samples: int = 1,
        every: float = 10.0,
        workers: int = 4,
    ) -> Usage:
        """Sample what tasks use, beside what they were given. Needs read-job.

        One that cannot be asked does not stop the others. Nodes measure about once a second, and remember the last measurement only: how
        far percentiles can be trusted depends on how long you sample.

        Parameters
        ----------
        allocations : Snapshot or iterable of str
            Those of a snapshot that run, or their UUIDs.
        samples : int
            How often each is asked.
        every : float
            Seconds from the start of one round to the next; where a round takes longer, the next follows at once.
        workers : int
            Asked at the same time, at most 8.

        Returns
        -------
        Usage
            ``samples`` and ``errors``; `stats.headroom` makes percentiles of the samples.

        Raises
        ------
        ConfigError
            A parameter cannot be used; nothing was sent.

        Examples
        --------
        >>> found = client.usage(snap, samples=2, every=0.1)
        >>> bool((found.samples["memory_mib"] < found.samples["memory_requested_mib"]).all())
        True
        """
        check_count("samples", samples)
        check_workers(workers)
        if isinstance(every, bool) or not isinstance(every, int | float) or not 0 <= every < math.inf:
            raise ConfigError(f"every must be a number of seconds, not {every!r}")
        asked = list(dict.fromkeys(_chosen(allocations)))
        rows: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        with request_pool(self._transport, workers) as pool:

            def each(names: list[str], path: str, sample: int | None) -> list[tuple[str, dict[str, Any]]]:
                """Ask about each; keep what came, and note what did not."""
                found = list(zip(names, pool.map(lambda name: self._known(path, name), names), strict=True))
                errors.extend(_error(name, sample, got) for name, got in found if isinstance(got, str))
                return [(name, got) for name, got in found if not isinstance(got, str)]

            allocs = dict(each(asked, "/v1/allocation/{}", None))
            begun = time.monotonic()
            for number in range(samples):
                self._transport.pause(max(begun + number * every - time.monotonic(), 0.0))
                for name, measured in each(list(allocs), "/v1/client/allocation/{}/stats", number):
                    try:
                        rows += _usage.rows(allocs[name], measured, number)
                    except DecodeError as error:
                        errors.append(_error(name, number, str(error)))
        return Usage(_usage.samples_frame(rows), _usage.errors_frame(errors))

    def _known(self, path: str, alloc_id: str) -> dict[str, Any] | str:
        """Return what is answered about an allocation, or why nothing is."""
        params = {"region": self._region} if self._region else {}
        try:
            answer = self._transport.get(path.format(self._whole_id(alloc_id)), params, check=parse_json)
        except AllocframeError as error:
            return str(error)
        return answer if isinstance(answer, dict) else "the answer is no object"


def _error(alloc_id: str, sample: int | None, said: str) -> dict[str, Any]:
    return {"alloc_id": alloc_id, "sample": sample, "error": said}


def _chosen(allocations: Snapshot | Iterable[str]) -> list[str]:
    if isinstance(allocations, str):
        raise ConfigError(f"allocations must be a Snapshot or a list of IDs, not {allocations!r}")
    if getattr(allocations, "clusters", None):
        raise ConfigError(
            "these allocations are of several clusters: give those of this one, snapshot.clusters[...]"
        )
    table = getattr(allocations, "allocations", None)
    if table is None:
        return [str(one) for one in allocations]  # type: ignore[union-attr]
    return [str(one) for one in table.loc[table["client_status"] == "running", "alloc_id"]]


def _moment(given: pd.Timestamp | datetime | str) -> int:
    try:
        stamp = pd.Timestamp(given)
        if pd.isna(stamp):
            raise ValueError
        return (stamp.tz_convert("UTC") if stamp.tzinfo else stamp.tz_localize("UTC")).as_unit("ns").value
    except (ValueError, TypeError, OverflowError):
        raise ConfigError(f"around must be a time such as 2026-11-24T09:30, not {given!r}") from None
