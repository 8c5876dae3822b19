"""Several clusters, or regions of one, fetched at the same time."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

from .._utils.progress import Progress, shown
from .._utils.thread_pool import Task, ThreadPool
from .._utils.validate import check_count, check_name, check_seconds
from ..errors import AllocframeError, ConfigError
from ..nomad import protocol
from ..nomad.config_file import cluster_names, config_for_address, read_clusters
from ..nomad.transport import parse_json
from ..snapshot.multi_cluster import MultiSnapshot, combine_available
from ..snapshot.snapshot import Snapshot
from .client import Client
from .session import Session

MAX_CONNECTIONS_PER_ADDRESS = 64
"""All regions behind one address share it, and Nomad allows 100 connections from one client address."""

TIMEOUT = 900.0
"""Seconds that a cluster may take for a snapshot, unless the caller sets another limit."""


class Fleet:
    """Several Nomad clusters, or regions of one, fetched at the same time.

    Parameters
    ----------
    clusters : dict or list
        A `Client` or an address for each cluster, by name. In a list, clusters are named by their regions if
        these differ, else by their hosts. An address alone is used without a token, and no ``NOMAD_*``
        variable is read for it: the variables belong to one cluster, and the token would go to all of them.
        The clients belong to the fleet: its `close` closes them.
    timeout : float
        Seconds that one cluster may take for a snapshot. A slower one is reported, and the others are kept.

    Raises
    ------
    ConfigError
        There is no cluster, one is listed twice, or a name or address is invalid.

    Attributes
    ----------
    clients : dict
        The client of each cluster, by name.

    Examples
    --------
    >>> eu, us = af.sim.Cluster("calm", allocations=20), af.sim.Cluster("oom", allocations=20)
    >>> with eu, us:
    ...     names = {"eu": eu, "us": us}
    ...     clients = {name: af.Client(each.address, token=each.token) for name, each in names.items()}
    ...     with af.Fleet(clients) as fleet, fleet.snapshot(namespace="*") as snap:
    ...         snap.allocations["cluster"].unique().tolist()
    ['eu', 'us']
    """

    def __init__(
        self, clusters: Mapping[str, Client | str] | Iterable[Client | str], *, timeout: float = TIMEOUT
    ) -> None:
        self._timeout = check_seconds("timeout", timeout)
        if isinstance(clusters, str | Client):
            raise ConfigError("clusters must be a list or a dict of several. For one cluster, use Client")
        members = list(clusters.values() if isinstance(clusters, Mapping) else clusters)
        if not members:
            raise ConfigError("clusters must hold at least one cluster, got none")
        clients = [
            member
            if isinstance(member, Client)
            else Client._from_session(Session(config_for_address(member)))
            for member in members
        ]
        configs = [client._session.config for client in clients]
        names = list(clusters) if isinstance(clusters, Mapping) else cluster_names(configs)
        self.clients: dict[str, Client] = dict(zip(map(check_name, names), clients, strict=True))
        self._refuse_duplicates()

    def _refuse_duplicates(self) -> None:
        """Refuse two clients of the same cluster: every row would come twice."""
        names: dict[Any, str] = {}
        for name, client in self.clients.items():
            config = client._session.config
            target = (config.base_url, config.unix_socket, config.region, config.namespace)
            first = names.setdefault(target, name)
            if first != name:
                raise ConfigError(f"{first} and {name} are the same cluster: {config.address}")

    @classmethod
    def regions(cls, client: Client, *, timeout: float = TIMEOUT) -> Self:
        """Return a fleet of all federated regions of a cluster, its own included, named by region.

        All requests go to this client's address, whose servers forward them to the other regions. They carry
        this client's token, which must be a global one: any other is known in its own region only.

        Examples
        --------
        >>> af.Fleet.regions(client)
        Fleet(global)
        """
        session = client._session
        regions = [
            str(region) for region in session.transport.get(protocol.REGIONS, {}, check=parse_json) or []
        ]
        clients = {region: Client._from_session(session.clone(region=region)) for region in regions}
        return cls(clients, timeout=timeout)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, timeout: float = TIMEOUT) -> Self:
        """Return the fleet described in a TOML file: one table for each cluster.

        Parameters
        ----------
        path : path
            Each table has ``address`` and may have ``region``, ``namespace``, ``token_env`` (the variable
            that holds the token) or ``token_file``, ``ca_cert``, ``ca_path``, ``client_cert``,
            ``client_key``, ``tls_server_name``, ``verify``. Relative paths start at the folder of this file.
            No ``NOMAD_*`` variable is read unless the file names it.

        Raises
        ------
        ConfigError
            The file is invalid; the message names the cluster and the setting.

        Examples
        --------
        >>> from pathlib import Path
        >>> _ = Path("clusters.toml").write_text('[eu]\\naddress = "https://nomad.eu.example:4646"')
        >>> af.Fleet.from_file("clusters.toml")
        Fleet(eu)
        """
        configs = read_clusters(path)
        clients = {name: Client._from_session(Session(config)) for name, config in configs.items()}
        return cls(clients, timeout=timeout)

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
    ) -> MultiSnapshot:
        """Fetch every cluster at the same time. The arguments apply to each cluster, as in `Client.snapshot`.

        The folder to `resume` from has a subfolder for each cluster. Each cluster has its own history:
        ``snap.clusters[name].history``.

        Returns
        -------
        MultiSnapshot
            A `Snapshot` whose tables have a column `cluster`. If a cluster could not be fetched, its error is
            in ``info["clusters"]`` and in the repr, and ``info["complete"]`` is False.

        Raises
        ------
        ConfigError
            A parameter is invalid.
        AllocframeError
            No cluster could be fetched; the message gives each reason.

        Examples
        --------
        >>> with af.Fleet({"here": client, "gone": "http://127.0.0.1:9"}) as fleet:
        ...     snap = fleet.snapshot(namespace="*")
        >>> snap.info["complete"], snap.info["clusters"]["gone"]["error"][:16]
        (False, 'ConnectionFailed')
        """
        options = {
            "namespace": namespace,
            "prefix": prefix,
            "filter": filter,
            "task_states": task_states,
            "resources": resources,
            "stale": stale,
            "newest": newest,
            "per_page": per_page,
            "history": history,
        }
        folders = {name: None if resume is None else Path(resume) / name for name in self.clients}
        snapshots, failures = _FleetFetch(self.clients, self._timeout, folders).run(
            options, workers, progress
        )
        if not snapshots:
            reasons = "; ".join(f"{name}: {failure['error']}" for name, failure in failures.items())
            raise AllocframeError(f"no cluster could be fetched: {reasons}")
        return combine_available(snapshots, failures)

    def close(self) -> None:
        """Close the clients."""
        for client in self.clients.values():
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Fleet({', '.join(self.clients)})"


class _FleetFetch:
    """Fetches one snapshot of every cluster, each in a thread of its own."""

    def __init__(
        self, clients: Mapping[str, Client], timeout: float, folders: Mapping[str, Path | None]
    ) -> None:
        self._clients = clients
        self._folders = folders
        self._timeout = timeout
        self._snapshots: dict[str, Snapshot] = {}
        self._failures: dict[str, dict[str, str]] = {}
        self._aborted: set[str] = set()
        self._progress: dict[str, tuple[int, int | None]] = dict.fromkeys(clients, (0, None))

    def run(
        self, options: Mapping[str, Any], workers: int, progress: Progress
    ) -> tuple[dict[str, Snapshot], dict[str, dict[str, str]]]:
        """Return the snapshots, and for each cluster without one its server and the error."""
        try:
            self._fetch_all(options, check_count("workers", workers), progress)
        finally:
            for name in self._aborted:
                self._clients[name]._session.transport.recover()
        # In the order of the clients, not in that of the failures.
        return self._snapshots, {
            name: self._failures[name] for name in self._clients if name in self._failures
        }

    def _fetch_all(self, options: Mapping[str, Any], workers: int, progress: Progress) -> None:
        clusters_at = Counter(client._session.config.base_url for client in self._clients.values())
        deadline = time.monotonic() + self._timeout
        running: dict[Task[Snapshot], str] = {}
        with shown(progress) as show, ThreadPool(len(self._clients)) as pool:
            try:
                for name, client in self._clients.items():
                    # Regions behind one address share its connections.
                    share = MAX_CONNECTIONS_PER_ADDRESS // clusters_at[client._session.config.base_url]
                    fetch = partial(
                        client.snapshot,
                        **options,
                        workers=min(workers, max(share, 1)),
                        progress=self._counter(name),
                        resume=self._folders[name],
                    )
                    running[pool.submit(fetch)] = name
                while running:
                    pool.wait()
                    for task in [task for task in running if task.is_done]:
                        self._collect(running.pop(task), task)
                    show(*self._total_progress())
                    if time.monotonic() > deadline:
                        self._abort(running.values())
            except BaseException:
                self._abort(running.values())
                pool.close()
                # A snapshot that was finished before the abort reached it would never be closed.
                _close_results(running)
                for snapshot in self._snapshots.values():
                    snapshot.close()
                raise

    def _counter(self, name: str) -> Progress:
        """Return the progress callback of one cluster."""

        def count(done: int, estimate: int | None) -> None:
            self._progress[name] = done, estimate

        return count

    def _total_progress(self) -> tuple[int, int | None, str]:
        """Return the number of allocations so far, an estimate of the total, and a label with the clusters
        done.
        """
        progress = dict(self._progress)
        finished = self._snapshots.keys() | self._failures.keys()
        estimates = [done if name in finished else estimate for name, (done, estimate) in progress.items()]
        # A total that leaves out a cluster would be too low.
        total = None if None in estimates else sum(filter(None, estimates))
        label = f"allocations ({len(finished)} of {len(progress)} clusters)"
        return sum(done for done, _ in progress.values()), total, label

    def _collect(self, name: str, task: Task[Snapshot]) -> None:
        """Keep a cluster's snapshot, or the reason why there is none."""
        try:
            self._snapshots[name] = task.result()
        except ConfigError:
            raise
        except AllocframeError as error:
            reason = f"{type(error).__name__}: {error}"
            if name in self._aborted:
                reason = f"not complete after {self._timeout:g} s (timeout=)"
            self._failures[name] = {"server": self._clients[name]._session.config.address, "error": reason}

    def _abort(self, names: Iterable[str]) -> None:
        for name in names:
            self._aborted.add(name)
            self._clients[name]._session.transport.abort()


def _close_results(tasks: Iterable[Task[Snapshot]]) -> None:
    for task in tasks:
        if task.is_done:
            with contextlib.suppress(Exception):
                task.result().close()
