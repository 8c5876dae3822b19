"""The panel's widget: its state goes to the page, and the page's messages come from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import anywidget
import traitlets
from ipywidgets import widget_serialization

STATIC = Path(__file__).parents[1] / "static"

# What a trait gives, and what it takes.
_State: TypeAlias = "traitlets.Dict[str, Any]"


class PanelView(anywidget.AnyWidget):
    """The page's side of a `ControlPanel`: a table, a question, results, details, and a terminal."""

    _esm = STATIC / "panel.js"
    _css = STATIC / "panel.css"

    heading: traitlets.Unicode[str, str | bytes] = traitlets.Unicode().tag(sync=True)
    saved: traitlets.Unicode[str, str | bytes] = traitlets.Unicode().tag(sync=True)
    state: _State = traitlets.Dict().tag(sync=True)
    terminal: traitlets.Any = traitlets.Any(None, allow_none=True).tag(sync=True, **widget_serialization)
