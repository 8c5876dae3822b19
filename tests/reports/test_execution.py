"""What a report says when its notebook cannot be run to the end, and what its kernel is given."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

import allocframe as af

v4 = nbformat.v4
Put = Callable[..., None]


report_module = importlib.import_module("allocframe.reports.report")
"""The module: in the package its name is that of its function."""


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Return a function that puts a notebook of these cells in the place of the postmortem's."""

    def put(*cells: str) -> None:
        first = v4.new_code_cell("source = since = until = None", metadata={"tags": ["parameters"]})
        made = v4.new_notebook(cells=[first, *map(v4.new_code_cell, cells)])
        nbformat.write(made, tmp_path / "02_postmortem.ipynb")
        monkeypatch.setattr(report_module, "NOTEBOOKS", tmp_path)

    return put


def write(snap: af.Snapshot, folder: Path, **settings: object) -> str:
    target = folder / "report.md"
    af.report(snap, output=target, **{"progress": False, **settings})
    return target.read_text()


def test_an_error_names_the_cell_and_what_was_raised(
    notebook: Put, snap: af.Snapshot, tmp_path: Path
) -> None:
    notebook("1", "raise ValueError('no such\\x1b[31m thing')")
    with pytest.raises(
        af.AllocframeError, match=r"postmortem failed in its cell 4: ValueError: no such\\x1b\[31m thing$"
    ):
        write(snap, tmp_path)
    assert not (tmp_path / "report.md").exists()


def test_a_kernel_that_is_killed_is_an_error_of_ours(
    notebook: Put, snap: af.Snapshot, tmp_path: Path
) -> None:
    notebook("import os, signal", "os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(
        af.AllocframeError, match=r"failed in its cell 4: its process ended\. The machine may lack"
    ):
        write(snap, tmp_path)


def test_parameters_are_python_values_that_no_text_can_leave(
    notebook: Put, snap: af.Snapshot, tmp_path: Path
) -> None:
    since = snap.events["time"].min()
    notebook("from IPython.display import Markdown", "Markdown(f'got {since!r} {until!r} {source[-20:]!r}')")
    assert f"got '{since.isoformat()}' None '/evidence.allocframe'" in write(snap, tmp_path, since=since)


def test_the_kernel_has_nothing_of_the_cluster(
    notebook: Put,
    snap: af.Snapshot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOMAD_TOKEN", "secret")
    monkeypatch.setenv("HARMLESS", "kept")
    notebook(
        "import os; from IPython.display import Markdown",
        "Markdown(' '.join([n for n in os.environ if n.startswith('NOMAD_')] + [os.environ['HARMLESS']]))",
    )
    text = write(snap, tmp_path)
    assert "kept" in text
    assert "NOMAD_TOKEN" not in text


def test_progress_is_shown_only_if_asked_for(
    notebook: Put,
    snap: af.Snapshot,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    notebook("pass")
    write(snap, tmp_path)
    assert capfd.readouterr().err == ""
    write(snap, tmp_path, progress=True)
    assert "postmortem: 100%" in capfd.readouterr().err
