"""What the client watches with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .nomad.config import Config
from .nomad.protocol import Query
from .nomad.transport import Transport

if TYPE_CHECKING:
    from .watch.change import Checkpoint
    from .watch.watch import Watch


class Watchable:
    """The part of a client that watches."""

    _config: Config
    _transport: Transport

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
        query = Query(
            namespace=namespace or self._config.namespace,
            region=self._config.region,
            prefix=prefix,
            filter=filter,
        )
        from .watch.watch import Watch

        wanted = stream and filter is None
        return Watch(
            self._transport.clone(),
            self._config,
            query,
            stream=wanted,
            resync_interval=resync_interval,
            wait=wait,
            checkpoint=checkpoint,
        )
