"""Watch a cluster: iterate over its changes, and get a snapshot of its current state."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from typing import Self

from .._utils.interrupts import finalize
from ..errors import AllocframeError, ConfigError
from ..nomad.config import Config
from ..nomad.protocol import Query
from ..nomad.transport import Transport
from ..snapshot.snapshot import Snapshot
from .change import Change, Checkpoint
from .reflector import Reflector


class Watch:
    """The changes of a cluster, as they happen, and its current state.

    Made by `Client.watch`. A watch belongs to the thread that iterates over it. `close` can be called from
    any thread.

    The first change has every allocation as `added`. Of more than 5,000 it comes in parts, as several
    changes; the last one is `full`.

    Examples
    --------
    >>> with af.sim.Cluster("calm", allocations=20, seed=1) as cluster:
    ...     client = af.Client(cluster.address, token=cluster.token)
    ...     with client, client.watch(namespace="*") as watch:
    ...         first = next(watch)
    ...         running = first.added[first.added["client_status"] == "running"]
    ...         client.restart(running["alloc_id"].iloc[0])
    ...         then = next(watch)
    >>> len(then.changed), "Restarting" in set(then.new_events["type"])
    (1, True)
    """

    def __init__(
        self,
        transport: Transport,
        config: Config,
        query: Query,
        *,
        stream: bool = True,
        resync_interval: float = 300.0,
        wait: float = 60.0,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        for name, value in (("resync_interval", resync_interval), ("wait", wait)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ConfigError(f"{name} must be a number of seconds above 0, got {value!r}")
        self._transport = transport
        self._config = config
        self._query = query
        self._reflector = Reflector(
            transport,
            config,
            query,
            checkpoint or Checkpoint(),
            stream=stream,
            resync_interval=float(resync_interval),
            wait=float(wait),
        )
        self._change_count = 0
        self._lock = threading.RLock()
        finalize(self, _end, self._reflector, transport)

    def poll(self, timeout: float | None = None) -> Change | None:
        """Return the next change, or None if none comes in time.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; for ever if omitted. A request in flight is waited for.

        Raises
        ------
        PermissionDenied
            The token may no longer list allocations. A later call continues where this one stopped.
        ConnectionFailed, RequestTimeout, NotNomad, ApiError
            The first list failed. Later failures are retried, and shown by `last_error`.

        Examples
        --------
        >>> with client.watch(namespace="*") as watch:
        ...     first, none = watch.poll(), watch.poll(timeout=0.1)
        >>> first.full, none
        (True, None)
        """
        change = self._next(timeout)
        if change is None and self.closed:
            raise AllocframeError("this Watch is closed. Make a new one")
        return change

    def _next(self, timeout: float | None) -> Change | None:
        end = time.monotonic() + (math.inf if timeout is None else timeout)
        ready = self._reflector.ready
        try:
            while not ready and not self.closed:
                with self._lock:
                    self._reflector.step(max(end - time.monotonic(), 0.0))
                if time.monotonic() >= end:
                    break
        except (KeyboardInterrupt, SystemExit):
            self.close()
            raise
        if not ready:
            return None
        self._change_count += 1
        return ready.popleft()

    def _first_list(self) -> Iterator[Change]:
        """Yield the parts of the first list, and nothing of what changes later.

        Examples
        --------
        >>> with client.watch(namespace="*") as watch:
        ...     sum(len(change.added) for change in watch._first_list()) == len(watch.snapshot)
        True
        """
        yield next(self)
        while self._reflector.has_parts:
            yield next(self)

    def heartbeat(self) -> Change | None:
        """Return an empty change that shows up to when nothing has changed; None if a change is pending.

        A recorder stores it in quiet times to prove that it was watching.

        Examples
        --------
        >>> with client.watch(namespace="*") as watch:
        ...     _ = next(watch)
        ...     len(watch.heartbeat())
        0
        """
        with self._lock:
            return self._reflector.heartbeat()

    def __iter__(self) -> Iterator[Change]:
        return self

    def __next__(self) -> Change:
        change = self._next(None)
        if change is None:
            raise StopIteration
        return change

    @property
    def mode(self) -> str:
        """How changes are found. It is "stream" if the token may subscribe to events, else "blocking"."""
        return self._reflector.mode

    @property
    def no_stream(self) -> str | None:
        """Why there is no event stream although one was wanted, so that `mode` is "blocking"; else None.

        Now and then, the watch tries again to subscribe.
        """
        return self._reflector.no_stream

    @property
    def last_error(self) -> str | None:
        """The error that the watch is retrying; None while all is well."""
        return self._reflector.last_error

    @property
    def closed(self) -> bool:
        """Whether the watch is closed."""
        return self._reflector.subscriber.closed.is_set()

    @property
    def snapshot(self) -> Snapshot:
        """A snapshot of the current state, up to the last change. Later changes do not touch it.

        The cost grows with the number of allocations. `save` writes the rows, not the responses they came
        from.
        """
        with self._lock:
            reflector = self._reflector
            capture, store = reflector.state.copy()
            at = reflector.current_to.isoformat() if reflector.current_to is not None else None
            index, synced = reflector.index or None, reflector.synced
        query = self._query
        chosen = {"prefix": query.prefix, "filter": query.filter}
        notes = [f"only {name} {value}" for name, value in chosen.items() if value is not None]
        if not synced:
            notes.append("the watch is interrupted: later changes are missing")
        capture.describe(
            source="watch",
            server=self._config.address,
            region=query.region,
            namespace=query.namespace or "default",
            query=query.params(),
            started_at=at,
            finished_at=at,
            index_first=index,
            index_last=index,
            complete=synced,
            notes=notes,
        )
        return Snapshot(capture, store)

    @property
    def stats(self) -> dict[str, int]:
        """Counts since the watch began.

        `requests`, `changes`, `relists`, `gaps`; `reconnects`, and how many of them `resumed` without a gap;
        `events` from streams, and how many of them were `duplicates`, `replayed`, `coalesced` or `skipped`;
        `overflows` of the queue, `resets` of the index, `failures`, and `reads` of single allocations.
        """
        reflector = self._reflector
        requests = self._transport.stats.requests + reflector.subscriber.opened
        return {
            "requests": requests,
            "changes": self._change_count,
            "reads": reflector.lister.reads,
            **reflector.counts,
            **reflector.queue.counts,
        }

    def close(self) -> None:
        """Stop watching, and end the watch's thread and connections. Its snapshots stay usable."""
        _end(self._reflector, self._transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else self.last_error or self.mode
        return (
            f"<Watch of {self._config.address}: {len(self._reflector.state.entries):,} allocations, {state}>"
        )


def _end(reflector: Reflector, transport: Transport) -> None:
    reflector.subscriber.close()
    with reflector.queue.changed:
        reflector.queue.changed.notify_all()
    transport.abort()
    transport.close()
