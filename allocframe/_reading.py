"""What the client reads allocations with, in full."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from . import _protocol
from ._config import Config
from ._connection import MAX_CONNECTIONS
from ._errors import ConfigError
from ._progress import Progress
from ._reads import Reads
from ._transport import Response, Transport
from .allocation import Allocation
from .capture import Capture
from .decode import Store

if TYPE_CHECKING:
    from .snapshot import Snapshot


class Reading:
    """The part of a client that reads allocations in full, one or many."""

    _config: Config
    _transport: Transport

    def _whole_id(self, alloc_id: str) -> str:
        raise NotImplementedError

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

    def read(self, alloc_ids: Iterable[str], *, workers: int = 4, progress: Progress = None) -> Snapshot:
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
        >>> details = client.read(failed)
        >>> len(details) == len(failed), len(details.events) > 0
        (True, True)
        """
        check_workers(workers)
        given = list(dict.fromkeys([alloc_ids] if isinstance(alloc_ids, str) else alloc_ids))
        for one in given:
            _protocol.check_alloc_id(one)
        ids = list(dict.fromkeys(map(self._whole_id, given)))
        from .snapshot import Snapshot

        reads = Reads(self._transport, self._config.address, self._config.region)
        return Snapshot(*reads.run(ids, workers, progress))


def check_workers(workers: int) -> None:
    """Say what is wrong with a number of requests at a time."""
    if _protocol.check_count("workers", workers) > MAX_CONNECTIONS:
        raise ConfigError(
            f"workers must be {MAX_CONNECTIONS} or less: Nomad limits connections, not {workers}"
        )
