"""What a version of a job removed, in English."""

from __future__ import annotations

from typing import Any

from .._utils.prose import count, listed, span

Facts = dict[str, Any]


def title(who: str, facts: Facts) -> str:
    """Return what is no longer there, in a few words."""
    parts = [_in_short(part) for part in facts["gone"]]
    return f"{who} {listed(parts, 3)}"


def details(facts: Facts, at: str) -> str:
    """Return which version did it and what it was like before; `at` says when, as " at 10:00 UTC"."""
    texts = []
    for place, part in enumerate(facts["gone"]):
        did, before = _did(part), _before(part)
        begin = f"Version {facts['job_version']} {did}{at}" if place == 0 else f"It {did}"
        texts.append(f"{begin}; {before}." if before else f"{begin}.")
    return " ".join(texts)


def evidence(facts: Facts) -> str:
    """Return the evidence on record that a version removed something."""
    fields = list(dict.fromkeys(facts["fields"]))
    return f"Version {facts['job_version']} changed {listed(fields)}; nothing on record failed with it."


def _in_short(part: Facts) -> str:
    what = part["what"]
    if what == "nodes":
        return f"{'no longer runs on' if part['everywhere'] else 'has moved off'} {listed(part['nodes'], 3)}"
    if what == "runs":
        return "launches no more periodic runs"
    if what == "schedule":
        return "has had no run since its schedule was edited"
    if what == "count":
        return f"wants {count(part['new'], 'instances')}, not {part['old']:,}"
    if what == "check":
        return f"no longer has check {part['name']}"
    return f"no longer has {what} {part['name']}"


def _did(part: Facts) -> str:
    """Return what the version did, as the predicate of a sentence."""
    what, group = part["what"], part.get("task_group")
    if what == "nodes":
        asks, drops = part["demands"], [f"no longer asks for {each}" for each in part["no_longer"]]
        return (
            " and ".join([*([f"asked for {', '.join(asks)}"] if asks else []), *drops])
            or "asked for other nodes"
        )
    if what == "runs":
        return "turned its periodic launch off"
    if what == "schedule":
        edits = [
            f"{each['name']} from {_quoted(each['old'])} to {_quoted(each['new'])}" for each in part["edits"]
        ]
        return f"changed its {listed(edits)}"
    if what == "count":
        return f"set group {group} from {part['old']:,} to {count(part['new'], 'instances')}"
    if what == "group":
        return f"removed group {part['name']}"
    if what == "check":
        return f"removed check {part['name']} of service {part['service']}"
    return f"removed {what} {part['name']} of group {group}"


def _quoted(values: list[str]) -> str:
    return listed([f'"{each}"' for each in values]) or "none"


def _before(part: Facts) -> str:
    """Return what it was like before, or what there is instead; empty if nothing is to be said."""
    what, instead = part["what"], part.get("instead") or []
    if what == "nodes":
        nodes = listed(part["nodes"], 3)
        if part["everywhere"]:
            return f"{nodes} {'is' if len(part['nodes']) == 1 else 'are'} ready and eligible"
        return f"it runs on {listed(part['runs_on'], 3)} now"
    if what in ("runs", "schedule"):
        if part["ago"] is None:
            return ""
        every = "" if part["every"] is None else f", and before that one every {span(part['every'])}"
        return f"the last run was launched {span(part['ago'])} ago{every}"
    if what == "count":
        return f"a scaling request had set it to {part['old']:,}" if part["was_scaled"] else ""
    texts = [f"it had {count(part['instances'], 'instances')}"] if what == "group" else []
    if instead:
        texts.append(f"{listed(instead, 3)} {'is' if len(instead) == 1 else 'are'} new in it")
    return "; ".join(texts)
