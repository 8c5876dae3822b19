"""How far a walk is, for people and for programs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Progress = bool | Callable[[int, int | None], None] | None
"""Always, never, when it takes over a second, or a function that is told."""


@contextlib.contextmanager
def shown(progress: Progress) -> Iterator[Callable[[int, int | None], None]]:
    """Yield a function that shows how far a walk is: allocations so far, and an estimate of all."""
    if callable(progress):
        yield progress
        return
    if progress is False:
        yield lambda done, estimate: None
        return
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        monitor_interval = 0  # no thread of its own

    with Bar(desc="allocations", unit="", unit_scale=True, delay=0 if progress else 1, leave=False) as bar:

        def show(done: int, estimate: int | None) -> None:
            bar.total = max(estimate, done) if estimate is not None else None
            bar.update(done - bar.n)

        yield show
