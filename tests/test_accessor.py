"""``df.alloc`` works on every part of a table, and says what is wrong with a frame that is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import matplotlib as mpl
import pandas as pd
import pytest

mpl.use("Agg")

import matplotlib.pyplot as plt

import allocframe as af


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    plt.close("all")


def test_it_gives_what_the_statistics_give(snap: af.Snapshot) -> None:
    pd.testing.assert_frame_equal(
        snap.events.alloc.restarts(by="task"), af.stats.restarts(snap.events, by="task")
    )
    pd.testing.assert_frame_equal(snap.events.alloc.explain(), af.stats.explain_events(snap.events))
    pd.testing.assert_frame_equal(snap.allocations.alloc.explain(), af.stats.explain_stops(snap))
    assert snap.events.alloc.timeline(lanes="job").get_title("left") == af.plots.timeline(
        snap.events, lanes="job"
    ).get_title("left")


def test_it_survives_copies_filters_and_groups_which_lose_attributes(snap: af.Snapshot) -> None:
    part = snap.events[snap.events["job_id"] == "payments-api"].copy()
    part.attrs.clear()
    assert part.alloc.restarts()["count"].sum() == (part["type"] == "Restarting").sum()
    counts = {
        job: int(group.alloc.restarts(by="task")["count"].sum())
        for job, group in snap.events.groupby("job_id", observed=True)
    }
    assert sum(counts.values()) == (snap.events["type"] == "Restarting").sum()
    assert pd.concat([part, part.head(0)]).assign(mine=1).alloc.table == "events"


def test_each_table_is_known(snap: af.Snapshot) -> None:
    for name in ("allocations", "task_states", "events", "reschedules", "resources"):
        assert getattr(snap, name).alloc.table == name


def test_other_frames_and_tables_are_refused_with_what_they_lack(snap: af.Snapshot) -> None:
    with pytest.raises(AttributeError, match="none of the tables events, task_states, allocations"):
        _ = pd.DataFrame({"a": [1]}).alloc
    with pytest.raises(AttributeError, match="For events it lacks exit_code, signal"):
        _ = snap.events[["alloc_id", "task", "seq", "type", "time"]].alloc
    with pytest.raises(TypeError, match="needs the events table, but this DataFrame is task_states"):
        snap.task_states.alloc.restarts()


def test_importing_allocframe_registers_it_without_the_heavy_parts() -> None:
    code = (
        "import sys, allocframe, pandas; assert hasattr(pandas.DataFrame, 'alloc');"
        "heavy = {'matplotlib', 'scipy', 'narwhals'};"
        "sys.exit(sorted(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
