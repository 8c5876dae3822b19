"""The panel's widgets and their layout. What they do is in `panel`."""

from __future__ import annotations

from typing import Any

import ipywidgets as ipw

from ...nomad import actions
from . import render
from .confirmation import ALL, RUNNING

SCOPES: list[tuple[str, tuple[str, str]]] = [
    ("all running tasks", (RUNNING, "")),
    ("all tasks, also ended ones (restart only)", (ALL, "")),
]
ROWS = 9
"""Smallest number of visible rows."""

_LABEL = {"description_width": "6em"}
_WIDE = "100%"


class Controls:
    """The widgets, in the order in which the Tab key reaches them. `ControlPanel` documents them."""

    def __init__(self) -> None:
        self.filter: ipw.Text = ipw.Text(
            description="Filter", placeholder="job, node, status, namespace or ID", style=_LABEL,
            layout={"flex": "1 1 auto", "width": "auto"},
        )  # fmt: skip
        self.choose_button: ipw.Button = _button(
            "Choose all", "check", "Choose all that match the filter", "10em"
        )
        self.refresh_button: ipw.Button = ipw.Button(
            description="Refresh", icon="refresh", layout={"width": "7.5em"}
        )
        self.auto_refresh: ipw.Checkbox = ipw.Checkbox(
            True, description="auto", indent=False, tooltip="Refresh the list every 10 seconds",
            layout={"width": "5em"},
        )  # fmt: skip
        self.select: ipw.SelectMultiple = ipw.SelectMultiple(
            rows=ROWS,
            tooltip="Allocations (Shift or Ctrl for several)",
            layout={"width": "100%", "margin": "0"},
        )
        # The list is as high as its rows, and the box around it scrolls: new labels would scroll a list to
        # its top.
        self._list_box = ipw.Box(
            [self.select], layout={"height": "13.5em", "overflow": "auto", "flex": "1 1 0"}
        )
        self._list_box.add_class("allocframe-list")
        self.task: ipw.Dropdown = ipw.Dropdown(
            options=SCOPES, description="Tasks", style=_LABEL, layout={"width": "24em"}
        )
        signals = [("choose a signal", ""), *((name, name) for name in sorted(actions.SIGNALS))]
        self.signal: ipw.Dropdown = ipw.Dropdown(
            options=signals,
            description="Signal",
            style={"description_width": "4em"},
            layout={"width": "15em"},
        )
        self.dry_run: ipw.Checkbox = ipw.Checkbox(
            False,
            description="Dry run",
            indent=False,
            tooltip="Do everything but send the request",
            layout={"width": "7em"},
        )
        self.stop_button: ipw.Button = _button("Stop", "stop", "Stop. The job gets a replacement.")
        self.restart_button: ipw.Button = _button("Restart", "repeat", "Restart in place")
        self.signal_button: ipw.Button = _button("Signal", "bolt", "Send the chosen signal")
        self.exec_button: ipw.Button = _button("Exec", "terminal", "Open a terminal in the task")
        self.confirm_button: ipw.Button = ipw.Button(
            description="Confirm", disabled=True, layout={"width": "15em"}
        )
        self.cancel_button: ipw.Button = ipw.Button(
            description="Cancel", disabled=True, layout={"width": "7.5em"}
        )
        self._heading, self._summary_box, self._notes_box = ipw.HTML(), ipw.HTML(), ipw.HTML()
        self._chosen_box = ipw.HTML(layout=_area("4.6em", "14em"))
        self._question_box = ipw.HTML(layout=_area("4.6em", "17em"))
        self._results_box = ipw.HTML(layout=_area("0", "17em"))
        self._terminal_box = ipw.VBox([])
        self.widget: ipw.VBox = ipw.VBox(self._rows(), layout={"width": _WIDE})
        self.widget.add_class("allocframe-panel")

    def _rows(self) -> list[Any]:
        buttons = [self.stop_button, self.restart_button, self.signal_button, self.exec_button, self.dry_run]
        return [
            ipw.HTML(render.STYLE, layout={"display": "none"}),
            self._heading,
            _row(self.filter, self.choose_button, self.refresh_button, self.auto_refresh),
            _labelled("Allocations", self._list_box),
            _labelled("", self._summary_box),
            _labelled("Chosen", self._chosen_box),
            _row(self.task, self.signal),
            _labelled("", *buttons),
            _labelled("", self._notes_box),
            _labelled("", self._question_box),
            _labelled("", self.confirm_button, self.cancel_button),
            _labelled("Results", self._results_box),
            self._terminal_box,
        ]

    def _buttons(self) -> dict[str, Any]:
        """Return the button of each action."""
        return {
            "stop": self.stop_button,
            "restart": self.restart_button,
            "signal": self.signal_button,
            "exec": self.exec_button,
        }


def _button(text: str, icon: str, tooltip: str, width: str = "8em") -> Any:
    return ipw.Button(description=text, icon=icon, tooltip=tooltip, disabled=True, layout={"width": width})


def _row(*parts: Any) -> Any:
    return ipw.HBox(list(parts), layout={"align_items": "center", "width": _WIDE})


def _labelled(name: str, *parts: Any) -> Any:
    """Return a row with a label, aligned with the fields."""
    label = ipw.HTML(
        render.label(name), layout={"width": "6em", "flex": "0 0 auto", "margin": "2px 6px 2px 2px"}
    )
    return ipw.HBox([label, *parts], layout={"align_items": "flex-start", "width": _WIDE})


def _area(min_height: str, max_height: str) -> dict[str, str]:
    """Return the layout of a text that can grow and shrink without moving the rest of the panel much."""
    return {
        "min_height": min_height,
        "max_height": max_height,
        "overflow": "auto",
        "flex": "1 1 0",
        "width": "auto",
        "margin": "2px 2px 6px 2px",
    }
