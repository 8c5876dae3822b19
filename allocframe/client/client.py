"""The client of one cluster: its public methods and their documentation.

Most methods pass their arguments on to functions that work on the client's `Session`: in `actions`, `logs`
and `usage`. The methods that read (`snapshot`, `allocations`, `evaluations`, `watch`) check and build the
query here.
A new method also needs one declaration in `async_client`.
"""

from __future__ import annotations

import os
import signal as signals
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, Self

import pandas as pd

from .._utils.progress import Progress
from .._utils.times import to_utc
from ..fetch.history import HistoryFetcher
from ..fetch.listing import ListFetcher
from ..fetch.reads import read_allocation, read_allocations
from ..nomad import protocol
from ..nomad.actions import StopResult
from ..nomad.config import Config
from ..nomad.connection import check_workers
from ..nomad.exec import ExecResult
from ..snapshot.allocation import Allocation
from ..snapshot.history import History
from ..snapshot.snapshot import Snapshot
from ..tables import evaluations_frame
from ..watch.change import Checkpoint
from ..watch.history_watch import HistoryWatch
from ..watch.row_filter import RowFilter
from ..watch.watch import Watch
from . import actions
from .logs import DEFAULT_MAX_BYTES, Logs, read_logs
from .session import RETRIES, TIMEOUT, Session
from .usage import Usage, sample_usage


class Client:
    """A connection to one Nomad cluster.

    Arguments default to the environment variables of the Nomad CLI.

    Parameters
    ----------
    address : str, optional
        ``http://host:port``, ``https://host:port/prefix`` or ``unix:///path`` (NOMAD_ADDR).
    token : str, optional
        ACL secret ID (NOMAD_TOKEN). It is sent in a header and never shown.
    namespace, region : str, optional
        Defaults for requests (NOMAD_NAMESPACE, NOMAD_REGION).
    ca_cert, ca_path, client_cert, client_key, tls_server_name : str, optional
        TLS settings (NOMAD_CACERT, NOMAD_CAPATH, NOMAD_CLIENT_CERT, NOMAD_CLIENT_KEY,
        NOMAD_TLS_SERVER_NAME).
    verify : bool, optional
        Verify certificates; True unless NOMAD_SKIP_VERIFY is set.
    timeout : float
        Seconds that one request may take, its retries included.
    retries : int
        How often a failed read is repeated.
    read_only : bool
        Refuse every call that changes something.

    Raises
    ------
    ConfigError
        A setting is invalid.

    Examples
    --------
    >>> import allocframe as af
    >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
    ...     with af.Client(cluster.address, token=cluster.token) as client:
    ...         client.snapshot(namespace="*").info["complete"]
    True
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        token: str | None = None,
        namespace: str | None = None,
        region: str | None = None,
        ca_cert: str | None = None,
        ca_path: str | None = None,
        client_cert: str | None = None,
        client_key: str | None = None,
        tls_server_name: str | None = None,
        verify: bool | None = None,
        timeout: float = TIMEOUT,
        retries: int = RETRIES,
        read_only: bool = False,
    ) -> None:
        config = Config.load(
            address,
            token=token,
            namespace=namespace,
            region=region,
            ca_cert=ca_cert,
            ca_path=ca_path,
            client_cert=client_cert,
            client_key=client_key,
            tls_server_name=tls_server_name,
            verify=verify,
        )
        self._session = Session(config, timeout=timeout, retries=retries, read_only=read_only)

    @classmethod
    def _from_session(cls, session: Session) -> Self:
        """Return the client of a session, without reading any ``NOMAD_*`` variable."""
        client = cls.__new__(cls)
        client._session = session
        return client

    @property
    def read_only(self) -> bool:
        """Whether calls that change something are refused."""
        return self._session.read_only

    def snapshot(
        self,
        *,
        namespace: str | None = None,
        prefix: str | None = None,
        filter: str | None = None,  # noqa: A002 - Nomad's name for it
        task_states: bool = True,
        resources: bool = False,
        stale: bool = False,
        newest: int | None = None,
        per_page: int | None = None,
        workers: int = 4,
        progress: Progress = None,
        resume: str | os.PathLike[str] | None = None,
        history: bool = False,
    ) -> Snapshot:
        """Fetch all allocations that the query selects. The result is complete, or an error is raised.

        Parameters
        ----------
        namespace : str, optional
            ``"*"`` for every namespace that the token may read. Defaults to the client's, else ``default``.
        prefix : str, optional
            Prefix of the allocations' IDs: an even number of hexadecimal digits.
        filter : str, optional
            A filter expression of Nomad, such as ``'ClientStatus == "failed"'``.
        task_states : bool
            Fetch task states and events. Without them there is far less to download.
        resources : bool
            Fetch resources as well.
        stale : bool
            Let any server answer, not only the leader. This works without a leader, and may lag behind.
        newest : int, optional
            Only the newest N allocations by creation. With a `prefix`, all of it is fetched to find them.
        per_page : int, optional
            Allocations per request, at most. The default is 1,000 for the first request, and after it as many
            as make 16 MB.
        workers : int
            Pages fetched at the same time, at most 8.
        progress : bool or callable, optional
            Show a progress bar: always, never, or (the default) after a second, on a terminal or in a
            notebook. A callable gets the number of allocations so far and an estimate of the total, or None.
        resume : path, optional
            A folder that keeps the pages until the snapshot is closed. If this call is interrupted, even by
            kill -9 or by an error inside ``with``, the same call continues from there. A note in `info` then
            lists the times of the rows.
        history : bool
            Fetch what changed in the namespace, too, as `Snapshot.history`. What the token may not read is
            noted there.

        Raises
        ------
        ConfigError
            A parameter is invalid, and nothing was sent; or `resume` holds another query, server or token.
        PermissionDenied, BadRequest, ApiError
            Nomad refused; there is no partial snapshot.
        ConnectionFailed, RequestTimeout, NotNomad, DecodeError
            A page could not be fetched whole.

        Examples
        --------
        >>> snap = client.snapshot(namespace="*", filter='ClientStatus == "failed"')
        >>> snap.allocations["client_status"].unique().tolist()
        ['failed']
        """
        check_workers(workers)
        query = self._session.query(
            namespace=namespace,
            prefix=prefix,
            filter=filter,
            task_states=task_states,
            resources=resources,
            stale=stale,
            newest=newest,
            per_page=per_page,
        )
        session, folder = self._session, None if resume is None else Path(resume)
        fetcher = ListFetcher(session.transport, query, session.config.address, resume=folder)
        capture, store = fetcher.run(workers, progress)
        snapshot = Snapshot(capture, store)
        if not len(snapshot) and (reason := session.explain_nothing(query.namespace or "default")):
            capture.describe(notes=[*capture.info["notes"], reason])
        if history:
            try:
                snapshot.history = self._history_fetcher(namespace).run_for(snapshot, workers)
            except BaseException:
                snapshot.close()
                raise
        return snapshot

    def history(
        self,
        *,
        namespace: str | None = None,
        since: pd.Timestamp | datetime | str | None = None,
        values: bool = False,
        workers: int = 4,
    ) -> History:
        """Fetch what changed: versions of jobs, deployments, nodes, evaluations, and a ledger of all changes.

        Nomad keeps six versions of a job and ten events of a node, and removes deployments and evaluations
        about an hour after they end. One request is sent for each job and each node. What the token may not
        read is listed in ``notes``, and the rest is there.

        Parameters
        ----------
        namespace : str, optional
            ``"*"`` for every namespace that the token may read. Defaults to the client's, else ``default``.
        since : time, optional
            Leave out what changed before; UTC unless it has an offset.
        values : bool
            Show values of environment variables, templates and other fields that may be secret, instead of
            salted hashes.
        workers : int
            Requests at the same time, at most 8.

        Raises
        ------
        ConfigError
            A parameter is invalid; nothing was sent.
        PermissionDenied, ApiError
            The token may read nothing of all this.

        Examples
        --------
        >>> history = client.history(namespace="*")
        >>> history.changes["kind"].isin(["job version", "deployment"]).any()
        np.True_
        """
        check_workers(workers)
        start = None if since is None else to_utc(since, "since")
        return self._history_fetcher(namespace, start, values=values).run(workers)

    def _history_fetcher(
        self, namespace: str | None, since: pd.Timestamp | None = None, *, values: bool = False
    ) -> HistoryFetcher:
        query = self._session.query(namespace=namespace)  # checks it
        return HistoryFetcher(
            self._session.transport,
            namespace=query.namespace,
            region=query.region,
            since=since,
            values=values,
        )

    def allocation(self, alloc_id: str) -> Allocation:
        """Read one allocation in full.

        Parameters
        ----------
        alloc_id : str
            UUID, or an unambiguous prefix of one.

        Raises
        ------
        NotFound
            No allocation has this ID or prefix, or several do; the message lists them.

        Examples
        --------
        >>> one = client.allocation(snap.allocations["alloc_id"][0])
        >>> one.placement[["node_id", "norm_score"]].shape
        (1, 2)
        """
        session = self._session
        return read_allocation(session.transport, session.config.region, session.resolve_id(alloc_id))

    def allocations(
        self, alloc_ids: Iterable[str], *, workers: int = 4, progress: Progress = None
    ) -> Snapshot:
        """Read allocations in full, several at a time, as one snapshot.

        Use it for the few that a cheap scan has shown to matter: ``snapshot(task_states=False)``, filter,
        then this. Besides the tables of a list there is `placement`, for `Snapshot.sql`. Job specifications
        are left out.

        Parameters
        ----------
        alloc_ids : iterable of str
            UUIDs, or unambiguous prefixes of them.
        workers : int
            Reads at the same time, at most 8.
        progress : bool or callable, optional
            As in `snapshot`.

        Returns
        -------
        Snapshot
            The allocations that were read. If some are missing, ``info["complete"]`` is False, and they are
            listed in ``info["gone"]``, or in ``info["failed"]`` with the reason.

        Raises
        ------
        ConfigError
            One of the texts is not an allocation ID; nothing was sent.
        AllocframeError
            None could be read, and not because they are gone.

        Examples
        --------
        >>> scan = client.snapshot(namespace="*", task_states=False)
        >>> failed = scan.filter(client_status="failed").allocations["alloc_id"]
        >>> details = client.allocations(failed)
        >>> len(details) == len(failed), len(details.events) > 0
        (True, True)
        """
        check_workers(workers)
        texts = list(dict.fromkeys([alloc_ids] if isinstance(alloc_ids, str) else alloc_ids))
        for text in texts:
            protocol.check_alloc_id(text)  # all of them before the first request
        session = self._session
        ids = list(dict.fromkeys(map(session.resolve_id, texts)))
        return read_allocations(session.transport, session.config, ids, workers=workers, progress=progress)

    def evaluations(
        self,
        *,
        namespace: str | None = None,
        filter: str | None = None,  # noqa: A002 - Nomad's name for it
    ) -> pd.DataFrame:
        """Fetch evaluations: what triggered the scheduler, and what it could not place.

        Parameters
        ----------
        namespace : str, optional
            ``"*"`` for every namespace that the token may read. Defaults to the client's, else ``default``.
        filter : str, optional
            A filter expression of Nomad, such as ``'TriggeredBy == "node-drain"'``.

        Returns
        -------
        pandas.DataFrame
            The columns of ``tables.EVALUATIONS``. `stats.explain_stops` and `stats.placement_failures` use
            it.

        Raises
        ------
        PermissionDenied, BadRequest, ApiError
            Nomad refused.

        Examples
        --------
        >>> client.evaluations(namespace="*")["triggered_by"].isna().any()
        np.False_
        """
        params = self._session.query(namespace=namespace, filter=filter).params(paged=False)
        params = {name: params[name] for name in ("namespace", "region", "filter") if name in params}
        return evaluations_frame(self._session.get_rows("/v1/evaluations", params))

    def watch(
        self,
        *,
        namespace: str | None = None,
        prefix: str | None = None,
        filter: str | None = None,  # noqa: A002 - Nomad's name for it
        stream: bool = True,
        resync_interval: float = 300.0,
        wait: float = 60.0,
        checkpoint: Checkpoint | None = None,
    ) -> Watch:
        """Watch the allocations that the query selects: their current state, and each change to it.

        Parameters
        ----------
        namespace, prefix, filter : str, optional
            As in `snapshot`. A filter needs blocking queries, because event streams take none. An allocation
            that no longer matches it is gone.
        stream : bool
            Subscribe to events if the token may; else use blocking queries.
        resync_interval : float
            Seconds after which everything is listed again. Only this shows that rows were removed.
        wait : float
            Seconds that a blocking query may wait.
        checkpoint : Checkpoint, optional
            Resume from there: only what has changed since then is reported.

        Raises
        ------
        ConfigError
            A parameter cannot be used.

        Examples
        --------
        >>> with client.watch(namespace="*") as watch:
        ...     change = next(watch)
        ...     len(watch.snapshot) == len(change.added)
        True
        """
        session = self._session
        query = session.query(namespace=namespace, prefix=prefix, filter=filter)
        return Watch(
            session.transport.clone(),
            session.config,
            query,
            stream=stream and filter is None,  # event streams take no filter
            resync_interval=resync_interval,
            wait=wait,
            checkpoint=checkpoint,
        )

    def _watch_history(
        self, *, namespace: str, known: RowFilter, known_at: pd.Timestamp | None, stream: bool
    ) -> HistoryWatch:
        """Follow what changes besides the allocations, for a recorder."""
        session = self._session
        return HistoryWatch(
            session.transport.clone(),
            session.config,
            namespace=namespace,
            known=known,
            known_at=known_at,
            stream=stream,
        )

    def logs(
        self,
        alloc_id: str,
        task: str,
        *,
        stream: Literal["stdout", "stderr", "both"] = "both",
        around: pd.Timestamp | datetime | str | None = None,
        lines: int = 50,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> Logs:
        """Read lines of a task's logs: the last, or those around a time. Needs read-logs, or read-fs.

        Nomad keeps no times of lines. `around` works only if lines begin with one (RFC 3339, syslog, klog,
        access logs, Unix time, a field ``time``, ``ts`` or ``timestamp``); `Logs.notes` says which were
        found. Nodes keep only the last few files of a log, and remove them with the allocation.

        Parameters
        ----------
        alloc_id : str
            UUID, or an unambiguous prefix of one.
        task : str
            Name of the task.
        stream : str
            "stdout", "stderr" or "both".
        around : time, optional
            Show the lines around it; UTC unless it has an offset. Defaults to the last lines.
        lines : int
            Number of lines of each stream.
        max_bytes : int
            Bytes to read at most, back from the end of each stream; 64 MiB or less.

        Raises
        ------
        ConfigError
            A parameter is invalid; nothing was sent.
        Conflict
            The task has not started.
        NotFound, NodeUnreachable
            The allocation is gone, or the servers cannot reach its node.
        PermissionDenied, BadRequest
            Nomad refused: the token lacks the capability, or there is no such task.
        ResponseTooLarge
            The node sent far more than was asked for.

        Examples
        --------
        >>> events = snap.events
        >>> failed = events[(events["type"] == "Terminated") & (events["exit_code"] > 0)].iloc[-1]
        >>> logs = client.logs(failed["alloc_id"], failed["task"], around=failed["time"], lines=3)
        >>> logs.frame.columns.tolist()
        ['stream', 'file', 'offset', 'time', 'line']
        """
        return read_logs(
            self._session, alloc_id, task, stream=stream, around=around, lines=lines, max_bytes=max_bytes
        )

    def usage(
        self,
        allocations: Snapshot | Iterable[str],
        *,
        samples: int = 1,
        interval: float = 10.0,
        workers: int = 4,
    ) -> Usage:
        """Sample the CPU and memory that tasks use, next to what they requested. Needs read-job.

        An allocation that fails does not stop the others. Nodes measure about once a second and keep only the
        last measurement, so percentiles are only as good as the time you sample.

        Parameters
        ----------
        allocations : Snapshot or iterable of str
            The running allocations of a snapshot, or UUIDs.
        samples : int
            Samples of each allocation.
        interval : float
            Seconds from the start of one round to the next. If a round takes longer, the next follows at
            once.
        workers : int
            Requests at the same time, at most 8.

        Returns
        -------
        Usage
            ``samples`` and ``errors``; `stats.headroom` turns samples into percentiles.

        Raises
        ------
        ConfigError
            A parameter is invalid; nothing was sent.

        Examples
        --------
        >>> usage = client.usage(snap, samples=2, interval=0.1)
        >>> bool((usage.samples["memory_mib"] < usage.samples["memory_requested_mib"]).all())
        True
        """
        return sample_usage(self._session, allocations, samples=samples, interval=interval, workers=workers)

    def stop(self, alloc_id: str, *, no_shutdown_delay: bool = False, reschedule: bool = False) -> StopResult:
        """Stop one allocation; its job places a replacement. Needs alloc-lifecycle.

        To end a job for good, stop the job.

        Parameters
        ----------
        alloc_id : str
            UUID, or an unambiguous prefix of one.
        no_shutdown_delay : bool
            Skip the ``shutdown_delay`` of the group and its tasks.
        reschedule : bool
            Replace an allocation of a batch job even if its program exits with 0 when it is stopped, as
            ``nomad alloc stop`` does. Needs Nomad 1.11.

        Returns
        -------
        StopResult
            ``eval_id`` and ``index`` of the evaluation that places the replacement.

        Raises
        ------
        NotFound, PermissionDenied
            Nothing was stopped.
        Conflict
            The allocation has already ended; nothing was sent.
        Unsupported
            The server would ignore `reschedule`; nothing was sent.
        ResultUnknown
            The answer was lost; the message gives the current state of the allocation.

        Examples
        --------
        >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        ...     with af.Client(cluster.address, token=cluster.token) as client:
        ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
        ...         len(client.stop(running["alloc_id"][0]).eval_id)
        36
        """
        return actions.stop(
            self._session, alloc_id, no_shutdown_delay=no_shutdown_delay, reschedule=reschedule
        )

    def signal(self, alloc_id: str, signal: str | signals.Signals, *, task: str | None = None) -> None:
        """Send a signal to one task, or to every task. Needs alloc-lifecycle.

        Parameters
        ----------
        alloc_id : str
            UUID, or an unambiguous prefix of one.
        signal : str or signal.Signals
            "SIGHUP", "HUP" or ``signal.SIGHUP``. Unknown names are refused: for these, servers would send
            SIGINT.
        task : str, optional
            Name of the task. Defaults to all tasks, which fails if one of them is not running.

        Raises
        ------
        ConfigError
            There is no such signal; nothing was sent.
        Conflict
            A task is not running or does not exist. Other tasks may have got the signal.
        ResultUnknown
            The answer was lost.

        Examples
        --------
        >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        ...     with af.Client(cluster.address, token=cluster.token) as client:
        ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
        ...         client.signal(running["alloc_id"][0], "SIGHUP")
        """
        actions.signal(self._session, alloc_id, signal, task=task)

    def restart(self, alloc_id: str, *, task: str | None = None, all_tasks: bool = False) -> None:
        """Restart one task, all running tasks, or all tasks, in place. Needs alloc-lifecycle.

        Parameters
        ----------
        alloc_id : str
            UUID, or an unambiguous prefix of one.
        task : str, optional
            Name of the task. Defaults to all running tasks.
        all_tasks : bool
            Also restart tasks that have ended (Nomad 1.3.4 or newer).

        Raises
        ------
        ConfigError
            Both `task` and `all_tasks` were given.
        Unsupported
            This server is too old for `all_tasks`; nothing was sent.
        Conflict
            A task is not running or does not exist. Other tasks may have been restarted.
        ResultUnknown
            The answer was lost.

        Examples
        --------
        >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        ...     with af.Client(cluster.address, token=cluster.token) as client:
        ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
        ...         client.restart(running["alloc_id"][0])
        """
        actions.restart(self._session, alloc_id, task=task, all_tasks=all_tasks)

    def exec(
        self,
        alloc_id: str,
        command: Sequence[str],
        *,
        task: str | None = None,
        stdin: bytes | str | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Run a command inside a task and wait for its end. Needs alloc-exec.

        Its stdin is closed after `stdin`, or at once: no server reports the end of a command before that.

        Parameters
        ----------
        alloc_id : str
            UUID, or an unambiguous prefix of one.
        command : list of str
            Program and arguments, run without a shell. Servers log them: do not put secrets there.
        task : str, optional
            Name of the task; required if there are several.
        stdin : bytes or str, optional
            Input of the command. Output may have up to 256 MiB.
        timeout : float, optional
            Seconds to wait. A timeout does not stop the command.

        Returns
        -------
        ExecResult
            ``stdout``, ``stderr`` (bytes), ``exit_code``, and ``text``: stdout as text.

        Raises
        ------
        ExecError
            The command could not be started or did not end in time, or the session was lost. It holds the
            output so far.
        PermissionDenied, NotFound, Conflict
            Nomad refused; nothing ran.

        Examples
        --------
        >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        ...     with af.Client(cluster.address, token=cluster.token) as client:
        ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
        ...         client.exec(running["alloc_id"][0], ["echo", "hello"]).text
        'hello\\n'
        """
        return actions.exec_command(self._session, alloc_id, command, task=task, stdin=stdin, timeout=timeout)

    def exec_many(
        self,
        alloc_ids: Iterable[str],
        command: Sequence[str],
        *,
        task: str | None = None,
        timeout: float | None = None,
        workers: int = 4,
    ) -> pd.DataFrame:
        """Run a command in many allocations, a few at a time. A failure does not stop the others.

        Parameters
        ----------
        alloc_ids : iterable of str
            UUIDs, or unambiguous prefixes of them.
        command, task, timeout
            As in `exec`.
        workers : int
            Commands at the same time, at most 8.

        Returns
        -------
        pandas.DataFrame
            One row per allocation, in the order given: alloc_id, task, exit_code (NA if it failed), stdout,
            stderr (text), error (NA unless it failed), duration (timedelta).

        Examples
        --------
        >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        ...     with af.Client(cluster.address, token=cluster.token) as client:
        ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
        ...         client.exec_many(running["alloc_id"][:3], ["uname"])["exit_code"].tolist()
        [0, 0, 0]
        """
        return actions.exec_many(
            self._session, alloc_ids, command, task=task, timeout=timeout, workers=workers
        )

    @property
    def counters(self) -> dict[str, int]:
        """Requests, retries, bytes, pages, duplicates and loops since the client was created."""
        return self._session.transport.counters()

    def close(self) -> None:
        """Close every connection."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        mode = ", read_only=True" if self.read_only else ""
        return f"Client({self._session.config.address!r}{mode})"
