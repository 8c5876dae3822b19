"""``allocframe fetch``: fetch a cluster into tables and files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..client.client import Client
from ._app import Address, AsJson, Clusters, app, load_fleet, print_json
from ._summary import check_output, print_summary, summarize, write_snapshot

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="NAME.allocframe: one file of evidence. NAME.parquet or NAME.csv: a folder of tables.",
    ),
]


@app.command()
def fetch(
    output: Output = None,
    namespace: Annotated[str, typer.Option(help="Namespace, or * for all that the token may read.")] = "*",
    prefix: Annotated[
        str | None, typer.Option(help="Only allocation IDs with this prefix; an even number of digits.")
    ] = None,
    filter: Annotated[  # noqa: A002 - Nomad calls it so
        str | None, typer.Option(help="Nomad filter expression, such as 'ClientStatus == \"failed\"'.")
    ] = None,
    newest: Annotated[int | None, typer.Option(help="Only the newest N allocations.")] = None,
    task_states: Annotated[bool, typer.Option(help="Fetch tasks and their events.")] = True,
    resources: Annotated[bool, typer.Option(help="Fetch resources and ports, too.")] = False,
    history: Annotated[
        bool, typer.Option(help="Fetch job versions, deployments, nodes and evaluations, too: what changed.")
    ] = False,
    stale: Annotated[bool, typer.Option(help="Let any server answer. Works without a leader.")] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep pages in this folder until the end. If interrupted, the same command continues.",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Exit with 1 if no allocation is visible, or the token may not read all of --history.",
        ),
    ] = False,
    as_json: AsJson = False,
    address: Address = None,
    clusters: Clusters = None,
) -> None:
    """Fetch every allocation of the cluster, print what happened, and save the evidence.

    With several clusters, it fetches those that answer, reports the others, and exits with code 1.

    Example: allocframe fetch -o outage.allocframe, then in Python af.load("outage.allocframe").

    For a large cluster over a bad connection: allocframe fetch --resume walk -o outage.allocframe, repeated
    until it succeeds.
    """
    check_output(output)
    with (
        load_fleet(address, clusters) or Client(address) as source,
        source.snapshot(
            namespace=namespace,
            prefix=prefix,
            filter=filter,
            newest=newest,
            task_states=task_states,
            resources=resources,
            stale=stale,
            resume=resume,
            history=history,
        ) as snap,
    ):
        if as_json:
            print_json({**summarize(snap), "saved_to": write_snapshot(snap, output)})
        else:
            print_summary(snap)
            if saved := write_snapshot(snap, output):
                print(f"\nsaved to {saved}")
        # So that scripts notice a missing cluster. What was fetched is saved all the same.
        is_short = not len(snap) or bool(snap.history is not None and snap.history.notes)
        if not snap.info["complete"] or (strict and is_short):
            raise typer.Exit(1)
