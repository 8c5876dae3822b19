"""The ID of a run is told from that of a job, whatever the job is called."""

from __future__ import annotations

import pandas as pd
import pytest

from allocframe.tables.run_ids import RUN_SUFFIX, is_run, split_run_id

RUNS = {
    "backup/periodic-1764151200": ("backup", "periodic-1764151200"),
    "resize/dispatch-1764151200-0a1b2c3d": ("resize", "dispatch-1764151200-0a1b2c3d"),
    "resize/dispatch-night-1764151200-0a1b2c3d": ("resize", "dispatch-night-1764151200-0a1b2c3d"),
    "a/b/periodic-1": ("a/b", "periodic-1"),
    # a dispatched periodic job launches children of that dispatch
    "j/dispatch-1-0a1b2c3d/periodic-2": ("j/dispatch-1-0a1b2c3d", "periodic-2"),
}
JOBS = (
    "backup",
    "team/web",
    "team/dispatch-desk",
    "a/periodic-report",
    "periodic-1",
    "a/periodic-1/web",
    "",
    None,
)


@pytest.mark.parametrize(("job_id", "parts"), RUNS.items())
def test_the_id_of_a_run_has_its_parent_and_its_name(job_id: str, parts: tuple[str, str]) -> None:
    assert split_run_id(job_id) == parts
    assert is_run(job_id)


@pytest.mark.parametrize("job_id", JOBS)
def test_a_job_whose_name_only_looks_alike_is_no_run(job_id: str | None) -> None:
    assert split_run_id(job_id) is None
    assert not is_run(job_id)


def test_the_pattern_for_columns_leaves_the_parents_and_all_other_jobs_as_they_are() -> None:
    names = pd.Series([*RUNS, *filter(None, JOBS)])
    parents = names.str.replace(RUN_SUFFIX, "", regex=True)
    assert parents.tolist() == [*(parent for parent, _ in RUNS.values()), *filter(None, JOBS)]
