"""What changed in a cluster: versions of jobs, deployments, nodes, evaluations, and a ledger of changes."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .._utils import html
from .._utils.prose import clock
from .._utils.text import visible
from .._utils.times import to_utc
from ..errors import DecodeError
from ..store.capture import Capture
from ..tables import HISTORY
from ..tables.table import Table
from .change_ledger import make_changes
from .history_tables import describe_rows, make_tables

_TIMES = {
    "changes": "at",
    "job_versions": "submitted_at",
    "deployments": "ended_at",
    "node_events": "time",
    "evaluations": "modified_at",
}
_VERSION = ["namespace", "job_id", "version"]


_NOT_ASKED_FOR = r'"how":"(?:collected|no longer listed)"'
"""In the detail of a purge: perhaps nobody asked for it."""


class History:
    """What changed in a cluster, as far as Nomad still knew, and as far as the token could read it.

    Made by `Client.history`, `Client.snapshot` (with ``history=True``), `recover` and `Archive`.

    Attributes
    ----------
    changes : pandas.DataFrame
        The ledger: one row for each job version, deployment, scaling, drain, restart, ... in order of time.
    job_versions, job_changes, deployments, nodes, node_events, evaluations : pandas.DataFrame
        What the ledger is made of. Values that may be secret are salted hashes, unless they were asked for.
    notes : list of str
        What could not be read, and why.

    Examples
    --------
    >>> history = client.history(namespace="*")
    >>> history.changes.columns[:4].tolist()
    ['kind', 'at', 'namespace', 'job_id']
    """

    changes: pd.DataFrame
    job_versions: pd.DataFrame
    job_changes: pd.DataFrame
    deployments: pd.DataFrame
    nodes: pd.DataFrame
    node_events: pd.DataFrame
    evaluations: pd.DataFrame

    def __init__(self, frames: Mapping[str, pd.DataFrame], notes: Iterable[str] = ()) -> None:
        for name, table in HISTORY.items():
            frame = frames[name] if name in frames else table.empty()
            frame.attrs = {"table": name, "key": list(table.key)}
            setattr(self, name, frame)
        self.notes: list[str] = list(notes)

    def purged_at(self) -> pd.Series[Any]:
        """Return when each job was last purged by hand, by namespace and job.

        Nomad forgets such a job and lets its allocations read "run" for as long as they are kept. A job that
        Nomad collects itself ended before, so it is left out.

        Returns
        -------
        pandas.Series
            Times in UTC, with the index (namespace, job_id).

        Examples
        --------
        >>> len(client.history(namespace="*").purged_at())
        0
        """
        purges = self.changes[self.changes["kind"] == "purge"]
        purges = purges[~purges["detail"].str.contains(_NOT_ASKED_FOR, na=False)]
        names = ["namespace", "job_id"]
        return purges.astype(dict.fromkeys(names, "str")).groupby(names)["at"].max()

    @classmethod
    def from_json(
        cls,
        *,
        jobs: Iterable[Sequence[Mapping[str, Any]]] = (),
        deployments: Iterable[Mapping[str, Any]] = (),
        nodes: Iterable[Mapping[str, Any]] = (),
        evaluations: Iterable[Mapping[str, Any]] = (),
        allocations: pd.DataFrame | None = None,
        events: pd.DataFrame | None = None,
        changes: Iterable[dict[str, Any]] = (),
        notes: Iterable[str] = (),
        values: bool = False,
        listed: Collection[str] | None = None,
    ) -> Self:
        """Return the history that Nomad's own JSON tells.

        Parameters
        ----------
        jobs : iterable of lists
            The known versions of each job, as specifications.
        deployments, nodes, evaluations : iterable of dict
            As Nomad's API has them; nodes with their events.
        allocations, events : pandas.DataFrame, optional
            Those of a snapshot: they tell which allocations an operator restarted or stopped.
        changes : iterable of dict
            Rows of the ledger that were seen themselves.
        notes : iterable of str
            What could not be read.
        values : bool
            Show values that may be secret.
        listed : collection of str, optional
            Namespaces of which `jobs` are all jobs there are, so that others were purged; by default, all.

        Examples
        --------
        >>> job = {"ID": "web", "Namespace": "default", "Version": 0, "TaskGroups": [{"Name": "app"}]}
        >>> af.History.from_json(jobs=[[job]]).job_versions["version"].tolist()
        [0]
        """
        frames = make_tables(
            jobs=jobs, deployments=deployments, nodes=nodes, evaluations=evaluations, values=values
        )
        frames["changes"] = make_changes(
            frames, allocations=allocations, events=events, more=changes, listed=listed
        )
        return cls(frames, notes)

    def since(self, moment: pd.Timestamp | datetime | str) -> History:
        """Return what changed at `moment` or later. Rows without a time stay, as do nodes.

        Examples
        --------
        >>> history = client.history(namespace="*")
        >>> bool((history.since("2020-01-01").changes["at"] > "2020-01-01").all())
        True
        """
        start = to_utc(moment, "moment")
        frames = {name: getattr(self, name) for name in HISTORY}
        for name, column in _TIMES.items():
            frame = frames[name]
            frames[name] = frame[~(frame[column] < start)].reset_index(drop=True)
        kept = pd.MultiIndex.from_frame(frames["job_versions"][_VERSION])
        changed = pd.MultiIndex.from_frame(self.job_changes[_VERSION])
        frames["job_changes"] = self.job_changes[changed.isin(kept)].reset_index(drop=True)
        return History(frames, self.notes)

    def __repr__(self) -> str:
        return "\n".join(
            [f"<History: {', '.join(self._counts())}>", *(f"  {line}" for line in self._remarks())]
        )

    def _repr_html_(self) -> str:
        rows = [
            (kind, f"{number:,}") for kind, number in self.changes["kind"].value_counts().items() if number
        ]
        table = html.table(rows, ("change", "number"), numbers={1})
        return html.summary("History", ", ".join(self._counts()), self._remarks(), table)

    def _counts(self) -> list[str]:
        return describe_rows({name: getattr(self, name) for name in HISTORY})

    def describe(self) -> list[str]:
        """Return lines on this history for the description of its snapshot.

        Examples
        --------
        >>> client.history(namespace="*").describe()[0].startswith("history: ")
        True
        """
        counts = [text for text in self._counts() if not text.startswith("0 ")]
        return [f"history: {', '.join(counts) or 'empty'}", *(visible(note) for note in self.notes)]

    def _remarks(self) -> list[str]:
        times = self.changes["at"].dropna()
        lines = []
        if len(times):
            lines.append(f"changes from {clock(times.min())} to {clock(times.max(), times.min())} UTC")
        return lines + [visible(note) for note in self.notes]


def put_history(capture: Capture, history: History) -> None:
    """Add the tables of a history to a capture, so that saving keeps them."""
    take_history(capture)
    for name, table in HISTORY.items():
        # Through the declared schema: a column that is all missing keeps its type.
        data = pa.Table.from_pandas(getattr(history, name), preserve_index=False)
        plain = pa.Table.from_arrays(
            [data[column.name].cast(column.arrow) for column in table.columns], schema=table.schema()
        )
        sink = io.BytesIO()
        pq.write_table(plain, sink, compression="zstd")
        capture.add(sink.getvalue(), kind="history", path=name, params={})
    capture.describe(history_notes=history.notes)


def take_history(capture: Capture) -> History | None:
    """Remove the tables of a history from a capture and return them, None if it has none.

    Raises
    ------
    DecodeError
        They are damaged.
    """
    pages = [page for page in capture.pages if page.kind == "history"]
    notes = capture.info.pop("history_notes", [])
    if not pages:
        return None
    frames = {}
    try:
        for page in pages:
            # A table that this version does not know is left out.
            if page.path in HISTORY:
                frames[page.path] = _read_table(HISTORY[page.path], capture.file(page).read_bytes())
            capture.discard(page)
        return History(frames, map(str, notes))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise DecodeError(f"the saved history cannot be read: {' '.join(str(error).split())}") from None


def _read_table(table: Table, data: bytes) -> pd.DataFrame:
    """Return a saved table. Columns that its version of allocframe did not have are missing values."""
    saved = pq.read_table(pa.BufferReader(data))
    columns: dict[str, Any] = {}
    for column in table.columns:
        known = column.name in saved.column_names
        values = saved[column.name] if known else pa.chunked_array([[None] * len(saved)])
        columns[column.name] = values.cast(column.arrow)
    return table.frame(columns)
