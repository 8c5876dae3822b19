"""Times that are zero, missing or before 1970 are reported as unknown, and never end a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import allocframe as af


def events(time: int | None) -> list[dict[str, Any]]:
    return [
        {"Type": "Received", "Time": time},
        {"Type": "Started", "Time": time},
        {"Type": "Terminated", "Time": time, "ExitCode": 1, "Details": {"exit_code": "1"}},
        {"Type": "Not Restarting", "Time": time, "FailsTask": True},
    ]


@pytest.mark.parametrize(
    ("time", "created", "finished"),
    [  # each pair of values at least once
        (0, 0, "0001-01-01T00:00:00Z"),
        (0, None, None),
        (0, 0, ""),
        (None, None, "0001-01-01T00:00:00Z"),
        (None, 0, None),
        (None, None, ""),
        (-5, 0, "0001-01-01T00:00:00Z"),
        (-5, None, None),
        (-5, 0, ""),
        (-5, None, "0001-01-01T00:00:00Z"),
    ],
)
def test_missing_times_end_neither_the_diagnosis_nor_the_summary(
    time: int | None, created: int | None, finished: str | None, tmp_path: Path
) -> None:
    state = {"State": "dead", "Failed": True, "FinishedAt": finished, "Events": events(time)}
    row = {
        "Name": "web.g[0]", "JobID": "web", "TaskGroup": "g", "ClientStatus": "failed", "NodeID": "n",
        "CreateTime": created, "ModifyTime": created, "TaskStates": {"t": state},
    }  # fmt: skip
    file = tmp_path / "list.json"
    file.write_text(json.dumps([{"ID": f"a{number}", **row} for number in range(4)]))
    with af.read_json(file) as snap:
        assert str(af.diagnose(snap))
        assert "4 allocations" in str(af.cluster_summary(snap))
        assert repr(snap)
        assert snap._repr_html_()
