"""Importing allocframe: what loads at once, and what waits until it is used."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest

import allocframe as af

HEAVY = {
    "anywidget",
    "deltalake",
    "duckdb",
    "httpx",
    "ipywidgets",
    "matplotlib",
    "msgspec",
    "scipy",
    "typer",
    "websockets",
}


def test_importing_the_package_loads_pandas_and_no_other_heavy_library() -> None:
    code = (
        "import allocframe, json, sys; "
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    loaded = set(json.loads(printed))
    assert "pandas" in loaded, "the accessor .alloc works on any DataFrame"
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("name", af.__all__)
def test_each_public_name_is_the_one_of_its_module(name: str) -> None:
    module = af._MODULE_OF.get(name)
    value = getattr(af, name)
    if module is not None:
        loaded = importlib.import_module(f"allocframe.{module}")
        assert value is (loaded if module == name else getattr(loaded, name))


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'allocframe' has no attribute 'Clint'"):
        af.Clint  # noqa: B018
