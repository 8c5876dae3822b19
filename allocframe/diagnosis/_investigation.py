"""What is known while causes are looked for, and the facts that incidents are made of."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ..stats import vocabulary
from ..tables.run_ids import split_run_id
from ._attempts import kind_of_text
from ._changes import Ledger
from ._comparisons import MUCH_LONGER
from ._failures import Case
from ._groups import SECOND, Group, Jobs
from ._tables import NEVER, Array, categories, moment, numbers
from ._versions import Known, VersionTest
from .finding import Thresholds
from .incident import CONFIDENCES, Cause, Evidence, Hypothesis, Incident

MOST_KEYS = 20
"""Keys kept of the rows behind a fact: enough to look at, and a mass failure stays small."""

NAMED_ERRORS = ("artifact", "driver", "template", "secrets", "volume", "run duration", "health check")
"""Mechanisms that Nomad names itself, in a text that says more."""


@dataclass
class Investigation:
    """What is known while causes are looked for.

    Attributes
    ----------
    case, jobs, groups, limits
        The evidence of one cluster, its groups of failures, and the limits.
    versions : dict
        The test of each group whose job has several versions.
    ledger : Ledger
        What had changed.
    made_by : numpy.ndarray
        The version that made each allocation: its own one, unless it was updated in place.
    usable : list of int
        Groups whose beginning says something: not at their job's first placement, and with a known time.
    deployed : set of int
        Groups that began with a new version of their job, as if it were to blame.
    joined : set of int
        Groups that are parts of an incident of several jobs.
    ids, task_groups, versions_of, canary, everywhere, runs_well
        Of each allocation: its ID, the number of its task group (a place in `group_names`), its version,
        whether it is a canary, whether its job runs on every node, and whether it is wanted and runs or is
        complete.
    first_created : numpy.ndarray
        When the first allocation of each instance was created.
    tasks, task_names : numpy.ndarray
        The name of each task of an allocation, and its number, with -1 at the end for no task.
    tasks_of, groups_of : numpy.ndarray
        How many tasks and task groups each job has.
    renders : tuple of numpy.ndarray
        When Nomad restarted or signaled tasks for a template, in order, and their allocations.
    failures : dict of numpy.ndarray
        The columns of the failures.
    """

    case: Case
    jobs: Jobs
    groups: list[Group]
    limits: Thresholds
    versions: dict[int, VersionTest]
    ledger: Ledger
    made_by: Array
    usable: list[int] = field(default_factory=list)
    deployed: set[int] = field(default_factory=set)
    joined: set[int] = field(default_factory=set)
    rhythms: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._in_order: tuple[list[int], list[int], Array] | None = None
        # as objects, the IDs of a million allocations would take a hundred megabytes
        self.ids = self.case.evidence.allocations["alloc_id"].array
        # plain arrays: taking a few rows of a frame for each of thousands of groups would cost seconds
        self.tasks = self.case.evidence.tasks["task"].to_numpy()
        names, _ = pd.factorize(self.tasks)
        self.task_names = np.append(names, -1)
        family = self.case.instances.family[self.case.evidence.tasks["alloc"].to_numpy()]
        pairs = np.unique(np.stack([family, names]), axis=1)
        self.tasks_of = np.bincount(pairs[0], minlength=len(self.case.instances.families))
        rows = self.case.evidence.allocations
        self.task_groups, self.group_names = categories(rows["task_group"])
        pairs = np.unique(np.stack([self.case.instances.family, self.task_groups]), axis=1)
        self.groups_of = np.bincount(pairs[0], minlength=len(self.case.instances.families))
        self._prepare_places()
        self.canary = rows["canary"].astype("boolean").fillna(False).to_numpy(dtype=bool)
        self.renders = self._find_renders()
        self.failures = {str(name): self.case.failures[name].to_numpy() for name in self.case.failures}

    def _prepare_places(self) -> None:
        """Put the allocations in order of their jobs, and note of each what many groups ask."""
        rows, instances = self.case.evidence.allocations, self.case.instances
        self._by_family = np.argsort(instances.family, kind="stable")
        count = len(instances.families)
        self._bounds = np.searchsorted(instances.family[self._by_family], np.arange(count + 1))
        ended_well = rows["client_status"].isin(["running", "complete"]).to_numpy(dtype=bool)
        self.runs_well = ended_well & instances.wanted
        self.everywhere = rows["job_type"].isin(vocabulary.NODE_BOUND_JOB_TYPES).to_numpy(dtype=bool)
        self.versions_of = numbers(rows["job_version"], -1)
        created = rows["created_at"].to_numpy()
        # by instance, of which an allocation may be the first
        self.first_created = np.full(len(rows), np.iinfo(np.int64).max)
        known = np.where(created == NEVER, np.iinfo(np.int64).max, created)
        np.minimum.at(self.first_created, instances.lane, known)

    def of_family(self, family: int) -> Array:
        """Return the allocations of a job."""
        part: Array = self._by_family[self._bounds[family] : self._bounds[family + 1]]
        return part

    def changed_groups(self, family: int, version: int) -> set[str]:
        """Return the task groups that a version changed; none if it changed the job as a whole."""
        fields = self.ledger.changed_fields(self.case.instances.families[family], version)
        names = {field.get("task_group") for field in fields}
        return set() if None in names else {str(name) for name in names}

    def known_of_versions(self) -> Known:
        """Return what the tests of versions ask of this."""
        return Known(self.made_by, self.changed_groups, self.rendered_before, self.same_program)

    def same_program(self, family: int, version: int) -> set[int]:
        """Return the versions of a job that are the same as one, but for counts, by their diffs."""
        return self.ledger.same_program(self.case.instances.families[family], version)

    def rendered_before(self, group: Group, base: int, version: int) -> int:
        """Return when a template of a version was last rendered again before another; `NEVER` if it was not.

        Only templates of the task groups that fail count: the others are not read there.
        """
        mine = self.of_family(group.family)
        groups = np.unique(self.task_groups[self.failures["alloc"][group.rows]])
        mine = mine[np.isin(self.task_groups[mine], groups)]
        until = self.ledger.submitted_at(self.case.instances.families[group.family], version)
        if until == NEVER:
            created = self.case.evidence.allocations["created_at"].to_numpy()[
                mine[self.made_by[mine] == version]
            ]
            until = int(created[created != NEVER].min(initial=np.iinfo(np.int64).max))
        times, alloc = self.renders
        times = times[(times <= until) & np.isin(alloc, mine[self.made_by[mine] == base])]
        return int(times.max(initial=NEVER))

    def began_near(self, time: int, window: int) -> list[int]:
        """Return the usable groups that began within some time of another."""
        if self._in_order is None or self._in_order[0] is not self.usable:
            order = sorted(self.usable, key=lambda index: self.groups[index].onset)
            onsets = np.array([self.groups[index].onset for index in order], dtype=np.int64)
            self._in_order = self.usable, order, onsets
        _, order, onsets = self._in_order
        first = int(np.searchsorted(onsets, time - window, side="left"))
        last = int(np.searchsorted(onsets, time + window, side="right"))
        return sorted(order[first:last])

    @cached_property
    def next_tries(self) -> Array:
        """When each task starts again that waits for it now; else `NEVER`.

        Restart mode "delay" waits for the rest of its interval, by default half an hour.
        """
        events = self.case.evidence.events
        owner, times = events["owner"].to_numpy(), events["time"].to_numpy()
        last = np.flatnonzero(np.append(owner[1:] != owner[:-1], True)) if len(owner) else owner
        waits = last[events["type"].iloc[last].eq("Restarting").to_numpy(dtype=bool) & (times[last] != NEVER)]
        codes, texts = categories(events["text"].iloc[waits])
        due = times[waits] + np.array([_delay_of(text) for text in texts], dtype=np.int64)[codes]
        tries: Array = np.full(len(self.case.evidence.tasks), NEVER, dtype=np.int64)
        later = due > self.case.now
        tries[owner[waits[later]]] = due[later]
        return tries

    def _find_renders(self) -> tuple[Array, Array]:
        """Return when Nomad restarted or signaled tasks for a template, in order, and their allocations."""
        events = self.case.evidence.events
        asked = events[events["type"].isin(["Restart Signaled", "Signaling"]).to_numpy(dtype=bool)]
        codes, texts = categories(asked["text"])
        of_template = np.array([kind_of_text(text) == "template" for text in texts], dtype=bool)
        asked = asked[of_template[codes]]
        times = asked["time"].to_numpy()
        alloc = self.case.evidence.tasks["alloc"].to_numpy()[asked["owner"].to_numpy()]
        order = np.argsort(times, kind="stable")
        return times[order], alloc[order]


def describe(look: Investigation, group: Group) -> dict[str, Any]:
    """Return the numbers of one group, as plain facts; computed once."""
    if group.facts:
        return group.facts
    rows = {name: values[group.rows] for name, values in look.failures.items()}
    codes = Counter(code for code in rows["code"].tolist() if code != -1)
    signals = Counter(signal for signal in rows["signal"].tolist() if signal > 0)
    pairs = Counter(zip(rows["code"].tolist(), rows["signal"].tolist(), strict=True)).most_common()
    exits = [{"exit_code": code, "signal": max(sig, 0), "times": n} for (code, sig), n in pairs if code != -1]
    owners, allocs = rows["owner"], np.unique(rows["alloc"])
    runs_seen = int((rows["run"] >= 0).sum())
    in_groups = np.unique(look.task_groups[allocs])
    tasks = Counter(look.tasks[owners[owners >= 0]].tolist())
    errors = Counter(look.case.texts[text] for text in rows["text"].tolist())
    error = next((words for text, _ in errors.most_common() if (words := text.strip())), None)
    group.facts = {
        "kind": group.kind,
        "task": next((name for name, _ in tasks.most_common(1)), None),
        "tasks": sorted(tasks),
        "tasks_of_job": int(look.tasks_of[group.family]),
        "task_group": look.group_names[in_groups[0]] if len(in_groups) == 1 else None,
        "groups_of_job": int(look.groups_of[group.family]),
        "canaries_only": bool(look.canary[allocs].all()),
        "exit_code": next((code for code, _ in codes.most_common(1)), None),
        "exit_codes": sorted(codes),
        "exits": exits if len(exits) > 1 else None,
        "signal": next((signal for signal, _ in signals.most_common(1)), None),
        **_lengths(look, rows),
        "runs_seen": runs_seen if 2 * runs_seen < group.total else None,
        "error": error if group.kind in (*NAMED_ERRORS, "unknown") else None,
        "failures": group.total,
        "failures_seen": len(group.rows),
        "instances": len(group.lanes),
        "instances_bad": group.bad_now,
        "instances_wanted": group.wanted,
        "instance": _one_instance(look, group, allocs),
        "only_node": _one_node(look, group, allocs),
        "runs": group.runs or None,
        "failed_runs": group.failed_runs if group.runs else None,
        "failed_run": _one_run(look, group, allocs),
        "older_gone": group.older_gone,
        "began_about": moment(_began_about(look, group)),
    }
    return group.facts


def _lengths(look: Investigation, rows: dict[str, Array]) -> dict[str, pd.Timedelta | None]:
    """Return how long the runs that failed took; those before the loop by themselves, if far longer.

    The first failure of an instance ends a run that may have gone well for hours; what follows fails at once.
    """
    runs, owner = rows["run"], rows["owner"]
    order = np.argsort(rows["at"], kind="stable")
    # an instance and a task, as one number
    of = look.case.instances.lane[rows["alloc"]] * len(look.task_names) + look.task_names[owner] + 1
    first = np.zeros(len(runs), dtype=bool)
    first[order[np.unique(of[order], return_index=True)[1]]] = True
    whole = np.append(look.case.lost_restarts, 0)[owner] == 0
    before, after = runs[first & whole & (runs >= 0)], runs[~first & (runs >= 0)]
    most = 2 * len(before) > first.sum()  # else it is a stray failure
    if most and len(after) and np.median(before) > MUCH_LONGER * max(np.median(after), SECOND):
        at_first = length_of(int(np.median(before)))
        return {"median_run": length_of(int(np.median(after))), **_range_of(after), "first_run": at_first}
    known = runs[runs >= 0]
    median = length_of(int(np.median(known))) if len(known) else None
    return {"median_run": median, **_range_of(runs), "first_run": None}


_WIDE = 1.25
"""Of runs that differ less, half of them, a median says enough; and of those that take a moment."""


def _range_of(runs: Array) -> dict[str, pd.Timedelta | None]:
    """Return between which lengths four of five runs are, if they differ widely; else none."""
    runs = runs[runs >= 0]
    low, high = np.quantile(runs, [0.25, 0.75]) if len(runs) > 1 else (0, 0)
    if not (high > _WIDE * low and low >= SECOND):
        return {"short_run": None, "long_run": None}
    # lengths that were: of ten or fewer, the shortest and the longest
    short, long = np.quantile(runs, 0.1, method="lower"), np.quantile(runs, 0.9, method="higher")
    return {"short_run": length_of(int(short)), "long_run": length_of(int(long))}


def _one_instance(look: Investigation, group: Group, allocs: Array) -> str | None:
    """Return the name of the only one of several instances that fails, without its job's; else None."""
    name = str(look.case.evidence.allocations["name"].iloc[int(allocs[-1])])
    job = look.case.instances.families[group.family][1]
    by_index = not look.everywhere[allocs].any() and not look.case.instances.has_runs[group.family]
    alone = len(group.lanes) == 1 and group.wanted > 1 and by_index and name.startswith(f"{job}.")
    return name.removeprefix(f"{job}.") if alone else None


def _one_node(look: Investigation, group: Group, allocs: Array) -> str | None:
    """Return the only one of several nodes on which a job fails that runs on every node; else None."""
    nodes = np.unique(look.case.nodes[allocs])
    if len(nodes) > 1 or not look.everywhere[allocs].all():
        return None
    elsewhere = look.case.nodes[look.of_family(group.family)] != nodes[0]
    return look.case.node_names[nodes[0]] or None if elsewhere.any() else None


def _one_run(look: Investigation, group: Group, allocs: Array) -> str | None:
    """Return the name of the only run of several that failed; else None."""
    if group.failed_runs != 1 or group.runs < 2:
        return None
    failed = {run for run, bad in look.jobs.outcomes.get(group.family, []) if bad}
    mine = [each for each in allocs.tolist() if int(look.case.instances.run[each]) in failed]
    name = split_run_id(str(look.case.evidence.allocations["job_id"].iloc[mine[0]])) if mine else None
    return name[1] if name else None


def _began_about(look: Investigation, group: Group) -> int:
    """Return when failures of which the first are off the record began, by their counter and their pace."""
    owners = look.failures["owner"][group.rows]
    owners, times = np.unique(owners[owners >= 0], return_counts=True)
    onsets = look.case.onset[owners]
    known = onsets != NEVER
    if not group.began_before or not known.any():
        return NEVER
    first = np.argmin(np.where(known, onsets, np.iinfo(np.int64).max))
    # one failure on record has no pace
    return int(onsets[first]) if times[first] > 1 else NEVER


def make_incident(
    look: Investigation,
    members: list[int],
    best: Hypothesis,
    hypotheses: list[Hypothesis],
    severity: str,
    state: str,
) -> Incident:
    groups = [look.groups[index] for index in members]
    allocs = np.unique(look.failures["alloc"][np.concatenate([group.rows for group in groups])])
    rest = [each for each in hypotheses if each is not best]
    rest.sort(key=lambda each: CONFIDENCES.index(each.confidence))
    onsets = [group.onset for group in groups if group.onset != NEVER]
    lasts = [group.last_at for group in groups if group.last_at != NEVER]
    facts = dict(describe(look, groups[0]))
    for name in ("failures", "failures_seen"):
        facts[name] = sum(describe(look, group)[name] for group in groups)
    facts["instances"] = len(np.unique(np.concatenate([group.lanes for group in groups])))
    # the same instances of a job may fail in several ways
    for name in ("instances_bad", "instances_wanted"):
        by_job: dict[int, int] = {}
        for group in groups:
            by_job[group.family] = max(describe(look, group)[name], by_job.get(group.family, 0))
        facts[name] = sum(by_job.values())
    if len(groups) > 1:
        facts |= _exits_of(look, groups)
    # a bound from the counter is not a time on record
    seen = [int(t) for group in groups if (t := first_seen(look, group)) != NEVER]
    return Incident(
        severity,
        state,
        Cause(**best.__dict__),
        [best, *rest],
        sorted({look.case.instances.families[group.family] for group in groups}),
        sorted({look.case.node_names[node] for node in np.unique(look.case.nodes[allocs])} - {""}),
        look.ids[allocs].tolist(),
        moment(min(seen, default=NEVER)),
        moment(max(lasts, default=NEVER)),
        any(group.began_before for group in groups),
        {
            **facts,
            "estimated_onset": moment(min(onsets, default=NEVER)),
            "older_gone": any(group.older_gone for group in groups),
            "began_about": moment(_first_about(look, groups)),
            "next_try": moment(_next_try(look, groups)),
            "parts": [
                describe(look, g) | job_of(look, g) | {"state": g.state, "severity": g.severity}
                for g in groups
            ],
        },
    )


def _first_about(look: Investigation, groups: list[Group]) -> int:
    """Return when the first of some groups began by its counters; `NEVER` if one is on record before that."""
    abouts = [about for group in groups if (about := _began_about(look, group)) != NEVER]
    seen = [int(time) for group in groups if (time := first_seen(look, group)) != NEVER]
    return min(abouts) if abouts and min(abouts) < min(seen) else NEVER


_DELAY = re.compile(r"Task restarting in (?:(\d+)h)?(?:(\d+)m)?(?:([\d.]+)s)?$")


def _delay_of(text: str) -> int:
    """Return how long the next start waits, by Nomad's words; 0 if they do not say."""
    found = _DELAY.search(text)
    hours, minutes, seconds = (float(each or 0) for each in found.groups()) if found else (0, 0, 0)
    return int((3600 * hours + 60 * minutes + seconds) * SECOND)


def _next_try(look: Investigation, groups: list[Group]) -> int:
    """Return when the first of the tasks that failed starts again, if it waits for long; else `NEVER`."""
    owners = np.concatenate([look.failures["owner"][group.rows] for group in groups])
    tries = look.next_tries[owners[owners >= 0]]
    due = int(tries[tries != NEVER].min()) if np.any(tries != NEVER) else NEVER
    return due if due != NEVER and due - look.case.now > 60 * SECOND else NEVER


def _exits_of(look: Investigation, groups: list[Group]) -> dict[str, Any]:
    """Return how the runs of several jobs ended, and after how long if they all ran for about as long."""
    rows = np.concatenate([group.rows for group in groups])
    pairs = zip(look.failures["code"][rows].tolist(), look.failures["signal"][rows].tolist(), strict=True)
    ways = Counter(pairs).most_common()
    exits = [{"exit_code": code, "signal": max(sig, 0), "times": n} for (code, sig), n in ways if code != -1]
    runs = [each for group in groups if (each := describe(look, group)["median_run"]) is not None]
    alike = bool(runs) and max(runs) <= max(1.5 * min(runs), pd.Timedelta("1s"))
    return {
        "exits": exits if len(exits) > 1 else None,
        "median_run": sorted(runs)[len(runs) // 2] if alike else None,
        "short_run": None,
        "long_run": None,
        "first_run": None,
        "runs_seen": None,
        "instance": None,
        "only_node": None,
    }


def first_seen(look: Investigation, group: Group) -> int:
    """Return when the first failure on record of a group was; `NEVER` if that is not known."""
    times = look.failures["at"][group.rows]
    known = times[times != NEVER]
    return int(known.min()) if len(known) else NEVER


def job_of(look: Investigation, group: Group) -> dict[str, Any]:
    namespace, job = look.case.instances.families[group.family]
    return {"namespace": namespace, "job_id": job}


def name_of(look: Investigation, index: int) -> str:
    return look.case.instances.families[look.groups[index].family][1]


def length_of(nanoseconds: int) -> pd.Timedelta:
    return pd.Timedelta(nanoseconds, unit="ns")


def keys_of(look: Investigation, rows: Array) -> list[dict[str, Any]]:
    """Return the keys of the rows of some failures, the latest first."""
    pairs = zip(look.failures["alloc"][rows[::-1]], look.failures["owner"][rows[::-1]], strict=True)
    latest = list(dict.fromkeys(pairs))[:MOST_KEYS]
    return [
        {"alloc_id": str(look.ids[alloc]), "task": str(look.tasks[owner]) if owner >= 0 else None}
        for alloc, owner in latest
    ]


def alike(look: Investigation, group: Group, other: Group) -> bool:
    """Return whether two groups fail in the same way: by kind, and by exit code or error."""
    mine, its = describe(look, group), describe(look, other)
    return all(mine[name] == its[name] for name in ("kind", "exit_code", "signal", "error"))


def related(look: Investigation, group: Group, other: Group) -> bool:
    """Return whether two jobs have more in common than the time: their namespace, or how they fail."""
    families = look.case.instances.families
    return families[group.family][0] == families[other.family][0] or alike(look, group, other)


def fails_in_a_telling_way(look: Investigation, group: Group) -> bool:
    """Return whether a group fails in another way than most programs do: they exit with 1."""
    facts = describe(look, group)
    return bool(facts["error"] or facts["signal"] or facts["exit_code"] not in (None, 0, 1))


def began_at_once(look: Investigation, others: list[int], onset: int) -> Evidence:
    """Return that other groups began about when one did, the first of them first."""
    times: dict[str, int] = {}
    for each in sorted(others, key=lambda index: look.groups[index].onset):
        times.setdefault(name_of(look, each), look.groups[each].onset - onset)
    apart = [length_of(time) for time in times.values()]
    return Evidence("others at once", {"jobs": list(times), "apart": apart})
