"""Reports are one self-contained file, equal for equal evidence, and obey no name in it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from commands import run, run_as_process
from stories import read, renamed, rows_of
from tables import alloc, ended, event, restarting, snapshot, started

import allocframe as af
from allocframe.reports import ledger
from allocframe.reports.document import Table, walk
from allocframe.reports.redact import redacted
from allocframe.stats import vocabulary

POLICY = re.compile(r"<meta [^>]*Content-Security-Policy[^>]*>")
OURS = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "footer", "h1", "h2", "h3", "p",
    "section", "div", "figure", "img", "dl", "dt", "dd", "b", "small", "span", "a", "pre", "details",
    "summary", "table", "thead", "tbody", "tr", "th", "td", "code", "ul", "li",
}  # fmt: skip
"""Every element that a report has."""


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def letters(text: str) -> str:
    """Return a text without its spaces, which differ between a page and its model."""
    return "".join(text.split())


TWELVE = [
    "At a glance", "Impact", "What changed", "Timeline", "Milestones", "Causes", "Contributing factors",
    "Where we were lucky", "Similar incidents", "For people to write", "Evidence",
]  # fmt: skip
"""The sections of a postmortem below its header, which is the first of the twelve."""

CLUSTER = [
    "At a glance", "What to do next", "What stands out", "Availability and error budgets",
    "Against the time before", "Failures by job", "Deployments", "Nodes", "Rightsizing", "Evidence",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["postmortem", "cluster"])
@pytest.mark.parametrize("story", ["mixed", "restart_storm"])
def test_a_report_has_its_sections_and_says_what_its_model_says(
    story: str, kind: str, snapshots: dict[str, af.Snapshot], reports: dict[tuple[str, str], Path]
) -> None:
    page = reports[story, kind]
    content = page.read_text()
    assert re.findall(r"<h2>(.*?)</h2>", content) == (TWELVE if kind == "postmortem" else CLUSTER)
    assert content.count("<img ") == (1 if kind == "postmortem" else 3)
    if kind == "cluster":
        note = "Deployments were not fetched: they are read off the allocations that are left."
        assert (note in content) == (snapshots[story].history is None) is True
    if kind == "postmortem":
        document = af.postmortem(snapshots[story]).document
        assert re.findall(r"<h1>(.*?)</h1>", content) == [html.escape(document.title)]
        said = letters(html.unescape(re.sub(r"<[^>]+>", "", content)))
        texts = document.texts("glance", "causes", "luck")
        assert [text for text in texts if letters(text) not in said] == []


def test_html_and_markdown_are_of_one_model(snapshots: dict[str, af.Snapshot], tmp_path: Path) -> None:
    page = af.report(snapshots["mixed"], output=tmp_path / "a.md")
    content = page.read_text()
    assert re.findall(r"^## (.*)$", content, re.MULTILINE) == TWELVE
    assert re.findall(r"!\[[^\]]+\]\((.*?)\)", content) == ["a_files/timeline.png"]
    assert (tmp_path / "a_files" / "timeline.png").read_bytes().startswith(b"\x89PNG")
    cells = [line for line in content.splitlines() if line.startswith("| ")]
    assert cells
    # links lead to places that exist
    for target in re.findall(r"\]\(#([^)]+)\)", content):
        assert f'<a id="{target}"></a>' in content or target == "causes"


def test_a_report_asks_for_nothing_and_holds_no_place_of_this_machine(
    reports: dict[tuple[str, str], Path],
) -> None:
    for (_, kind), page in reports.items():
        content = page.read_text()
        if kind == "postmortem":
            # one script, the interactive timeline, which the policy names by its hash
            head, live, rest = re.split(r'<div class="live">(?=<style>)|(?<=</script></div>)\n', content)
            scripts = re.findall(r"<script type=\"module\">(.*?)</script>", live, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
            assert (len(scripts), f"script-src 'sha256-{digest}';" in head) == (1, True)
            assert not re.search(r"(?:fetch|XMLHttpRequest|WebSocket|import)\(", scripts[0])
            content = head + rest
        assert "<script" not in content
        for tag, attributes in Elements(content).elements:
            assert tag in OURS
            assert not {name for name in attributes if name.startswith("on") or name == "srcset"}
            assert (attributes.get("href") or "#").startswith("#")
            assert (attributes.get("src") or "data:image/png;base64,").startswith("data:image/png;base64,")
        assert str(Path.home()) not in page.read_text()
        assert "/tmp/" not in page.read_text()


def test_a_report_shows_which_of_its_steps_is_under_way(
    snapshots: dict[str, af.Snapshot], tmp_path: Path
) -> None:
    steps: list[tuple[int, int | None]] = []
    snap = next(iter(snapshots.values()))
    af.report(snap, "cluster", output=tmp_path / "a.md", progress=lambda done, of: steps.append((done, of)))
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_the_same_evidence_gives_the_same_report_byte_for_byte(
    snapshots: dict[str, af.Snapshot], reports: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    snapshots["mixed"].save(tmp_path / "outage.allocframe")
    done = run_as_process(
        "report", "postmortem", "--from", "outage.allocframe", "-o", "other.html", cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (0, "written to other.html\n"), done.stderr
    assert (tmp_path / "other.html").read_bytes() == reports["mixed", "postmortem"].read_bytes()


def test_a_report_on_a_live_cluster_is_markdown_with_pictures_and_holds_neither_token_nor_address(
    cluster: af.sim.Cluster, tmp_path: Path
) -> None:
    settings = {"NOMAD_ADDR": cluster.address, "NOMAD_TOKEN": cluster.token}
    options = ("--job", "checkout", "--usage", "--json")
    done = run("report", "cluster", "-o", "week.md", *options, cwd=tmp_path, **settings)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"written_to": "week.md"}), done.stderr
    content = (tmp_path / "week.md").read_text()
    assert re.match(r"# .*\n\n\*\*Window:\*\* 20", content)
    assert "payments-api" not in content
    assert "Servers remove deployments about an hour after they end." in content
    pictures = re.findall(r"!\[[^\]]+\]\((week_files/[^)]+)\)", content)
    assert "week_files/memory.png" in pictures, "measured: rightsizing"
    assert len(pictures) == 4
    assert sorted(f"week_files/{path.name}" for path in (tmp_path / "week_files").iterdir()) == sorted(
        pictures
    )
    everything = done.stderr + "".join(
        path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()
    )
    assert cluster.token not in everything
    assert cluster.address.removeprefix("http://") not in everything


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["postmortem", "--from", "none.allocframe"], 2, "there is no such file"),
        (["postmortem", "--from", "a.json", "--archive", "b"], 2, "--from and --archive exclude each other"),
        (["cluster", "--cluster", "eu"], 2, "--cluster needs --from with evidence of several clusters"),
        (["cluster", "--from", "a.json", "--job", "wbe"], 2, "did you mean web?"),
    ],
)
def test_errors_of_the_command_are_one_line(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "a.json").write_text(json.dumps([alloc("a")]))
    done = run("report", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (code, 1, "")
    assert message in done.stderr


def test_settings_that_cannot_be_used_and_missing_packages_are_errors_that_say_so(
    tmp_path: Path, snap: af.Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    for message, arguments in (
        ("kind must be postmortem or cluster, got 'weekly'", {"kind": "weekly", "output": "a.html"}),
        ("leave out since and until", {"kind": "cluster", "output": "a.html", "since": "2026-01-01"}),
        (
            "redact and usage exclude each other",
            {"kind": "cluster", "output": "a.html", "redact": True, "usage": pd.DataFrame()},
        ),
        ("output must end with .html or .md, got a.pdf", {"output": "a.pdf"}),
        ("there is no folder nowhere", {"output": "nowhere/a.html"}),
    ):
        with pytest.raises(af.ConfigError, match=message):
            af.report(snap, **arguments)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "scipy" else True)
    with pytest.raises(af.MissingExtra, match=r"reports need scipy: pip install 'allocframe\[report\]'"):
        af.report(snap, output=tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []


HOSTILE = {
    "job": "<script>alert(1)</script>$\\frac{{1}}{{0}}$ {}",
    "namespace": "<img src=x onerror=alert(1)>{}",
    "group": "[{}](javascript:alert(1))",
    "node": '"><svg onload=alert(1)>{}\x1b[31m',
    "task": "**{}** | `x` <b>bold</b>",
    "text": "</td></table><iframe src=//evil.example></iframe> www.evil.example https://evil.example "
    "a@evil.example {}",
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> af.Snapshot:
    rows = [*rows_of("mixed", allocations=80)[1], *rows_of("artifact_outage", seed=4, allocations=80)[1]]
    changed = renamed(rows, lambda kind, name: HOSTILE[kind].format(name))
    return read(tmp_path_factory.mktemp("hostile"), changed)


def open_page(browser: Any, page: Path) -> tuple[list[str], list[str], list[str]]:
    """Open a page; return what ran, what it requested, and its elements."""
    tab = browser.new_page()
    ran: list[str] = []
    requests: list[str] = []
    tab.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: ran.append(str(error)))
    tab.goto(page.as_uri(), wait_until="load")
    # what the interactive timeline draws is its own; its tests hold it to the same
    elements = tab.evaluate(
        """[...document.querySelectorAll('*')].filter(
            element => !element.closest('.live')
        ).map(element => element.localName)"""
    )
    tab.close()
    return ran, [url for url in requests if not url.startswith(("data:", page.as_uri()))], elements


def test_names_from_the_cluster_make_no_element_and_run_nothing_in_a_browser(
    hostile: af.Snapshot, tmp_path: Path, browser: Any
) -> None:
    page = af.report(hostile, "postmortem", output=tmp_path / "a.html")
    content = page.read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in content
    assert POLICY.search(content)
    page.write_text(POLICY.sub("", content))  # the names must be harmless without it, too
    ran, requests, elements = open_page(browser, page)
    assert (ran, requests) == ([], [])
    assert set(elements) <= OURS


@pytest.mark.parametrize("form", ["_repr_html_", "_repr_markdown_"])
def test_what_notebooks_show_makes_no_element_of_names(
    form: str, hostile: af.Snapshot, tmp_path: Path, browser: Any
) -> None:
    from nbconvert.filters.markdown_mistune import markdown2html_mistune

    report, statistics = (
        af.postmortem(hostile),
        (af.stats.failures, af.stats.crash_loops, af.stats.rollouts, af.stats.lemon_nodes),
    )
    shown = [
        report,
        report.causes,
        report.summary,
        report.missing,
        af.cluster_summary(hostile),
        *(af.format_table(table(hostile)) for table in statistics),
    ]
    shown += [
        af.format_table(frame)
        for frame in (report.jobs, report.milestones, report.timeline, hostile.events, hostile.allocations)
    ]
    texts = [getattr(view, form)() for view in shown]
    body = "".join(texts) if form == "_repr_html_" else markdown2html_mistune("\n\n".join(texts))
    page = tmp_path / "a.html"
    page.write_text(f"<!DOCTYPE html><meta charset=utf-8>{body}")
    ran, requests, elements = open_page(browser, page)
    assert (ran, requests) == ([], [])
    # what stands out in Markdown is ours: it ends with a colon, and names do not
    assert set(elements) - {"a", "strong", "br", "ol"} <= OURS
    assert [each for each in re.findall(r"<strong>(.*?)</strong>", body) if not each.endswith(":")] == []
    links = re.findall(r'<a [^>]*href="([^"]*)"', body)
    assert [link for link in links if not link.startswith("#")] == []


def test_a_change_names_three_fields_and_counts_the_others() -> None:
    row = {"version_after": 3, "node_name": None}
    for fields, changes in (
        (["Count"], "; it changes Count"),
        (["app server Image", "Count", "Env"], "; it changes Image, Count, Env"),
        (["A", "B", "C", "D", "E"], "; it changes A, B, C and 2 more"),
        ([], ""),
    ):
        told = ledger._sentence("job version", row, {"fields": fields}, "web")
        assert told == f"web version 3 was submitted{changes}."


def test_of_many_incidents_twenty_have_milestones_and_the_others_are_counted(tmp_path: Path) -> None:
    rows = [
        alloc(f"a{n}", event("Received", 0), *crashes, JobID=f"job-{n:02}", Name=f"job-{n:02}.app[0]",
              state="pending")
        for n in range(23)
        for crashes in [[e for t in range(1, 60, 20) for at_crash in [100 * n + t]
                         for e in (started(at_crash), ended(at_crash + 5), restarting(at_crash + 5))]]
    ]  # fmt: skip
    report = af.postmortem(snapshot(tmp_path, *rows))
    [table] = [each for each in walk(report.document.section("milestones").blocks) if isinstance(each, Table)]
    assert len(table.rows) == 20
    assert table.note == "3 more incidents are under Causes"


def canary(kind: str, name: str) -> str:
    return f"c4nary-{kind}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def test_a_redacted_report_holds_nothing_of_the_original(tmp_path: Path) -> None:
    rows = renamed(
        [*rows_of("mixed", allocations=80)[1], *rows_of("artifact_outage", seed=4, allocations=80)[1]], canary
    )
    with read(tmp_path, rows) as snap:
        job = next(row["JobID"] for row in rows if row["JobVersion"])
        page = af.report(snap, output=tmp_path / "a.md", job=job, redact=True)
        tables = [
            frame.to_csv()
            for _, frame in af.load(redacted(snap, tmp_path / "plain.allocframe"))._iter_tables()
        ]
    identities = {row[name][:8] for row in rows for name in ("ID", "NodeID", "EvalID")}
    pictures = [path.read_bytes().decode("latin-1") for path in (tmp_path / "a_files").iterdir()]
    for content in [page.read_text(), *tables, *pictures]:
        assert "c4nary" not in content
        assert [identity for identity in identities if identity in content] == []
    assert re.search(r"job.{1,3}\d+ version 1 ", page.read_text())


RENAMED = {
    "allocations": ["alloc_id", "namespace", "name", "job_id", "parent_job_id", "run", "task_group",
                    "node_id", "node_name", "eval_id", "followup_eval_id", "client_description",
                    "previous_alloc_id", "next_alloc_id", "preempted_by"],
    "task_states": ["alloc_id", "task"],
    "events": ["alloc_id", "task", "message", "failed_sibling", "namespace", "job_id", "task_group",
               "node_name", "kill_reason", "driver_error", "download_error", "setup_error"],
    "reschedules": ["alloc_id", "prev_alloc_id", "prev_node_id"],
}  # fmt: skip
LEFT_OUT = {"details", "preempted_allocs", "desired_description"}


@pytest.mark.parametrize(
    "capture", ["nomad-1.3.1-nodeloss", "blind/nomad-2.0.5-preempted", "lab/nomad-2.0.5-dispatchfew"]
)
def test_redaction_keeps_everything_that_is_not_a_name(capture: str, tmp_path: Path) -> None:
    snap = af.load(Path(__file__).parents[1] / "data" / "incidents" / f"{capture}.allocframe")
    plain = af.load(redacted(snap, tmp_path / "plain.allocframe"))
    for table, renamed_columns in RENAMED.items():
        before, after = getattr(snap, table), getattr(plain, table)
        kept = [name for name in before if name not in {*renamed_columns, *LEFT_OUT}]
        rows = [sorted(map(str, frame[kept].itertuples(index=False))) for frame in (before, after)]
        assert rows[0] == rows[1], table
        # equal names stay equal, and what had none has none
        for name in renamed_columns:
            counts = [sorted(frame[name].value_counts()) for frame in (before, after)]
            assert [n for n in counts[0] if n] == [n for n in counts[1] if n], (table, name)
    words = [
        sorted(each for each in frame["desired_description"].dropna() if each in vocabulary.STOP_REASONS)
        for frame in (snap.allocations, plain.allocations)
    ]
    assert words[0] == words[1]
    incidents, after = (af.diagnose(each).incidents for each in (snap, plain))
    assert sorted(each.state for each in incidents) == sorted(each.state for each in after)
    # a cause that only a message tells becomes unknown, and never another one
    told = [Counter(each.cause.kind for each in some) for some in (incidents, after)]
    assert told[1] - told[0] <= Counter(unknown=sum((told[0] - told[1]).values()))


def test_redaction_keeps_different_names_different(snapshots: dict[str, af.Snapshot], tmp_path: Path) -> None:
    snap = snapshots["mixed"]
    plain = af.load(redacted(snap, tmp_path / "plain.allocframe"))
    for name in ("allocations", "task_states", "events", "reschedules"):
        assert len(getattr(plain, name)) == len(getattr(snap, name))
    for column in ("job_id", "node_name", "namespace", "alloc_id", "name", "next_alloc_id"):
        assert plain.allocations[column].nunique() == snap.allocations[column].nunique()
    original, redacted_ones = af.findings(snap), af.findings(plain)
    assert [(finding.code, len(finding.evidence)) for finding in redacted_ones] == [
        (finding.code, len(finding.evidence)) for finding in original
    ]
    assert (
        plain.events["exit_code"].value_counts().to_dict()
        == snap.events["exit_code"].value_counts().to_dict()
    )
    assert (plain.events["time"].sort_values().array == snap.events["time"].sort_values().array).all()
