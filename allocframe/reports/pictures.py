"""The pictures of reports: plots as PNG, always the same for the same evidence."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import plots
from ..widgets.timeline.page import script_hash, timeline_html
from .document import Block, Live, Picture

if TYPE_CHECKING:
    from .postmortem import Postmortem

_DPI = 150


def draw(name: str, alt: str, plot: Callable[..., Axes], *args: Any, **settings: Any) -> Picture:
    """Return a plot as a picture. It is drawn light, whatever the style of the program around it."""
    with mpl.rc_context():
        mpl.rcdefaults()
        figure = Figure(figsize=(10, 4), layout="constrained")
        ax = plot(*args, ax=figure.subplots(), **settings)
        # as high as its rows need
        rows = len(ax.get_yticklabels()) if name in _BY_ROWS else 0
        figure.set_figheight(1.6 + 0.24 * rows if rows else 4.0)
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=_DPI, metadata={"Software": None})
    return Picture(name, alt, data.getvalue())


_MOST_EVENTS = 100_000
"""More events would make a file of many megabytes, and a page that stutters."""

_BY_ROWS = ("timeline", "heatmap", "pareto")


def incident_picture(made: Postmortem, *, live: bool) -> Block:
    """Return the picture of a postmortem's window; if `live`, the interactive timeline with it."""
    facts = made.facts
    settings = {"since": facts.since} if facts.since_given else {}
    still = draw(
        "timeline",
        f"Timeline: {made.document.title}",
        plots.timeline,
        facts.snapshot,
        incidents=facts.incidents,
        until=facts.until,
        **settings,
    )
    if not live or facts.snapshot._counts["events"] > _MOST_EVENTS:
        return still
    return Live(timeline_html(facts.snapshot, facts.diagnosis), script_hash(), still)
