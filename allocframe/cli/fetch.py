"""``allocframe fetch``: a cluster to tables and files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..client.client import Client
from ._app import Address, Clusters, app, fleet_of
from ._summary import check_output, summary, write

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="NAME.allocframe: one file of evidence. NAME.parquet, NAME.csv: a folder of tables.",
    ),
]


@app.command()
def fetch(
    output: Output = None,
    namespace: Annotated[str, typer.Option(help="Namespace, or * for all that the token may read.")] = "*",
    prefix: Annotated[
        str | None, typer.Option(help="Start of the allocations' IDs, an even number of digits.")
    ] = None,
    filter: Annotated[  # noqa: A002 - Nomad's name for it
        str | None, typer.Option(help="Nomad's filter expression, such as 'ClientStatus == \"failed\"'.")
    ] = None,
    newest: Annotated[int | None, typer.Option(help="Only the newest N allocations.")] = None,
    task_states: Annotated[bool, typer.Option(help="Fetch tasks and their events.")] = True,
    resources: Annotated[bool, typer.Option(help="Fetch resources and ports too.")] = False,
    stale: Annotated[bool, typer.Option(help="Let any server answer; works without a leader.")] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep pages there until it is done; the same command goes on from what an interrupted one left.",
        ),
    ] = None,
    address: Address = None,
    clusters: Clusters = None,
) -> None:
    """Fetch every allocation of the cluster, print what happened there, and keep the evidence.

    Of several, one that is down is reported and the others are fetched; it then ends with 1.

    Example: allocframe fetch -o outage.allocframe, and in Python af.load("outage.allocframe"). A large cluster, over a
    connection that may break: allocframe fetch --resume walk -o outage.allocframe, again until it ends.
    """
    check_output(output)
    with (
        fleet_of(address, clusters) or Client(address) as source,
        source.snapshot(
            namespace=namespace,
            prefix=prefix,
            filter=filter,
            newest=newest,
            task_states=task_states,
            resources=resources,
            stale=stale,
            resume=resume,
        ) as snap,
    ):
        summary(snap)
        if output is not None:
            write(snap, output)
        if not snap.info["complete"]:
            raise typer.Exit(1)
