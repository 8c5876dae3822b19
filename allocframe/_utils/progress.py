"""Show the progress of a fetch to people and programs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Protocol

Progress = bool | Callable[[int, int | None], None] | None
"""True shows a bar and False does not. None shows one after a second, on a terminal or in a notebook.
A function is called with the numbers."""


class Show(Protocol):
    """Show the progress: the number so far, an estimate of the total, and the unit."""

    def __call__(self, done: int, estimate: int | None, of: str = "allocations", /) -> None: ...


@contextlib.contextmanager
def shown(progress: Progress) -> Iterator[Show]:
    """Yield a function that shows the progress."""
    if callable(progress):
        yield lambda done, estimate, of="": progress(done, estimate)
        return
    if progress is False:
        yield lambda done, estimate, of="": None
        return
    from tqdm.auto import tqdm

    # Off a terminal, in the log of a cron job, a bar is a page of half lines. A notebook draws its own.
    if progress is None and not sys.stderr.isatty() and not _in_notebook():
        yield lambda done, estimate, of="": None
        return

    class Bar(tqdm):  # type: ignore[type-arg]
        monitor_interval = 0  # no thread of its own

    with Bar(desc="allocations", unit="", unit_scale=True, delay=0 if progress else 1, leave=False) as bar:

        def show(done: int, estimate: int | None, of: str = "allocations") -> None:
            bar.total = max(estimate, done) if estimate is not None else None
            bar.set_description_str(of, refresh=progress is True and of != bar.desc)
            bar.update(done - bar.n)

        yield show


def _in_notebook() -> bool:
    from tqdm import autonotebook

    return autonotebook.tqdm.__module__ != "tqdm.std"
