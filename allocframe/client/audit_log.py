"""The audit log: every change that was asked for, as JSON lines that are only ever added to."""

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

from .._utils.locks import lock_file
from ..errors import AllocframeError, ApiError, ConfigError, ConnectionFailed

SETTING = "ALLOCFRAME_AUDIT"

_TEXTS = (
    "user", "host", "address", "via", "action", "alloc_id", "namespace", "job_id", "arguments", "accessor", "result", "said",
)  # fmt: skip
_LONGEST = 2000
"""Characters of an error's words that are kept."""

_SHORTEST_SECRET = 8
"""What is shorter is no token of Nomad's, and may be a part of any word."""

_known: ContextVar[dict[str, Any]] = ContextVar("known", default={})  # noqa: B039 - never changed in place


@dataclass
class Outcome:
    """How an action ended: done, refused, failed, unknown or dry run, and the words for it."""

    result: str = "unknown"
    said: str = ""


def audit_path() -> Path:
    """Return where the audit log is.

    Raises
    ------
    AllocframeError
        It is not said, and this user has no home.
    """
    named, state = os.environ.get(SETTING), os.environ.get("XDG_STATE_HOME")
    try:
        if named:
            return Path(named).expanduser()
        home = Path(state) if state and Path(state).is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise AllocframeError(
            f"nothing was done: no place for the audit log: {error} Set {SETTING} to a file"
        ) from None
    return home / "allocframe" / "audit.jsonl"


@contextmanager
def knowing(**facts: Any) -> Iterator[None]:
    """Add what the caller knows (namespace, job_id, modify_index, via) to the lines that are written meanwhile."""
    token = _known.set({**_known.get(), **facts})
    try:
        yield
    finally:
        _known.reset(token)


@contextmanager
def audited(
    action: str,
    alloc_id: str,
    arguments: dict[str, Any],
    *,
    address: str,
    accessor: Callable[[], str | None],
    secret: Callable[[], str],
) -> Iterator[Outcome]:
    """Write that an action is asked for, let it happen, and write how it ended.

    Where the first line cannot be written the action does not happen. `secret` gives the token, which is cut out of both lines.

    Raises
    ------
    AllocframeError
        The log cannot be written; nothing was done.
    """
    path, identity, outcome = audit_path(), secrets.token_hex(8), Outcome()
    asked = {
        "id": identity, "phase": "asked", "time": _now(), "user": _user(), "host": platform.node(), "pid": os.getpid(),
        "address": address, "action": action, "alloc_id": alloc_id, "namespace": None, "job_id": None,
        "modify_index": None, "arguments": arguments, "accessor": accessor(), "via": "client", **_known.get(),
    }  # fmt: skip
    try:
        _append(path, asked, secret)
    except OSError as error:
        raise AllocframeError(
            f"nothing was done: the audit log {path} cannot be written: {error.strerror or error}. "
            f"Set {SETTING} to a file that can"
        ) from None
    try:
        yield outcome
        outcome.result = "done" if outcome.result == "unknown" else outcome.result
    except BaseException as error:
        outcome.result, outcome.said = ended(error), str(error)[:_LONGEST] or type(error).__name__
        raise
    finally:
        head = {"id": identity, "phase": "result", "time": _now(), "action": action, "alloc_id": alloc_id}
        try:
            _append(path, {**head, "result": outcome.result, "said": outcome.said}, secret)
        except OSError as error:
            warnings.warn(
                f"{action} of {alloc_id} was asked for ({outcome.result}), but that could not be written to the audit log "
                f"{path}: {error.strerror or error}",
                stacklevel=4,
            )


def ended(error: BaseException) -> str:
    """Return how an action ended that raised `error`."""
    if isinstance(error, ApiError | ConfigError):
        return "refused"
    nothing_sent = isinstance(error, ConnectionFailed) or type(error) is AllocframeError
    if nothing_sent or "could not be started" in str(error):
        return "failed"
    return "unknown"


def read_audit(path: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Read the audit log: what was asked of clusters from here, and how it ended.

    Stop, signal, restart and exec are written down before they are asked for, and once more when they have ended, whether a
    `Client` or a `ControlPanel` did it. The token and what a command reads are not.

    Parameters
    ----------
    path : str or path, optional
        The log; else ``ALLOCFRAME_AUDIT``, else ``$XDG_STATE_HOME/allocframe/audit.jsonl`` (``~/.local/state``).

    Returns
    -------
    pandas.DataFrame
        One row for each action, in the order asked: asked_at, ended_at (UTC; missing where no end was written), user, host, pid,
        address, via, action, alloc_id, namespace, job_id, modify_index (before), arguments (JSON), accessor (of the token),
        result (done, refused by Nomad, failed before anything was sent, dry run, or unknown), said. Empty where there is no log.

    Warns
    -----
    UserWarning
        Lines cannot be read, such as a last one that was cut off; they are left out.

    Examples
    --------
    >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
    ...     with af.Client(cluster.address, token=cluster.token) as client:
    ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
    ...         client.signal(running["alloc_id"][0], "SIGHUP")
    >>> af.read_audit()[["action", "arguments", "result"]].iloc[-1].tolist()
    ['signal', '{"Signal": "SIGHUP"}', 'done']
    """
    where = audit_path() if path is None else Path(path)
    rows: dict[str, dict[str, Any]] = {}
    for record in _records(where):
        row = rows.setdefault(record["id"], {"result": "unknown"})
        moment = {"asked_at" if record["phase"] == "asked" else "ended_at": record["time"]}
        row.update({**record, **moment})
    for row in rows.values():
        row["arguments"] = json.dumps(row.get("arguments") or {})
    columns = ["asked_at", "ended_at", "user", "host", "pid", *_TEXTS[2:8], "modify_index", *_TEXTS[8:]]
    found = pd.DataFrame(list(rows.values()), columns=columns)
    for name in ("asked_at", "ended_at"):
        found[name] = pd.to_datetime(found[name], utc=True, format="ISO8601").astype("datetime64[ns, UTC]")
    return found.astype(dict.fromkeys(_TEXTS, "str") | {"pid": "Int64", "modify_index": "Int64"})


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records that can be read; tell how many cannot."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    torn = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line) if line.strip() else None
            if record is not None:
                datetime.fromisoformat(record["time"])
                yield {**record, "id": str(record["id"]), "phase": record["phase"], "time": record["time"]}
        except (ValueError, KeyError, TypeError, RecursionError):
            torn.append(number)
    if torn:
        said = ", ".join(str(number) for number in torn[:5]) + (", …" if len(torn) > 5 else "")
        warnings.warn(f"{path}: {len(torn)} lines cannot be read and are left out: {said}", stacklevel=3)


def _append(path: Path, record: dict[str, Any], secret: Callable[[], str]) -> None:
    """Add one line, whole and on the disk, or raise OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = json.dumps(record, ensure_ascii=True, default=str)
    if len(secret()) >= _SHORTEST_SECRET:
        line = line.replace(secret(), "(token)")
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with suppress(OSError):  # some network file systems know no locks
            lock_file(file, wait=True)
        about = os.fstat(file)
        cut_off = about.st_size and os.pread(file, 1, about.st_size - 1) != b"\n"
        data = b"\n" * bool(cut_off) + line.encode() + b"\n"
        if os.write(file, data) != len(data):
            raise OSError("the disk took only a part of the line")
        if stat.S_ISREG(about.st_mode):
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
