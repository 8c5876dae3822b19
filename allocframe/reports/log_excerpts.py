"""The log lines around failures, if the nodes still have them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pandas as pd

from .._utils.prose import Prose, count
from .._utils.text import visible
from ..client.client import Client
from ..client.logs import Logs
from ..errors import AllocframeError
from ..nomad.transport import request_pool
from ..snapshot.snapshot import Snapshot
from ..stats.explain import newest_failures
from .document import Block, Bullets, Command, Paragraph, Part

MOST = 20
"""How many failures log lines are read for."""

_LINES = 8
_WORKERS = 4
_BYTES = 1 << 20
_KIND = ["namespace", "job_id", "job_version", "task", "cause"]
"""Failures that agree in these are of one kind."""

NOT_ASKED = "No cluster was asked for log lines."
REDACTED = "Log lines were left out: what programs write cannot be redacted."


class LogLines:
    """Log lines around failures, each excerpt under a heading; made by `postmortem`."""

    def __init__(self, note: str, excerpts: list[tuple[str, Logs | str]]) -> None:
        self.note = note
        self.excerpts = excerpts

    def __len__(self) -> int:
        return len(self.excerpts)

    def blocks(self) -> list[Block]:
        """Return them as parts of a report."""
        parts: list[Block] = [Part(head, _excerpt(lines)) for head, lines in self.excerpts]
        return [Paragraph(self.note), *parts]

    def __repr__(self) -> str:
        excerpts = (f"* {visible(head)}\n{lines}" for head, lines in self.excerpts)
        return "\n\n".join([repr(Prose(self.note)), *excerpts])


def _excerpt(logs: Logs | str) -> list[Block]:
    if isinstance(logs, str):
        return [Paragraph(logs)]
    lines = "\n".join(f"{row.stream}  {row.line}" for row in logs.frame.itertuples())
    notes: list[Block] = [Bullets(list(logs.notes))] if logs.notes else []
    return [Command(lines), *notes] if lines else notes


def log_lines(snapshot: Snapshot, client: Client, start: pd.Timestamp, end: pd.Timestamp) -> LogLines:
    """Read the lines around the last failure of each kind: each task of a job version, by each cause."""
    newest = newest_failures(snapshot, start, end, MOST, kind=_KIND)
    rows = newest.rows.to_dict("records")
    with request_pool(client._session.transport, _WORKERS) as pool:
        logs = list(pool.map(lambda row: _read(client, row), rows))
    note = (
        f"There were {count(newest.failures, 'failures')}. "
        "Shown are the log lines around the last one of each task, version and cause."
    )
    if newest.kinds > len(rows):
        note += f" {count(newest.kinds - len(rows), 'older kinds')} of failure were left out."
    return LogLines(note, list(zip(map(_heading, rows), logs, strict=True)))


def _heading(row: dict[Hashable, Any]) -> str:
    task = f"{row['task']} of {row['job_id']} on {row['node_name']}"
    return f"{task}, {row['time']:%Y-%m-%d %H:%M:%S} UTC: {row['cause']}"


def _read(client: Client, row: dict[Hashable, Any]) -> Logs | str:
    try:
        return client.logs(
            str(row["alloc_id"]),
            str(row["task"]),
            around=row["time"],
            lines=_LINES,
            max_bytes=_BYTES,
        )
    except AllocframeError as error:
        return f"The lines could not be read: {error}"
