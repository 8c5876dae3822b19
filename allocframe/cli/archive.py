"""``allocframe archive``: the contents of an archive, and its maintenance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import pandas as pd
import typer

from .._utils.text import visible
from ._app import app, print_help
from ._summary import print_table

if TYPE_CHECKING:
    from ..archive.archive import Archive

commands: typer.Typer = typer.Typer(
    invoke_without_command=True,
    callback=print_help,
    help="Inspect and maintain an archive of `allocframe record`.",
)
app.add_typer(commands, name="archive")

Place = Annotated[str, typer.Argument(metavar="DIR", help="The archive's folder or URL.")]


@commands.command()
def info(place: Place) -> None:
    """Print the recorders, times, gaps and sizes of an archive."""
    info = _open_archive(place).info
    print(f"{visible(place)}, schema version {info['schema_version']}")
    print(f"last seen {info['last_seen_at'] or 'never'}: {info['live']:,} allocations")
    recorders = pd.DataFrame(info["recorders"].items(), columns=["recorder", "last seen"])
    print_table("Recorders", recorders)
    gaps = pd.DataFrame(info["gaps"][-10:], columns=["since", "until", "reason"])
    print_table("Latest gaps (UTC)", gaps)
    print_table("Tables", pd.DataFrame([{"table": name, **size} for name, size in info["tables"].items()]))


@commands.command()
def compact(place: Place) -> None:
    """Rewrite days of many small files, without duplicate rows. Readers and recorders can keep running."""
    archive = _open_archive(place)
    before = _size(archive)
    archive.compact()
    print(f"{before} before, {_size(archive)} now")


@commands.command()
def retain(
    place: Place,
    days: Annotated[int, typer.Option(min=1, help="Days to keep, counted back from the last observation.")],
) -> None:
    """Remove older days, except for data of allocations that still exist."""
    archive = _open_archive(place)
    before = _size(archive)
    archive.retain(days)
    print(f"{before} before, {_size(archive)} now")


def _open_archive(place: str) -> Archive:
    from .. import Archive  # its error names the extra if deltalake is missing

    return Archive(place)


def _size(archive: Archive) -> str:
    tables = archive.info["tables"].values()
    files, size = sum(table["files"] for table in tables), sum(table["bytes"] for table in tables)
    return f"{files:,} files of {size / 1e6:,.1f} MB"
