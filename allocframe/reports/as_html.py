"""Writes a document as one HTML file, which works offline and asks the network for nothing."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from pathlib import Path

from .._utils.prose import as_html, verbatim
from .._version import __version__
from .document import (
    Block,
    Bullets,
    Command,
    Document,
    Fold,
    Live,
    Marks,
    Number,
    Numbers,
    Paragraph,
    Part,
    People,
    Picture,
    Table,
    Text,
    plain,
    walk,
)
from .people import Written, mark_stars, marked

STYLE = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
_LONG_CELL = 45


def render_html(document: Document, written: Written) -> str:
    """Return a document as a page."""
    blocks = [block for each in document.sections for block in walk(each.blocks)]
    hashes = [f"'{block.script}'" for block in blocks if isinstance(block, Live)]
    scripts = f" script-src {' '.join(hashes)};" if hashes else ""
    title = as_html(document.title)
    stars = [mark_stars(written.stars)] if document.kind == "postmortem" else []
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline';{scripts}\">",
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f'<meta name="generator" content="allocframe {__version__}">',
        f"<title>{title}</title>",
        f"<style>\n{STYLE}</style>",
        "</head>",
        '<body class="allocframe-page">',
        render_body(document, written),
        *stars,
        f"<footer>Written by allocframe {__version__} from what Nomad knows. Times are UTC.</footer>",
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def render_body(document: Document, written: Written) -> str:
    """Return a document as an element of a page. The class keeps MathJax of notebooks out of names."""
    facts = "".join(
        f"<div><dt>{as_html(name)}</dt><dd>{as_html(value)}</dd></div>" for name, value in document.facts
    )
    lines = [
        '<main class="allocframe-report tex2jax_ignore mathjax_ignore">',
        f'<header><p class="kind">{as_html(_KINDS[document.kind])}</p><h1>{as_html(document.title)}</h1>',
        f"<dl>{facts}</dl></header>",
    ]
    for section in document.sections:
        head = [f"<h2>{as_html(section.title)}</h2>"] if section.title else []
        lines += [
            f'<section id="{section.key}">',
            *head,
            *(_block(block, written) for block in section.blocks),
            "</section>",
        ]
    return "\n".join([*lines, "</main>"])


_KINDS = {"postmortem": "Postmortem", "cluster": "Cluster report"}


def _block(block: Block, written: Written) -> str:
    if isinstance(block, Paragraph):
        return f"<p>{_text(block.text)}</p>"
    if isinstance(block, Bullets):
        return f"<ul>{''.join(f'<li>{_text(item)}</li>' for item in block.items)}</ul>"
    if isinstance(block, Numbers):
        return f'<div class="numbers">{"".join(map(_number, block.items))}</div>'
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Command):
        lines = "\n".join(html.escape(verbatim(line)) for line in block.text.splitlines())
        return f"<pre>{lines}</pre>"
    if isinstance(block, Picture):
        data = base64.b64encode(block.png).decode("ascii")
        return f'<figure><img alt="{as_html(block.alt)}" src="data:image/png;base64,{data}"></figure>'
    if isinstance(block, Live):
        return (
            f'<div class="still">{_block(block.still, written)}</div>\n<div class="live">{block.html}</div>'
        )
    inner = "\n".join(_block(each, written) for each in getattr(block, "blocks", []))
    if isinstance(block, Fold):
        return f"<details><summary>{as_html(block.title)}</summary>\n{inner}\n</details>"
    if isinstance(block, Part):
        anchor = f' id="{block.anchor}"' if block.anchor else ""
        tone = f'<span class="tone {block.tone}">{block.tone}</span> ' if block.tone else ""
        return f'<section class="part"{anchor}><h3>{tone}{as_html(block.title)}</h3>\n{inner}\n</section>'
    return (
        f'<div class="people"><h3>{block.title}</h3>\n{marked(block.key, _of_people(block, written))}\n</div>'
    )


def _of_people(block: People, written: Written) -> str:
    text = written.sections.get(block.key)
    if text is None:
        return f'<p class="prompt">{as_html(block.prompt)}</p>\n'
    # Markdown stays as it was typed
    return f'<pre class="typed">{html.escape(text)}</pre>\n' if written.form == ".md" else text


def _number(each: Number) -> str:
    note = f"<small>{as_html(each.note)}</small>" if each.note else ""
    return f"<div><b>{as_html(each.value)}</b><span>{as_html(each.label)}</span>{note}</div>"


def _table(table: Table) -> str:
    if not table.rows:
        return "<p>None.</p>"
    numeric = table.numeric or [False] * len(table.columns)
    long = [any(len(plain(row[n])) > _LONG_CELL for row in table.rows) for n in range(len(table.columns))]
    kinds = [
        ' class="long"' if wide else ' class="number"' if number else ""
        for wide, number in zip(long, numeric, strict=True)
    ]

    def line(cells: Iterable[Text], tag: str) -> str:
        pairs = zip(cells, kinds, table.columns, strict=True)
        # a phone shows each row as lines, which need the names of their columns
        return "".join(
            f'<{tag}{kind} data-name="{as_html(name)}">{_text(cell)}</{tag}>' for cell, kind, name in pairs
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>\n" for row in table.rows)
    head = "".join(f"<th{kind}>{as_html(name)}</th>" for name, kind in zip(table.columns, kinds, strict=True))
    many = ' class="many"' if len(table.columns) > 3 else ""
    note = f'<p class="note">{as_html(table.note)}.</p>' if table.note else ""
    rows = f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>"
    return f'<div class="table"><table{many}>{rows}</table></div>{note}'


_text = Marks(
    words=as_html,
    strong=lambda text: f"<b>{as_html(text)}</b>",
    code=lambda text: f"<code>{html.escape(verbatim(text))}</code>",
    ref=lambda text, anchor: f'<a href="#{anchor}">{as_html(text)}</a>',
).write
