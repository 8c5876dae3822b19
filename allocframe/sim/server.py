"""A simulated cluster behind a real HTTP server on this machine."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Self

import uvicorn

from .api.access import Access, Grant, Guard
from .api.app import build
from .cluster.engine import Engine
from .cluster.state import State
from .replay import Recording
from .scenarios import Truth, run_story


class Cluster:
    """A simulated Nomad cluster that answers on a port of 127.0.0.1.

    Parameters
    ----------
    story : str
        What has happened in it: calm, crash_loop, oom, bad_deploy, node_loss, lemon_node, artifact_outage,
        restart_storm or mixed.
    allocations : int
        Approximate number of allocations, from 10 to 1,000,000.
    seed : int
        The same seed gives the same cluster, apart from the time of day.
    version : str
        The version of the simulated servers: ``"1.3.1"`` (with its paging bug) or ``"2.0.5"``.
    acl : bool
        Whether requests need a token. Without tokens, every program on this machine can use the cluster.
    shell : str
        What exec runs. ``"scripted"``: toy commands. ``"pty"``: real programs on this machine, as you, in a
        terminal; needs `acl`.
    now_ns : int, optional
        Unix time in nanoseconds at the end of the story; by default, now.

    Attributes
    ----------
    address, token : str
        The URL of the cluster, and a management token.
    truth : Truth or None
        What really happened, to check an analysis. None for a recording.

    Examples
    --------
    >>> from allocframe import sim
    >>> with sim.Cluster("oom", allocations=50, seed=1) as cluster:
    ...     cluster.truth.causes[0].kind
    'oom'
    """

    def __init__(
        self,
        story: str = "mixed",
        *,
        allocations: int = 200,
        seed: int = 0,
        version: str = "2.0.5",
        acl: bool = True,
        shell: Literal["scripted", "pty"] = "scripted",
        now_ns: int | None = None,
    ) -> None:
        if shell == "pty" and not acl:
            raise ValueError(
                "shell='pty' needs acl=True: without a token, anyone here could run programs as you"
            )
        engine, truth = run_story(story, allocations=allocations, seed=seed, version=version, now_ns=now_ns)
        self.engine: Engine | None = engine
        self.truth: Truth | None = truth
        # Only now: the past of the story would only cost memory in the event buffer.
        engine.broker.enabled = True
        self._serve(engine.state, acl=acl, real_pty=shell == "pty")

    @classmethod
    def replay(
        cls, recordings: str | os.PathLike[str] | Iterable[dict[str, Any]], *, version: str, acl: bool = False
    ) -> Self:
        """Serve a recording of a real cluster: a folder of recorded exchanges, or the rows of a list."""
        cluster = cls.__new__(cls)
        cluster.engine, cluster.truth = None, None
        cluster._serve(Recording(recordings, version), acl=acl)
        return cluster

    def _serve(self, state: State | Recording, *, acl: bool, real_pty: bool = False) -> None:
        self.state = state
        self._regions: dict[str, str] = {}
        self._closing = threading.Event()
        self._clock: threading.Thread | None = None
        self.version: str = state.version
        self.token: str = str(uuid.uuid4()) if acl else ""
        guard = Guard()
        manager = Grant(known=True, management=True, accessor=str(uuid.uuid4()))
        self._access = Access(acl, self.version, {self.token: manager})
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(100)  # clients that come before the server has started wait
        guard.port = self._socket.getsockname()[1]
        self.address: str = f"http://127.0.0.1:{guard.port}"
        config = uvicorn.Config(
            build(state, self._access, guard, self.engine, self._regions, real_pty=real_pty),
            log_level="critical",
            lifespan="off",
            ws="websockets-sansio",
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="nomad-sim", daemon=True
        )
        self._thread.start()

    def add_token(
        self,
        namespaces: Iterable[str] = ("default",),
        *,
        lifecycle: bool = False,
        logs: bool = False,
        nodes: bool = False,
    ) -> str:
        """Return a new token that may read jobs in `namespaces`.

        With `lifecycle`, it may also stop, signal, restart and exec there; with `logs`, read logs; with
        `nodes`, read nodes.
        """
        token, allowed = str(uuid.uuid4()), frozenset(namespaces)
        self._access.grants[token] = Grant(
            known=True,
            readable=allowed,
            lifecycle=allowed if lifecycle else frozenset(),
            logs=allowed if logs else frozenset(),
            nodes=nodes,
            accessor=str(uuid.uuid4()),
        )
        return token

    def federate(self, **regions: Cluster) -> None:
        """Forward requests for other regions to other clusters, by name.

        This cluster is the region ``global``, and its management token is valid in all of them.
        """
        for name, other in regions.items():
            # Regions check tokens themselves, so the other cluster must know this token.
            other._access.grants[self.token] = self._access.grants[self.token]
            self._regions[name] = other.address

    def revoke(self, token: str) -> None:
        """Revoke a token."""
        del self._access.grants[token]

    def run(self, speed: float = 1.0) -> None:
        """Let virtual time pass `speed` times as fast as real time, until the cluster is closed."""
        engine = self._engine_or_error()

        def tick() -> None:
            last = time.monotonic()
            while not self._closing.wait(0.02):
                now = time.monotonic()
                engine.advance((now - last) * speed)
                last = now

        self._clock = threading.Thread(target=tick, name="nomad-sim-clock", daemon=True)
        self._clock.start()

    def break_streams(self) -> None:
        """End every event stream, as a broken connection does."""
        engine = self._engine_or_error()
        with engine.state.changed:
            engine.broker.cut()

    def restart_servers(self, *, restored: bool = False) -> None:
        """End every stream and blocking query and empty the event buffer.

        With `restored`, indexes restart from low numbers, as after a restore.
        """
        engine = self._engine_or_error()
        with engine.state.changed:
            engine.broker.cut(forget=True)
            engine.state.starts += 1
            if restored:
                engine.state.renumber()

    @contextlib.contextmanager
    def without_leader(self) -> Iterator[None]:
        """Answer as servers without a leader do."""
        self.state.has_leader = False
        try:
            yield
        finally:
            self.state.has_leader = True

    def _engine_or_error(self) -> Engine:
        if self.engine is None:
            raise ValueError("a recording does not change. Make a Cluster from a story instead")
        return self.engine

    def close(self) -> None:
        """Stop answering."""
        self._closing.set()
        if self._clock is not None:
            self._clock.join()
        # An open stream would keep the server from shutting down.
        if self.engine is not None:
            self.break_streams()
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<simulated Nomad {self.version} at {self.address}: {len(self.state.allocs):,} allocations>"
