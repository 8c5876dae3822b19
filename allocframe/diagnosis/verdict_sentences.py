"""What a whole diagnosis says, in English."""

from __future__ import annotations

from typing import Any

from .._utils.prose import count, listed
from . import quiet_sentences
from .incident_sentences import names


def verdict(incidents: list[Any], account: Any, all_clear: bool) -> str:
    """Return what the whole diagnosis says, in one sentence or two."""
    levels = {
        each: sum(incident.severity == each for incident in incidents)
        for each in ("critical", "warning", "info")
    }
    if all_clear:
        info = levels["info"]
        unsettled = [each for each in incidents if quiet_sentences.is_open(each) or each.state == "ongoing"]
        deploys = _under_way(account, unsettled)
        if unsettled:
            text = f"No failure is left unexplained, but {count(len(unsettled), 'things')}"
            text += f" {'is' if len(unsettled) == 1 else 'are'} open: "
            text += (
                f"{'; '.join(each.title for each in unsettled[:2])}{'; ...' if len(unsettled) > 2 else ''}."
            )
            notes = f" {count(info - len(unsettled), 'more notes')}." if info > len(unsettled) else ""
            return f"{text}{deploys}{notes}"
        failed = sum("failures" in incident.facts for incident in incidents)
        if failed:  # how they failed is known; whether it is explained is for people to say
            others = f" {count(info - failed, 'more notes')}." if info > failed else ""
            past = f"{count(failed, 'past minor incidents')} {'is' if failed == 1 else 'are'}"
            return f"Nothing is wrong now. {past} listed below.{deploys}{others}"
        noted = f" {count(info, 'notes')}." if info else ""
        return f"All clear: every failure, loss and restart on record is explained.{deploys}{noted}"
    if not account.allocations and not account.unreadable and not incidents:
        return "No allocation is in the evidence: nothing can be said."
    parts = [f"{levels[each]:,} {each}" for each in ("critical", "warning") if levels[each]]
    parts += [f"{levels['info']:,} info"] if levels["info"] or not parts else []
    text = f"{count(len(incidents), 'incidents')}: {', '.join(parts)}."
    if account.unexplained:
        text += f" {unexplained(account.unexplained)}"
    if account.unreadable:
        text += f" {count(account.unreadable, 'allocations')} could not be read."
    return text


def _under_way(account: Any, unsettled: list[Any]) -> str:
    """Return which deployments are under way, as a sentence; those of what is open are told there."""
    told = {(*job, each.facts.get("job_version")) for each in unsettled for job in each.jobs}
    deploys = [each for each in account.under_way if each not in told]
    if not deploys:
        return ""
    who = listed([f"{names([(space, job)])} version {version}" for space, job, version in deploys], 3)
    if len(deploys) == 1:
        return f" A deployment is under way: {who}."
    return f" {count(len(deploys), 'deployments')} are under way: {who}."


def unexplained(failures: int) -> str:
    """Return how many failures or restarts no incident explains, as a sentence."""
    if failures == 1:
        return "1 failure or restart is unexplained."
    return f"{failures:,} failures or restarts are unexplained."
