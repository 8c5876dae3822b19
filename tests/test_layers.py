"""Modules import only what stands before them; what the package depends on stays in its place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "allocframe"

LAYERS = [
    ["_version", "_errors", "_display", "_memory", "_progress", "_change"],
    ["_config", "_overview", "_wire", "_protocol", "_actions", "_remedies", "_audit", "_acl", "_logtime"],
    ["_exec", "_events", "_terminal", "_logs", "_usage", "_clusters"],
    ["_table", "_careful", "_connection", "_query"],
    ["_shell"],
    ["capture"],
    ["_resume"],
    ["frames"],
    ["_diff", "_parts", "decode"],
    ["_transport", "_stream", "_present", "_kept", "allocation"],
    ["_pool"],
    ["_walk", "_reads", "_acting", "_observing", "_watchable"],
    ["_asking", "client"],
    ["_watching"],
    ["snapshot"],
    ["watch", "_together"],
    ["_async", "fleet"],
    ["aio"],
    ["_findings", "archive", "spark", "stats"],
    ["_rules", "plots", "recorder"],
    ["_diagnosis"],
    ["reports", "_accessor", "testing"],
    ["widgets"],
    ["__init__"],
    ["cli"],
    ["__main__"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
HOME = {
    "httpx": {"_connection", "_transport", "_stream"},
    "duckdb": {"_kept", "_query", "archive", "decode"},
    "deltalake": {"archive"},
    "typer": {"cli"},
    "tqdm": {"_progress", "reports"},
    "websockets": {"_shell"},
    "narwhals": {"stats"},
    "pyspark": {"spark"},
    "scipy": {"stats"},
    "matplotlib": {"plots"},
    "ipywidgets": {"widgets"},
    "anywidget": {"widgets"},
    "nbclient": {"reports"},
    "nbconvert": {"reports"},
    "jupyter_client": {"reports"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    """Return the name of a module in `LAYERS`: the package's folder, or the module itself."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """Return each import as (dotted name, or a unit of this package with a leading dot) and whether it is lazy."""
    tree = ast.parse(path.read_text())
    lazy = {
        id(node) for part in ast.walk(tree) if isinstance(part, ast.FunctionDef) for node in ast.walk(part)
    }
    typing = {
        id(node)
        for part in ast.walk(tree)
        if isinstance(part, ast.If) and "TYPE_CHECKING" in ast.dump(part.test)
        for node in ast.walk(part)
    }
    depth = len(path.relative_to(PACKAGE).parts)
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        late = id(node) in lazy or id(node) in typing
        if isinstance(node, ast.Import):
            found += [(alias.name, late) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append((node.module or "", late))
        elif isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found += [(f".{name.split('.')[0]}", late) for name in names]
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_go_down(path: Path) -> None:
    mine = unit(path)
    for name, late in imports(path):
        if mine == "sim":
            assert not name.startswith(".") or path.parent.name == "sim", f"sim imports {name}"
        elif name.startswith(".") and not late:
            assert RANK[name[1:]] < RANK[mine], f"{mine} imports {name[1:]}, which stands beside or above it"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_dependency_has_one_home(path: Path) -> None:
    for name, _ in imports(path):
        home = HOME.get(name.split(".")[0])
        assert home is None or unit(path) in home, f"{path.name} imports {name}"


def test_every_module_has_a_layer() -> None:
    assert {unit(path) for path in modules()} - {"sim"} == set(RANK)


def test_modules_stay_under_350_lines_of_code() -> None:
    long = {path.name: len(path.read_text().splitlines()) for path in modules()}
    assert {name: n for name, n in long.items() if n > 350} == {}
