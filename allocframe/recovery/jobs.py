"""Versions of jobs, put together from their registrations in a Raft log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

JSON = dict[str, Any]
JobKey = tuple[str, str]
"""Namespace and job."""


@dataclass
class _Registration:
    """One registration of a job: its Raft index, and its specification, which may say its version."""

    index: int
    spec: JSON
    version: int | None = None


class JobVersions:
    """The registrations of all jobs, and which version each of them made.

    A registration in the log does not have its version. Plans, states and allocations have the job with it,
    and the versions before and after follow from these.
    """

    def __init__(self) -> None:
        self._jobs: dict[JobKey, dict[int, _Registration]] = {}
        self._purged: dict[JobKey, list[int]] = {}

    def register(self, spec: Any, index: int) -> None:
        """Note a registration."""
        if isinstance(spec, dict) and isinstance(spec.get("ID"), str):
            key = (str(spec.get("Namespace") or "default"), spec["ID"])
            self._jobs.setdefault(key, {}).setdefault(index, _Registration(index, spec))

    def observe(self, spec: Any) -> None:
        """Note a job as a plan, a state or an event has it: with its version."""
        if not isinstance(spec, dict) or not isinstance(spec.get("ID"), str):
            return
        index, version = spec.get("JobModifyIndex"), spec.get("Version")
        if not isinstance(index, int) or not isinstance(version, int) or not index:
            return
        self.register(spec, index)
        key = (str(spec.get("Namespace") or "default"), spec["ID"])
        known = self._jobs[key][index]
        is_news = known.version is None or bool(spec.get("Stable"))
        known.version = version
        if is_news and spec.get("TaskGroups"):
            known.spec = {**spec, "SubmitTime": spec.get("SubmitTime") or known.spec.get("SubmitTime")}

    def stop(self, namespace: str, job_id: str, index: int, at: Any, *, purge: bool) -> None:
        """Note that a job was stopped, which makes a version, or purged, which makes none."""
        key = namespace or "default", job_id
        if purge:
            self._purged.setdefault(key, []).append(index)
            return
        earlier = [known for known in self._jobs.get(key, {}).values() if known.index < index]
        if earlier and not max(earlier, key=lambda known: known.index).spec.get("Stop"):
            spec = max(earlier, key=lambda known: known.index).spec
            self.register({**spec, "Stop": True, "SubmitTime": at or spec.get("SubmitTime")}, index)

    def versions(self, *, from_start: bool) -> Iterator[list[JSON]]:
        """Yield the known versions of each job, as specifications with their version.

        With `from_start`, the log has every registration there ever was.
        """
        for key, registrations in self._jobs.items():
            purges = self._purged.get(key, [])
            life: list[_Registration] = []
            lives = [life]
            for known in sorted(registrations.values(), key=lambda known: known.index):
                if life and any(life[-1].index < purge < known.index for purge in purges):
                    life = []
                    lives.append(life)
                life.append(known)
            for number, life in enumerate(lives):
                is_first = number > 0 or from_start or any(purge < life[0].index for purge in purges)
                yield _number(life, is_first)


def _number(life: list[_Registration], is_first: bool) -> list[JSON]:
    """Return the specifications of a job's registrations, with the versions that follow from each other."""
    versions = [known.version for known in life]
    if versions[0] is None and is_first:
        versions[0] = 0
    for place in range(1, len(versions)):
        before = versions[place - 1]
        if versions[place] is None and before is not None:
            versions[place] = before + 1
    for place in reversed(range(len(versions) - 1)):
        after = versions[place + 1]
        if versions[place] is None and after:
            versions[place] = after - 1
    return [
        {**known.spec, "Version": version, "JobModifyIndex": known.index}
        for known, version in zip(life, versions, strict=True)
    ]
