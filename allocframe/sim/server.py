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
        What happened in it: calm, crash_loop, oom, bad_deploy, node_loss, lemon_node, artifact_outage, restart_storm
        or mixed.
    allocations : int
        How many allocations it has, about; from 10 to 1,000,000.
    seed : int
        The same seed gives the same cluster, up to the time of day.
    version : str
        ``"1.3.1"``, with its paging bug, or ``"2.0.5"``: which servers it behaves as.
    acl : bool
        Whether a token is needed. Without one, every program on this machine may ask.
    shell : str
        ``"scripted"``: a toy answers exec. ``"pty"``: a terminal runs the real program on this machine, as you; needs `acl`.

    Attributes
    ----------
    address, token : str
        Where it answers, and a management token.
    truth : Truth or None
        What really happened, to check an analysis against; None for a recording.

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
                "shell='pty' needs acl=True: without a token everyone here could run programs as you"
            )
        engine, truth = run_story(story, allocations=allocations, seed=seed, version=version, now_ns=now_ns)
        self.engine: Engine | None = engine
        self.truth: Truth | None = truth
        engine.broker.enabled = True
        self._serve(engine.state, acl=acl, real_pty=shell == "pty")

    @classmethod
    def replay(
        cls, recordings: str | os.PathLike[str] | Iterable[dict[str, Any]], *, version: str, acl: bool = False
    ) -> Self:
        """Serve a recording of a real cluster: a folder of recorded exchanges, or rows of a list."""
        made = cls.__new__(cls)
        made.engine, made.truth = None, None
        made._serve(Recording(recordings, version), acl=acl)
        return made

    def _serve(self, state: State | Recording, *, acl: bool, real_pty: bool = False) -> None:
        self.state = state
        self._regions: dict[str, str] = {}
        self._closing = threading.Event()
        self._clock: threading.Thread | None = None
        self.version = state.version
        self.token = str(uuid.uuid4()) if acl else ""
        guard = Guard()
        manager = Grant(known=True, management=True, accessor=str(uuid.uuid4()))
        self._access = Access(acl, self.version, {self.token: manager})
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(100)  # so that who comes before the server has started waits for it
        guard.port = self._socket.getsockname()[1]
        self.address = f"http://127.0.0.1:{guard.port}"
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
        self, namespaces: Iterable[str] = ("default",), *, lifecycle: bool = False, logs: bool = False
    ) -> str:
        """Return a new token that may read jobs in `namespaces`; with `lifecycle` stop, signal and restart there, with `logs` read logs."""
        token, allowed = str(uuid.uuid4()), frozenset(namespaces)
        acts, reads = (allowed if given else frozenset() for given in (lifecycle, logs))
        accessor = str(uuid.uuid4())
        self._access.grants[token] = Grant(
            known=True, readable=allowed, lifecycle=acts, logs=reads, accessor=accessor
        )
        return token

    def federate(self, **regions: Cluster) -> None:
        """Know other clusters as regions, by their names, and forward to them; this one is ``global``, and its token counts everywhere."""
        for name, other in regions.items():
            other._access.grants[self.token] = self._access.grants[self.token]
            self._regions[name] = other.address

    def revoke(self, token: str) -> None:
        """Make a token unknown."""
        del self._access.grants[token]

    def run(self, speed: float = 1.0) -> None:
        """Let virtual time pass by itself, `speed` times as fast as real time, until the cluster is closed."""
        engine = self._living()

        def tick() -> None:
            last = time.monotonic()
            while not self._closing.wait(0.02):
                now = time.monotonic()
                engine.advance((now - last) * speed)
                last = now

        self._clock = threading.Thread(target=tick, name="nomad-sim-clock", daemon=True)
        self._clock.start()

    def break_streams(self) -> None:
        """End every event stream, as when a connection breaks."""
        engine = self._living()
        with engine.state.changed:
            engine.broker.cut()

    def restart_servers(self, *, restored: bool = False) -> None:
        """End every stream and blocking query and forget the event buffer; `restored` servers count indexes anew."""
        engine = self._living()
        with engine.state.changed:
            engine.broker.cut(forget=True)
            engine.state.starts += 1
            if restored:
                engine.state.renumber()

    @contextlib.contextmanager
    def without_leader(self) -> Iterator[None]:
        """Answer reads as servers do that have no leader."""
        self.state.has_leader = False
        try:
            yield
        finally:
            self.state.has_leader = True

    def _living(self) -> Engine:
        if self.engine is None:
            raise ValueError("a recording does not go on: make a Cluster of a story")
        return self.engine

    def close(self) -> None:
        """Stop answering."""
        self._closing.set()
        if self._clock is not None:
            self._clock.join()
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
