"""The timeline as HTML: a fragment for pages without a network, and a still picture for saved notebooks."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..._utils.html import table
from ..._utils.text import escaped
from ...diagnosis.diagnose import Diagnosis
from ...snapshot.snapshot import Snapshot
from .columns import timeline_columns

STATIC = Path(__file__).parents[1] / "static"

_COLOURS = ("#0072b2", "#00785a", "#2f8fc4", "#c98a00", "#7d8590", "#b0478f", "#d1481f", "#6f7780")
"""Of each kind, readable on white and on black."""

_BINS = 150
_MOST_ROWS = 30
_MOST_INCIDENTS = 50
_ROW, _LEFT, _WIDTH = 18, 260, 1000


def timeline_html(snapshot: Snapshot, diagnosis: Diagnosis | None = None, *, history: Any = None) -> str:
    """Return the interactive timeline as a fragment of HTML, for a page of your own.

    It holds its data, style and script, and loads nothing. Names are escaped. Without scripts, a still
    picture and a table stay. A page with a Content-Security-Policy must allow the script by its hash:
    ``script-src 'sha256-...'`` with `script_hash`.

    Parameters
    ----------
    snapshot : Snapshot
        Of one cluster or several.
    diagnosis : Diagnosis, optional
        That of the snapshot; else it is made.
    history : History, optional
        What had changed. Default: ``snapshot.history``.

    Examples
    --------
    >>> from allocframe.widgets.timeline.page import timeline_html
    >>> "<script" in timeline_html(snap)
    True
    """
    return page_fragment(timeline_columns(snapshot, diagnosis, history))


def page_fragment(data: dict[str, Any]) -> str:
    """Return the fragment that draws the columns of a timeline."""
    return (
        f"<style>{_read('timeline.css')}</style>"
        f'<div data-allocframe-timeline class="tex2jax_ignore mathjax_ignore">'
        f'<div class="af-tl-static">{still_picture(data)}</div>'
        f'<script type="application/json">{_json_in_html(data)}</script></div>'
        f'<script type="module">{_script()}</script>'
    )


def script_hash() -> str:
    """Return the hash of the script for a Content-Security-Policy: ``sha256-...``.

    Examples
    --------
    >>> from allocframe.widgets.timeline.page import script_hash
    >>> script_hash()[:7]
    'sha256-'
    """
    return "sha256-" + base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()


def _script() -> str:
    # Only a closing tag could end the element; in JavaScript the escaped one means the same.
    return _read("timeline.js").replace("</script", "<\\/script")


def _read(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _json_in_html(data: dict[str, Any]) -> str:
    """Return JSON that cannot end the element it stands in, whatever names it holds."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def still_picture(data: dict[str, Any]) -> str:
    """Return the opening window as an SVG picture, with the incidents as a table. It needs no script."""
    incidents = data["incidents"]
    rows = [[each[name] for name in ("title", "severity", "state", "cause")] for each in incidents]
    told = table(rows[:_MOST_INCIDENTS], ["incident", "severity", "state", "cause"]) if rows else ""
    hidden = len(rows) - _MOST_INCIDENTS
    more = f"<p>and {hidden:,} more incidents</p>" if hidden > 0 else ""
    return (
        '<div class="tex2jax_ignore mathjax_ignore">'
        f"<p><b>{escaped(data['summary'])}</b></p>{_svg(data)}{told}{more}</div>"
    )


def _svg(data: dict[str, Any]) -> str:
    events = data["events"]
    lane, at, kind = (_unpack(events[name], width) for name, width in (("lane", 4), ("at", 4), ("kind", 1)))
    begin, end = data["open"]
    shown = (kind > 0) & (at >= begin) & (at <= end)
    job = _unpack(data["lanes"]["job"], 4)[lane[shown]]
    counts = np.bincount(job, minlength=len(data["jobs"]["name"]))
    order = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
    bins = np.minimum((at[shown].astype("int64") - begin) * _BINS // max(end - begin, 1), _BINS - 1)
    marks = [
        _svg_row(data, number, y, bins[job == number], kind[shown][job == number])
        for y, number in enumerate(order[:_MOST_ROWS].tolist())
    ]
    if not marks:
        return "<p>No failure, restart on request or loss in this window.</p>"
    height = _ROW * len(marks) + 22
    hidden = len(order) - _MOST_ROWS
    more = f"<p>and {hidden:,} jobs with fewer failures</p>" if hidden > 0 else ""
    edges = [f"{_moment(data, number)} UTC" for number in (begin, end)]
    axis = (
        f'<text x="{_LEFT}" y="{height - 6}">{edges[0]}</text>'
        f'<text x="{_WIDTH}" y="{height - 6}" text-anchor="end">{edges[1]}</text>'
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escaped(data["summary"])}" '
        'style="max-width:100%;font:12px sans-serif;fill:currentColor">'
        f"{''.join(marks)}{axis}</svg>{_legend(data, np.unique(kind[shown]).tolist())}{more}"
    )


def _svg_row(data: dict[str, Any], job: int, y: int, bins: Any, kinds: Any) -> str:
    name = data["jobs"]["name"][job]
    short = name if len(name) <= 38 else f"{name[:18]}…{name[-18:]}"
    top, width = y * _ROW, (_WIDTH - _LEFT) / _BINS
    cells = []
    for place in np.unique(bins).tolist():
        here = np.bincount(kinds[bins == place])
        high = min(5 + 2.5 * float(np.log2(here.sum())), _ROW - 2)
        cells.append(
            f'<rect x="{_LEFT + place * width:.1f}" y="{top + _ROW - 1 - high:.1f}" '
            f'width="{width - 0.5:.1f}" height="{high:.1f}" fill="{_COLOURS[int(here.argmax()) - 1]}"/>'
        )
    return f'<text x="0" y="{top + 13}">{escaped(short)} ({len(bins):,})</text>{"".join(cells)}'


def _legend(data: dict[str, Any], kinds: Sequence[int]) -> str:
    entries = (
        f'<span style="margin-right:14px"><span style="color:{_COLOURS[kind - 1]}">■</span> '
        f"{escaped(data['kinds'][kind - 1])}</span>"
        for kind in kinds
    )
    return f"<p>{''.join(entries)}</p>"


def _moment(data: dict[str, Any], number: int) -> str:
    moment = np.datetime64(data["base"] + number * data["unit"], "ms")
    return str(moment.astype("datetime64[s]")).replace("T", " ")


def _unpack(text: str, width: int) -> Any:
    return np.frombuffer(base64.b64decode(text), dtype=f"<u{width}")
