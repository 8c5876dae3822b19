"""The job IDs of runs: the children that Nomad makes of periodic and parameterized jobs."""

from __future__ import annotations

import re

RUN = f"(periodic-[0-9]+|dispatch-(?:.+-)?[0-9]+-{'[0-9a-f]' * 8})"
"""How Nomad names a run. It has no backslash and no brace, so that DuckDB and Spark read it, too."""

RUN_SUFFIX = f"/{RUN}$"
"""What the job ID of a run has after that of its parent, as a pattern for columns."""

_RUN_ID = re.compile(f"(.+)/{RUN}", re.DOTALL)


def split_run_id(job_id: str | None) -> tuple[str, str] | None:
    """Return the parent's ID and the run's name; None if it is not the ID of a run.

    The greedy first group finds the last run: a dispatched periodic job launches children of that dispatch.

    Examples
    --------
    >>> from allocframe.tables.run_ids import split_run_id
    >>> split_run_id("backup/periodic-1764151200")
    ('backup', 'periodic-1764151200')
    >>> split_run_id("team/dispatch-desk")
    """
    # few job IDs have a slash, and looking for one costs far less than the pattern
    match = _RUN_ID.fullmatch(job_id) if job_id and "/" in job_id else None
    return (match[1], match[2]) if match else None


def is_run(job_id: str | None) -> bool:
    """Return whether a job is a run of a periodic or parameterized job."""
    return split_run_id(job_id) is not None
