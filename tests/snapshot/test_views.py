"""Hostile names and messages are harmless in every view and unchanged in every table."""

from __future__ import annotations

import html
import json
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import alloc, ended, restarting, started

import allocframe as af
from allocframe._utils import text as _display
from allocframe.client import logs
from allocframe.client.usage import Usage, errors_frame, samples_frame
from allocframe.tables import SNAPSHOT_TABLES

HOSTILE = "\x1b[31m<script>alert(1)</script>\u202e\x00[link=x](y)\n[/]=1+1\x9b31m\u2066"
FORBIDDEN = [
    *map(chr, range(32)),
    *map(chr, range(127, 160)),
    *"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200f\ufeff",
]


def is_harmless(text: str) -> bool:
    return not [character for character in FORBIDDEN if character in text.replace("\n", "")]


@given(st.text())
def test_no_control_or_bidi_character_gets_into_a_view(text: str) -> None:
    shown = _display.visible(text)
    assert not [character for character in FORBIDDEN if character in shown]
    assert len(shown) < 200 * 10 + 40
    escaped = _display.escaped(text)
    assert not set("<>\"'") & set(escaped)
    assert html.unescape(escaped) == shown


@pytest.fixture
def hostile(tmp_path: Path) -> af.Snapshot:
    cycle = [
        event
        for n in range(3)
        for event in (started(n * 60), ended(n * 60 + 5, Message=HOSTILE), restarting(n * 60 + 5))
    ]
    names = (
        "Namespace",
        "JobID",
        "TaskGroup",
        "Name",
        "NodeName",
        "NodeID",
        "ClientDescription",
        "DesiredDescription",
    )
    for event in cycle:
        event["DisplayMessage"] = HOSTILE
    row = alloc("5457f16d-0f87-8e6b-5e91-0c7da3a41eb7", *cycle, task=HOSTILE, **dict.fromkeys(names, HOSTILE))
    (tmp_path / "hostile.json").write_text(json.dumps([{**row, "ClientStatus": HOSTILE}, {**row, "ID": "b"}]))
    return af.read_json(tmp_path / "hostile.json")


def views(snap: af.Snapshot) -> dict[str, tuple[str, str]]:
    """Return each object that shows names, as text and as HTML."""
    findings, reschedules = af.findings(snap), snap.filter(job_id=HOSTILE)
    lines = logs.frame_of([("stdout", logs.Line(HOSTILE, 0, HOSTILE), None)])
    errors = errors_frame([{"alloc_id": HOSTILE, "sample": 0, "error": HOSTILE}])
    results = {
        "snapshot": snap,
        "filtered": reschedules,
        "findings": findings,
        "logs": logs.Logs(lines, [HOSTILE]),
        "usage": Usage(samples_frame([]), errors),
        "postmortem": af.postmortem(snap),
        "overview": af.cluster_summary(snap),
    }
    return {
        name: (repr(result), getattr(result, "_repr_html_", lambda: "")()) for name, result in results.items()
    }


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def test_hostile_names_are_harmless_in_every_view_and_whole_in_every_table(
    hostile: af.Snapshot,
) -> None:
    assert hostile.allocations["job_id"].tolist() == [HOSTILE, HOSTILE]
    assert set(hostile.task_states["task"]) == {HOSTILE}
    assert HOSTILE in set(hostile.events["message"])
    for name, (text, page) in views(hostile).items():
        assert is_harmless(text), name
        assert is_harmless(page), name
        elements = Elements()
        elements.feed(page)
        assert "script" not in elements.tags, name
        assert not {name for name in elements.attributes if name.startswith("on")}, name


def test_a_fetch_prints_hostile_names_as_text(
    hostile: af.Snapshot, capsys: pytest.CaptureFixture[str]
) -> None:
    from allocframe.cli import _summary

    _summary.print_summary(hostile)
    output = capsys.readouterr().out
    assert is_harmless(output)
    assert "[link=x]" in output, "brackets are no markup"


# Attributes


@pytest.mark.parametrize("name", [*SNAPSHOT_TABLES, "issues"])
def test_attributes_are_plain_json_so_that_pandas_keeps_them_in_parquet(
    name: str, snap: af.Snapshot, tmp_path: Path
) -> None:
    frame = getattr(snap, name)
    assert json.loads(json.dumps(frame.attrs, allow_nan=False)) == frame.attrs
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame.to_parquet(tmp_path / "x.parquet")
    assert pd.read_parquet(tmp_path / "x.parquet").attrs == frame.attrs


def test_statistics_do_not_need_the_attributes_that_pandas_drops(snap: af.Snapshot) -> None:
    bare = snap.events.copy()
    bare.attrs = {}
    pd.testing.assert_frame_equal(
        af.stats.explain_events(bare).reset_index(drop=True),
        af.stats.explain_events(snap.events).reset_index(drop=True),
    )


def test_nanoseconds_survive_every_way_out_and_back(tmp_path: Path) -> None:
    ns = 1_790_000_000_123_456_789
    event = {"Type": "Started", "Time": ns, "Details": {}}
    row = alloc("a", event, CreateTime=ns, ModifyTime=ns, CreateIndex=2**53 + 1, ModifyIndex=2**63 - 1)
    (tmp_path / "x.json").write_text(json.dumps([row]))
    snap = af.read_json(tmp_path / "x.json")
    for again in (snap, af.load(snap.save(tmp_path / "x.allocframe"))):
        assert again.events["time"].astype("int64").tolist() == [ns]
        assert again.allocations["create_index"].tolist() == [2**53 + 1]
    parquet = pd.read_parquet(snap.to_parquet(tmp_path / "p") / "events.parquet")
    assert parquet["time"].astype("int64").tolist() == [ns]
    text = pd.read_csv(snap.to_csv(tmp_path / "c") / "events.csv")
    assert pd.to_datetime(text["time"], format="ISO8601").dt.as_unit("ns").astype("int64").tolist() == [ns]
    assert snap.sql("SELECT epoch_ns(time) AS ns FROM events")["ns"].tolist() == [ns]
