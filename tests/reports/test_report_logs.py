"""Log lines in a postmortem: read from a live cluster, and never in a redacted report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import run

import allocframe as af
from allocframe.client.logs import Line, Logs, frame_of
from allocframe.reports import log_excerpts
from allocframe.reports.as_html import render_html
from allocframe.reports.as_markdown import render_markdown
from allocframe.reports.document import Document, Section
from allocframe.reports.people import Written


@pytest.fixture(scope="module")
def loop() -> Iterator[tuple[af.sim.Cluster, af.Client, af.Snapshot]]:
    with (
        af.sim.Cluster("crash_loop", allocations=40, seed=2) as cluster,
        af.Client(cluster.address, token=cluster.token) as client,
        client.snapshot(namespace="*") as snap,
    ):
        yield cluster, client, snap


def test_a_postmortem_with_a_client_has_the_last_words_of_what_failed(
    loop: tuple[af.sim.Cluster, af.Client, af.Snapshot],
) -> None:
    cluster, client, snap = loop
    logs = af.postmortem(snap, client=client).logs
    assert cluster.truth is not None
    heads = [head for head, _ in logs.excerpts]
    assert any(str(cluster.truth.causes[0].job_id) in head for head in heads)
    assert "panic: runtime error" in repr(logs)
    assert len(af.postmortem(snap).logs) == 0


def test_lines_that_cannot_be_read_say_so_and_the_rest_comes(
    loop: tuple[af.sim.Cluster, af.Client, af.Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, _, snap = loop
    with af.Client(cluster.address, token=cluster.add_token(), retries=0) as powerless:
        logs = af.postmortem(snap, client=powerless).logs
    assert len(logs)
    assert all(
        "The lines could not be read: " in str(lines) and "read-logs" in str(lines)
        for _, lines in logs.excerpts
    )
    monkeypatch.setattr(log_excerpts, "MOST", 0)
    assert "older kinds of failure were left out" in af.postmortem(snap, client=loop[1]).logs.note


def test_a_report_shows_the_lines_and_a_redacted_one_says_that_they_are_left_out(
    loop: tuple[af.sim.Cluster, af.Client, af.Snapshot], tmp_path: Path
) -> None:
    cluster, client, snap = loop
    shown = tmp_path / "shown.html"
    settings = {"NOMAD_ADDR": cluster.address, "NOMAD_TOKEN": cluster.token}
    done = run("report", "postmortem", "--logs", "-o", shown, cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stderr
    page = shown.read_text()
    assert page.index("<h2") < page.index("Log lines") < page.index("panic: runtime error")
    redacted = af.report(snap, output=tmp_path / "redacted.md", redact=True, client=client).read_text()
    assert log_excerpts.REDACTED in redacted
    assert "panic: runtime error" not in redacted


def test_a_cluster_report_takes_no_client(
    loop: tuple[af.sim.Cluster, af.Client, af.Snapshot], tmp_path: Path
) -> None:
    with pytest.raises(af.ConfigError, match="log lines are for a postmortem"):
        af.report(loop[2], "cluster", output=tmp_path / "a.html", client=loop[1])


def test_log_lines_cannot_leave_their_block() -> None:
    line = "\x1b[31m</pre><img src=x>\n```\n# head"
    frame = frame_of([("stderr", Line("web.stderr.0", 0, line), None)])
    shown = log_excerpts.LogLines("A note.", [("<b>web</b>", Logs(frame, []))])
    document = Document("cluster", "A title", [], [Section("evidence", "Evidence", shown.blocks())])
    page, text = render_html(document, Written()), render_markdown(document, Written(), "")
    assert "<img" not in page
    assert "<b>" not in page
    lines = [line for line in text.splitlines() if "head" in line]
    assert [line[:4] for line in lines] == ["    "]
    assert "\x1b" not in page + text + repr(shown)
