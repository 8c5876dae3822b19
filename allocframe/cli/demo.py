"""``allocframe demo``: a simulated cluster, for everyone without a real one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ..client.client import Client
from ..errors import ConfigError
from ..snapshot.snapshot import Snapshot
from ._app import app
from ._lab import open_lab
from ._summary import check_output, print_summary, write_snapshot


@app.command()
def demo(
    story: Annotated[str, typer.Option(help="What happens in the cluster.")] = "mixed",
    allocations: Annotated[int, typer.Option(help="Size of the cluster.", min=10, max=1_000_000)] = 400,
    seed: Annotated[int, typer.Option(help="The same seed gives the same cluster.")] = 7,
    nomad: Annotated[str, typer.Option(help="Version of the servers: 1.3.1 or 2.0.5.")] = "2.0.5",
    output: Annotated[Path, typer.Option("--output", "-o", help="File for the evidence.")] = Path(
        "demo.allocframe"
    ),
    lab: Annotated[bool, typer.Option("--lab", help="Open the notebooks in JupyterLab instead.")] = False,
    browser: Annotated[bool, typer.Option(help="With --lab: also open a browser.")] = True,
) -> None:
    """Start a simulated cluster, fetch it, print what happened, and write a postmortem. Needs no Nomad."""
    check_output(output)
    with _simulated(story, allocations, seed, nomad) as (address, token):
        print(f"Simulated Nomad {nomad} at {address}\n", file=sys.stderr)
        if lab:
            open_lab(address, token, browser=browser)
            return
        with (
            Client(address, token=token) as client,
            client.snapshot(namespace="*", history=True) as snap,
        ):
            print_summary(snap)
            print(f"\nsaved to {write_snapshot(snap, output)}")
            _write_postmortem(snap, output)
    print(
        "\nThe same for your own cluster:\n"
        "  export NOMAD_ADDR=https://nomad.example:4646 NOMAD_TOKEN=...\n"
        "  .venv/bin/allocframe fetch -o outage.allocframe\n"
        "or in Python:\n"
        "  import allocframe as af\n"
        '  snap = af.Client().snapshot(namespace="*")      # snap.allocations, snap.events, ...\n'
        f'  snap = af.load("{output}")'
    )


def _write_postmortem(snap: Snapshot, output: Path) -> None:
    from ..reports import missing_packages, report

    if missing_packages():
        print("for a postmortem as HTML: pip install 'allocframe[report]'")
        return
    path = report(snap, "postmortem", output=output.with_suffix(".html"))
    print(f"postmortem, for your browser: {path.resolve()}")


@contextlib.contextmanager
def _simulated(story: str, allocations: int, seed: int, version: str) -> Iterator[tuple[str, str]]:
    # Imported here: other commands work without the extra of the simulated cluster.
    from allocframe import sim

    try:
        cluster = sim.Cluster(story, allocations=allocations, seed=seed, version=version)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    with cluster:
        yield cluster.address, cluster.token
