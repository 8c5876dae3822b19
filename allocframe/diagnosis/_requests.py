"""What somebody or something asked for: restarts, stops, moves; and restarts that only the counter knows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..stats import vocabulary
from ._attempts import ENDS, kind_of_text
from ._changes import Ledger
from ._failures import Case
from ._groups import ONGOING, RECOVERED, SECOND
from ._others import alloc_keys, families_of, make
from ._tables import NEVER, Array, moment
from .incident import Cause, Evidence, Incident


def find_requests(case: Case, ledger: Ledger) -> list[Incident]:
    """Return what was asked for, and the restarts of which nothing is known."""
    told: set[int] = set()
    return [
        *_restarts(case, told),
        *_forced_kills(case),
        *_migrations(case, ledger),
        *_preempted(case),
        *_unexplained_restarts(case, told),
    ]


_OF_NOMAD = ["template", "secrets"]
"""Who asks for a restart, or sends a signal, without any operator."""

_REQUESTERS = {"operator": "operator", "template": "template", "vault": "secrets"}


def _restarts(case: Case, told: set[int]) -> Iterator[Incident]:
    """Yield restarts that somebody or something asked for, by who asked."""
    ends = [ENDS.index("requested"), ENDS.index("forced")]
    asked = case.attempts["end"].isin(ends) & (case.attempts["decision"] == 1)
    signaled = case.attempts["by_signal"] & (case.attempts["end"] == ends[0])
    attempts = case.attempts[asked & ~case.attempts["by_signal"] | signaled]
    if attempts.empty:
        return
    text = attempts["text"].to_numpy()
    by_text = {each: _requester(case.texts[each]) for each in np.unique(text).tolist()}
    who = np.array([by_text[each] for each in text.tolist()], dtype=object)
    by_signal = attempts["by_signal"].to_numpy(dtype=bool)
    who = np.where(by_signal & ~np.isin(who, _OF_NOMAD), "signal", who)
    silent = np.array([not case.texts[each] for each in text.tolist()], dtype=bool) & ~by_signal
    who = _as_the_others(who, attempts["owner"].to_numpy(), silent)
    groups = {each: attempts[who == each] for each in dict.fromkeys(who.tolist())}
    requesters = attempts.assign(who=who).groupby("owner")["who"].agg(["first", "nunique"])
    lost = _lost_without_failures(case)
    for requester, rows in groups.items():
        alloc = rows["alloc"].to_numpy()
        words = next((case.texts[each] for each in rows["text"].tolist() if case.texts[each]), None)
        alone = requesters.index[(requesters["first"] == requester) & (requesters["nunique"] == 1)]
        told |= set(alone.tolist())
        facts = {
            "requester": requester,
            "restarts": len(rows),
            "tasks": int(rows["owner"].nunique()),
            "reason": words,
            "more": int(lost[alone.to_numpy(dtype=np.int64)].sum()),
        }
        evidence = Evidence("restart requested", facts, alloc_keys(case, alloc))
        kind = "operator" if requester == "signal" else requester
        confidence = "unknown" if kind == "unknown" else "certain"
        cause = Cause(kind, "requested restart", {}, confidence, [evidence])
        times = np.sort(rows["at"].to_numpy())
        state = ONGOING if kind == "template" and _goes_on(case, times) else RECOVERED
        yield make(case, alloc, cause, "info", state, times, facts)


def _goes_on(case: Case, times: Array) -> bool:
    """Return whether restarts come again and again, until now."""
    known = times[times != NEVER]
    if len(known) < _AGAIN:
        return False
    return bool(case.now - known[-1] <= _OVER * (known[-1] - known[0]) / (len(known) - 1))


_AGAIN = 4
"""At least this many restarts on request are more than one change that several tasks follow."""

_OVER = 3
"""A calm of more than this many mean gaps between restarts is unlikely to be chance (p = 5 %)."""


def _lost_without_failures(case: Case) -> Array:
    """Return the restarts that only the counter knows, of tasks whose ring shows no failure."""
    lost = case.lost_restarts.copy()
    owners = case.failures["owner"].to_numpy()
    lost[owners[owners >= 0]] = 0
    return lost


def _as_the_others(who: Array, owner: Array, silent: Array) -> Array:
    """Give restarts whose request the ring has lost to whoever asked for all others of the same task."""
    table = pd.DataFrame({"owner": owner, "who": who})[~silent].drop_duplicates()
    alone = table.drop_duplicates("owner", keep=False).set_index("owner")["who"]
    known = alone.reindex(owner).to_numpy(dtype=object)
    result: Array = np.where(silent & pd.notna(known), known, who)
    return result


def _requester(text: str) -> str:
    """Return who asked for a restart, as a kind of cause; an unknown wording is "unknown"."""
    known = vocabulary.REQUESTS.get(text)
    if known:
        return _REQUESTERS.get(known, known)
    if text.lower().startswith("user requested"):
        return "operator"
    kind = kind_of_text(text)
    return kind if kind in _OF_NOMAD else "unknown"


def _forced_kills(case: Case) -> Iterator[Incident]:
    attempts = case.attempts[case.attempts["end"] == ENDS.index("forced")]
    for family, rows in attempts.groupby(case.instances.family[attempts["alloc"].to_numpy()]):
        alloc = rows["alloc"].to_numpy()
        namespace, job = case.instances.families[int(family)]
        facts = {"kills": len(rows)}
        evidence = Evidence("killed by force", facts, alloc_keys(case, alloc))
        subject = {"namespace": namespace, "job_id": job}
        cause = Cause("kill timeout", "kill timeout", subject, "certain", [evidence])
        yield make(case, alloc, cause, "info", RECOVERED, rows["at"].to_numpy(), facts)


_MIGRATED = "alloc is being migrated"


def _migrations(case: Case, ledger: Ledger) -> Iterator[Incident]:
    """Yield allocations that were moved: by a drain on record, or if their node keeps none.

    Else perhaps by an operator.
    """
    rows = case.evidence.allocations
    moved = rows["desired_description"].eq(_MIGRATED).to_numpy(dtype=bool) & ~case.instances.lost
    if not moved.any():
        return
    node, names = case.nodes, case.node_names
    stays = (
        rows["desired_status"].eq("run") & rows["client_status"].isin(["running", "pending"])
        & ~rows["job_type"].isin(vocabulary.NODE_BOUND_JOB_TYPES)
    ).to_numpy(dtype=bool)  # fmt: skip
    kept = np.bincount(node[stays], minlength=len(names))
    stopped = rows["modified_at"].to_numpy()
    on_record = np.zeros(len(rows), dtype=bool)
    for each in np.unique(node[moved]):
        mine = moved & (node == each)
        on_record[mine] = ledger.was_drained(names[each], int(stopped[mine].max()))
    alone = moved & rows["alloc_id"].astype("str").isin(ledger.stopped_alone()).to_numpy(dtype=bool)
    moved &= ~alone
    drained = moved & (kept[node] == 0)
    ways = (
        (alone, "operator"),
        (moved & on_record, "drain"),
        (drained & ~on_record, "drain"),
        (moved & ~drained & ~on_record, "operator"),
    )
    for mask, kind in ways:
        alloc = np.flatnonzero(mask)
        if not len(alloc):
            continue
        one_by_one = bool(alone[alloc].all())
        certain = bool(on_record[alloc].all()) or one_by_one
        within = _left_at_once(case, alloc) if kind == "drain" and not certain else None
        off = [name for each in np.unique(node[alloc]) if (name := names[each])]
        facts = {
            "moved": len(alloc), "jobs": len(families_of(case, alloc)), "off": off,
            "drained": certain and not one_by_one, "one_by_one": one_by_one,
            "left_within": within,
        }  # fmt: skip
        evidence = Evidence("moved", facts, alloc_keys(case, alloc))
        # without a drain on record: Nomad says "migrated" of both
        confidence = "certain" if certain else "possible" if within is None else "likely"
        cause = Cause(kind, "migration", {}, confidence, [evidence])
        yield make(case, alloc, cause, "info", RECOVERED, rows["modified_at"].to_numpy()[alloc], facts)


def _left_at_once(case: Case, alloc: Array) -> pd.Timedelta | None:
    """Return within what time several jobs left a node, if that is as short as a drain makes it; else None.

    Who stops allocations one by one needs longer. Of one job, a drain moves a few at a time: its first
    allocation counts.
    """
    replaced = case.instances.successor[alloc]
    created = case.evidence.allocations["created_at"].to_numpy()
    at = np.where(replaced >= 0, created[np.maximum(replaced, 0)], NEVER)
    longest = 0
    for node in np.unique(case.nodes[alloc]):
        mine = (case.nodes[alloc] == node) & (at != NEVER)
        first = pd.Series(at[mine]).groupby(case.instances.family[alloc[mine]]).min()
        if len(first) < 2 or first.max() - first.min() > _AT_ONCE:
            return None
        longest = max(longest, int(first.max() - first.min()))
    return pd.Timedelta(longest, unit="ns")


_AT_ONCE = SECOND
"""A drain asks the jobs of a node to leave within this time."""


def _preempted(case: Case) -> Iterator[Incident]:
    """Yield the jobs that others preempted, and that were placed again elsewhere."""
    rows = case.evidence.allocations
    taken = rows["preempted_by"].notna().to_numpy(dtype=bool) & (case.instances.successor >= 0)
    if not taken.any():
        return
    job_of = dict(zip(rows["alloc_id"].astype("str"), rows["job_id"].astype("str"), strict=True))
    for family in np.unique(case.instances.family[taken]):
        alloc = np.flatnonzero(taken & (case.instances.family == family))
        by = {job_of.get(each, "another job") for each in rows["preempted_by"].iloc[alloc].astype("str")}
        namespace, job = case.instances.families[int(family)]
        facts = {"preempted": len(alloc), "preempted_by": sorted(by)}
        numbers = {"jobs": sorted(by), "allocations": len(alloc)}
        evidence = Evidence("preempted", numbers, alloc_keys(case, alloc))
        subject = {"namespace": namespace, "job_id": job}
        cause = Cause("operator", "preemption", subject, "certain", [evidence])
        yield make(case, alloc, cause, "info", RECOVERED, rows["modified_at"].to_numpy()[alloc], facts)


def _unexplained_restarts(case: Case, told: set[int]) -> Iterator[Incident]:
    """Yield restarts that only the counter knows, of tasks whose ring shows no failure."""
    lost = _lost_without_failures(case)
    lost[np.array(sorted(told), dtype=np.int64)] = 0
    tasks = np.flatnonzero(lost)
    if not len(tasks):
        return
    alloc = case.evidence.tasks["alloc"].to_numpy()[tasks]
    family = case.instances.family[alloc]
    last = case.evidence.tasks["last_restart"].to_numpy()
    created = case.evidence.allocations["created_at"].to_numpy()
    for each in np.unique(family):
        mine = tasks[family == each]
        places = alloc[family == each]
        known = last[mine][last[mine] != NEVER]
        facts = {
            "restarts": int(case.lost_restarts[mine].sum()),
            "tasks": len(mine),
            "since": moment(int(created[places].min())),
            "until": moment(int(known.max()) if len(known) else NEVER),
        }
        evidence = Evidence("restarts not on record", facts, alloc_keys(case, places))
        namespace, job = case.instances.families[int(each)]
        cause = Cause("unknown", None, {"namespace": namespace, "job_id": job}, "unknown", [evidence])
        times = np.concatenate([created[places], known])
        incident = make(case, places, cause, "info", RECOVERED, times, facts)
        yield incident
