"""The client of one cluster: its public methods and their documentation. The work is done by the modules it imports."""

from __future__ import annotations

import os
import signal as signals
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, Self

import pandas as pd

from .._utils.progress import Progress
from ..fetch.listing import ListFetcher
from ..fetch.reads import read_allocation, read_allocations
from ..nomad import protocol
from ..nomad.actions import StopResult
from ..nomad.config import Config
from ..nomad.connection import check_workers
from ..nomad.exec import ExecResult
from ..snapshot.allocation import Allocation
from ..snapshot.snapshot import Snapshot
from ..tables import evaluations_frame
from ..watch.change import Checkpoint
from ..watch.watch import Watch
from . import operations
from .logs import MOST_BYTES, Logs, read_logs
from .session import RETRIES, TIMEOUT, Session
from .usage import Usage, sample_usage


class Client:
    """A connection to one Nomad cluster.

    Every argument that is left out comes from the variable that the Nomad CLI reads.

    Parameters
    ----------
    address : str, optional
        ``http://host:port``, ``https://host:port/prefix`` or ``unix:///path`` (NOMAD_ADDR).
    token : str, optional
        ACL secret ID (NOMAD_TOKEN). It is sent in a header and shown nowhere.
    namespace, region : str, optional
        Defaults for requests (NOMAD_NAMESPACE, NOMAD_REGION).
    ca_cert, ca_path, client_cert, client_key, tls_server_name : str, optional
        TLS settings (NOMAD_CACERT, NOMAD_CAPATH, NOMAD_CLIENT_CERT, NOMAD_CLIENT_KEY, NOMAD_TLS_SERVER_NAME).
    verify : bool, optional
        Whether certificates are verified; true unless NOMAD_SKIP_VERIFY says otherwise.
    timeout : float
        Seconds that one request may take, its repeats included.
    retries : int
        How often a read is repeated where that can help.
    read_only : bool
        Allow calls that read, and no others.

    Raises
    ------
    ConfigError
        A setting cannot be used.

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
        per_page: int = 1000,
        workers: int = 4,
        progress: Progress = None,
        resume: str | os.PathLike[str] | None = None,
    ) -> Snapshot:
        """Fetch every allocation that the query selects: all of them, or an error.

        Parameters
        ----------
        namespace : str, optional
            ``"*"`` for every namespace that the token may read; else the client's, else ``default``.
        prefix : str, optional
            Start of the allocations' IDs: an even number of hexadecimal digits.
        filter : str, optional
            A filter expression of Nomad, such as ``'ClientStatus == "failed"'``.
        task_states : bool
            Fetch what became of the tasks; without it there are no events, and far less to download.
        resources : bool
            Fetch the resources too.
        stale : bool
            Let any server answer, not only the leader; works without a leader, and may lag behind.
        newest : int, optional
            Only the newest N allocations by creation.
        per_page : int
            Allocations asked for at a time.
        workers : int
            Pages fetched at the same time, at most 8.
        progress : bool or callable, optional
            Show a progress bar: always, never, or when it takes over a second. A callable gets the
            allocations so far and an estimate of all, or None.
        resume : path, optional
            A folder that keeps the pages until the snapshot is closed: where this call is interrupted, even by kill -9, the
            same call goes on from there, and a note in `info` says of which times the rows are. An error inside
            ``with`` leaves the folder, too.

        Raises
        ------
        ConfigError
            A parameter cannot be used; nothing was sent. Or `resume` holds a walk of another query, server or token.
        PermissionDenied, BadRequest, ApiError
            Nomad refused; no partial snapshot is made.
        ConnectionFailed, RequestTimeout, NotNomad, DecodeError
            No whole answer could be had.

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
        walk = ListFetcher(session.transport, query, session.config.address, resume=folder)
        return Snapshot(*walk.run(workers, progress))

    def allocation(self, alloc_id: str) -> Allocation:
        """Read one allocation in full.

        Parameters
        ----------
        alloc_id : str
            Its UUID, or a start of it that fits only one allocation.

        Raises
        ------
        NotFound
            There is none; or several fit, which the error lists.

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
        """Read allocations in full, side by side, as one snapshot.

        For the few that a scan without task states has shown to be worth it: ``snapshot(task_states=False)``, filter, read.
        Beside the tables of a list there is `placement`, for `Snapshot.sql`. Job specifications are left out.

        Parameters
        ----------
        alloc_ids : iterable of str
            Their UUIDs, or starts of them that fit only one allocation.
        workers : int
            Reads at the same time, at most 8.
        progress : bool or callable, optional
            As of `snapshot`.

        Returns
        -------
        Snapshot
            Of those that are there. ``info["complete"]`` is False where others are ``info["gone"]``, or ``info["failed"]`` with
            the reason.

        Raises
        ------
        ConfigError
            What is given is no ID; nothing was sent.
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

    def evaluations(self, *, namespace: str | None = None, filter: str | None = None) -> pd.DataFrame:  # noqa: A002
        """Fetch the evaluations: what triggered the scheduler, and what it could not place.

        Parameters
        ----------
        namespace : str, optional
            ``"*"`` for every namespace that the token may read; else the client's, else ``default``.
        filter : str, optional
            A filter expression of Nomad, such as ``'TriggeredBy == "node-drain"'``.

        Returns
        -------
        pandas.DataFrame
            The columns of ``frames.EVALUATIONS``; `stats.explain_stops` and `stats.placement_failures` read it.

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
        """Watch the allocations that the query selects: their present state, and each change of it.

        Parameters
        ----------
        namespace, prefix, filter : str, optional
            As in `snapshot`. A filter needs blocking queries: event streams know none. What ceases to match it is gone.
        stream : bool
            Subscribe to events where the token may; else ask by blocking queries.
        resync_interval : float
            Seconds after which everything is listed again, which alone tells that rows were removed.
        wait : float
            Seconds that a blocking query may wait.
        checkpoint : Checkpoint, optional
            Go on from there: what has not changed since is not told again.

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

    def logs(
        self,
        alloc_id: str,
        task: str,
        *,
        stream: Literal["stdout", "stderr", "both"] = "both",
        around: pd.Timestamp | datetime | str | None = None,
        lines: int = 50,
        max_bytes: int = MOST_BYTES,
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
        """Sample what tasks use, beside what they were given. Needs read-job.

        One that cannot be asked does not stop the others. Nodes measure about once a second, and remember the last measurement only: how
        far percentiles can be trusted depends on how long you sample.

        Parameters
        ----------
        allocations : Snapshot or iterable of str
            Those of a snapshot that run, or their UUIDs.
        samples : int
            How often each is asked.
        interval : float
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
        >>> found = client.usage(snap, samples=2, interval=0.1)
        >>> bool((found.samples["memory_mib"] < found.samples["memory_requested_mib"]).all())
        True
        """
        return sample_usage(self._session, allocations, samples=samples, interval=interval, workers=workers)

    def stop(self, alloc_id: str, *, no_shutdown_delay: bool = False) -> StopResult:
        """Stop one allocation; its job places a replacement elsewhere. Needs alloc-lifecycle.

        Stopping it again makes another evaluation. To end a job for good, stop the job.

        Parameters
        ----------
        alloc_id : str
            Its UUID, or a start of it that fits only one allocation.
        no_shutdown_delay : bool
            Do not wait for the group's and tasks' ``shutdown_delay``.

        Returns
        -------
        StopResult
            ``eval_id`` and ``index`` of the evaluation that will place the replacement.

        Raises
        ------
        NotFound, PermissionDenied
            Nothing was stopped.
        ResultUnknown
            The answer was lost; the message says how the allocation stands.

        Examples
        --------
        >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        ...     with af.Client(cluster.address, token=cluster.token) as client:
        ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
        ...         len(client.stop(running["alloc_id"][0]).eval_id)
        36
        """
        return operations.stop(self._session, alloc_id, no_shutdown_delay=no_shutdown_delay)

    def signal(self, alloc_id: str, signal: str | signals.Signals, *, task: str | None = None) -> None:
        """Send a signal to one task, or to every task. Needs alloc-lifecycle.

        Parameters
        ----------
        alloc_id : str
            Its UUID, or a start of it that fits only one allocation.
        signal : str or signal.Signals
            "SIGHUP", "HUP" or ``signal.SIGHUP``. Names that no driver knows are refused: servers would send SIGINT.
        task : str, optional
            Which task; else all of them, which fails where one of them does not run.

        Raises
        ------
        ConfigError
            There is no such signal; nothing was sent.
        Conflict
            A task does not run, or is not there. Others may have got the signal.
        ResultUnknown
            The answer was lost.

        Examples
        --------
        >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        ...     with af.Client(cluster.address, token=cluster.token) as client:
        ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
        ...         client.signal(running["alloc_id"][0], "SIGHUP")
        """
        operations.signal(self._session, alloc_id, signal, task=task)

    def restart(self, alloc_id: str, *, task: str | None = None, all_tasks: bool = False) -> None:
        """Restart one task, all running tasks, or all tasks, in place. Needs alloc-lifecycle.

        Parameters
        ----------
        alloc_id : str
            Its UUID, or a start of it that fits only one allocation.
        task : str, optional
            Which task; else all that run.
        all_tasks : bool
            Those that have ended, too (Nomad 1.3.4 and newer).

        Raises
        ------
        ConfigError
            Both `task` and `all_tasks` were given.
        Unsupported
            This server is too old for `all_tasks`; nothing was sent.
        Conflict
            A task does not run, or is not there. Others may have been restarted.
        ResultUnknown
            The answer was lost.

        Examples
        --------
        >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        ...     with af.Client(cluster.address, token=cluster.token) as client:
        ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
        ...         client.restart(running["alloc_id"][0])
        """
        operations.restart(self._session, alloc_id, task=task, all_tasks=all_tasks)

    def exec(
        self,
        alloc_id: str,
        command: Sequence[str],
        *,
        task: str | None = None,
        stdin: bytes | str | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Run a command inside a task, to its end. Needs alloc-exec.

        Its stdin is closed when `stdin` is through, at once without any: no server says before that a command has ended.

        Parameters
        ----------
        alloc_id : str
            Its UUID, or a start of it that fits only one allocation.
        command : list of str
            Program and arguments; no shell looks at them. Servers log them: put no secrets there.
        task : str, optional
            Which task; needed where there are several.
        stdin : bytes or str, optional
            What the command reads.
        timeout : float, optional
            Seconds to wait for its end. Giving up does not stop it.

        Returns
        -------
        ExecResult
            ``stdout``, ``stderr`` (bytes), ``exit_code``, and ``text``: stdout as text.

        Raises
        ------
        ExecError
            The command could not be started, or had not ended in time, or the session was lost; holds what came.
        PermissionDenied, NotFound, Conflict
            Nomad refused; nothing was run.

        Examples
        --------
        >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        ...     with af.Client(cluster.address, token=cluster.token) as client:
        ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
        ...         client.exec(running["alloc_id"][0], ["echo", "hello"]).text
        'hello\\n'
        """
        return operations.exec_command(
            self._session, alloc_id, command, task=task, stdin=stdin, timeout=timeout
        )

    def exec_many(
        self,
        alloc_ids: Iterable[str],
        command: Sequence[str],
        *,
        task: str | None = None,
        timeout: float | None = None,
        workers: int = 4,
    ) -> pd.DataFrame:
        """Run a command in many allocations, a few at a time; one that fails does not stop the others.

        Parameters
        ----------
        alloc_ids : iterable of str
        command, task, timeout
            See `exec`.
        workers : int
            Commands at the same time, at most 8.

        Returns
        -------
        pandas.DataFrame
            One row for each allocation in the order given: alloc_id, task, exit_code (missing where it failed), stdout, stderr (text),
            error (missing where it did not), duration (timedelta).

        Examples
        --------
        >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
        ...     with af.Client(cluster.address, token=cluster.token) as client:
        ...         running = client.snapshot(namespace="*", filter='ClientStatus == "running"').allocations
        ...         client.exec_many(running["alloc_id"][:3], ["uname"])["exit_code"].tolist()
        [0, 0, 0]
        """
        return operations.exec_many(
            self._session, alloc_ids, command, task=task, timeout=timeout, workers=workers
        )

    @property
    def counters(self) -> dict[str, int]:
        """Requests, repeats, bytes, pages, duplicates and loops since this client was made."""
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
