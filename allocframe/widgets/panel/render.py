"""How the panel looks: its style sheet, and pieces of HTML into which data comes only through `escaped`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..._utils.text import escaped
from .confirmation import Confirmation, Facts, sentence
from .history import Entry

STYLE = """<style>
.allocframe-panel { --af-line: #8884; padding: 8px 10px; border: 1px solid var(--af-line); border-radius: 6px;
  font-size: 13px; }
.allocframe-panel .widget-html-content, .allocframe-panel .widget-html > * { line-height: 1.45; font-size: 13px; }
.allocframe-panel .allocframe-list { border: 1px solid var(--af-line); }
.allocframe-panel .allocframe-list select { border: 0; overflow: hidden; max-height: none; flex: 1 0 auto; padding: 2px 4px; }
.allocframe-panel .allocframe-list select {
  font-family: var(--jp-code-font-family, ui-monospace, Menlo, Consolas, monospace); font-size: 12px; }
.allocframe-panel table { border-collapse: collapse; width: 100%; }
.allocframe-panel td, .allocframe-panel th { text-align: left; vertical-align: top; padding: 1px 12px 1px 0; font-weight: normal;
  overflow-wrap: break-word; } .allocframe-panel .af-tight, .allocframe-panel td code { white-space: nowrap; }
.allocframe-panel td b { display: inline-block; min-width: 9em; }
.allocframe-panel th { opacity: .65; }
.allocframe-panel code { background: none; font-size: 12px; padding: 0; }
.allocframe-panel ul { margin: 2px 0 0 0; padding-left: 18px; }
.allocframe-panel .af-pill { display: inline-block; min-width: 5.2em; text-align: center; border-radius: 9px; padding: 0 7px;
  color: #fff; font-size: 12px; }
.allocframe-panel .af-good { background: #1a7f4b; } .allocframe-panel .af-wait { background: #8a6100; }
.allocframe-panel .af-bad { background: #b3261e; } .allocframe-panel .af-flat { background: #5f6a75; }
.allocframe-panel .af-label { text-align: right; }
.allocframe-panel .widget-checkbox { margin-left: 8px; } .allocframe-panel .widget-checkbox label { display: flex; align-items: center; }
.allocframe-panel .widget-checkbox input { margin: 0 6px 0 0; }
.allocframe-panel .af-note { opacity: .75; } .allocframe-panel .af-warn { border-left: 4px solid #b3261e; padding-left: 8px; }
.allocframe-panel .af-ask { border-left: 4px solid #c77700; padding-left: 8px; }
.allocframe-panel .af-dry { border-left: 4px solid #5f6a75; padding-left: 8px; }
</style>"""

_MOST = 6000
"""Characters of one text that are shown."""

QUIET = "Before anything happens it is said here in words, to be confirmed."

_TONES = {
    "running": "good", "done": "good", "pending": "wait", "changed": "wait", "unknown": "wait", "failed": "bad", "lost": "bad",
    "refused": "bad",
}  # fmt: skip


def pill(word: str) -> str:
    return f"<span class='af-pill af-{_TONES.get(word, 'flat')}'>{escaped(word)}</span>"


def label(name: str) -> str:
    return f"<div class='af-label'>{escaped(name)}</div>"


def note(text: str) -> str:
    return f"<span class='af-note'>{escaped(text)}</span>"


def told(text: str) -> str:
    """Return what went wrong, or why nothing was done."""
    return f"<div class='af-warn' role='alert'>{_long(text)}</div>"


def heading(address: str, namespace: str, mode: str) -> str:
    return f"<b>Nomad</b> <code>{escaped(address)}</code> · namespace <code>{escaped(namespace)}</code>{escaped(mode)}"


def chosen(facts: Sequence[Facts], expected: int) -> str:
    """Return what is chosen: one line for each allocation, with its tasks."""
    if not expected:
        return note("Nothing yet. Choose allocations above; Shift or Ctrl for several.")
    rows = [
        f"<tr><td>{pill(one.client_status)}</td><td><b>{escaped(one.name)}</b></td><td>{escaped(one.node_name)}</td>"
        f"<td>{', '.join(_task(name, state) for name, state in one.tasks)}</td><td><code>{escaped(one.alloc_id)}</code></td></tr>"
        for one in facts
    ]
    head = "<tr><th>status</th><th>allocation</th><th>node</th><th>tasks</th><th>ID</th></tr>"
    left = expected - len(facts)
    return f"<table>{head}{''.join(rows)}</table>" + (note(f"{left} more …") if left > 0 else "")


def _task(name: str, state: str) -> str:
    return (
        f"{escaped(name)} <span class='af-note'>{escaped(state)}</span>"
        if state != "running"
        else escaped(name)
    )


def question(asked: Confirmation, why: str, left_out: Iterable[tuple[Facts, str]]) -> str:
    """Return what will happen, to be read before it is confirmed."""
    dry = asked.order.dry_run
    first = "Dry run: all of this but the sending." if dry else "This will happen:"
    items = "".join(f"<li>{_long(sentence(asked.order, facts))}</li>" for facts in asked.facts)
    more = "".join(f"<li>Not {escaped(facts.name)}: {_long(said)}</li>" for facts, said in left_out)
    tone = "af-dry" if dry else "af-ask"
    head = f"<div>{_long(why)}</div>" if why else ""
    return f"<div class='{tone}' role='alert'>{head}<b>{first}</b><ul>{items}{more}</ul></div>"


def results(entries: Sequence[Entry], progress: str) -> str:
    """Return what happened, newest first, with what came of it since."""
    head = f"<div role='status'>{escaped(progress)}</div>" if progress else ""
    return f"{head}<table>{''.join(map(_line, entries))}</table>" if entries else head


def _line(entry: Entry) -> str:
    done, facts = entry.result, entry.result.facts
    return (
        f"<tr><td class='af-note af-tight'>{entry.time:%H:%M:%S}</td><td>{pill(done.result)}</td>"
        f"<td class='af-tight'>{escaped(done.order.action)}</td>"
        f"<td><b>{escaped(facts.name)}</b></td><td><code>{escaped(facts.alloc_id[:8])}</code></td>"
        f"<td>{_long(done.said)}{_since(entry.since)}</td></tr>"
    )


def _since(text: str) -> str:
    return f"<div>→ {_long(text)}</div>" if text else ""


def _long(text: str) -> str:
    """Escape a text that may be longer than a name, piece by piece, so that its end is seen."""
    return "".join(escaped(text[start : start + 150]) for start in range(0, min(len(text), _MOST), 150))
