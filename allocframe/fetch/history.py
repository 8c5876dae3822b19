"""Fetch what changed in a cluster: versions of jobs, deployments, nodes and evaluations."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any
from urllib.parse import quote

import pandas as pd

from .._utils.prose import count
from .._utils.thread_pool import ThreadPool
from ..errors import AllocframeError, DecodeError
from ..nomad.transport import Response, Transport, parse_json, request_pool
from ..snapshot.history import History
from ..snapshot.snapshot import Snapshot
from ..store.sql import quote as quote_text

JSON = dict[str, Any]

_PLAIN_ID = re.compile(r"(?!.*//)(?!/)(?!(?:.*/)?\.\.?(?:/|$))[^\x00-\x1f\x7f]+", re.DOTALL)
"""Job IDs that a server finds by their path. It cleans others, and would look for another path."""

_LISTS = {
    "jobs": "/v1/jobs",
    "deployments": "/v1/deployments",
    "nodes": "/v1/nodes",
    "evaluations": "/v1/evaluations",
}


_MOST_NAMES = 5
"""Namespaces that a note names."""


class HistoryFetcher:
    """Fetches a history. What the token may not read is noted, and the rest comes.

    Parameters
    ----------
    transport : Transport
    namespace : str, optional
        One namespace, or ``*``; None for the default one.
    region : str, optional
    since : pandas.Timestamp, optional
        Leave out what changed before.
    values : bool
        Show values that may be secret.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        namespace: str | None,
        region: str | None,
        since: pd.Timestamp | None = None,
        values: bool = False,
    ) -> None:
        self._transport = transport
        self._region = {"region": region} if region else {}
        self._namespace = {"namespace": namespace} if namespace else {}
        self._since = since
        self._values = values
        self.notes: list[str] = []
        self._errors: list[AllocframeError] = []

    def run(self, workers: int, snapshot: Snapshot | None = None) -> History:
        """Fetch with `workers` parallel requests.

        The allocations of a snapshot of the same namespace tell what an operator restarted and stopped.

        Raises
        ------
        AllocframeError
            Nothing could be read: the first error.
        """
        with request_pool(self._transport, workers) as pool:
            lists = self.list_all(pool)
            jobs = list(self.read_versions(pool, lists["jobs"] or []))
            nodes = list(self.read_nodes(pool, lists["nodes"] or []))
        evaluations = lists["evaluations"] or []
        listed = self.listed_namespaces(lists["jobs"])
        self._note_hidden_jobs(listed, lists)
        allocations, events = (None, None) if snapshot is None else find_requests(snapshot, evaluations)
        history = History.from_json(
            jobs=jobs,
            deployments=lists["deployments"] or [],
            nodes=nodes,
            evaluations=evaluations,
            allocations=allocations,
            events=events,
            notes=self.notes,
            values=self._values,
            listed=listed,
        )
        return history if self._since is None else history.since(self._since)

    def run_for(self, snapshot: Snapshot, workers: int) -> History:
        """Fetch the history of a snapshot, which is worth keeping without: the notes say what went wrong."""
        try:
            return self.run(workers, snapshot)
        except AllocframeError:
            return History({}, self.notes)

    def list_all(self, pool: ThreadPool) -> dict[str, list[JSON] | None]:
        """Return the rows of each list, by its name; None if the token may not read it.

        Raises
        ------
        AllocframeError
            Nothing could be read: the first error.
        """
        lists = dict(zip(_LISTS, pool.map(self._list, _LISTS), strict=True))
        for name in ("deployments", "evaluations"):
            if lists[name] is None and self._namespace.get("namespace") == "*":
                lists[name] = self._list_each_namespace(pool, name)
        if all(rows is None for rows in lists.values()):
            raise self._errors[0]
        return lists

    def _list(self, name: str) -> list[JSON] | None:
        """Return the rows of a list, None if the token may not read it."""
        params = self._region if name == "nodes" else {**self._region, **self._namespace}
        try:
            rows: list[JSON] = self._transport.get(_LISTS[name], params, check=_parse_rows)
        except AllocframeError as error:
            self._errors.append(error)
            self.notes.append(f"{name} could not be read: {error}")
            return None
        return rows

    def _list_each_namespace(self, pool: ThreadPool, name: str) -> list[JSON] | None:
        """List every readable namespace by itself: Nomad 1.3 allows ``*`` to management tokens only."""
        try:
            namespaces = self._transport.get("/v1/namespaces", self._region, check=_parse_rows)
        except AllocframeError:
            return None

        def rows_of(namespace: JSON) -> list[JSON] | None:
            params = {**self._region, "namespace": str(namespace.get("Name"))}
            try:
                rows: list[JSON] = self._transport.get(_LISTS[name], params, check=_parse_rows)
                return rows
            except AllocframeError:
                return None

        lists = [rows for rows in pool.map(rows_of, namespaces) if rows is not None]
        if not lists:
            return None
        self.notes = [note for note in self.notes if not note.startswith(f"{name} could not")]
        missing = len(namespaces) - len(lists)
        if missing:
            self.notes.append(f"{name} of {count(missing, 'namespaces')} could not be read")
        return [row for rows in lists for row in rows]

    def listed_namespaces(self, jobs: list[JSON] | None) -> Collection[str]:
        """Return the namespaces whose jobs are all listed. With ``*``, those that may not be read are not."""
        if jobs is None:
            return ()
        namespace = self._namespace.get("namespace", "default")
        return {str(job.get("Namespace")) for job in jobs} if namespace == "*" else {namespace}

    def _note_hidden_jobs(self, listed: Collection[str], lists: dict[str, list[JSON] | None]) -> None:
        """Note namespaces of which no job was listed: without list-jobs, servers leave them out silently."""
        rows = [*(lists["deployments"] or []), *(lists["evaluations"] or [])]
        hidden = {str(row.get("Namespace")) for row in rows} - set(listed)
        if lists["jobs"] is not None and hidden:
            names = ", ".join(sorted(hidden)[:_MOST_NAMES])
            self.notes.append(
                f"no jobs were listed in {count(len(hidden), 'namespaces')} ({names}): they are gone, or the "
                "token lacks list-jobs"
            )

    def read_versions(self, pool: ThreadPool, jobs: Iterable[JSON]) -> Iterable[list[JSON]]:
        """Yield the known versions of each job.

        Runs of periodic and parameterized jobs have one version, and there may be very many: the list has
        what is of use. So it has of jobs that were submitted before `since`.
        """
        to_read: list[JSON] = []
        for job in jobs:
            if job.get("ParentID") or self._is_old(job):
                yield [{**job, "Version": 0 if job.get("ParentID") else None}]
            elif not _PLAIN_ID.fullmatch(str(job.get("ID"))):
                self.notes.append(
                    f"the versions of job {job.get('ID')!r} cannot be read, because of its name"
                )
                yield [job]
            else:
                to_read.append(job)
        read = self._read_all(pool, to_read, self.versions_of, "jobs")
        yield from (versions for versions in read if versions)

    def _is_old(self, job: JSON) -> bool:
        submitted = job.get("SubmitTime")
        # Nomad 1.3 does not note the time of a stop.
        return (
            self._since is not None
            and isinstance(submitted, int)
            and submitted < self._since.value
            and not job.get("Stop")
        )

    def versions_of(self, job: JSON) -> list[JSON]:
        """Return the versions of a job that Nomad keeps, as specifications."""
        params = {**self._region, "namespace": str(job.get("Namespace") or "default")}
        path = f"/v1/job/{quote(_id_of(job), safe='')}/versions"
        answer = self._transport.get(path, params, check=parse_json)
        versions = answer.get("Versions") if isinstance(answer, dict) else answer
        return [version for version in versions or [] if isinstance(version, dict)]

    def read_nodes(self, pool: ThreadPool, nodes: Iterable[JSON]) -> Iterable[JSON]:
        """Yield the nodes of the list with their events, which only a full read has."""
        known = list(nodes)
        full = self._read_all(pool, known, self._node, "nodes")
        for stub, node in zip(known, full, strict=True):
            yield {**stub, **(node or {}), "Version": stub.get("Version")}

    def _node(self, node: JSON) -> JSON:
        answer = self._transport.get(f"/v1/node/{_id_of(node)}", self._region, check=parse_json)
        return answer if isinstance(answer, dict) else {}

    def _read_all(
        self, pool: ThreadPool, items: Sequence[JSON], read: Callable[[JSON], Any], noun: str
    ) -> list[Any]:
        """Return what `read` gives for each item, None where it failed; note the failures."""
        errors: list[AllocframeError] = []

        def try_to_read(item: JSON) -> Any:
            try:
                return read(item)
            except AllocframeError as error:
                errors.append(error)
                return None

        answers = list(pool.map(try_to_read, items))
        if errors:
            self.notes.append(f"{count(len(errors), noun)} could not be read in full: {errors[0]}")
        return answers


def find_requests(snapshot: Snapshot, evaluations: Iterable[JSON]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the allocations that somebody may have restarted or stopped, and the events that tell.

    Of a large cluster these are few, and its tables need not be made.
    """
    stops = [str(row.get("ID")) for row in evaluations if row.get("TriggeredBy") == "alloc-stop"]
    ids = ", ".join(map(quote_text, stops)) or "NULL"
    events = snapshot.sql(
        "SELECT alloc_id, task, time, type, message, restart_reason FROM events "
        "WHERE type = 'Restart Signaled'"
    )
    allocations = snapshot.sql(
        "SELECT alloc_id, namespace, job_id, node_name, job_version, eval_id, previous_alloc_id, "
        f"next_alloc_id FROM allocations WHERE eval_id IN ({ids}) OR next_alloc_id IN "
        f"(SELECT alloc_id FROM allocations WHERE eval_id IN ({ids})) OR alloc_id IN "
        "(SELECT alloc_id FROM events WHERE type = 'Restart Signaled')"
    )
    return allocations, events


def _id_of(row: JSON) -> str:
    """Return the ID of a job or node in a list."""
    if not isinstance(identity := row.get("ID"), str):
        raise DecodeError("a row of the list has no ID")
    return identity


def _parse_rows(response: Response) -> list[JSON]:
    rows = parse_json(response)
    if not isinstance(rows, list | None):
        raise DecodeError("the answer is not a list")
    return [row for row in rows or [] if isinstance(row, dict)]
