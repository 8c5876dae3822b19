"""What notebooks and reports show: for people, exact where it counts, and harmless."""

from __future__ import annotations

import pandas as pd
import pytest

import allocframe as af
from allocframe._utils.prose import Points, Prose, markdown, number, span


def test_a_formatted_table_rounds_shortens_and_leaves_blank() -> None:
    frame = pd.DataFrame(
        {
            "alloc_id": ["05092dfd-6a5d-aa44-4046-02d07f0de0a1", "1"],
            "job_id": ["web", None],
            "count": pd.array([1234567, None], dtype="Int64"),
            "rate_per_hour": [0.123456, float("nan")],
            "at": [pd.Timestamp("2026-11-24T09:30:01.987654321Z"), pd.NaT],
            "longest": [pd.Timedelta("95s"), pd.NaT],
            "resolved": [True, False],
            "node_names": [["a", "b"], []],
        }
    )
    shown = af.format_table(frame)
    assert shown.columns == [
        "allocation",
        "job",
        "count",
        "rate per hour",
        "at",
        "longest",
        "resolved",
        "node names",
    ]
    assert shown.rows[0] == [
        "05092dfd",
        "web",
        "1,234,567",
        "0.123",
        "2026-11-24 09:30:01",
        "1.6 min",
        "yes",
        "a, b",
    ]
    assert shown.rows[1] == ["1", "", "", "", "", "", "no", ""]


@pytest.mark.parametrize(
    ("length", "remark"), [(3, ""), (4, "1 more row is not shown"), (9, "6 more rows are not shown")]
)
def test_a_formatted_table_says_how_many_rows_it_leaves_out(length: int, remark: str) -> None:
    shown = af.format_table(pd.DataFrame({"n": range(length)}), rows=3)
    assert len(shown) == 3
    for text in (repr(shown), shown._repr_html_(), shown._repr_markdown_()):
        assert remark in text
        assert ("not shown" in text) == bool(remark)


def test_an_empty_table_is_none() -> None:
    shown = af.format_table(pd.DataFrame({"n": []}))
    assert (repr(shown), shown._repr_html_(), shown._repr_markdown_()) == ("none", "<p>None.</p>", "None.")


def test_numbers_and_spans_are_rounded() -> None:
    assert [number(value) for value in (0, 0.04531, 3.14159, 999.4, 12345.6)] == [
        "0",
        "0.0453",
        "3.14",
        "999",
        "12,346",
    ]
    spans = [span(pd.Timedelta(length)) for length in ("0.24s", "89s", "95s", "89min", "100min")]
    assert spans == ["0.2 s", "89.0 s", "1.6 min", "89.0 min", "1.7 h"]


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("<b>", "&lt;b&gt;"),
        ("a|b", "a\\|b"),
        ("*_`~#", "\\*\\_\\`\\~\\#"),
        ("[x](y)", "\\[x\\](y)"),
        ("a&amp;b", "a&amp;amp;b"),
        ("https://evil.example", "https:\\//evil.example"),
        ("\x1b[31m", "\\\\x1b\\[31m"),
    ],
)
def test_markdown_shows_names_as_they_are(name: str, escaped: str) -> None:
    assert markdown(name) == escaped


def test_long_paragraphs_are_not_cut_and_points_have_heads() -> None:
    text = " ".join(["word"] * 300) + " <end>"
    assert Prose(text)._repr_html_() == f"<p>{text.replace('<end>', '&lt;end&gt;')}</p>"
    assert " ".join(repr(Prose(text)).split()) == text
    points = Points([("a <head>", ["one", "two"])])
    assert points._repr_markdown_() == "### a &lt;head&gt;\n\none\n\ntwo"
    assert "<h3>a &lt;head&gt;</h3><p>one</p><p>two</p>" in points._repr_html_()


def test_the_summary_of_a_cluster_agrees_with_the_statistics(snap: af.Snapshot) -> None:
    summary = af.cluster_summary(snap).text
    row = af.stats.failures(snap, by=[]).iloc[0]
    assert (
        f"hours with {row['count']:,} failures: {100 * row['rate_per_hour']:.3g} failures in 100 task hours"
        in summary
    )
    assert "What stands out: " in summary
