"""Writes an executed notebook as one self-contained HTML file, or as Markdown with its pictures beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .._version import __version__

_TEMPLATES = Path(__file__).parent
_FORMS = {
    ".html": ["text/html", "image/png", "text/plain"],
    ".md": ["text/markdown", "image/png", "text/plain"],
}
"""The MIME types kept of an output, best first. A browser runs or fetches nothing in any of them."""

NOT_IN_REPORTS = "notebook-only"
"""Cells with this tag are only for people who open the notebook."""


def add_section(notebook: Any, title: str, shown: Any, *, before: str) -> None:
    """Insert a section before another one, such as log lines, which the kernel cannot read."""
    import nbformat

    v4: Any = nbformat.v4
    forms = {
        "text/html": shown._repr_html_(),
        "text/markdown": shown._repr_markdown_(),
        "text/plain": repr(shown),
    }
    output = v4.new_output("display_data", data=forms)
    place = next(n for n, cell in enumerate(notebook.cells) if cell.source.startswith(f"## {before}"))
    cells = [v4.new_markdown_cell(f"## {title}"), v4.new_code_cell(outputs=[output])]
    notebook.cells[place:place] = cells


def export(notebook: Any, title: str, output: Path) -> None:
    """Write the prose and outputs of an executed notebook, without its code."""
    body, pictures = _convert(notebook, title, output)
    if pictures:
        folder = output.with_name(f"{output.stem}_files")
        folder.mkdir(exist_ok=True)
        for name, data in pictures.items():
            (output.parent / name).write_bytes(data)
    # a rename is atomic: nobody sees half a report
    partial = output.with_name(f".{output.name}.part")
    try:
        partial.touch(mode=0o600)  # a report holds names and messages
        partial.write_text(body, encoding="utf-8")
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


def _convert(notebook: Any, title: str, output: Path) -> tuple[str, dict[str, bytes]]:
    from nbconvert import HTMLExporter, MarkdownExporter
    from traitlets.config import Config

    settings = Config(
        {
            "TemplateExporter": {"exclude_input": True},
            "HTMLExporter": {"exclude_anchor_links": True},
            "TagRemovePreprocessor": {"enabled": True, "remove_cell_tags": [NOT_IN_REPORTS]},
            "ExtractOutputPreprocessor": {"output_filename_template": "picture-{cell_index}{extension}"},
        }
    )
    exporter = (HTMLExporter if output.suffix == ".html" else MarkdownExporter)(
        config=settings,
        template_name="template",
        template_file=f"index{output.suffix}.j2",
        extra_template_basedirs=[str(_TEMPLATES)],
    )
    resources = {"title": title, "version": __version__, "output_files_dir": f"{output.stem}_files"}
    body, written = exporter.from_notebook_node(
        _keep_best_forms(notebook, output.suffix), resources=resources
    )
    return "\n".join(line.rstrip() for line in body.strip().splitlines()) + "\n", written.get("outputs") or {}


def _keep_best_forms(notebook: Any, suffix: str) -> Any:
    """Keep the best form of each output, and drop outputs that have none."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            best = next((form for form in _FORMS[suffix] if form in output.get("data", {})), None)
            output.data = {best: output.data[best]} if best else {}
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.data]
    return notebook
