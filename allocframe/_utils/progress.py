"""How far a walk is, for people and for programs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

Progress = bool | Callable[[int, int | None], None] | None
"""Always, never, when it takes over a second, or a function that is told."""


class Show(Protocol):
    """Shows how far a walk is: allocations so far, an estimate of all, and what they are of."""

    def __call__(self, done: int, estimate: int | None, of: str = "allocations", /) -> None: ...


@contextlib.contextmanager
def shown(progress: Progress) -> Iterator[Show]:
    """Yield a function that shows how far a walk is."""
    if callable(progress):
        yield lambda done, estimate, of="": progress(done, estimate)
        return
    if progress is False:
        yield lambda done, estimate, of="": None
        return
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        monitor_interval = 0  # no thread of its own

    with Bar(desc="allocations", unit="", unit_scale=True, delay=0 if progress else 1, leave=False) as bar:

        def show(done: int, estimate: int | None, of: str = "allocations") -> None:
            bar.total = max(estimate, done) if estimate is not None else None
            bar.update(done - bar.n)
            bar.set_description_str(of, refresh=progress is True and of != bar.desc)

        yield show
