"""The parts of the reference that are generated from the code: tables and commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import typer
from typer.main import get_command

from allocframe.cli._app import app
from allocframe.tables import HISTORY, TABLES
from allocframe.tables.table import Table


def tables() -> str:
    """Return a section for each table: its rows, key and columns."""
    return "\n".join(line for table in (*TABLES.values(), *HISTORY.values()) for line in _table(table))


def _table(table: Table) -> Iterator[str]:
    dtypes = table.empty().dtypes
    yield f"## {table.name}\n"
    yield f"{table.doc} Key: {', '.join(f'`{name}`' for name in table.key)}.\n"
    yield "| column | dtype | unit | meaning |"
    yield "| --- | --- | --- | --- |"
    for column in table.columns:
        yield f"| `{column.name}` | `{dtypes[column.name]}` | {column.unit} | {column.doc} |"
    yield ""


def commands() -> str:
    """Return a section for each command: its ``--help``."""
    import allocframe.cli  # noqa: F401 - registers the commands

    return "\n".join(_command(get_command(app), "allocframe", None))


def _command(
    command: typer.core.TyperCommand | typer.core.TyperGroup, path: str, above: typer.Context | None
) -> Iterator[str]:
    context = typer.Context(
        command, parent=above, info_name=path.rpartition(" ")[2], terminal_width=80, max_content_width=80
    )
    if above is not None:
        yield f"## {path}\n"
    yield f"```text\n{command.get_help(context).strip()}\n```\n"
    for name, inner in getattr(command, "commands", {}).items():
        yield from _command(inner, f"{path} {name}", context)


def sizes() -> str:
    """Return the table that benchmarks/size.py writes to its README."""
    page = (Path(__file__).parent.parent / "benchmarks" / "README.md").read_text()
    return page.partition("<!-- size -->\n")[2].partition("<!-- end size -->")[0]
