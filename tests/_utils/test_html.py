"""The pieces of HTML that results show."""

from __future__ import annotations

from allocframe._utils import html


def test_every_text_is_escaped() -> None:
    hostile = "<b>'\"&\x1b"
    view = html.summary(
        hostile, hostile, [hostile], html.table([(hostile, 1)], (hostile, hostile), numbers={1})
    )
    assert "<b>" not in view
    assert "\x1b" not in view
    assert view.count("&lt;b&gt;&#x27;&quot;&amp;") == 6


def test_numbers_are_aligned_by_the_notebook_and_text_to_the_left() -> None:
    left = "style='text-align:left'"
    assert html.table([("web", 3)], ("job", "restarts"), numbers={1}) == (
        f"<table><thead><tr><th {left}>job</th><th>restarts</th></tr></thead>"
        f"<tbody><tr><td {left}>web</td><td>3</td></tr></tbody></table>"
    )
    assert "thead" not in html.table([("web", 3)])
