"""Carries out what was confirmed, one allocation after the other, each read again just before. No widgets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...client import audit_log, operations
from ...client.client import Client
from ...errors import AllocframeError, Conflict
from .confirmation import ALL, TASK, Confirmation, Facts, Order, changes, requests


@dataclass
class Result:
    """What became of one allocation: done, refused, failed, unknown, dry run, or changed, which means that nothing was done."""

    facts: Facts
    order: Order
    result: str
    said: str = ""


def read(client: Client, alloc_id: str) -> Facts:
    """Read an allocation as it is now."""
    return Facts.of(client._session.read_allocation(alloc_id))


def read_all(
    client: Client, alloc_ids: Sequence[str], known: Mapping[str, Facts]
) -> tuple[list[Facts], list[tuple[Facts, str]]]:
    """Return the allocations as they are now, and those that cannot be read, as they are known, with the reason."""
    found, unread = [], []
    for identity in alloc_ids:
        try:
            found.append(read(client, identity))
        except AllocframeError as error:
            unread.append((known.get(identity) or Facts.nothing(identity), str(error)))
    return found, unread


def carry_out(client: Client, confirmed: Confirmation) -> Iterator[Result]:
    """Yield what became of each allocation; one that is not as it was confirmed is left alone."""
    order = confirmed.order
    for facts in confirmed.facts:
        try:
            now = read(client, facts.alloc_id)
        except AllocframeError as error:
            yield Result(facts, order, "failed", f"nothing was done, it cannot be read: {error}")
            continue
        if now.modify_index != facts.modify_index:
            yield Result(facts, order, "changed", f"nothing was done: {changes(facts, now)}")
            continue
        with audit_log.knowing(
            namespace=now.namespace, job_id=now.job_id, modify_index=now.modify_index, via="ControlPanel"
        ):
            yield _done(client, order, now)


def _done(client: Client, order: Order, facts: Facts) -> Result:
    said: list[str] = []
    sent: list[str] = []
    for task, action in requests(order, facts):
        try:
            if order.dry_run:
                with operations.audited(
                    client._session, order.action, facts.alloc_id, {**action.params, **action.body}
                ) as outcome:
                    outcome.result = "dry run"
                said.append(f"POST {action.path} was not sent")
            else:
                said += _sent(client, order, facts, task)
            sent += [task] if task else []
        except AllocframeError as error:
            before = f"{', '.join(sent)}: done; then {task}: " if sent else ""
            others = "; other tasks may have been reached" if isinstance(error, Conflict) and not task else ""
            return Result(facts, order, audit_log.ended(error), f"{before}{error}{others}")
    return Result(facts, order, "dry run" if order.dry_run else "done", "; ".join(said))


def _sent(client: Client, order: Order, facts: Facts, task: str | None) -> list[str]:
    """Ask for one change; return what there is to say of it."""
    if order.action == "stop":
        return [f"evaluation {client.stop(facts.alloc_id).eval_id[:8]}"]
    if order.action == "signal":
        client.signal(facts.alloc_id, order.signal, task=task)
        return [f"{order.signal} to {task}"]
    client.restart(
        facts.alloc_id, task=order.task if order.scope == TASK else None, all_tasks=order.scope == ALL
    )
    return []


def replacement(client: Client, alloc_id: str) -> Facts | None:
    """Return the allocation that took another's place; None while there is none."""
    following = read(client, alloc_id).next_alloc_id
    return read(client, following) if following else None
