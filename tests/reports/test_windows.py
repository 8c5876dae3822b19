"""The trends of a cluster report are drawn for any valid snapshot, whenever it was fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import flatten
import matplotlib.pyplot as plt
import pandas as pd
import pytest

import allocframe as af
from allocframe.snapshot import io

NOTEBOOK = Path(af.__file__).parent / "notebooks" / "03_cluster.ipynb"
[SOURCE] = [
    "".join(cell["source"])
    for cell in json.loads(NOTEBOOK.read_text())["cells"]
    if "plots.heatmap(" in "".join(cell["source"])
]


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[af.Snapshot]:
    file = tmp_path_factory.mktemp("windows") / "list.json"
    file.write_text(json.dumps(flatten.recorded_rows("2.0.5")))
    with io.read_json(file) as snap:
        yield snap


@pytest.mark.parametrize(
    ("late", "since"),
    [(0, None), (33 * 60, None), (60 * 24 * 400, None), (60, -60 * 24 * 365), (60, -1), (60, 0), (60, 30)],
)
def test_the_heatmap_is_drawn_for_odd_windows(evidence: af.Snapshot, late: int, since: int | None) -> None:
    last = evidence.events["time"].max()
    observed = last + pd.Timedelta(minutes=late)
    evidence._capture.describe(started_at=observed.isoformat(), finished_at=observed.isoformat())
    evidence._derived = None
    evidence.__dict__.pop("info", None)
    start = None if since is None else str(last + pd.Timedelta(minutes=since))
    space = {"af": af, "pd": pd, "snap": evidence, "since": start}
    try:
        exec(SOURCE, space)
        assert space["ax"].get_title() or space["ax"].texts or space["ax"].collections or space["ax"].images
    finally:
        plt.close("all")
