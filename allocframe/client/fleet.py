"""Several clusters, or regions of one, asked side by side."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Self

from .._utils.progress import Progress, shown
from .._utils.validate import check_count, check_name
from ..errors import AllocframeError, ConfigError
from ..nomad import protocol
from ..nomad.config_file import cluster_names, config_for_address, read_clusters
from ..nomad.transport import parse_json
from ..snapshot.multi_cluster import MultiSnapshot, joined
from ..snapshot.snapshot import Snapshot
from .client import Client

CONNECTIONS = 64
"""Connections to one address at most, whose regions may be many: Nomad allows 100 from here."""

_TURN = 0.2


class Fleet:
    """Several Nomad clusters, or regions of one, asked side by side.

    Parameters
    ----------
    clusters : dict or list
        Each a `Client` or an address; by its name, or in a list, where regions, else hosts, become names. An address alone is
        asked without a token, and no ``NOMAD_*`` variable is read for it: these are of one cluster, and the token would go to all.
        The clients belong to the fleet, whose `close` closes them.
    within : float
        Seconds that a cluster may take for a snapshot; one that takes longer is reported, and the others come.

    Raises
    ------
    ConfigError
        There is no cluster, one is given twice, or a name or address cannot be used.

    Attributes
    ----------
    clients : dict
        The client of each cluster, by its name.

    Examples
    --------
    >>> with af.sim.Cluster("calm", allocations=20, seed=1) as eu, af.sim.Cluster("oom", allocations=20, seed=2) as us:
    ...     clients = {"eu": af.Client(eu.address, token=eu.token), "us": af.Client(us.address, token=us.token)}
    ...     with af.Fleet(clients) as fleet, fleet.snapshot(namespace="*") as snap:
    ...         snap.allocations["cluster"].unique().tolist()
    ['eu', 'us']
    """

    def __init__(
        self, clusters: Mapping[str, Client | str] | Iterable[Client | str], *, within: float = 900.0
    ) -> None:
        if isinstance(within, bool) or not isinstance(within, int | float) or not 0 < within < math.inf:
            raise ConfigError(f"within must be a number of seconds above 0, not {within!r}")
        if isinstance(clusters, str | Client):
            raise ConfigError("give several clusters, as a list or by their names; for one, Client is enough")
        given = list(clusters.values() if isinstance(clusters, Mapping) else clusters)
        if not given:
            raise ConfigError("give at least one cluster")
        made = [one if isinstance(one, Client) else Client._of(config_for_address(one)) for one in given]
        names = (
            list(clusters) if isinstance(clusters, Mapping) else cluster_names([one._config for one in made])
        )
        self.clients: dict[str, Client] = dict(zip(map(check_name, names), made, strict=True))
        self._within = float(within)
        self._refuse_twice()

    def _refuse_twice(self) -> None:
        known: dict[Any, str] = {}
        for name, client in self.clients.items():
            config = client._config
            other = known.setdefault(
                (config.base_url, config.unix_socket, config.region, config.namespace), name
            )
            if other != name:
                raise ConfigError(f"{other} and {name} are the same cluster: {config.address}")

    @classmethod
    def regions(cls, client: Client, *, within: float = 900.0) -> Self:
        """Return the regions that a cluster is federated with, its own among them, each by its name.

        All are asked through this client's address, whose servers forward to the others, with its token: one that is not global
        is known in its own region only.

        Examples
        --------
        >>> af.Fleet.regions(client)
        Fleet(global)
        """
        names = client._transport.get(protocol.REGIONS, {}, check=parse_json)
        return cls({str(name): client._another(region=str(name)) for name in names or []}, within=within)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, within: float = 900.0) -> Self:
        """Return the clusters that a TOML file names: a table for each, with its address and how it is reached.

        Parameters
        ----------
        path : path
            Each table has ``address``, and where needed ``region``, ``namespace``, ``token_env`` (the variable that holds the token)
            or ``token_file``, ``ca_cert``, ``ca_path``, ``client_cert``, ``client_key``, ``tls_server_name``, ``verify``. Files are
            sought from the folder of this one. No ``NOMAD_*`` variable is read but those that it names.

        Raises
        ------
        ConfigError
            The file cannot be used; says what is wrong in which cluster.

        Examples
        --------
        >>> from pathlib import Path
        >>> _ = Path("clusters.toml").write_text('[eu]\\naddress = "https://nomad.eu.example:4646"')
        >>> af.Fleet.from_file("clusters.toml")
        Fleet(eu)
        """
        found = read_clusters(path)
        return cls({name: Client._of(config) for name, config in found.items()}, within=within)

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
    ) -> MultiSnapshot:
        """Fetch every cluster at the same time; arguments as of `Client.snapshot`, for each cluster.

        The folder to `resume` from has one for each cluster, under its name.

        Returns
        -------
        MultiSnapshot
            A `Snapshot` whose tables have a column `cluster`. Of a cluster that could not be had, ``info["clusters"]`` holds the error,
            its repr tells it, and ``info["complete"]`` is False.

        Raises
        ------
        ConfigError
            A parameter cannot be used.
        AllocframeError
            No cluster could be had; says why of each.

        Examples
        --------
        >>> with af.Fleet({"here": client, "gone": "http://127.0.0.1:9"}) as fleet:
        ...     snap = fleet.snapshot(namespace="*")
        >>> snap.info["complete"], snap.info["clusters"]["gone"]["error"][:16]
        (False, 'ConnectionFailed')
        """
        asked = {
            "namespace": namespace, "prefix": prefix, "filter": filter, "task_states": task_states, "resources": resources,
            "stale": stale, "newest": newest, "per_page": per_page,
        }  # fmt: skip
        folders = {name: None if resume is None else Path(resume) / name for name in self.clients}
        found, failed = _Gathering(self.clients, self._within, folders).run(asked, workers, progress)
        if not found:
            said = "; ".join(f"{name}: {why['error']}" for name, why in failed.items())
            raise AllocframeError(f"no cluster could be fetched: {said}")
        return joined(found, failed)

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


class _Gathering:
    """One snapshot of every cluster, each in a thread of its own."""

    def __init__(
        self, clients: Mapping[str, Client], within: float, folders: Mapping[str, Path | None]
    ) -> None:
        self._clients = clients
        self._folders = folders
        self._within = within
        self._found: dict[str, Snapshot] = {}
        self._failed: dict[str, dict[str, str]] = {}
        self._late: set[str] = set()
        self._reached: dict[str, tuple[int, int | None]] = dict.fromkeys(clients, (0, None))

    def run(
        self, asked: Mapping[str, Any], workers: int, progress: Progress
    ) -> tuple[dict[str, Snapshot], dict[str, dict[str, str]]]:
        """Return the snapshots that came, and of the others where they are and why not."""
        try:
            self._gather(asked, check_count("workers", workers), progress)
        finally:
            for name in self._late:
                self._clients[name]._transport.recover()
        return self._found, {name: self._failed[name] for name in self._clients if name in self._failed}

    def _gather(self, asked: Mapping[str, Any], workers: int, progress: Progress) -> None:
        beside = Counter(client._config.base_url for client in self._clients.values())
        end = time.monotonic() + self._within
        running: dict[Future[Snapshot], str] = {}
        with shown(progress) as show, ThreadPoolExecutor(len(self._clients), "allocframe-fleet") as pool:
            try:
                for name, client in self._clients.items():
                    most = max(CONNECTIONS // beside[client._config.base_url], 1)
                    mine = {**asked, "workers": min(workers, most), "progress": self._counted(name)}
                    mine["resume"] = self._folders[name]
                    running[pool.submit(client.snapshot, **mine)] = name
                while running:
                    for future in wait(running, _TURN, FIRST_COMPLETED).done:
                        self._take(running.pop(future), future)
                    show(*self._standing())
                    if time.monotonic() > end:
                        self._give_up(running.values())
            except BaseException:
                self._give_up(running.values())
                for future in running:
                    future.add_done_callback(_let_go)
                for snapshot in self._found.values():
                    snapshot.close()
                raise

    def _counted(self, name: str) -> Progress:
        def reached(done: int, estimate: int | None) -> None:
            self._reached[name] = done, estimate

        return reached

    def _standing(self) -> tuple[int, int | None, str]:
        """Return how many allocations there are so far, an estimate of all, and how many clusters have come."""
        told = list(self._reached.items())
        guesses = [
            done if name in self._found or name in self._failed else guess for name, (done, guess) in told
        ]
        known = [guess for guess in guesses if guess is not None]
        all_of_them = sum(known) if len(known) == len(told) else None
        over = len(self._found) + len(self._failed)
        return (
            sum(done for _, (done, _) in told),
            all_of_them,
            f"allocations ({over} of {len(told)} clusters)",
        )

    def _take(self, name: str, future: Future[Snapshot]) -> None:
        try:
            self._found[name] = future.result()
        except ConfigError:
            raise
        except AllocframeError as error:
            late = f"not all of it had come after {self._within:g} s (within=)"
            why = late if name in self._late else f"{type(error).__name__}: {error}"
            self._failed[name] = {"server": self._clients[name]._config.address, "error": why}

    def _give_up(self, names: Iterable[str]) -> None:
        for name in names:
            self._late.add(name)
            self._clients[name]._transport.abort()


def _let_go(future: Future[Snapshot]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().close()
