"""How many runs of a periodic or parameterized job failed, in English."""

from __future__ import annotations

from typing import Any

from .._utils.prose import count


def failed(facts: dict[str, Any], *, for_good: bool = False) -> str:
    """Return how many runs failed: of one version and of the others, if the version parts them.

    With `for_good`, Nomad tries none of them again.

    Examples
    --------
    >>> from allocframe.diagnosis.run_sentences import failed
    >>> of_version = {"job_version": 1, "failed": 4, "runs": 4, "failed_others": 0, "others": 5}
    >>> failed({"runs_by_version": {**of_version, "is_newest": True}})
    '4 of 4 runs since version 1 failed, and 0 of 5 before'
    """
    parts = facts.get("runs_by_version")
    if not parts:
        which = f" ({facts['failed_run']})" if facts.get("failed_run") else ""
        where = f" on {facts['only_node']}" if facts.get("only_node") else ""
        bad = f"{facts['failed_runs']:,} of {count(facts['runs'], 'runs')} failed"
        return f"{bad}{' for good' * for_good}{which}{where}"
    since, before = ("since", "before") if parts["is_newest"] else ("of", "of others")
    bad = (
        f"{parts['failed']:,} of {count(parts['runs'], 'runs')} {since} version {parts['job_version']} failed"
    )
    return f"{bad}, and {parts['failed_others']:,} of {parts['others']:,} {before}"
