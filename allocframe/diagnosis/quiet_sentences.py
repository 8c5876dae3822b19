"""What is stuck and has not failed, in English: starts, runs, deployments, missing instances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._utils.prose import count, listed, span
from . import gone_sentences

Facts = dict[str, Any]


def is_open(incident: Any) -> bool:
    """Return whether nothing failed and something is stuck: no failure to report, and no plain all-clear."""
    facts = incident.facts
    if "scaled" in facts:  # a request to scale is everyday work; a deploy that does it may be a mistake
        return not facts["by_request"]
    if "gone" in facts:
        return True
    return any(name in facts for name in _NUMBERS) and incident.state == "ongoing"


def title(who: str, facts: Facts) -> str | None:
    """Return what is stuck, in a few words; None if the facts are of something else."""
    version = "" if facts.get("job_version") is None else f" version {facts['job_version']}"
    if "gone" in facts:
        return gone_sentences.title(who, facts)
    if "waiting" in facts or "blocked" in facts:
        return f"{who}{version} does not start{' again' if facts.get('again') else ''}"
    if "undecided" in facts:
        return f"{who}{version} is not healthy yet"
    if "waits_for" in facts:
        return f"{who}{version} {_WAITS.get(facts['waits_for'], 'waits in its deployment')}"
    if "hanging" in facts:
        runs = "runs" if facts["of_runs"] else "instances"
        return f"{who}: {count(facts['hanging'], runs)} {'does' if facts['hanging'] == 1 else 'do'} not end"
    if "no_run_for" in facts:
        return f"{who}: no new run"
    if "missing" in facts:
        return f"{who}: {count(facts['missing'], 'instances')} missing"
    return f"{who} is not scheduled" if "not_scheduled" in facts else None


_WAITS = {"promotion": "waits for its promotion", "paused": "is paused in its deployment"}


def numbers(facts: Facts, shorten: Callable[[str], str]) -> str | None:
    """Return the numbers behind a title, in one or two sentences; None if the facts are of something else."""
    for name, write in _NUMBERS.items():
        if name in facts:
            text = write(facts)
            words = facts.get("message") or (facts.get("words") if "not_scheduled" in facts else None)
            return f'{text} Nomad says: "{shorten(words)}".' if words else text
    return None


def _waiting(facts: Facts) -> str:
    n = facts["waiting"]
    do = "has waited" if n == 1 else "have waited, the longest"
    step = f" ({facts['step']})" if facts["step"] else ""
    earlier = _earlier(facts, "started within") or "no earlier one to compare with"
    serve = f" {_serve(facts['running'])}" if facts["running"] else ""
    return f"{_of(n, facts['instances_wanted'])} {do} for {span(facts['longest'])}{step}; {earlier}.{serve}"


def _blocked(facts: Facts) -> str:
    n, wanted = facts["blocked"], facts["instances_wanted"]
    group = f" of group {facts['task_group']}" if facts["task_group"] else ""
    where = f"{n:,} of {count(wanted, 'instances')}{group}" if n <= wanted else count(n, "instances")
    tasks = facts["tasks"]
    who = f"{'Task' if len(tasks) == 1 else 'Tasks'} {listed(tasks, 3)}"
    waits = (
        f"{who} {'has' if len(tasks) == 1 else 'have'} not started in {where} for {span(facts['longest'])}"
    )
    why = f": {_still_run(facts)}" if facts["behind"] else f" ({facts['step']})" if facts["step"] else ""
    earlier = _earlier(facts, "started within")
    return f"{waits}{why}. {f'{earlier}. ' if earlier else ''}{_serve(facts['serving'])}"


def _still_run(facts: Facts) -> str:
    """Return which tasks do not end, with what is known of them."""
    names = facts["behind"]
    hooks = {facts["hooks"].get(each) for each in names}
    hook = f"{hooks.pop()} " if len(hooks) == 1 and None not in hooks else ""
    added = f", which version {facts['job_version']} added," if facts["added"] == names else ""
    tasks, run = ("task", "runs") if len(names) == 1 else ("tasks", "run")
    return f"{hook}{tasks} {listed(names, 3)}{added} still {run}"


def _serve(serving: int) -> str:
    if not serving:
        return "No other instance is running."
    return f"{count(serving, 'other instances')} {'is' if serving == 1 else 'are'} running."


def _undecided(facts: Facts) -> str:
    n = facts["undecided"]
    run = "has been running for" if n == 1 else "have been running for up to"
    who = f"{_of(n, facts['instances_wanted'])} {run} {span(facts['longest'])}"
    were = "were healthy within" if facts["earlier"] > 1 else "was healthy within"
    earlier = _earlier(facts, were) or "no earlier one to compare with"
    text = f"{who}, and the deployment has not marked {'it' if n == 1 else 'them'} healthy; {earlier}."
    if facts["changed"]:
        text += f" Version {facts['job_version']} changed {listed(facts['changed'], 3)}."
    if facts["desired"] is None or facts["deployed_for"] is None:
        return text
    placed, healthy = facts["placed"] or 0, facts["healthy"] or 0
    text += f" Its deployment has placed {placed:,} of {count(facts['desired'], 'instances')}, "
    text += f"{healthy or 'none'} of them healthy, in {span(facts['deployed_for'])}"
    return text + (f"; the last one needed {span(facts['last_took'])}." if facts["last_took"] else ".")


def _deployment(facts: Facts) -> str:
    new, old = facts["running_newest"], facts["running_older"]
    still = f" for {span(facts['still_for'])}" if facts["still_for"] is not None else ""
    if facts["waits_for"] == "promotion":
        n = facts["canaries"]
        what, them = ("1 canary is", "it") if n == 1 else (f"{n:,} canaries are", "them")
        text = f"{what} healthy, and nobody has promoted {them}{still}"
    else:
        of = f" of {count(facts['desired'], 'instances')}" if facts["desired"] is not None else ""
        are = "is" if new == 1 else "are"
        text = f"{new:,}{of} {are} of version {facts['job_version']}, and nothing has moved{still}"
    on = f"; {old:,} of older versions {'is' if old == 1 else 'are'} still running" if old else ""
    return f"{text}{on}."


def _hanging(facts: Facts) -> str:
    runs = "runs" if facts["of_runs"] else "instances"
    before = f"the {count(facts['runs_before'], runs)} that completed took {span(facts['longest_before'])}"
    up_to = "up to " if facts["hanging"] > 1 else ""
    text = f"Running for {up_to}{span(facts['running_for'])}; {before} at most"
    text += f" (median {span(facts['median_before'])})."
    return f"{text} Since the last one began, {_due(facts)}." if facts["due"] else text


def _no_run(facts: Facts) -> str:
    return f"The last one was launched {span(facts['no_run_for'])} ago. Since then, {_due(facts)}."


def _missing(facts: Facts) -> str:
    n, running = facts["missing"], facts["running"]
    runs = (
        f"{running:,} of {count(facts['instances_wanted'], 'instances')} {'runs' if running == 1 else 'run'}"
    )
    others = (
        "the other was"
        if n == 1
        else f"the other {n:,} were"
        if facts["lost_instances"] == n
        else "others were"
    )
    where = f"; {others} lost with {listed(facts['lost_with'])}" if facts["lost_with"] else ""
    if not facts["evaluated"]:
        return f"{runs}{where}."
    text = f"{runs}{where}, and no evaluation waits to replace {'it' if n == 1 else 'them'}."
    if facts["deployment_failed"]:
        text += f" The deployment of version {facts['job_version']} has failed: Nomad places none for it."
    return text


def _not_scheduled(facts: Facts) -> str:
    evaluation = f"Its newest evaluation ({facts['triggered_by']})"
    if facts["not_scheduled"] == "failed":
        return f"{evaluation} failed {span(facts['for'])} ago."
    return f"{evaluation} has waited for a scheduler for {span(facts['for'])}."


_NUMBERS: dict[str, Callable[[Facts], str]] = {
    "waiting": _waiting,
    "blocked": _blocked,
    "undecided": _undecided,
    "waits_for": _deployment,
    "hanging": _hanging,
    "no_run_for": _no_run,
    "missing": _missing,
    "not_scheduled": _not_scheduled,
}


def _of(n: int, wanted: int) -> str:
    return f"{n:,} of {count(wanted, 'instances')}" if n < wanted else count(n, "instances")


def _due(facts: Facts) -> str:
    were = "1 run was" if facts["due"] == 1 else f"{facts['due']:,} runs were"
    return f"{were} due and not launched (before that, one every {span(facts['every'])})"


def _earlier(facts: Facts, verb: str) -> str:
    """Return how long earlier instances took, as a clause; empty if there are none."""
    if not facts["earlier"]:
        return ""
    return f"{count(facts['earlier'], 'earlier allocations')} {verb} {span(facts['earlier_longest'])}"


def _behind(facts: Facts) -> str:
    names = facts["behind"]
    if names:
        return f"; {listed(names, 3)} {'runs' if len(names) == 1 else 'run'}"
    return f" ({facts['step']})" if facts["step"] else ""


EVIDENCE: dict[str, Callable[[Facts], str]] = {
    "never started": lambda n: (
        f"{count(n['waiting'], 'allocations')} {'has' if n['waiting'] == 1 else 'have'} not started"
        f"{' since the last run ended' if n.get('again') else ''}."
    ),
    "blocked": lambda n: (
        f"{count(n['blocked'], 'allocations')} {'has' if n['blocked'] == 1 else 'have'} not started "
        f"{listed(n['tasks'], 3)}{_behind(n)}."
    ),
    "task added": lambda n: f"Version {n['job_version']} added task {listed(n['tasks'], 3)}.",
    "not healthy yet": lambda n: (
        f"The deployment calls {count(n['undecided'], 'allocations')} neither healthy nor unhealthy."
    ),
    "deployment waits": lambda n: f'The deployment says: "{n["words"] or n["waits_for"]}".',
    "far longer": _hanging,
    "no new run": _no_run,
    "missing": _missing,
    "not scheduled": _not_scheduled,
    "taken away": gone_sentences.evidence,
}
"""Evidence of what is stuck, by its fact."""
