"""The client of one cluster."""

from __future__ import annotations

import math
import weakref
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from . import _protocol
from ._config import Config
from ._errors import AllocframeError, ConfigError, NotFound
from ._progress import Progress, shown
from ._protocol import Pager, PageRequest, Query
from ._transport import MAX_CONNECTIONS, Response, Transport, parsed
from .allocation import Allocation
from .capture import Capture, Page
from .decode import Store

if TYPE_CHECKING:
    from .snapshot import Snapshot

_SMALL = 4 << 20


@dataclass(frozen=True)
class _Fetched:
    """A page that is kept: how many rows it seems to have, and their IDs where they matter for the walk."""

    page: Page
    rows: int
    ids: list[str]


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
        timeout: float = 30.0,
        retries: int = 4,
        read_only: bool = False,
    ) -> None:
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
            raise ConfigError(f"timeout must be a number of seconds above 0, not {timeout!r}")
        if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
            raise ConfigError(f"retries must be a whole number of 0 or more, not {retries!r}")
        self._config = Config.load(
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
        self.read_only = read_only
        self._transport = Transport(self._config, timeout=float(timeout), retries=retries)
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

        Raises
        ------
        ConfigError
            A parameter cannot be used; nothing was sent.
        PermissionDenied, BadRequest, ApiError
            Nomad refused; no partial snapshot is made.
        ConnectionFailed, RequestTimeout, NotNomad, DecodeError
            No whole answer could be had.
        """
        if _protocol.check_count("workers", workers) > MAX_CONNECTIONS:
            raise ConfigError(
                f"workers must be {MAX_CONNECTIONS} or less: Nomad limits connections, not {workers}"
            )
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
        from .snapshot import Snapshot

        capture = Capture.create()
        store = Store(capture)
        try:
            self._walk(query, capture, store, workers, progress)
        except BaseException:
            store.close()
            capture.close()
            raise
        return Snapshot(capture, store)

    def _walk(self, query: Query, capture: Capture, store: Store, workers: int, progress: Progress) -> None:
        started = datetime.now(UTC)
        pager = Pager(query)
        with shown(progress) as show, ThreadPoolExecutor(workers, "allocframe") as pool:
            running: dict[Future[_Fetched], PageRequest] = {}
            try:
                while not pager.done:
                    while len(running) < workers and (request := pager.next_request()) is not None:
                        params = query.params(request.shard, request.token, paged=request.paged)
                        running[pool.submit(self._fetch, params, capture, store)] = request
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        got = future.result()
                        pager.received(running.pop(future), got.rows, got.ids, got.page.next_token)
                    show(pager.rows, pager.estimate)
                for page in store.flush():
                    capture.discard(page)
                    self._fetch(page.params, capture, store, at_once=True)
            except BaseException:
                self._transport.abort()
                pool.shutdown(wait=True, cancel_futures=True)
                self._transport.recover()
                raise
        duplicates = store.settle()
        self._transport.count(duplicates=duplicates, pages=len(capture.pages), loops=len(pager.notes))
        capture.describe(**self._facts(query, capture, pager, started, duplicates))

    def _fetch(
        self, params: dict[str, str], capture: Capture, store: Store, *, at_once: bool = False
    ) -> _Fetched:
        """Get one page and have it typed: at once where its IDs or size matter, else together with others."""

        def keep(response: Response) -> _Fetched:
            headers = response.headers
            page = capture.add(
                response.body,
                path=_protocol.LIST,
                params=params,
                index=headers.index,
                last_contact=headers.last_contact,
                known_leader=headers.known_leader,
                next_token=headers.next_token,
            )
            try:
                if at_once or headers.next_token or page.size > _SMALL:
                    ids = store.read(page).ids
                    return _Fetched(page, len(ids), ids)
                store.defer(page, response.body)
                return _Fetched(page, response.body.count(b'"FollowupEvalID":'), [])
            except BaseException:
                capture.discard(page)
                raise

        kept: _Fetched = self._transport.get(_protocol.LIST, params, check=keep)
        return kept

    def _facts(
        self, query: Query, capture: Capture, pager: Pager, started: datetime, duplicates: int
    ) -> dict[str, Any]:
        pages = capture.pages
        indexes = [page.index for page in pages if page.index is not None]
        contacts = [page.last_contact for page in pages if page.last_contact is not None]
        notes = list(pager.notes)
        if any(page.known_leader is False for page in pages):
            notes.append("the cluster had no leader for part of the walk: these rows may be old")
        asked = {"prefix": query.prefix, "filter": query.filter, "newest": query.newest}
        notes += [f"asked only for {name} {value}" for name, value in asked.items() if value is not None]
        return {
            "source": "server",
            "server": self._config.address,
            "version": self._version(),
            "region": query.region,
            "namespace": query.namespace or "default",
            "query": query.params(),
            "started_at": started.isoformat(),
            "finished_at": datetime.now(UTC).isoformat(),
            "index_first": min(indexes, default=None),
            "index_last": max(indexes, default=None),
            "last_contact_ms": max(contacts, default=None),
            "pages": len(pages),
            "paging": "by ID prefix" if pager.sharded else "one walk",
            "duplicates": duplicates,
            "complete": True,
            "notes": notes,
        }

    def _version(self) -> str | None:
        """Return the server's version, or None where this token may not ask."""
        try:
            said = self._transport.get("/v1/agent/self", {}, check=parsed)
            return str(said["config"]["Version"]["Version"])
        except (AllocframeError, KeyError, TypeError):
            return None

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
        """
        path = f"/v1/allocation/{self._whole_id(alloc_id)}"
        params = {"region": self._config.region} if self._config.region else {}
        capture = Capture.create()
        store = Store(capture)

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

    def _whole_id(self, alloc_id: str) -> str:
        text, whole = _protocol.check_alloc_id(alloc_id)
        if whole:
            return text
        query = Query(
            namespace="*", region=self._config.region, prefix=_protocol.even_head(text), task_states=False
        )
        found = [
            row["ID"] for row in self._transport.get(_protocol.LIST, query.params(paged=False), check=parsed)
        ]
        fitting = sorted(identity for identity in found if identity.startswith(text))
        if len(fitting) == 1:
            return str(fitting[0])
        said = f"{len(fitting)} allocations start with {text!r}"
        if fitting:
            said += ": " + ", ".join(fitting[:10]) + (", …" if len(fitting) > 10 else "")
        raise NotFound(404, said, path=_protocol.LIST, hint="Give more digits of the ID")

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
