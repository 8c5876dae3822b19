"""The command line application, and options that several commands share.

A command is a file of its own in this folder, imported by `__init__`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .._version import __version__
from ..client.fleet import Fleet
from ..errors import ConfigError
from ..nomad.config_file import list_sources

Address = Annotated[str | None, typer.Option(help="URL of Nomad. By default, NOMAD_ADDR.")]
Clusters = Annotated[
    Path | None,
    typer.Option("--clusters", metavar="FILE", help="TOML file of several clusters, one table for each."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON, for programs.")]


def print_json(value: Any) -> None:
    """Print facts for a program. Everything but ASCII is escaped, so that no name controls a terminal."""
    print(json.dumps(value, indent=1))


def load_fleet(address: str | None, clusters: Path | None) -> Fleet | None:
    """Return the clusters of a file, or None if no file is given."""
    if clusters is None:
        return None
    if address is not None:
        raise ConfigError("--address and --clusters exclude each other: give only one of them")
    fleet = Fleet.from_file(clusters)
    for line in list_sources(clusters):
        print(f"{clusters}: {line}", file=sys.stderr)
    return fleet


def print_help(context: typer.Context) -> None:
    """Print the help of a group of commands if none of them was given."""
    if context.invoked_subcommand is None:
        print(context.get_help())


app = typer.Typer(
    name="allocframe",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Nomad allocations as tables: fetch a cluster, save the evidence, see what happened. "
    "The cluster and token are those of the Nomad CLI: NOMAD_ADDR, NOMAD_TOKEN and so on.",
)


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
    print_help(context)
