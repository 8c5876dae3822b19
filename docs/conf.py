"""Configuration of Sphinx, for `make docs`.

The root of the repository is the source folder, so that links work here and where the code is hosted.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import generated
from docutils import nodes
from pygments.lexers.special import TextLexer

import allocframe

project = "allocframe"
author = copyright = "The allocframe authors"  # noqa: A001 - Sphinx calls it so
version = release = allocframe.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["docs/**", "notebooks/*.ipynb", "benchmarks/README.md", "CHANGELOG.md"]
exclude_patterns = [".*", "allocframe", "build", "dist", "js", "tests", "**/.ipynb_checkpoints"]
nitpicky = True
nitpick_ignore_regex = [("py:obj", ".*")]

default_role = "py:obj"  # `name` is a link if it is one of ours, else code
autodoc_typehints = "none"  # the docstrings have the types, with units
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
napoleon_google_docstring = False
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]  # several names in a line, as for parameters

myst_heading_anchors = 3
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, Any] = {}

html_theme = "furo"
html_title = "allocframe"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_additional_pages = {"index": "front.html"}
templates_path = ["_templates"]
html_copy_source = False
html_show_copyright = False


def _fill(app: object, name: str, source: list[str]) -> None:
    """Fill in what is generated from the code."""
    generators: dict[str, Callable[[], str]] = {
        "tables": generated.tables, "commands": generated.commands, "sizes": generated.sizes,
    }  # fmt: skip

    source[0] = re.sub(r"<!-- generated: (\w+) -->", lambda match: generators[match[1]](), source[0])


def _adapt_notebook(app: object, name: str, source: list[str]) -> None:
    """Replace widgets, which a page cannot show, and make all titles but the first one smaller."""
    if not name.startswith("notebooks/"):
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"][1:]:
        if cell["cell_type"] == "markdown":
            cell["source"] = re.sub(r"(?m)^# ", "## ", "".join(cell["source"]))
        for output in cell.get("outputs", []):
            if "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
                output["data"] = {
                    "text/markdown": "*Shown in a notebook only; [a picture of it](../docs/acting.md).*"
                }
    source[0] = json.dumps(notebook)


def _stack(app: object, tree: nodes.document) -> None:
    """Mark tables with sentences. On a phone, their cells are stacked; tables of numbers stay tables."""
    for table in tree.findall(nodes.table):
        if any(len(cell.astext()) > 40 for cell in table.findall(nodes.entry)):
            table["classes"].append("stacked")


def _resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Resolve names as users write them, such as ``stats.restarts`` or ``ConfigError``."""
    if node.get("refdomain") != "py" or node["reftarget"].startswith("allocframe."):
        return None
    target = f"allocframe.{node['reftarget']}"
    return env.domains["py"].resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], target, node, content
    )


def setup(app: Any) -> None:
    app.connect("source-read", _fill)
    app.connect("source-read", _adapt_notebook)
    app.connect("doctree-read", _stack)
    app.connect("missing-reference", _resolve)
    app.add_lexer("hcl", TextLexer)  # Pygments knows only the keywords of Terraform
