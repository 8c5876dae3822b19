"""Executes a confirmed request, one allocation at a time, each read again just before. No widgets here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...client import actions, audit_log
from ...client.client import Client
from ...errors import AllocframeError, Conflict
from .confirmation import (
    ALL,
    TASK,
    ActionRequest,
    AllocationState,
    Confirmation,
    describe_changes,
    nomad_actions,
)


@dataclass
class ActionResult:
    """The result for one allocation.

    The outcome is done, refused, failed, unknown, dry run, or changed (the allocation changed, so nothing was
    done).
    """

    alloc: AllocationState
    request: ActionRequest
    outcome: str
    detail: str = ""


def read_allocation(client: Client, alloc_id: str) -> AllocationState:
    """Read the current state of an allocation."""
    return AllocationState.from_json(client._session.read_allocation(alloc_id))


def read_allocations(
    client: Client, alloc_ids: Sequence[str], earlier: Mapping[str, AllocationState]
) -> tuple[list[AllocationState], list[tuple[AllocationState, str]]]:
    """Return the current states, and for unreadable allocations their `earlier` state and the error."""
    current, unread = [], []
    for alloc_id in alloc_ids:
        try:
            current.append(read_allocation(client, alloc_id))
        except AllocframeError as error:
            unread.append((earlier.get(alloc_id) or AllocationState.unread(alloc_id), str(error)))
    return current, unread


def execute(client: Client, confirmation: Confirmation) -> Iterator[ActionResult]:
    """Yield the result for each allocation. One that has changed since the confirmation is left alone.

    Who takes no further result ends it: the other allocations are not touched.
    """
    request = confirmation.request
    for confirmed in confirmation.allocs:
        try:
            alloc = read_allocation(client, confirmed.alloc_id)
        except AllocframeError as error:
            detail = f"nothing was done, because it could not be read: {error}"
            yield ActionResult(confirmed, request, "failed", detail)
            continue
        # Any change has a new ModifyIndex, so what was confirmed no longer describes this allocation.
        if alloc.modify_index != confirmed.modify_index:
            detail = f"nothing was done, because it has changed. {describe_changes(confirmed, alloc)}"
            yield ActionResult(confirmed, request, "changed", detail)
            continue
        with audit_log.audit_context(
            namespace=alloc.namespace,
            job_id=alloc.job_id,
            modify_index=alloc.modify_index,
            via="ControlPanel",
        ):
            yield _execute(client, request, alloc)


def _execute(client: Client, request: ActionRequest, alloc: AllocationState) -> ActionResult:
    details: list[str] = []
    done: list[str] = []
    for task, action in nomad_actions(request, alloc):
        try:
            if request.dry_run:
                with actions.audited(
                    client._session, request.action, alloc.alloc_id, {**action.params, **action.body}
                ) as outcome:
                    outcome.result = "dry run"
                details.append(f"POST {action.path} was not sent")
            else:
                details += _send(client, request, alloc, task)
            done += [task] if task else []
        except AllocframeError as error:
            before = f"done for {', '.join(done)}; then for {task}: " if done else ""
            # A restart of several tasks is one request, and Nomad may have restarted some before it failed.
            others = "; other tasks may have been reached" if isinstance(error, Conflict) and not task else ""
            return ActionResult(alloc, request, audit_log.result_of(error), f"{before}{error}{others}")
    return ActionResult(alloc, request, "dry run" if request.dry_run else "done", "; ".join(details))


def _send(client: Client, request: ActionRequest, alloc: AllocationState, task: str | None) -> list[str]:
    """Send one action and return details of its result."""
    if request.action == "stop":
        return [f"evaluation {client.stop(alloc.alloc_id).eval_id[:8]}"]
    if request.action == "signal":
        client.signal(alloc.alloc_id, request.signal, task=task)
        return [f"{request.signal} to {task}"]
    task = request.task if request.scope == TASK else None
    client.restart(alloc.alloc_id, task=task, all_tasks=request.scope == ALL)
    return []


def find_replacement(client: Client, alloc_id: str) -> AllocationState | None:
    """Return the allocation that replaces another, or None if there is none yet."""
    next_alloc_id = read_allocation(client, alloc_id).next_alloc_id
    return read_allocation(client, next_alloc_id) if next_alloc_id else None
