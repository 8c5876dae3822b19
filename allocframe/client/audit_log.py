"""The audit log: every change that was requested, as JSON lines in an append-only file."""

from __future__ import annotations

import getpass
import json
import os
import platform
import secrets
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from .._utils.interrupts import away_from_signals
from .._utils.locks import lock_file
from ..errors import AllocframeError, ApiError, ConfigError, ConnectionFailed
from ..nomad.config import Scrubber

SETTING = "ALLOCFRAME_AUDIT"

_COLUMNS = {
    "asked_at": "datetime64[ns, UTC]",
    "ended_at": "datetime64[ns, UTC]",
    "user": "str",
    "host": "str",
    "pid": "Int64",
    "address": "str",
    "via": "str",
    "action": "str",
    "alloc_id": "str",
    "namespace": "str",
    "job_id": "str",
    "modify_index": "Int64",
    "arguments": "str",
    "accessor": "str",
    "result": "str",
    "message": "str",
}
_MAX_MESSAGE = 2000
"""Characters of an error message that are kept."""

# The default is never changed in place.
_context: ContextVar[dict[str, Any]] = ContextVar("context", default={})  # noqa: B039


@dataclass
class Outcome:
    """How an action ended: done, refused, failed, unknown or dry run, and a message."""

    result: str = "unknown"
    message: str = ""


def audit_path() -> Path:
    """Return the path of the audit log.

    Raises
    ------
    AllocframeError
        No path is set, and this user has no home.
    """
    setting, state = os.environ.get(SETTING), os.environ.get("XDG_STATE_HOME")
    try:
        if setting:
            return Path(setting).expanduser()
        home = Path(state) if state and Path(state).is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise AllocframeError(
            f"nothing was done: no place for the audit log: {error} Set {SETTING} to a file"
        ) from None
    return home / "allocframe" / "audit.jsonl"


@contextmanager
def audit_context(**facts: Any) -> Iterator[None]:
    """Add facts (namespace, job_id, modify_index, via) to the lines written inside the block."""
    token = _context.set({**_context.get(), **facts})
    try:
        yield
    finally:
        _context.reset(token)


@contextmanager
def audited(
    action: str,
    alloc_id: str,
    arguments: dict[str, Any],
    *,
    address: str,
    accessor: Callable[[], str | None],
    scrub: Scrubber,
) -> Iterator[Outcome]:
    """Write a line, run the action in the block, and write a second line with its result.

    If the first line cannot be written, the action does not run. `scrub` cuts the client's secrets out of
    both lines.

    Raises
    ------
    AllocframeError
        The log cannot be written; nothing was done.
    """
    path, identity, outcome = audit_path(), secrets.token_hex(8), Outcome()
    request = {
        "id": identity,
        "phase": "asked",
        "time": _now(),
        "user": _user(),
        "host": platform.node(),
        "pid": os.getpid(),
        "address": address,
        "action": action,
        "alloc_id": alloc_id,
        "namespace": None,
        "job_id": None,
        "modify_index": None,
        "arguments": arguments,
        "accessor": accessor(),
        "via": "client",
        **_context.get(),
    }
    try:
        _append(path, request, scrub)
    except OSError as error:
        raise AllocframeError(
            f"nothing was done: the audit log {path} cannot be written: {error.strerror or error}. "
            f"Set {SETTING} to a writable file"
        ) from None
    try:
        yield outcome
        outcome.result = "done" if outcome.result == "unknown" else outcome.result
    except BaseException as error:
        outcome.result = result_of(error)
        outcome.message = str(error)[:_MAX_MESSAGE] or type(error).__name__
        raise
    finally:
        head = {"id": identity, "phase": "result", "time": _now(), "action": action, "alloc_id": alloc_id}
        try:
            _append(path, {**head, "result": outcome.result, "message": outcome.message}, scrub)
        except OSError as error:
            # The change has been sent: failing now would hide its result.
            warnings.warn(
                f"{action} of {alloc_id} was requested ({outcome.result}), but the result could not be "
                f"written to the audit log {path}: {error.strerror or error}",
                stacklevel=4,
            )


def result_of(error: BaseException) -> str:
    """Return the result of an action that raised `error`."""
    if isinstance(error, ApiError | ConfigError):
        return "refused"
    nothing_sent = isinstance(error, ConnectionFailed) or type(error) is AllocframeError
    if nothing_sent or "could not be started" in str(error):
        return "failed"
    return "unknown"


def read_audit(path: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Read the audit log: the changes that were requested from this machine, and their results.

    Stop, signal, restart and exec are logged before they are sent and again when they have ended, for
    `Client` and `ControlPanel` alike. Tokens and the input of commands are never logged.

    Parameters
    ----------
    path : str or path, optional
        Path of the log. Defaults to ``ALLOCFRAME_AUDIT``, else ``$XDG_STATE_HOME/allocframe/audit.jsonl``
        (``~/.local/state``).

    Returns
    -------
    pandas.DataFrame
        One row per action, in the order requested: asked_at, ended_at (UTC; NaT if no end was written), user,
        host, pid, address, via, action, alloc_id, namespace, job_id, modify_index (before the action),
        arguments (JSON), accessor (of the token), result (done, refused by Nomad, failed before anything was
        sent, dry run, or unknown), message. Empty if there is no log.

    Warns
    -----
    UserWarning
        Some lines cannot be read, such as a last line that was cut off. They are left out.

    Examples
    --------
    >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
    ...     with af.Client(cluster.address, token=cluster.token) as client:
    ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
    ...         client.signal(running["alloc_id"][0], "SIGHUP")
    >>> af.read_audit()[["action", "arguments", "result"]].iloc[-1].tolist()
    ['signal', '{"Signal": "SIGHUP"}', 'done']
    """
    rows: dict[str, dict[str, Any]] = {}
    for record in _read_records(audit_path() if path is None else Path(path)):
        row = rows.setdefault(record["id"], {"result": "unknown"})
        time_column = "asked_at" if record["phase"] == "asked" else "ended_at"
        row.update({**record, time_column: record["time"]})
    for row in rows.values():
        row["arguments"] = json.dumps(row.get("arguments") or {})
    frame = pd.DataFrame(list(rows.values()), columns=list(_COLUMNS))
    for name in ("asked_at", "ended_at"):
        frame[name] = pd.to_datetime(frame[name], utc=True, format="ISO8601")
    return frame.astype(_COLUMNS)


def _read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records that can be read, and warn of the lines that cannot."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    bad_lines = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line) if line.strip() else None
            if record is not None:
                datetime.fromisoformat(record["time"])
                yield {**record, "id": str(record["id"]), "phase": record["phase"], "time": record["time"]}
        except (ValueError, KeyError, TypeError, RecursionError):
            bad_lines.append(number)
    if bad_lines:
        numbers = ", ".join(map(str, bad_lines[:5])) + (", …" if len(bad_lines) > 5 else "")
        warnings.warn(
            f"{path}: {len(bad_lines)} lines cannot be read and are left out: {numbers}", stacklevel=3
        )


def _append(path: Path, record: dict[str, Any], scrub: Scrubber) -> None:
    """Append one line and flush it to disk, or raise OSError.

    Ctrl-C between two steps would leave the file locked, and the next action would wait for it for ever.
    """
    away_from_signals(lambda: _append_now(path, record, scrub), lambda: None)


def _append_now(path: Path, record: dict[str, Any], scrub: Scrubber) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = scrub.text(json.dumps(record, ensure_ascii=True, default=str))
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with suppress(OSError):  # some network file systems have no locks
            lock_file(file, wait=True)
        status = os.fstat(file)
        # A process that died in the middle of a line must not swallow this one.
        is_cut_off = status.st_size and os.pread(file, 1, status.st_size - 1) != b"\n"
        data = b"\n" * bool(is_cut_off) + line.encode() + b"\n"
        if os.write(file, data) != len(data):
            raise OSError("only a part of the line was written")
        if stat.S_ISREG(status.st_mode):
            os.fsync(file)
    finally:
        os.close(file)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())
