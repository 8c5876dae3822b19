"""``allocframe archive``: what an archive holds, and its upkeep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import pandas as pd
import typer

from .._utils.text import visible
from ._app import app
from ._summary import print_table

if TYPE_CHECKING:
    from ..archive.archive import Archive

commands = typer.Typer(no_args_is_help=True, help="Look after an archive that `allocframe record` writes.")
app.add_typer(commands, name="archive")

Place = Annotated[str, typer.Argument(metavar="DIR", help="The archive's folder or URL.")]


@commands.command()
def info(place: Place) -> None:
    """Print what an archive holds: recorders, times, gaps, sizes."""
    known = _opened(place).info
    print(f"{visible(place)}, schema version {known['schema_version']}")
    print(f"last seen {known['last_seen_at'] or 'never'}: {known['live']:,} allocations")
    recorders = pd.DataFrame(known["recorders"].items(), columns=["recorder", "last seen"])
    print_table("Recorders", recorders)
    gaps = pd.DataFrame(known["gaps"][-10:], columns=["since", "until", "reason"])
    print_table("Latest gaps of observation (UTC)", gaps)
    print_table("Tables", pd.DataFrame([{"table": name, **size} for name, size in known["tables"].items()]))


@commands.command()
def compact(place: Place) -> None:
    """Write days that lie in many small files anew, with each row once. Readers and recorders may go on meanwhile."""
    archive = _opened(place)
    before = _size(archive)
    archive.compact()
    print(f"{before} before, {_size(archive)} now")


@commands.command()
def retain(
    place: Place,
    days: Annotated[int, typer.Option(min=1, help="Days to keep, counted from the last observation.")],
) -> None:
    """Remove older days, but for what allocations that are still there need."""
    archive = _opened(place)
    before = _size(archive)
    archive.retain(days)
    print(f"{before} before, {_size(archive)} now")


def _opened(place: str) -> Archive:
    from .. import Archive  # which says the pip line where deltalake is missing

    return Archive(place)


def _size(archive: Archive) -> str:
    tables = archive.info["tables"].values()
    files, size = sum(one["files"] for one in tables), sum(one["bytes"] for one in tables)
    return f"{files:,} files of {size / 1e6:,.1f} MB"
