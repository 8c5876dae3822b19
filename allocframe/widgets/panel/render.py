"""The panel's HTML and style sheet. Data gets into the HTML only through `escaped`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..._utils.text import escaped
from .confirmation import AllocationState, Confirmation, describe
from .history import Entry

STYLE = """<style>
.allocframe-panel { --af-line: #8884; padding: 8px 10px; border: 1px solid var(--af-line); border-radius: 6px;
  font-size: 13px; }
.allocframe-panel .widget-html-content, .allocframe-panel .widget-html > * {
  line-height: 1.45; font-size: 13px; }
.allocframe-panel .allocframe-list { border: 1px solid var(--af-line); }
.allocframe-panel .allocframe-list select { border: 0; overflow: hidden; max-height: none; flex: 1 0 auto;
  padding: 2px 4px; }
.allocframe-panel .allocframe-list select {
  font-family: var(--jp-code-font-family, ui-monospace, Menlo, Consolas, monospace); font-size: 12px; }
.allocframe-panel table { border-collapse: collapse; width: 100%; }
.allocframe-panel td, .allocframe-panel th { text-align: left; vertical-align: top; padding: 1px 12px 1px 0;
  font-weight: normal; overflow-wrap: break-word; }
.allocframe-panel .af-tight, .allocframe-panel td code { white-space: nowrap; }
.allocframe-panel td b { display: inline-block; min-width: 9em; }
.allocframe-panel th { opacity: .65; }
.allocframe-panel code { background: none; font-size: 12px; padding: 0; }
.allocframe-panel ul { margin: 2px 0 0 0; padding-left: 18px; }
.allocframe-panel .af-pill { display: inline-block; min-width: 5.2em; text-align: center; border-radius: 9px;
  padding: 0 7px; color: #fff; font-size: 12px; }
.allocframe-panel .af-good { background: #1a7f4b; } .allocframe-panel .af-wait { background: #8a6100; }
.allocframe-panel .af-bad { background: #b3261e; } .allocframe-panel .af-flat { background: #5f6a75; }
.allocframe-panel .af-label { text-align: right; }
.allocframe-panel .widget-checkbox { margin-left: 8px; }
.allocframe-panel .widget-checkbox label { display: flex; align-items: center; }
.allocframe-panel .widget-checkbox input { margin: 0 6px 0 0; }
.allocframe-panel .af-note { opacity: .75; }
.allocframe-panel .af-warn { border-left: 4px solid #b3261e; padding-left: 8px; }
.allocframe-panel .af-ask { border-left: 4px solid #c77700; padding-left: 8px; }
.allocframe-panel .af-dry { border-left: 4px solid #5f6a75; padding-left: 8px; }
</style>"""

_MAX_LENGTH = 6000
"""Characters of one text that are shown."""

IDLE_TEXT = "Nothing happens without your confirmation. What an action will do appears here first."

_TONES = {
    "running": "good", "done": "good", "pending": "wait", "changed": "wait", "unknown": "wait",
    "failed": "bad", "lost": "bad", "refused": "bad",
}  # fmt: skip


def pill(word: str) -> str:
    return f"<span class='af-pill af-{_TONES.get(word, 'flat')}'>{escaped(word)}</span>"


def label(name: str) -> str:
    return f"<div class='af-label'>{escaped(name)}</div>"


def note(text: str) -> str:
    return f"<span class='af-note'>{escaped(text)}</span>"


def warning(text: str) -> str:
    """Return an error, or why nothing was done."""
    return f"<div class='af-warn' role='alert'>{_escape_long(text)}</div>"


def heading(address: str, namespace: str, mode: str) -> str:
    server, place = f"<code>{escaped(address)}</code>", f"<code>{escaped(namespace)}</code>"
    return f"<b>Nomad</b> {server} · namespace {place}{escaped(mode)}"


def chosen_table(allocs: Sequence[AllocationState], count: int) -> str:
    """Return the chosen allocations with their tasks, as far as they have been read; `count` are chosen."""
    if not count:
        return note("Choose allocations above. Use Shift or Ctrl for several.")
    head = "<tr><th>status</th><th>allocation</th><th>node</th><th>tasks</th><th>ID</th></tr>"
    missing = count - len(allocs)
    table = f"<table>{head}{''.join(map(_chosen_row, allocs))}</table>"
    return table + (note(f"{missing} more …") if missing > 0 else "")


def _chosen_row(alloc: AllocationState) -> str:
    tasks = ", ".join(_task(name, state) for name, state in alloc.tasks)
    return (
        f"<tr><td>{pill(alloc.client_status)}</td><td><b>{escaped(alloc.name)}</b></td>"
        f"<td>{escaped(alloc.node_name)}</td><td>{tasks}</td>"
        f"<td><code>{escaped(alloc.alloc_id)}</code></td></tr>"
    )


def _task(name: str, state: str) -> str:
    suffix = "" if state == "running" else f" <span class='af-note'>{escaped(state)}</span>"
    return escaped(name) + suffix


def question(confirmation: Confirmation, reason: str, left_out: Iterable[tuple[AllocationState, str]]) -> str:
    """Return what will happen, and which allocations are left out and why."""
    dry_run = confirmation.request.dry_run
    first = "Dry run. Everything but sending this:" if dry_run else "This will happen:"
    items = "".join(
        f"<li>{_escape_long(describe(confirmation.request, alloc))}</li>" for alloc in confirmation.allocs
    )
    others = "".join(f"<li>Not {escaped(alloc.name)}: {_escape_long(why)}</li>" for alloc, why in left_out)
    tone = "af-dry" if dry_run else "af-ask"
    head = f"<div>{_escape_long(reason)}</div>" if reason else ""
    return f"<div class='{tone}' role='alert'>{head}<b>{first}</b><ul>{items}{others}</ul></div>"


def result_table(entries: Sequence[Entry], progress: str) -> str:
    """Return the results, newest first."""
    head = f"<div role='status'>{escaped(progress)}</div>" if progress else ""
    return f"{head}<table>{''.join(map(_result_row, entries))}</table>" if entries else head


def _result_row(entry: Entry) -> str:
    result, alloc = entry.result, entry.result.alloc
    follow_up = f"<div>→ {_escape_long(entry.follow_up)}</div>" if entry.follow_up else ""
    return (
        f"<tr><td class='af-note af-tight'>{entry.time:%H:%M:%S}</td><td>{pill(result.outcome)}</td>"
        f"<td class='af-tight'>{escaped(result.request.action)}</td>"
        f"<td><b>{escaped(alloc.name)}</b></td><td><code>{escaped(alloc.alloc_id[:8])}</code></td>"
        f"<td>{_escape_long(result.detail)}{follow_up}</td></tr>"
    )


def _escape_long(text: str) -> str:
    """Escape a text in pieces of 150 characters. `escaped` would cut it at the length of a name."""
    return "".join(escaped(text[start : start + 150]) for start in range(0, min(len(text), _MAX_LENGTH), 150))
