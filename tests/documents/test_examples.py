"""The examples in docstrings run, and every public function has one."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import allocframe as af
from allocframe.watch.change import Change

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def modules() -> Iterator[Any]:
    yield af
    for info in pkgutil.walk_packages(af.__path__, "allocframe."):
        yield importlib.import_module(info.name)


class Finder(doctest.DocTestFinder):
    """Finds the examples of decorated functions, too."""

    def _from_module(self, module: Any, value: Any) -> bool:
        unwrapped = inspect.unwrap(value) if inspect.isfunction(value) else value
        is_own = super()._from_module  # type: ignore[misc]
        return bool(is_own(module, value) or is_own(module, unwrapped))


def examples() -> list[doctest.DocTest]:
    finder = Finder(exclude_empty=True)
    tests = [test for module in modules() for test in finder.find(module)]
    in_spark = "allocframe.spark."  # tests/test_spark.py has a session and runs its examples, with --deep
    return [test for test in tests if test.examples and not test.name.startswith(in_spark)]


@pytest.fixture(scope="module")
def calm() -> Iterator[af.sim.Cluster]:
    """A cluster for the examples that change something."""
    with af.sim.Cluster("calm", allocations=30, seed=1) as cluster:
        yield cluster


@pytest.fixture
def aio(calm: af.sim.Cluster) -> Iterator[af.AsyncClient]:
    client = af.AsyncClient(calm.address, token=calm.token)
    yield client
    asyncio.run(client.close())


@pytest.fixture(scope="module")
def running(calm: af.sim.Cluster) -> list[str]:
    with af.Client(calm.address, token=calm.token) as client:
        snap = client.snapshot(namespace="*", filter='ClientStatus == "running"')
    return list(snap.filter(job_type="service").allocations["alloc_id"])


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_the_example_runs(
    example: doctest.DocTest,
    cluster: af.sim.Cluster,
    client: af.Client,
    snap: af.Snapshot,
    change: Change,
    archive: af.Archive,
    aio: af.AsyncClient,
    running: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    example.globs = {
        "af": af,
        "asyncio": asyncio,
        "aio": aio,
        "running": running,
        "cluster": cluster,
        "client": client,
        "snap": snap,
        "change": change,
        "archive": archive,
    }
    failures: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=failures.append)
    assert not failures, "".join(failures)


def public() -> Iterator[tuple[str, Any]]:
    for name in af.__all__:
        thing = getattr(af, name)
        if inspect.isfunction(thing):
            yield name, thing
        elif inspect.isclass(thing) and not issubclass(thing, Exception):
            for method, body in inspect.getmembers_static(thing, inspect.isfunction):
                if (
                    not method.startswith("_")
                    and body.__module__.startswith("allocframe")
                    and method != "close"
                ):
                    yield f"{name}.{method}", body
        elif inspect.ismodule(thing):
            for inner in getattr(thing, "__all__", []):
                if inspect.isfunction(getattr(thing, inner)):
                    yield f"{name}.{inner}", getattr(thing, inner)


@pytest.mark.parametrize(("name", "thing"), list(public()), ids=[name for name, _ in public()])
def test_a_public_function_has_an_example(name: str, thing: Any) -> None:
    assert ">>>" in (thing.__doc__ or ""), f"{name} has no example"


def test_the_examples_of_all_public_functions_are_run() -> None:
    run = {example.name for example in examples()}
    missing = [name for name, thing in public() if f"{thing.__module__}.{thing.__qualname__}" not in run]
    assert missing == []
