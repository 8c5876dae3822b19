"""``allocframe archive``: the contents of an archive, and its maintenance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import pandas as pd
import typer

from .._utils.text import visible
from ._app import AsJson, app, print_help, print_json
from ._summary import print_table

if TYPE_CHECKING:
    from ..archive.archive import Archive

commands: typer.Typer = typer.Typer(
    invoke_without_command=True,
    callback=print_help,
    help="Inspect and maintain an archive written by `allocframe record`.",
)
app.add_typer(commands, name="archive")

Place = Annotated[str, typer.Argument(metavar="DIR", help="The archive's folder or URL.")]


@commands.command()
def info(place: Place, as_json: AsJson = False) -> None:
    """Print the recorders, times, gaps and sizes of an archive."""
    info = _open_archive(place).info
    if as_json:
        print_json(info)
        return
    print(f"{visible(place)}, schema version {info['schema_version']}")
    print(f"last seen {info['last_seen_at'] or 'never'}: {info['live']:,} allocations")
    recorders = pd.DataFrame(info["recorders"].items(), columns=["recorder", "last seen"])
    print_table("Recorders", recorders)
    gaps = pd.DataFrame(info["gaps"][-10:], columns=["since", "until", "reason"])
    print_table("Latest gaps (UTC)", gaps)
    print_table("Tables", pd.DataFrame([{"table": name, **size} for name, size in info["tables"].items()]))


@commands.command()
def compact(place: Place, as_json: AsJson = False) -> None:
    """Rewrite days of many small files, without duplicate rows. Readers and recorders can keep running."""
    archive = _open_archive(place)
    before = _size(archive)
    archive.compact()
    _print_sizes(before, _size(archive), as_json)


@commands.command()
def retain(
    place: Place,
    days: Annotated[int, typer.Option(min=1, help="Days to keep, counted back from the last observation.")],
    as_json: AsJson = False,
) -> None:
    """Remove older days, except for data of allocations that still exist."""
    archive = _open_archive(place)
    before = _size(archive)
    archive.retain(days)
    _print_sizes(before, _size(archive), as_json)


def _open_archive(place: str) -> Archive:
    from .. import Archive  # its error names the extra if deltalake is missing

    return Archive(place)


def _size(archive: Archive) -> dict[str, int]:
    tables = archive._sizes().values()  # `info` also reads what lives
    return {name: sum(table[name] for table in tables) for name in ("files", "bytes")}


def _print_sizes(before: dict[str, int], now: dict[str, int], as_json: bool) -> None:
    if as_json:
        print_json({"before": before, "now": now})
        return
    texts = [f"{size['files']:,} files of {size['bytes'] / 1e6:,.1f} MB" for size in (before, now)]
    print(f"{texts[0]} before, {texts[1]} now")
