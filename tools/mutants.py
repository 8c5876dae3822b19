"""Change a module in one place at a time, and check that a test notices.

    python tools/mutants.py [MODULE [TEST ...]]
    python tools/mutants.py --sample N [PACKAGE ...]

By default, it changes the rules of requests: `nomad/protocol.py`, `nomad/paging.py` and `nomad/retry.py`. For
any other module, name its tests. With `--sample`, it makes N changes in each package, the same in each run.
The tests of the package run once to see which lines each of them reaches. Those that reach a changed
line look for the change, the fastest first.

Each change is one that a person might make by mistake: another comparison, `and` for `or`, a number off by
one, another text, a missing statement. A fresh process runs the tests on the changed module until the first
one fails. If none fails, a test is missing, or the change has no effect. EQUIVALENT lists changes without
effect, with the reason. The exit code is 1 if any other mutant survives.
"""

from __future__ import annotations

import ast
import copy
import importlib.abc
import importlib.machinery
import io
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import coverage
import pytest

ROOT = Path(__file__).parent.parent
TARGETS = {
    "allocframe.nomad.protocol": ("tests/nomad/test_protocol.py",),
    "allocframe.nomad.paging": ("tests/nomad/test_protocol.py",),
    "allocframe.nomad.retry": ("tests/nomad/test_retry.py",),
}
"""The modules that are changed by default, each with its tests."""

SEED = 20261126
"""Chooses what is changed in a sample."""

MAX_SECONDS = 120.0
ELSEWHERE = ("test_notebooks", "test_lab", "test_screenshots")
"""Tests in kernels and browsers, in which nothing is changed."""

ALSO = {
    "nomad": ("tests/security/test_hostile_peer.py", "tests/client/test_fleet.py"),
    "_utils": ("tests/reports/test_render.py", "tests/cli/test_cli.py"),
    "tables": ("tests/store/test_decode.py", "tests/snapshot/test_history.py", "tests/fetch/test_history.py"),
    "snapshot": ("tests/stats/test_parts.py",),
    "diagnosis": ("tests/cli/test_diagnose_watch.py",),
    "cli": ("tests/recovery/test_recover.py", "tests/reports/test_reports.py"),
}
"""Tests of other packages that hold a package to what it promises."""

SAMPLE_SECONDS = 60.0
"""How long the tests that reach a changed line may look for a change of a sample."""

REACH_SECONDS = 540.0
"""How long the tests of a package may run to see what they reach."""

_QUIETLY = (
    "-x", "-q", "--timeout=60", "-W", "ignore::pytest.PytestAssertRewriteWarning",
    *(
        word
        for name in ("cacheprovider", "xdist", "anyio", "nbval", "playwright", "randomly")
        for word in ("-p", f"no:{name}")
    ),
)  # fmt: skip

EQUIVALENT = {
    (
        "def retry_after(value: str | None, now: datetime | None = None) -> float | None:",
        "0",
    ): "`now or ...`: None and 0 are both false",
    (
        "bound = min(first * 2.0 ** min(attempt - 1, 30), longest)",
        "29",
    ): "`longest` is the bound long before the cap",
    (
        "bound = min(first * 2.0 ** min(attempt - 1, 30), longest)",
        "31",
    ): "`longest` is the bound long before the cap",
    (
        'text = alloc_id.strip().lower() if isinstance(alloc_id, str) else ""',
        "'X'",
    ): "a single letter is refused, like an empty text",
    (
        "self._seen.pop(request.shard, None)",
        "pass",
    ): "finished shards are never looked up again; the entry only takes memory",
    (
        "self._seen.pop(request.shard, None)",
        "0",
    ): "the returned value is not used",
    (
        'known_leader={"true": True, "false": False}.get(lower.get("x-nomad-knownleader", "")),',
        "'X'",
    ): "neither is a key of the mapping",
    (
        'if "events" in self.__dict__ or self._counts["events"] <= MANY_ROWS:',
        "self._counts['events'] < MANY_ROWS",
    ): "both ways give the same rows; the number only decides which is faster",
    (
        "fields = (_fields(values[0]) if values else None) or {}",
        "0",
    ): "`or {}` follows",
    (
        "ready = self._wait(max(until - now, 0.0), reading)",
        "-1.0",
    ): "a wait of less than nothing is none",
    (
        "commands: typer.Typer = typer.Typer(invoke_without_command=True, callback=print_help, "
        "rich_markup_mode=None)",
        "0",
    ): "both are false",
    (
        'if name in ("type", "text", "alloc_id", "task", "job_id", "namespace", "slot", "end")',
        "'endX'",
    ): "the codes of ends are the same, whatever dtype they are made from",
    (
        'age = np.maximum(restarting["time_us"].to_numpy(dtype="float64") - origin_us[row], 0) '
        "/ _US_PER_HOUR",
        "1",
    ): "a microsecond is less than the last digit of any result",
    ("PART_ROWS = 300_000", "299999"): "it decides how much is taken at a time, and nothing of the result",
    ("return onsets.reset_index(drop=True)", "False"): "nothing reads the column that it would add",
    (
        "_US_PER_HOUR = 3_600_000_000",
        "3600000001",
    ): "one part in three thousand million is less than the last digit of any result",
    (
        "if not len(times):",
        "if False: return signaled >= 0",
    ): "without events there is no exit, and what follows is empty, too",
    (
        "if not bad.any() or here.all() or not here.any():",
        "if False: continue",
    ): "a stratum in which nothing can differ adds the same to what is seen and to what is expected",
    (
        'if facts.get("groups_of_job", 1) > 1 and facts["task_group"]:',
        "0",
    ): "none is not more than one, either",
    (
        '"driver": ("Config", "Driver", "image", "User"),',
        "'imageX'",
    ): "the image of a task is in its Config",
    (
        "half = limits.critical_share * max(int(jobs.wanted[each]), 1)",
        "0",
    ): "what waits is wanted, so that the number is never below one",
    (
        'Column("alloc_id", parent("ID", text("ID")), "text", "the allocation"),',
        "'IDX'",
    ): "the first text is only the key under which the parent's column is kept",
    (
        "if next_token <= max(ids):",
        "next_token < max(ids)",
    ): "two conditions earlier, a token that equals one of the IDs was caught",
}
"""Changes that no test can notice: the original line, the replacement, and the reason."""

_COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.Div: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd,
}  # fmt: skip


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the replacements of an expression."""
    if isinstance(node, ast.Compare):
        for place, kind in enumerate(node.ops):
            for other in _COMPARED[type(kind)]:
                changed = copy.deepcopy(node)
                changed.ops[place] = other()
                yield changed
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        yield from node.values
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in _COMPUTED:
        yield ast.BinOp(node.left, _COMPUTED[type(node.op)](), node.right)
    elif isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    elif isinstance(node, ast.Constant):
        yield from (ast.Constant(value) for value in _other_values(node.value))


def _other_values(value: Any) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value - 1)
    elif isinstance(value, str):
        yield value + "X" if value else "X"
    elif value is None:
        yield 0


def statements(node: ast.stmt) -> Iterator[ast.stmt]:
    """Yield the replacements of a statement."""
    if isinstance(node, ast.Expr | ast.Raise | ast.AugAssign):
        yield ast.Pass()
    elif isinstance(node, ast.Return) and node.value is not None:
        yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.If):
        yield ast.If(ast.Constant(False), node.body, node.orelse)
        yield ast.If(ast.Constant(True), node.body, node.orelse)


def mutants(source: str, chosen: Container[int] | None = None) -> Iterator[tuple[int, str, str]]:
    """Yield each change of a module: its line, the replacement, and the source of the changed module.

    `chosen` has the numbers of those to yield, by default all.
    """
    tree = ast.parse(source)
    as_it_is = ast.unparse(tree)
    for number, (parent, name, value, place, child, other) in enumerate(_changes(tree)):
        if chosen is not None and number not in chosen:
            continue
        _put(parent, name, value, place, other)
        text = ast.unparse(ast.fix_missing_locations(tree))
        _put(parent, name, value, place, child)
        if text != as_it_is:
            yield child.lineno, " ".join(ast.unparse(other).split()), text


def _changes(tree: ast.AST) -> Iterator[tuple[ast.AST, str, object, int, ast.expr | ast.stmt, ast.AST]]:
    """Yield each change: the node and its field, the place in it, what is there, and the replacement."""
    notes = _annotations(tree)
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if parent in notes or _is_described(parent, name):
                continue
            for place, child in enumerate(value if isinstance(value, list) else [value]):
                if not isinstance(child, ast.expr | ast.stmt) or child in notes or _is_text(child):
                    continue
                for other in statements(child) if isinstance(child, ast.stmt) else variants(child):
                    yield parent, name, value, place, child, other


def _annotations(tree: ast.AST) -> set[ast.AST]:
    """Return the nodes of type annotations, which have no effect, and of decorators."""
    found: list[ast.AST | None] = []
    for node in ast.walk(tree):
        found += [getattr(node, "annotation", None), getattr(node, "returns", None)]
        found += getattr(node, "decorator_list", [])
    return {inner for node in found if isinstance(node, ast.AST) for inner in ast.walk(node)}


def _put(parent: ast.AST, name: str, value: object, place: int, new: ast.AST) -> None:
    if isinstance(value, list):
        value[place] = new
    else:
        setattr(parent, name, new)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_described(parent: ast.AST, name: str) -> bool:
    """Return whether a field is an import or the text of a message, which tests need not pin down."""
    if isinstance(parent, ast.Call):
        return isinstance(parent.func, ast.Name) and parent.func.id == "make" and name == "args"
    return isinstance(parent, ast.Expr | ast.JoinedStr | ast.FormattedValue | ast.ImportFrom)


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module from changed source."""

    def __init__(self, name: str, file: Path, text: str) -> None:
        self.name, self.file, self.text = name, file, text

    def find_spec(
        self, name: str, path: object, target: object = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.machinery.ModuleSpec(name, self, origin=str(self.file))

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.text, str(self.file), "exec"), module.__dict__)


def killed(name: str, file: Path, text: str, tests: tuple[str, ...]) -> bool:
    """Run the tests on a changed module in a child process; return whether one failed or hung."""
    return run_tests(name, file, text, ("--noconftest", *tests), MAX_SECONDS) != 0


def run_tests(name: str, file: Path, text: str, tests: tuple[str, ...], seconds: float) -> int | None:
    """Run the tests on a changed module in a child process; return its exit code, None if it took longer."""

    def run() -> int:
        sys.meta_path.insert(0, _Changed(name, file, text))
        return pytest.main([*_QUIETLY, *tests])

    return _in_child(run, seconds)


def _in_child(run: Callable[[], int], seconds: float) -> int | None:
    """Return the exit code of a function that runs in a child process, None if it took longer."""
    child = os.fork()
    if not child:
        ended = 1
        try:
            os.setsid()  # a test may start processes, which must end with it
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                ended = run()
        finally:
            os._exit(ended)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, 9)
    os.waitpid(child, 0)
    return None


def sample(package: str, count: int) -> list[tuple[Path, int, str, str]]:
    """Return some changes of a package, always the same: file, line, replacement, changed source."""
    sources = {file: file.read_text() for file in sorted((ROOT / "allocframe" / package).rglob("*.py"))}
    made = [
        (file, number)
        for file, source in sources.items()
        for number, _ in enumerate(_changes(ast.parse(source)))
    ]
    chosen = Random(f"{SEED} {package}").sample(made, min(count, len(made)))
    return [(file, *change) for file, number in chosen for change in mutants(sources[file], {number})]


def tests_of(package: str) -> tuple[str, ...]:
    """Return the test files of a package."""
    found = [t for t in (ROOT / "tests" / package).rglob("test_*.py") if t.stem not in ELSEWHERE]
    return (*(str(test.relative_to(ROOT)) for test in sorted(found)), *ALSO.get(package, ()))


class Reach:
    """A pytest plugin that notes which lines of a package each test reaches, and how long the test takes."""

    def __init__(self, package: str) -> None:
        self.folder = ROOT / "allocframe" / package
        self.traced = coverage.Coverage(
            data_file=None, config_file=False, include=[f"{self.folder}/*"], messages=False
        )
        self.seconds: dict[str, float] = {}
        self.fixtures: dict[str, list[str]] = {}  # by test
        self.inside = ["import"]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.fixtures[item.nodeid] = list(getattr(item, "fixturenames", ()))
        with self._within(item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        # What a shared fixture reaches belongs to every test that asks for it, not to the first alone.
        with self._within(fixturedef.argname if fixturedef.scope != "function" else self.inside[-1]):
            return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if not report.passed:  # a test that fails anyway tells nothing about a change
            self.fixtures.pop(report.nodeid, None)

    @contextmanager
    def _within(self, name: str) -> Iterator[None]:
        self.inside.append(name)
        self.traced.switch_context(name)
        yield
        self.inside.pop()
        self.traced.switch_context(self.inside[-1])

    def result(self) -> dict[str, dict[int, list[str]]]:
        """Return the tests that reach each line of each file, the fastest first.

        Line 0 of a file has those that reach any of its functions, and line 0 of "" has all tests.
        """
        data, by_file = self.traced.get_data(), {"": {0: self._tests(set(self.fixtures))}}
        for file in data.measured_files():
            lines = {n: set(names) for n, names in data.contexts_by_lineno(file).items()}
            lines[0] = {name for n, names in lines.items() for name in names if name != "import"}
            by_file[file] = {n: self._tests(names) for n, names in lines.items()}
        return by_file

    def _tests(self, names: set[str]) -> list[str]:
        found = [t for t, shared in self.fixtures.items() if t in names or not names.isdisjoint(shared)]
        return sorted(found, key=lambda test: self.seconds[test])


def reached(package: str) -> dict[str, dict[int, list[str]]]:
    """Run the tests of a package; return those that reach each line of each file, the fastest first."""
    with tempfile.NamedTemporaryFile() as file:

        def run() -> int:
            reach = Reach(package)
            with reach.traced.collect():
                pytest.main([*_QUIETLY[1:], *tests_of(package)], plugins=[reach])
            Path(file.name).write_text(repr(reach.result()))
            return 0

        if _in_child(run, REACH_SECONDS) != 0:
            sys.exit(f"the tests of {package} did not end within {REACH_SECONDS:.0f} seconds")
        result: dict[str, dict[int, list[str]]] = ast.literal_eval(Path(file.name).read_text())
        return result


def tests_that_reach(file: Path, line: int, reach: dict[str, dict[int, list[str]]]) -> tuple[str, ...]:
    """Return the tests that reach the statement of a line, the fastest first."""
    statements = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.stmt)]
    around = [node for node in statements if node.lineno <= line <= (node.end_lineno or node.lineno)]
    first = max(node.lineno for node in around)
    inside = [node.lineno for node in statements if node.lineno > line]
    last = min([*inside, 1 + max(node.end_lineno or 0 for node in around if node.lineno == first)])
    by_line = reach.get(str(file), {})
    if not any(_has_in_body(node, line) for node in around):
        # What runs at import matters to every test that reaches the module, and a declaration to all.
        return tuple(by_line.get(0) or reach[""][0])
    ran = [by_line[number] for number in range(first, last) if number in by_line]
    most = max(ran, key=len, default=[])
    return tuple(most)


def _has_in_body(node: ast.stmt, line: int) -> bool:
    """Return whether a function has a line in its body: it runs when it is called, not at import."""
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.body[0].lineno <= line


def _count_sampled_survivors(package: str, count: int) -> int:
    """Test a sample of a package's mutants, print those that survive, and return their number."""
    counts: Counter[str] = Counter()
    reach = reached(package)
    for file, line, change, text in sample(package, count):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        tests = tests_that_reach(file, line, reach)
        if (file.read_text().splitlines()[line - 1].strip(), change) in EQUIVALENT:
            fate = "equivalent"
        elif not tests:
            fate = "unreached"
        else:
            ended = run_tests(name, file, text, tests, SAMPLE_SECONDS)
            fate = "survived" if ended == 0 else "undecided" if ended is None else "killed"
        counts[fate] += 1
        if fate not in ("killed", "equivalent"):
            where = f"{file.relative_to(ROOT)}, line {line}"
            print(f"{fate}: {where}: {change[:160]} ({len(tests)} tests)", flush=True)
    print(f"{package}: {', '.join(f'{number} {fate}' for fate, number in counts.items())}", flush=True)
    return counts["survived"] + counts["unreached"]


def main() -> None:
    os.chdir(ROOT)
    _load_heavy_packages()
    if sys.argv[1:2] == ["--sample"]:
        packages = sys.argv[3:] or sorted(
            folder.name for folder in (ROOT / "allocframe").iterdir() if tests_of(folder.name)
        )
        sys.exit(1 if sum(_count_sampled_survivors(name, int(sys.argv[2])) for name in packages) else 0)
    module, tests = sys.argv[1:2], tuple(sys.argv[2:])
    targets = {module[0]: tests or TARGETS[module[0]]} if module else TARGETS
    survivors = [_count_survivors(name, tests) for name, tests in targets.items()]
    sys.exit(1 if any(survivors) else 0)


def _count_survivors(module: str, tests: tuple[str, ...]) -> int:
    """Test every mutant of a module, print those that survive, and return their number."""
    file = ROOT / f"{module.replace('.', '/')}.py"
    source = file.read_text()
    if killed(module, file, ast.unparse(ast.parse(source)), tests):
        sys.exit(f"the tests of {module} fail without any change")
    counts: Counter[str] = Counter()
    lines = source.splitlines()
    for line, change, text in mutants(source):
        is_equivalent = (lines[line - 1].strip(), change) in EQUIVALENT
        fate = (
            "killed" if killed(module, file, text, tests) else "equivalent" if is_equivalent else "survived"
        )
        counts[fate] += 1
        if fate == "survived":
            print(f"survived: line {line}: {change[:160]}", flush=True)
    print(
        f"{file.name}: {counts.total()} mutants, {counts['killed']} killed, "
        f"{counts['equivalent']} change nothing, {counts['survived']} survived"
    )
    return counts["survived"]


def _load_heavy_packages() -> None:
    """Import the slow dependencies once, before forking; nothing of allocframe itself."""
    import duckdb  # noqa: F401
    import httpx  # noqa: F401
    import hypothesis.strategies  # noqa: F401
    import pandas as pd  # noqa: F401
    import pyarrow as pa  # noqa: F401


if __name__ == "__main__":
    main()
