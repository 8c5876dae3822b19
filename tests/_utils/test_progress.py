"""Who sees a progress bar."""

from __future__ import annotations

import io
import sys
import types

import pytest
from tqdm import auto, autonotebook

from allocframe._utils.progress import shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def bars(progress: bool | None, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how many bars are made for a fetch."""
    made = []

    class Bar(auto.tqdm):  # type: ignore[type-arg]
        def __init__(self, **settings: object) -> None:
            made.append(settings)
            super().__init__(**settings)

    monkeypatch.setattr(auto, "tqdm", Bar)
    with shown(progress) as show:
        show(5, 10)
    return len(made)


@pytest.mark.parametrize(("stderr", "expected"), [(Terminal(), 1), (io.StringIO(), 0)], ids=["tty", "log"])
def test_by_default_a_bar_is_for_a_terminal_and_not_for_the_log_of_a_cron_job(
    stderr: io.StringIO, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)
    assert bars(None, monkeypatch) == expected
    assert bars(False, monkeypatch) == 0
    assert bars(True, monkeypatch) == 1


def test_in_a_notebook_the_bar_is_shown_although_its_stderr_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(autonotebook, "tqdm", types.new_class("tqdm_notebook"))
    assert bars(None, monkeypatch) == 1
