"""How the documents become pages: `make docs`.

The root of the repository is the source, so that a link leads to the same place here and where the code is hosted.
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
author = copyright = "The allocframe authors"  # noqa: A001 - Sphinx's name for it
version = release = allocframe.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = ["docs/**", "notebooks/*.ipynb", "benchmarks/README.md", "CHANGELOG.md"]
exclude_patterns = [".*", "allocframe", "build", "dist", "js", "tests", "**/.ipynb_checkpoints"]
nitpicky = True
nitpick_ignore_regex = [("py:obj", ".*")]

default_role = "py:obj"  # a name in single quotes is a link where it is one of ours, and code otherwise
autodoc_typehints = "none"  # the docstrings have them, with units
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
napoleon_google_docstring = False
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Attributes", "params_style")]  # several to a line, as parameters may be

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
    """Put in what is generated from the code."""
    made: dict[str, Callable[[], str]] = {
        "tables": generated.tables, "commands": generated.commands, "sizes": generated.sizes,
    }  # fmt: skip

    source[0] = re.sub(r"<!-- generated: (\w+) -->", lambda found: made[found[1]](), source[0])


def _tell_notebook(app: object, name: str, source: list[str]) -> None:
    """Say in the place of a widget that a page cannot show it, and keep to one title: the others are of reports."""
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
    """Mark the tables that hold sentences: on a phone their cells stand below each other, while numbers stay in columns."""
    for table in tree.findall(nodes.table):
        if any(len(cell.astext()) > 40 for cell in table.findall(nodes.entry)):
            table["classes"].append("stacked")


def _find(app: Any, env: Any, node: Any, shown: Any) -> Any:
    """Find what docstrings name as their readers do: ``stats.restarts``, ``ConfigError``."""
    if node.get("refdomain") != "py" or node["reftarget"].startswith("allocframe."):
        return None
    target = f"allocframe.{node['reftarget']}"
    return env.domains["py"].resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], target, node, shown
    )


def setup(app: Any) -> None:
    app.connect("source-read", _fill)
    app.connect("source-read", _tell_notebook)
    app.connect("doctree-read", _stack)
    app.connect("missing-reference", _find)
    app.add_lexer("hcl", TextLexer)  # Pygments knows the words of Terraform only
