"""The evidence for and against causes, and the changes near an incident, in English."""

from __future__ import annotations

import json
import re
from typing import Any, Protocol

import pandas as pd

from .._utils.prose import clock, count, listed, p_value, span
from . import quiet_sentences
from .incident_sentences import ends, first_upper, shortened


class Fact(Protocol):
    """A fact with its numbers; evidence is such a fact."""

    @property
    def fact(self) -> str: ...
    @property
    def numbers(self) -> dict[str, Any]: ...


def evidence(fact: Fact) -> str:
    """Return a fact as a sentence."""
    return str(_EVIDENCE[fact.fact](fact.numbers))


def _compared(n: dict[str, Any]) -> str:
    def side(version: int, failures: int, hours: float, starts: int) -> str:
        # what has run for no time was never started
        ran = f"{span(pd.Timedelta(hours=hours))} of running" if hours else count(starts, "attempts")
        return f"version {version}: {count(failures, 'failures')} in {ran}"

    new = side(n["job_version"], n["failures"], n["hours"], n["starts"])
    old = side(n["base_version"], n["base_failures"], n["base_hours"], n["base_starts"])
    where = f" on {n['node_name']}, where alone it failed" if n.get("node_name") else ""
    since = ", from its first failure on" if n.get("since_onset") else ""
    since = ", since its template was rendered again" if n.get("since_render") else since
    return f"{first_upper(new)}; {old}{since}{where} ({p_value(n['p'])})."


def _placed(n: dict[str, Any]) -> str:
    return f"version {n['job_version']} was first placed"


def _soon_after(n: dict[str, Any]) -> str:
    if n["delay"] < pd.Timedelta("50ms"):  # "0.0 s" would read like an error
        return f"It began as soon as {_placed(n)}."
    return f"It began {'at most ' if n.get('at_most') else ''}{span(n['delay'])} after {_placed(n)}."


def _with_times(jobs: list[str], apart: list[pd.Timedelta]) -> list[str]:
    """Return a few jobs with how long before or after another they began to fail, as counters tell."""
    if len(jobs) > 3:
        return jobs
    return [
        job if abs(time) < pd.Timedelta("2s")
        else f"{job} (about {span(abs(time))} {'before' if time < pd.Timedelta(0) else 'after'})"
        for job, time in zip(jobs, apart, strict=True)
    ]  # fmt: skip


def _released(n: dict[str, Any]) -> str:
    fail = "fails" if len(n["failing"]) == 1 else "fail"
    how = f"{listed(n['failing'])} {fail} as well" if n["failing"] else "none of them fails"
    when = f"within {span(n['spread'])} of it" if n["spread"] >= pd.Timedelta("1s") else "at the same time"
    return f"{listed(n['jobs'])} got a new version {when}; {how}."


def _short(length: pd.Timedelta) -> str:
    """Return a duration that may be too short for tenths of a second."""
    milliseconds = length.total_seconds() * 1000
    return f"{max(milliseconds, 1):.0f} ms" if milliseconds < 100 else span(length)


def _to(n: dict[str, Any]) -> str:
    youngest, oldest = span(n["youngest"]), span(n["oldest"])
    return "" if youngest == oldest else f" to {oldest}"


_UNITS = {"cpu": "MHz of CPU", "memory": "MB of memory", "disk": "MB of disk"}


def _room_held(n: dict[str, Any]) -> str:
    held = listed([f"{amount:,} {_UNITS[name]}" for name, amount in n["holds"].items()])
    what = f"hold {held} on {listed(n['nodes'])}" if held else f"are running on {listed(n['nodes'])}"
    who = f"{count(n['runs'], 'allocations')} of {n['job_id']} {what}"
    if n["runs"] == 1:
        who = who.replace(" hold ", " holds ").replace(" are running ", " is running ")
    ran = f"for {span(n['running_for'])} so far, where earlier ones took {span(n['longest_before'])} at most"
    return f"{who}: {'the longest ' if n['runs'] > 1 else ''}{ran}."


def _in_turn(n: dict[str, Any]) -> str:
    who = count(n["instances"], "instances")
    by = "one by one" if n["times"] == n["ends"] else f"in {n['times']:,} turns"
    what = f"{who} ended {'once each, ' if n['once'] else ''}{by}, every {span(n['pace'])}"
    ages = f"at ages from {span(n['youngest'])} to {span(n['oldest'])}"
    since = f", and none in the {span(n['calm'])} since" if n["calm"] > n["pace"] * n["times"] else ""
    return f"{what}, {ages}{since} ({p_value(n['p'])}). Something outside made them end."


def _where_else(n: dict[str, Any]) -> list[str]:
    versions, nodes = [str(each) for each in n["versions"]], n["nodes"]
    of = [f"in versions {listed(versions)}"] if len(versions) > 1 else []
    return of + ([f"on {listed(nodes)}"] if len(nodes) > 1 else [])


def _past_the_age(n: dict[str, Any]) -> str:
    of = "on record " if not n["whole"] else ""
    new = f"{n['failed']:,} of {count(n['runs'], 'runs')} of version {n['job_version']} {of}"
    versions = listed([str(each) for each in n["base_versions"]])
    old = f"{n['base_past']:,} of {count(n['base_runs'], 'runs')} of version {versions} got past that"
    few = ": too few to be sure" if n["few"] else ""
    return f"{new}failed by the age of {span(n['age'])}; {old} ({p_value(n['p'])}){few}."


def _left_within(n: dict[str, Any]) -> str:
    within = n.get("left_within")
    if within is None:
        return ""
    return f"; the {count(n['jobs'], 'jobs')} left {listed(n['off'])} within {_short(within)} of each other"


def _changed(n: dict[str, Any]) -> str:
    """Return what had been done to another job."""
    if n["job_version"] is not None:
        return f"version {n['job_version']} of {n['changed_job']}"
    done = {"scale": "scaled", "operator stop": "stopped", "purge": "purged"}
    return f"{n['changed_job']} was {done.get(n['change'], 'changed')}"


def _filtered_and_used(n: dict[str, Any]) -> str:
    run = "runs" if len(n["nodes"]) == 1 else "run"
    used = f"{count(n['instances'], 'instances')} of version {listed([str(each) for each in n['versions']])}"
    where = f"{listed(n['nodes'])}, filtered out for the newest version, {run} {used}."
    return f"{where} Nomad does not say by which constraint, driver or volume."


_EVIDENCE: dict[str, Any] = {
    **quiet_sentences.EVIDENCE,
    "error": lambda n: (
        f'Nomad says: "{shortened(n["error"])}" ({count(n["failures"], "times")}).'
        if n["error"]
        else f"Nomad gives no error text ({count(n['failures'], 'times')})."
    ),
    "oom killed": lambda n: f"The driver reports that memory ran out ({count(n['failures'], 'times')}).",
    "failed without a word": lambda n: f"{count(n['failures'], 'failures')} with no reason on record.",
    "exits": lambda n: first_upper(f"{ends(n)}, {count(n['failures'], 'times')}."),
    "sigkill": lambda n: f"SIGKILL that Nomad did not send ({count(n['failures'], 'times')}).",
    "exit like sigkill": lambda n: (
        f"Exit code 137 without a signal ({count(n['failures'], 'times')}): a container or a shell reports a "
        "SIGKILL in this way."
    ),
    "same length": lambda n: f"Each run lasted about as long ({span(n['median_run'])}).",
    "driver denies oom": lambda n: (
        f"The driver says oom_killed: false ({count(n['failures'], 'times')}); raw_exec, and servers before "
        "1.7, say so whatever happened."
    ),
    "version compared": _compared,
    "too short to compare": lambda n: (
        f"Its template was rendered again {span(n['before'])} before version {n['job_version']}. With that, "
        f"version {n['base_version']} ran for {span(n['ran'])} at most, less than a run that fails "
        f"({span(n['run'])}): nothing on record tells the two apart."
    ),
    "past the age": _past_the_age,
    "soon after version": _soon_after,
    "long after version": lambda n: (
        f"It began {'at least' if n.get('at_least') else 'only'} {span(n['delay'])} after {_placed(n)}."
    ),
    "began before version": lambda n: f"It began before {_placed(n)}.",
    "change touches": lambda n: (
        f"Version {n['job_version']} changed {listed(list(dict.fromkeys(n['fields'])))}."
    ),
    "stable before": lambda n: f"A deployment of version {n['base_version']} had been healthy.",
    "later version well": lambda n: "A later version runs without this failure.",
    "ran well": lambda n: (
        f"Instances of version {n['job_version']} ran {'at least ' if n.get('at_least') else ''}"
        f"{span(n['ran_well'])} before they failed."
    ),
    "changed group first": lambda n: (
        f"Version {n['job_version']} changed only group {listed(n['groups'])}, which failed first."
    ),
    "fell together": lambda n: (
        f"{count(n['instances'], 'instances')} of version {n['job_version']} began to fail within "
        f"{'a moment' if n['spread'] < pd.Timedelta('50ms') else span(n['spread'])} of each other."
    ),
    "ends by clock": lambda n: (
        f"{n['times']:,} times, {count(n['instances'], 'instances')} ended within {_short(n['apart'])} of "
        f"each other, at ages from {span(n['youngest'])} to {span(n['oldest'])} ({p_value(n['p'])}). "
        "Something outside made them end."
    ),
    "ends in turn": _in_turn,
    "ends by age": lambda n: (
        f"{count(n['ends'], 'runs')} of {count(n['instances'], 'instances')} ended at the same age "
        f"({span(n['youngest'])}{_to(n)}), at times up to {_short(n['apart'])} apart ({p_value(n['p'])}). "
        f"Each run ends that long after its own start{', from the first run on' if n['from_first'] else ''}."
    ),
    "healthy deploy": lambda n: (
        f"Its deployment had called {count(n['allocations'], 'allocations')} of version {n['job_version']} "
        "healthy."
    ),
    "others at once": lambda n: (
        f"Other jobs began to fail within a minute of it: {listed(_with_times(n['jobs'], n['apart']))}."
    ),
    "only on node": lambda n: (
        f"What failed ({count(n['failed'], 'allocations')}) was on {n['node_name']}; "
        f"{count(n['elsewhere'], 'allocations')} on other nodes did not fail."
    ),
    "others well on node": lambda n: (
        f"{count(n['allocations'], 'allocations')} of other jobs "
        f"{'runs' if n['allocations'] == 1 else 'run'} well on {n['node_name']}."
    ),
    "node compared": lambda n: (
        f"On {n['node_name']}, {n['failed']:,} of {count(n['placed'], 'placements')} failed; elsewhere, "
        f"{n['failed_elsewhere']:,} of {n['placed_elsewhere']:,} ({p_value(n['p'])})."
    ),
    "fault of node": lambda n: (
        f'{n["node_name"]} alone says: "{shortened(n["error"])}" ({count(n["jobs"], "jobs")}).'
    ),
    "ended with node": lambda n: (
        f"{count(n['instances'], 'instances')} of {count(n['jobs'], 'jobs')} ended on {n['node_name']}"
        f"{' within ' + _short(n['apart']) if n['instances'] > 1 else ' before that'}."
    ),
    "node back": lambda n: (
        f"{n['node_name']} has been ready since {n['at']:%H:%M:%S} UTC, "
        f"{span(max(n['after'], pd.Timedelta(0)))} after that."
    ),
    "failed deployment": lambda n: (
        f"The deployment of version {n['job_version']} failed"
        f"{': ' + repr(n['reason']) if n['reason'] else ''}."
    ),
    "unhealthy version": lambda n: (
        f"No allocation of version {n['job_version']} became healthy "
        f"({count(n['unhealthy'], 'allocations')}); "
        f"{count(n['base_healthy'], 'allocations')} of version {n['base_version']} had."
    ),
    "begun together": lambda n: (
        f"{count(len(n['jobs']), 'jobs')} began to fail within {_short(n['spread'])}: {listed(n['jobs'])} "
        f"({p_value(n['p'])})."
    ),
    "failed together again": lambda n: (
        f"{count(len(n['jobs']), 'jobs')} failed together {len(n['times'])} times "
        f"({listed([f'{time:%H:%M:%S}' for time in n['times']])} UTC): {listed(n['jobs'])} "
        f"({p_value(n['p'])})."
    ),
    "fell after change": lambda n: (
        f"{count(n['instances'], 'instances')} of {listed(n['jobs'])} had run well, and began to fail within "
        f"{_short(n['spread'])}, {_short(n['before'])} after {_changed(n)} ({p_value(n['p'])})."
    ),
    "changed just before": lambda n: f"{first_upper(_changed(n))} came {_short(n['before'])} before it.",
    "shared": lambda n: f"The errors of {count(len(n['jobs']), 'jobs')} name {n['what']}.",
    "not deployed": lambda n: f"No new version of {listed(n['jobs'])} had been deployed before it.",
    "lost with node": lambda n: f"{count(n['lost'], 'allocations')} were lost with {n['node_name']}.",
    "reconnected": lambda n: (
        f"{n['node_name']} was unreachable; {count(n['lost'], 'allocations')} kept running, and reconnected."
    ),
    "started again": lambda n: (
        f"{count(n['tasks'], 'tasks')} on {n['node_name']} started a second time; no end is on record."
    ),
    "restart requested": lambda n: (
        f"{count(n['restarts'], 'restarts')} {'was' if n['restarts'] == 1 else 'were'} requested"
        f"{': ' + repr(n['reason']) if n['reason'] else ''}."
    ),
    "killed by force": lambda n: f"SIGKILL after Nomad's request to stop ({count(n['kills'], 'times')}).",
    "moved": lambda n: (
        f"The servers moved {count(n['moved'], 'allocations')}{_left_within(n)}"
        f"{'; a drain of ' + listed(n['off']) + ' is on record' if n['drained'] else ''}"
        f"{'; a request to stop each of them is on record' if n.get('one_by_one') else ''}."
    ),
    "purged": lambda n: f"A purge of {listed(n['jobs'])} is on record, and no allocation of it.",
    "stopped": lambda n: (
        f"A request to {'purge' if n['purge'] else 'stop'} {listed(n['jobs'])} is on record, "
        "and nothing after it."
    ),
    "lost from node": lambda n: (
        f"{count(n['allocations'], 'allocations')} of it {'was' if n['allocations'] == 1 else 'were'} "
        f"lost with {listed(n['nodes'])}."
    ),
    "scaled to 0": lambda n: (
        f"Version {n['job_version']} set the count of {listed([each['task_group'] for each in n['scaled']])} "
        f"to 0{'; a scaling request is on record' if n['by_request'] else ''}."
    ),
    "released together": _released,
    "template rendered": lambda n: (
        f"A template of {listed(n['jobs'])} was rendered again at {n['at']:%H:%M:%S} UTC, "
        "about when it began."
    ),
    "restarts not on record": lambda n: (
        f"The counter says {count(n['restarts'], 'restarts')} more than the events show."
    ),
    "unhealthy deploy": lambda n: (
        f'The deployment says: "{n["message"]}".'
        if n["message"]
        else f"The deployment calls {count(n['unhealthy'], 'allocations')} unhealthy."
    ),
    "only in datacenter": lambda n: (
        f"What failed ({count(n['failed'], 'allocations')}) was in datacenter {n['datacenter']}; "
        f"{count(n['well'], 'allocations')} in {listed(n['well_in'])} run well."
    ),
    "only on nodes": lambda n: (
        f"What failed ({count(n['failed'], 'allocations')}) was on {listed(n['nodes'])}; "
        f"{count(n['well'], 'allocations')} on {listed(n['well_on'])} "
        f"{'runs' if n['well'] == 1 else 'run'} or ended well."
    ),
    "only new ones": lambda n: (
        f"Only the {count(n['new'], 'instances')} placed since {clock(n['since'])} UTC fail; "
        f"the {n['old']:,} placed before run well."
    ),
    "one instance": lambda n: f"It is {n['name']} each time, {' and '.join(_where_else(n))}.",
    "rollback fails": lambda n: (
        f"Version {n['job_version']}, which is version {n['same_as']} again, fails as well."
    ),
    "room held": _room_held,
    "filtered and used": _filtered_and_used,
    "node changed": lambda n: (
        f"{n['node']} changed {span(n['before'])} before, and the servers evaluated the job again."
    ),
    "left out": lambda n: f"The scheduler left out {listed(n['nodes'])}.",
    "runs by version": lambda n: (
        f"{n['failed']:,} of {count(n['runs'], 'runs')} of version {n['job_version']} failed, and "
        f"{n['failed_others']:,} of {n['others']:,} of others ({p_value(n['p'])})."
    ),
    "preempted": lambda n: f"{listed(n['jobs'])} preempted {count(n['allocations'], 'allocations')} of it.",
    "moved from node": lambda n: (
        f"{count(n['allocations'], 'allocations')} had to leave {listed(n['nodes'])}."
    ),
    "asked": lambda n: f"Version {n['job_version']} changed {listed(n['fields'])}: {listed(n['things'])}.",
    "not placed": lambda n: (
        f"The newest evaluation says: {n['lacking']}{' (' + listed(n['nodes']) + ')' if n['nodes'] else ''}."
    ),
}


def change(row: dict[str, Any]) -> str:
    """Return a row of the change ledger, with what it changed, as a line."""
    who = row.get("job_id") or row.get("node_name") or ""
    if row.get("elsewhere"):
        who = f"{row['namespace']}/{who}"
    version = f" {row['version_after']}" if row.get("version_after") is not None else ""
    fields = list(dict.fromkeys(f"{each['path']} {each['kind']}" for each in row.get("diff", ())))
    again = f" (version {row['same_as']} again)" if row.get("same_as") is not None else ""
    deployed = f" (deployment {row['deployment']})" if row.get("deployment") else ""
    what = f"{row['kind']}{version} of {who}{again}{_became(row)}{deployed}"
    early = row["before"] >= pd.Timedelta(0)
    bound = "at most " if row.get("at_most") else ""
    when = f"{bound}{span(abs(row['before']))} {'before' if early else 'after'}"
    when += ", as it ended" if row.get("at_recovery") else ""
    return f"{when}: {what}{': ' if fields else ''}{listed(fields)}"


def _became(row: dict[str, Any]) -> str:
    """Return what a change of a node's eligibility, or its drain, came to, in Nomad's words."""
    if row["kind"] not in ("eligibility", "drain") or not row.get("detail"):
        return ""
    words = str(json.loads(row["detail"]).get("message") or "")
    short = re.sub(r"^Node (marked as |drain )?| for scheduling$", "", words)
    return f" ({short})" if short else ""
