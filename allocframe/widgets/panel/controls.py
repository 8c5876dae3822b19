"""The panel's widgets and where they stand; what they do is in `panel`."""

from __future__ import annotations

from typing import Any

import ipywidgets as ipw

from ...nomad import actions
from . import render
from .confirmation import ALL, RUNNING

SCOPES: list[tuple[str, tuple[str, str]]] = [
    ("all that run", (RUNNING, "")),
    ("all, those that have ended too (restart only)", (ALL, "")),
]
ROWS = 9
"""Rows of the list that are seen at once, at least."""

_LABEL = {"description_width": "6em"}
_WIDE = "100%"


class Controls:
    """Plain widgets, in the order in which the Tab key goes through them.

    Attributes
    ----------
    filter, select, task, signal, dry_run, auto_refresh
        Fields, with their ``value``.
    choose_button, refresh_button, stop_button, restart_button, signal_button, exec_button, confirm_button, cancel_button
        Buttons, for `click()` without a front end.
    widget : ipywidgets.VBox
        All of it, to be put into a layout of your own.
    """

    def __init__(self) -> None:
        self.filter = ipw.Text(
            description="Filter", placeholder="words of a job, node, status, namespace or ID", style=_LABEL,
            layout={"flex": "1 1 auto", "width": "auto"},
        )  # fmt: skip
        self.choose_button = _button("Choose these", "check", "Choose all that match the filter", "10em")
        self.refresh_button = ipw.Button(description="Refresh", icon="refresh", layout={"width": "7.5em"})
        self.auto_refresh = ipw.Checkbox(
            True, description="auto", indent=False, tooltip="Fetch the list every ten seconds", layout={"width": "5em"}
        )  # fmt: skip
        self.select = ipw.SelectMultiple(
            rows=ROWS,
            tooltip="Allocations: Shift or Ctrl for several",
            layout={"width": "100%", "margin": "0"},
        )
        # As high as its options, and scrolled by the box around it: new labels would set a scrolled list back to its start.
        self._window = ipw.Box(
            [self.select], layout={"height": "13.5em", "overflow": "auto", "flex": "1 1 0"}
        )
        self._window.add_class("allocframe-list")
        self.task = ipw.Dropdown(options=SCOPES, description="Tasks", style=_LABEL, layout={"width": "24em"})
        signals = [("choose a signal", ""), *((name, name) for name in sorted(actions.SIGNALS))]
        self.signal = ipw.Dropdown(
            options=signals,
            description="Signal",
            style={"description_width": "4em"},
            layout={"width": "15em"},
        )
        self.dry_run = ipw.Checkbox(
            False,
            description="Dry run",
            indent=False,
            tooltip="Do everything but send",
            layout={"width": "7em"},
        )
        self.stop_button = _button("Stop", "stop", "Stop; the job places a replacement")
        self.restart_button = _button("Restart", "repeat", "Restart in place")
        self.signal_button = _button("Signal", "bolt", "Send the signal that is chosen")
        self.exec_button = _button("Exec", "terminal", "Open a terminal in the task")
        self.confirm_button = ipw.Button(description="Confirm", disabled=True, layout={"width": "15em"})
        self.cancel_button = ipw.Button(description="Cancel", disabled=True, layout={"width": "7.5em"})
        self._heading, self._counted, self._notes = ipw.HTML(), ipw.HTML(), ipw.HTML()
        self._chosen_box = ipw.HTML(layout=_area("4.6em", "14em"))
        self._question = ipw.HTML(layout=_area("4.6em", "17em"))
        self._results_box = ipw.HTML(layout=_area("0", "17em"))
        self._slot = ipw.VBox([])
        self.widget = ipw.VBox(self._rows(), layout={"width": _WIDE})
        self.widget.add_class("allocframe-panel")

    def _rows(self) -> list[Any]:
        buttons = [self.stop_button, self.restart_button, self.signal_button, self.exec_button, self.dry_run]
        return [
            ipw.HTML(render.STYLE, layout={"display": "none"}),
            self._heading,
            _row(self.filter, self.choose_button, self.refresh_button, self.auto_refresh),
            _named("Allocations", self._window),
            _named("", self._counted),
            _named("Chosen", self._chosen_box),
            _row(self.task, self.signal),
            _named("", *buttons),
            _named("", self._notes),
            _named("", self._question),
            _named("", self.confirm_button, self.cancel_button),
            _named("Done", self._results_box),
            self._slot,
        ]

    def _buttons(self) -> dict[str, Any]:
        """Return the button of each action."""
        return {
            "stop": self.stop_button, "restart": self.restart_button, "signal": self.signal_button, "exec": self.exec_button,
        }  # fmt: skip


def _button(text: str, icon: str, tooltip: str, width: str = "8em") -> Any:
    return ipw.Button(description=text, icon=icon, tooltip=tooltip, disabled=True, layout={"width": width})


def _row(*parts: Any) -> Any:
    return ipw.HBox(list(parts), layout={"align_items": "center", "width": _WIDE})


def _named(name: str, *parts: Any) -> Any:
    """Return a row that is in line with the fields; its name is a label like theirs."""
    label = ipw.HTML(
        render.label(name), layout={"width": "6em", "flex": "0 0 auto", "margin": "2px 6px 2px 2px"}
    )
    return ipw.HBox([label, *parts], layout={"align_items": "flex-start", "width": _WIDE})


def _area(least: str, most: str) -> dict[str, str]:
    """Return the layout of a text that grows and shrinks without moving much what is below it."""
    return {
        "min_height": least, "max_height": most, "overflow": "auto", "flex": "1 1 0", "width": "auto", "margin": "2px 2px 6px 2px",
    }  # fmt: skip
