"""Rows without a namespace, as some tools print them, are counted like others."""

from __future__ import annotations

import json
from pathlib import Path

import flatten

import allocframe as af


def read(rows: list[dict[str, object]], file: Path) -> af.Snapshot:
    file.write_text(json.dumps(rows))
    return af.read_json(file)


def test_rows_without_a_namespace_lose_no_finding_and_no_count(tmp_path: Path) -> None:
    whole = flatten.recorded_rows("2.0.5")
    # One cluster of one namespace, so that leaving it out changes nothing else.
    rows = [{**row, "Namespace": "default"} for row in whole]
    bare = [{name: value for name, value in row.items() if name != "Namespace"} for row in whole]
    with read(rows, tmp_path / "rows.json") as known, read(bare, tmp_path / "bare.json") as unknown:
        assert unknown.allocations["namespace"].isna().all()
        found = [[(each.code, len(each.evidence)) for each in af.findings(snap)] for snap in (known, unknown)]
        assert "AF203" in dict(found[0])
        assert found[0] == found[1]
        for by in ("job_id", ["namespace", "job_id"]):
            counts = [af.stats.restarts(snap, by=by)["count"].sum() for snap in (known, unknown)]
            assert counts[0] == counts[1] > 0
