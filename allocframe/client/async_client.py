"""The client for asyncio: the methods of `Client`, each carried out in a thread while the event loop goes on.

It is made of `Client`, so that no rule of Nomad is written twice, and of threads, because answers are decoded in threads anyway.
"""

from __future__ import annotations

import os
import signal as numbers
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal, Self

import pandas as pd

from .._utils.progress import Progress
from ..nomad.actions import StopResult
from ..nomad.exec import ExecResult
from ..snapshot.allocation import Allocation
from ..snapshot.snapshot import Snapshot
from ..watch.change import Checkpoint
from .client import Client
from .logs import MOST_BYTES, Logs
from .thread_pool import AsyncWatch, Calls, as_in
from .usage import Usage


class AsyncClient:
    """`Client` for asyncio: the same methods with the same arguments, awaited; the event loop goes on meanwhile.

    It belongs to no event loop, and may be used by several tasks: eight calls go on at a time, others wait for their turn. A call returns
    what that of `Client` returns. A table of a `Snapshot` is made when first asked for, which takes a while where it is large:
    ``await asyncio.to_thread(lambda: snap.events)``.

    Giving up a call, by ``asyncio.timeout`` or ``task.cancel()``, ends what it waits for; other calls go on. A change (stop, signal,
    restart) that was sent by then is not taken back: `CancelledError` does not say that nothing was done. How it ended is in the
    audit log (`read_audit`), and `close` waits for it. A command that `exec` started may run on.

    Parameters
    ----------
    address, token, namespace, region, ca_cert, ca_path, client_cert, client_key, tls_server_name, verify, timeout, retries, read_only
        As of `Client`.

    Examples
    --------
    >>> import asyncio
    >>> async def count():
    ...     async with af.AsyncClient(cluster.address, token=cluster.token) as client:
    ...         return len(await client.snapshot(namespace="*"))
    >>> asyncio.run(count()) == len(snap)
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
        self._client = Client(
            address, token=token, namespace=namespace, region=region, ca_cert=ca_cert, ca_path=ca_path, client_cert=client_cert,
            client_key=client_key, tls_server_name=tls_server_name, verify=verify, timeout=timeout, retries=retries, read_only=read_only,
        )  # fmt: skip
        self._calls = Calls(self._client)

    @as_in(Client.snapshot)
    async def snapshot(
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
        """
        >>> asyncio.run(aio.snapshot(namespace="*")).info["complete"]
        True
        """
        return await self._calls.make(
            Client.snapshot, namespace=namespace, prefix=prefix, filter=filter, task_states=task_states, resources=resources,
            stale=stale, newest=newest, per_page=per_page, workers=workers, progress=progress, resume=resume,
        )  # fmt: skip

    @as_in(Client.allocation)
    async def allocation(self, alloc_id: str) -> Allocation:
        """
        >>> asyncio.run(aio.allocation(running[1])).placement.shape[0]
        1
        """
        return await self._calls.make(Client.allocation, alloc_id)

    @as_in(Client.read)
    async def read(
        self, alloc_ids: Iterable[str], *, workers: int = 4, progress: Progress = None
    ) -> Snapshot:
        """
        >>> len(asyncio.run(aio.read(running[1:4])))
        3
        """
        return await self._calls.make(Client.read, alloc_ids, workers=workers, progress=progress)

    @as_in(Client.evaluations)
    async def evaluations(self, *, namespace: str | None = None, filter: str | None = None) -> pd.DataFrame:  # noqa: A002
        """
        >>> len(asyncio.run(aio.evaluations(namespace="*"))) > 0
        True
        """
        return await self._calls.make(Client.evaluations, namespace=namespace, filter=filter)

    @as_in(Client.stop)
    async def stop(self, alloc_id: str, *, no_shutdown_delay: bool = False) -> StopResult:
        """
        >>> len(asyncio.run(aio.stop(running[0])).eval_id)
        36
        """
        return await self._calls.make(Client.stop, alloc_id, no_shutdown_delay=no_shutdown_delay)

    @as_in(Client.signal)
    async def signal(self, alloc_id: str, signal: str | numbers.Signals, *, task: str | None = None) -> None:
        """
        >>> asyncio.run(aio.signal(running[1], "SIGHUP"))
        """
        await self._calls.make(Client.signal, alloc_id, signal, task=task)

    @as_in(Client.restart)
    async def restart(self, alloc_id: str, *, task: str | None = None, all_tasks: bool = False) -> None:
        """
        >>> asyncio.run(aio.restart(running[1]))
        """
        await self._calls.make(Client.restart, alloc_id, task=task, all_tasks=all_tasks)

    @as_in(Client.exec)
    async def exec(
        self,
        alloc_id: str,
        command: Sequence[str],
        *,
        task: str | None = None,
        stdin: bytes | str | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """
        >>> asyncio.run(aio.exec(running[1], ["echo", "hello"])).text
        'hello\\n'
        """
        return await self._calls.make(Client.exec, alloc_id, command, task=task, stdin=stdin, timeout=timeout)

    @as_in(Client.exec_many)
    async def exec_many(
        self,
        alloc_ids: Iterable[str],
        command: Sequence[str],
        *,
        task: str | None = None,
        timeout: float | None = None,
        workers: int = 4,
    ) -> pd.DataFrame:
        """
        >>> asyncio.run(aio.exec_many(running[1:4], ["uname"]))["exit_code"].tolist()
        [0, 0, 0]
        """
        return await self._calls.make(
            Client.exec_many, alloc_ids, command, task=task, timeout=timeout, workers=workers
        )

    @as_in(Client.logs)
    async def logs(
        self,
        alloc_id: str,
        task: str,
        *,
        stream: Literal["stdout", "stderr", "both"] = "both",
        around: pd.Timestamp | datetime | str | None = None,
        lines: int = 50,
        max_bytes: int = MOST_BYTES,
    ) -> Logs:
        """
        >>> asyncio.run(aio.logs(running[1], "server", lines=3)).frame.columns.tolist()
        ['stream', 'file', 'offset', 'time', 'line']
        """
        return await self._calls.make(
            Client.logs, alloc_id, task, stream=stream, around=around, lines=lines, max_bytes=max_bytes
        )

    @as_in(Client.usage)
    async def usage(
        self,
        allocations: Snapshot | Iterable[str],
        *,
        samples: int = 1,
        every: float = 10.0,
        workers: int = 4,
    ) -> Usage:
        """
        >>> asyncio.run(aio.usage(running[1:4])).errors.empty
        True
        """
        return await self._calls.make(
            Client.usage, allocations, samples=samples, every=every, workers=workers
        )

    @as_in(Client.watch)
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
    ) -> AsyncWatch:
        """
        >>> async def first():
        ...     async with aio.watch(namespace="*") as watch:
        ...         return await anext(watch)
        >>> asyncio.run(first()).full
        True
        """
        return AsyncWatch(
            self._client.watch(
                namespace=namespace,
                prefix=prefix,
                filter=filter,
                stream=stream,
                resync_interval=resync_interval,
                wait=wait,
                checkpoint=checkpoint,
            )
        )

    @property
    def read_only(self) -> bool:
        """Whether it may only read."""
        return self._client.read_only

    @property
    def stats(self) -> dict[str, int]:
        """Requests, repeats, bytes, pages, duplicates and loops since this client was made."""
        return self._calls.stats()

    async def close(self) -> None:
        """End what is read, wait for changes that were sent, and close every connection."""
        await self._calls.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"Async{self._client!r}"
