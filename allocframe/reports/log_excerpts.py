"""The log lines around failures, where a live cluster still has them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pandas as pd

from .. import stats
from .._utils.prose import Prose, count, markdown
from .._utils.text import escaped, visible
from ..client.client import Client
from ..client.logs import Logs
from ..errors import AllocframeError
from ..nomad.transport import request_pool
from ..snapshot.snapshot import Snapshot

MOST = 20
"""Failures whose lines are asked for."""

_LINES = 8
_WORKERS = 4
_BYTES = 1 << 20
_SAME = ["namespace", "job_id", "job_version", "task", "cause"]

NOT_ASKED = "No cluster was asked for log lines."
REDACTED = "Log lines were left out: what programs write cannot be redacted."


class LogLines:
    """Log lines around failures, each with its heading, made by `postmortem`."""

    def __init__(self, told: str, parts: list[tuple[str, Logs | str]]) -> None:
        self.told = told
        self.parts = parts

    def __len__(self) -> int:
        return len(self.parts)

    def __repr__(self) -> str:
        return "\n\n".join(
            [repr(Prose(self.told)), *(f"* {visible(head)}\n{found}" for head, found in self.parts)]
        )

    def _repr_html_(self) -> str:
        shown = (
            f"<section class='point'><h3>{escaped(head)}</h3>"
            f"{found._repr_html_() if isinstance(found, Logs) else Prose(found)._repr_html_()}</section>"
            for head, found in self.parts
        )
        return Prose(self.told)._repr_html_() + "".join(shown)

    def _repr_markdown_(self) -> str:
        shown = [f"### {markdown(head)}\n\n{_as_markdown(found)}" for head, found in self.parts]
        return "\n\n".join([Prose(self.told)._repr_markdown_(), *shown])


def _as_markdown(found: Logs | str) -> str:
    if isinstance(found, str):
        return Prose(found)._repr_markdown_()
    # indented, for that leaves no fence to break out of
    lines = [f"    {row.stream}  {visible(row.line)}" for row in found.frame.itertuples()]
    return "\n".join(["", *lines, ""]) + "\n" + "\n".join(f"- {markdown(note)}" for note in found.notes)


def log_lines(snapshot: Snapshot, client: Client, begin: pd.Timestamp, end: pd.Timestamp) -> LogLines:
    """Ask for the lines around the last failure of each kind: of each task of a version of a job, by each cause."""
    events = stats.explain_events(snapshot)
    failed = events[events["failure"].astype(bool) & events["time"].between(begin, end)]
    last = failed.sort_values("time").drop_duplicates(_SAME, keep="last").sort_values("time", ascending=False)
    asked = last.head(MOST).to_dict("records")
    with request_pool(client._session.transport, _WORKERS) as pool:
        found = list(pool.map(lambda row: _asked(client, row), asked))
    told = f"The lines around the last of {count(len(failed), 'failures')} by each task, version and cause, as the nodes had them."
    if len(last) > len(asked):
        told += f" {count(len(last) - len(asked), 'more of these')} were not asked for."
    return LogLines(told, list(zip(map(_head, asked), found, strict=True)))


def _head(row: dict[Hashable, Any]) -> str:
    return f"{row['task']} of {row['job_id']} on {row['node_name']}, {row['time']:%Y-%m-%d %H:%M:%S} UTC: {row['cause']}"


def _asked(client: Client, row: dict[Hashable, Any]) -> Logs | str:
    try:
        return client.logs(
            str(row["alloc_id"]),
            str(row["task"]),
            around=row["time"],
            lines=_LINES,
            max_bytes=_BYTES,
        )
    except AllocframeError as error:
        return f"They could not be had: {error}"
