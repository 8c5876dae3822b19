"""The client of one cluster."""

from __future__ import annotations

import math
import os
import weakref
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from .._acting import Acting
from .._observing import Observing
from .._utils.progress import Progress
from .._watchable import Watchable
from ..errors import ConfigError, DecodeError, NotFound
from ..fetch.listing import Walk
from ..fetch.reads import Reading
from ..nomad import protocol
from ..nomad.config import Config
from ..nomad.connection import check_workers
from ..nomad.protocol import Query
from ..nomad.transport import Response, Transport, parsed
from ..snapshot.allocation import Allocation
from ..store.capture import Capture
from ..store.page_store import PageStore
from ..tables import evaluations_frame

if TYPE_CHECKING:
    import pandas as pd

    from ..snapshot.snapshot import Snapshot


class Client(Acting, Observing, Reading, Watchable):
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
        timeout: float = 30.0,
        retries: int = 4,
        read_only: bool = False,
    ) -> None:
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
            raise ConfigError(f"timeout must be a number of seconds above 0, not {timeout!r}")
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise ConfigError(f"retries must be a whole number of 0 or more, not {retries!r}")
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
        self._connect(config, float(timeout), retries, read_only=read_only)

    @classmethod
    def _of(cls, config: Config, *, timeout: float = 30.0, retries: int = 4, read_only: bool = False) -> Self:
        """Return the client of a cluster whose settings are all known, so that no variable is read."""
        made = cls.__new__(cls)
        made._connect(config, timeout, retries, read_only=read_only)
        return made

    def _another(self, *, region: str | None = None) -> Client:
        """Return one more client of this cluster, or of a region that its servers forward to, with the same settings."""
        config = self._config if region is None else replace(self._config, region=region)
        timeout, retries = self._patience
        return Client._of(config, timeout=timeout, retries=retries, read_only=self.read_only)

    def _connect(self, config: Config, timeout: float, retries: int, *, read_only: bool) -> None:
        self._config = config
        self._patience = (timeout, retries)
        self.read_only = read_only
        self._transport = Transport(config, timeout=timeout, retries=retries, read_only=read_only)
        self._region = config.region
        weakref.finalize(self, self._transport.close)

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
        query = Query(
            namespace=namespace or self._config.namespace,
            region=self._config.region,
            prefix=prefix,
            filter=filter,
            task_states=task_states,
            resources=resources,
            stale=stale,
            newest=newest,
            per_page=per_page,
        )
        from ..snapshot.snapshot import Snapshot

        walk = Walk(
            self._transport, query, self._config.address, resume=None if resume is None else Path(resume)
        )
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
        path = f"/v1/allocation/{self._whole_id(alloc_id)}"
        params = {"region": self._config.region} if self._config.region else {}
        capture = Capture.create()
        store = PageStore(capture)

        def keep(response: Response) -> None:
            page = capture.add(
                response.body, kind="read", path=path, params=params, index=response.headers.index
            )
            try:
                store.read(page)
            except BaseException:
                capture.discard(page)
                raise

        try:
            self._transport.get(path, params, check=keep)
            return Allocation(capture, store)
        except BaseException:
            store.close()
            capture.close()
            raise

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
        query = Query(
            namespace=namespace or self._config.namespace, region=self._config.region, filter=filter
        )
        wanted = {
            name: value
            for name, value in query.params(paged=False).items()
            if name in ("namespace", "region", "filter")
        }
        return evaluations_frame(self._transport.get("/v1/evaluations", wanted, check=_listed))

    def _whole_id(self, alloc_id: str) -> str:
        text, whole = protocol.check_alloc_id(alloc_id)
        if whole:
            return text
        query = Query(
            namespace="*", region=self._config.region, prefix=protocol.even_head(text), task_states=False
        )
        rows = self._transport.get(protocol.LIST, query.params(paged=False), check=_listed)
        found = [row["ID"] for row in rows if isinstance(row.get("ID"), str)]
        fitting = sorted(identity for identity in found if identity.startswith(text))
        if len(fitting) == 1:
            return str(fitting[0])
        said = f"{len(fitting)} allocations start with {text!r}"
        if fitting:
            said += ": " + ", ".join(fitting[:10]) + (", …" if len(fitting) > 10 else "")
        raise NotFound(404, said, path=protocol.LIST, hint="Give more digits of the ID")

    @property
    def stats(self) -> dict[str, int]:
        """Requests, repeats, bytes, pages, duplicates and loops since this client was made."""
        return self._transport.counters()

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        mode = ", read_only=True" if self.read_only else ""
        return f"Client({self._config.address!r}{mode})"


def _listed(response: Response) -> list[dict[str, Any]]:
    """Return the objects of an answer that must be a list, for `Transport.get`."""
    rows = parsed(response)
    if not isinstance(rows, list | None):
        raise DecodeError("the answer is no list")
    return [row for row in rows or [] if isinstance(row, dict)]
