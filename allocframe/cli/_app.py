"""The command that every other one belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .._version import __version__
from ..client.fleet import Fleet
from ..errors import ConfigError

Address = Annotated[str | None, typer.Option(help="Where Nomad answers; NOMAD_ADDR otherwise.")]
Clusters = Annotated[
    Path | None,
    typer.Option("--clusters", metavar="FILE", help="Several clusters: a TOML file with a table for each."),
]


def fleet_of(address: str | None, clusters: Path | None) -> Fleet | None:
    """Return the clusters that a file names; None where there is only one."""
    if clusters is None:
        return None
    if address is not None:
        raise ConfigError("give --address or --clusters, not both")
    return Fleet.from_file(clusters)


app = typer.Typer(
    name="allocframe",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Nomad allocations as tables: fetch a cluster, keep the evidence, see what happened. "
    "The cluster is the one that the Nomad CLI would use: NOMAD_ADDR, NOMAD_TOKEN and so on.",
)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit
