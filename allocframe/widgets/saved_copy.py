"""What a saved notebook shows in place of a widget: a second display, which the live widget hides.

The output that a cell saves is the one of the moment when it was shown. So the copy is an output of its own,
which is replaced when something has happened. The widget's script hides it while the widget is there.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any


class SavedCopy:
    """The copy of one widget; `render` makes its HTML."""

    def __init__(self, render: Callable[[], str]) -> None:
        self.name: str = secrets.token_hex(8)
        """Names the copy to the script that hides it."""
        self._render = render
        self._handles: list[Any] = []
        self._shown = ""

    def display(self, widget: Mapping[str, Any]) -> None:
        """Show the widget's mimebundle, and the copy below it."""
        from IPython.display import display as show

        display: Callable[..., Any] = show
        display(dict(widget), raw=True)
        self._shown = self._render()
        self._handles.append(display(self._bundle(), raw=True, display_id=True))

    def update(self) -> None:
        """Replace the copy, if something has changed since it was shown."""
        if not self._handles or (new := self._render()) == self._shown:
            return
        self._shown = new
        for handle in self._handles:
            handle.update(self._bundle(), raw=True)

    def _bundle(self) -> dict[str, str]:
        # Classes keep MathJax out: a name such as $\phantom{x}$ would be hidden.
        classes = f"allocframe-saved-{self.name} tex2jax_ignore mathjax_ignore"
        return {"text/html": f'<div class="{classes}">{self._shown}</div>', "text/plain": ""}
