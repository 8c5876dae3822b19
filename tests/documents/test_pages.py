"""Python blocks and commands of the pages run on a simulated cluster and print what the page shows.

A ``text`` block after a block is its output, with ``...`` for what varies. A block after ``<!-- not run:
reason -->`` is not run. The pages describe one day, and the tests set
the clock to it.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import functools
import io
import itertools
import os
import re
import shlex
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import time_machine
import trustme
import typer
from commands import run
from typer.main import get_command

import allocframe as af
import allocframe.cli
from allocframe.watch.change import Change

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
STORY_END = pd.Timestamp("2026-11-24 16:10", tz="UTC")
"""The end of the story on the pages."""

SHIFTED_CLOCK = ROOT / "tests" / "helpers" / "shifted_clock"
VARIABLES = set(re.findall(r"\bNOMAD_[A-Z_]+", (ROOT / "allocframe" / "nomad" / "config.py").read_text()))
VARIABLES |= {"ALLOCFRAME_AUDIT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)

OTHERS = ("hcl", "ini", "nginx", "sql", "toml", "{eval-rst}", "{literalinclude} spark_job.py", "{toctree}")
"""Blocks that are neither Python nor commands. test_archive_docs.py runs the SQL."""

NOMAD_COMMANDS = {
    ("alloc", "logs"), ("alloc", "status"), ("alloc", "checks"), ("node", "status"), ("node", "eligibility"),
    ("job", "inspect"), ("job", "status"), ("job", "history"), ("job", "revert"), ("deployment", "status"),
    ("eval", "status"),
}  # fmt: skip
ON_A_NODE = ("journalctl", "curl", "chronyc")
"""Commands of others that pages name. They are not run."""

NOT_RUN = {
    "docs/access.md": ["asks a person", "needs the Nomad CLI and a management token"],
    "docs/fleet.md": ["needs two clusters; tests/client/test_fleet.py has them"],
    "docs/spark.md": ["needs Spark; tests/test_spark.py does the same"],
    "docs/recorder.md": ["it records until it is told to stop; tests/archive/test_recorder.py does so"],
    "docs/recover.md": ["needs a server's folder"] * 5,
    "docs/proxies.md": ["needs a machine to log in to", "only in a task of Nomad"],
}
"""The blocks that are not run, and why."""


@dataclass
class Block:
    page: str
    line: int
    language: str
    code: str
    reason: str | None
    """Why it is not run."""
    output: str = ""


def blocks(page: Path) -> list[Block]:
    text, result = page.read_text(), list[Block]()
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        block = Block(str(page.relative_to(ROOT)), line, match["language"], match["code"], match["why"])
        if block.language == "text" and result and result[-1].language in ("python", "sh"):
            result[-1].output = block.code
        result.append(block)
    return [block for block in result if block.language in ("python", "sh")]


@pytest.fixture(scope="module", autouse=True)
def _clock() -> Iterator[None]:
    """Set the clock to the day of the pages, here and in the commands that they run."""
    offset = STORY_END.timestamp() - time.time() + float(os.environ.get("CLOCK_OFFSET", "0"))
    with time_machine.travel(STORY_END.timestamp()), pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOCK_OFFSET", str(offset))
        patch.setenv("PYTHONPATH", str(SHIFTED_CLOCK), prepend=os.pathsep)
        yield


@pytest.fixture(scope="module")
def story() -> Iterator[af.sim.Cluster]:
    with af.sim.Cluster("mixed", allocations=120, seed=5, now_ns=STORY_END.value) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def evidence(story: af.sim.Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that pages use: saved evidence, an archive, and TLS files."""
    folder = tmp_path_factory.mktemp("pages")
    with af.Client(story.address, token=story.token) as client, client.snapshot(namespace="*") as snap:
        shutil.copy(snap.save(folder / "outage.allocframe"), folder / "monday.allocframe")
        archive, empty = af.Archive(folder / "nomad-archive"), snap.allocations.iloc[:0]
        for minutes, added in ((130, snap.allocations), (0, empty)):
            at, index = STORY_END - pd.Timedelta(minutes=minutes), snap.info["index_last"]
            archive.append(
                Change(
                    at=at, index=index, source="list", full=True, added=added, changed=empty, removed=empty,
                    task_states=snap.task_states, events=snap.events, reschedules=snap.reschedules,
                    new_events=snap.events,
                )
            )  # fmt: skip
    tables = (f'[{name}]\naddress = "{story.address}"\ntoken_env = "NOMAD_TOKEN"\n' for name in ("eu", "us"))
    (folder / "clusters.toml").write_text('region = "global"\n'.join(tables))
    authority = trustme.CA()
    certificate = authority.issue_cert("client.global.nomad")
    authority.cert_pem.write_to_path(folder / "nomad-agent-ca.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "global-cli-nomad.pem")
    certificate.private_key_pem.write_to_path(folder / "global-cli-nomad-key.pem")
    return folder


@pytest.fixture
def folder(evidence: Path, story: af.sim.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = shutil.copytree(evidence, tmp_path / "work")
    monkeypatch.chdir(copy)
    monkeypatch.setenv("NOMAD_ADDR", story.address)
    monkeypatch.setenv("NOMAD_TOKEN", story.token)
    monkeypatch.setenv("MPLBACKEND", "agg")
    return copy


def _groups() -> dict[str, list[Path]]:
    """Return the pages to run by name; those of findings are small, and run together."""
    groups: dict[str, list[Path]] = {}
    for page in PAGES:
        if blocks(page):
            name = "docs/findings" if page.parent.name == "findings" else str(page.relative_to(ROOT))
            groups.setdefault(name, []).append(page)
    return groups


@pytest.mark.parametrize("pages", [pytest.param(pages, id=name) for name, pages in _groups().items()])
def test_every_block_of_the_page_runs_and_prints_what_the_page_shows(pages: list[Path], folder: Path) -> None:
    with contextlib.ExitStack() as after:
        after.callback(plt.close, "all")
        client = after.enter_context(af.Client())
        snap = after.enter_context(client.snapshot(namespace="*"))
        running = snap.allocations.query("job_id == 'web-frontend' and client_status == 'running'")
        space = {"af": af, "client": client, "snap": snap, "alloc_id": running["alloc_id"].iloc[-1]}
        for block in itertools.chain(*map(blocks, pages)):
            if block.reason is None:
                run_block = _python if block.language == "python" else _shell
                printed = run_block(block, space, after.callback)
                if block.output and not _matches(block.output, printed):
                    pytest.fail(f"{block.page}:{block.line} prints\n{printed}")


def _python(block: Block, space: dict[str, Any], after: Callable[..., Any]) -> str:
    """Run a block like a notebook cell. Return what it prints and shows."""
    tree = ast.parse("\n" * (block.line - 1) + block.code, block.page)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(tree, block.page, "exec"), space)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), block.page, "eval"), space)
            if value is not None:
                print(repr(value))
            if hasattr(value, "close"):
                after(value.close)
    return output.getvalue()


def _shell(block: Block, space: dict[str, Any], after: Callable[..., Any]) -> str:
    """Run the commands of allocframe, and check what the other lines name."""
    output = ""
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        words, pipe = (
            (words[: words.index("|")], words[words.index("|") + 1 :]) if "|" in words else (words, [])
        )
        if words[:1] == ["allocframe"]:
            output += _allocframe(*words[1:])
            assert not pipe or pipe[0] == "jq", line
        elif words[:1] == ["."]:
            assert words == [".", ".venv/bin/activate"], line
        elif words[:1] == ["make"]:
            output += _make(words[1], run=bool(block.output))
        elif words[:2] == ["pip", "install"]:
            assert _extras(words[-1]) <= set(_project()["optional-dependencies"]), line
        elif words[:1] == ["export"]:
            assert {word.partition("=")[0] for word in words[1:]} <= VARIABLES, line
        elif words[:1] == ["nomad"]:
            assert tuple(itertools.takewhile(str.islower, words[1:3])) in NOMAD_COMMANDS, line
        else:
            assert not words or words[0] in ON_A_NODE, f"{block.page}: this test cannot check {line!r}"
    return output


@functools.cache
def _allocframe(*arguments: str) -> str:
    """Run a command. If several pages have it, it runs once."""
    done = run(*arguments)
    told = (3, 4) if arguments[0] == "diagnose" else ()  # something is wrong in the story
    assert done.returncode in (0, *told), done.stderr
    return done.stdout


def _make(target: str, *, run: bool) -> str:
    """Check that the Makefile has the target. With `run`, run its allocframe commands."""
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert recipe, target
    commands = re.findall(r"^\t\$\(BIN\)/allocframe (.*)", recipe[1], re.M)
    return "".join(_allocframe(*shlex.split(line)) for line in commands) if run else ""


def _project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def _extras(requirement: str) -> set[str]:
    match = re.fullmatch(r"(?:\.|allocframe)\[([\w,]+)\]", requirement)
    assert match, requirement
    return set(match[1].split(","))


def _matches(shown: str, printed: str) -> bool:
    """Return whether a page shows what was printed, apart from times of day and line breaks."""
    time = r"\b20\d\d-\d\d-\d\d \d\d:\d\d(:\d\d)?"
    expected, actual = (re.sub(time, "TIME", text) for text in (f"{shown}\n", printed))
    return doctest.OutputChecker().check_output(
        expected, actual, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    )


def test_every_block_has_a_known_language() -> None:
    fences = {fence for page in PAGES for fence in re.findall(r"^ *```[^`\n]+$", page.read_text(), re.M)}
    assert fences == {f"```{kind}" for kind in ("python", "sh", "text", *OTHERS)}


def test_only_these_blocks_are_not_run() -> None:
    reasons = {
        str(page.relative_to(ROOT)): [block.reason for block in blocks(page) if block.reason]
        for page in PAGES
    }
    assert {page: of_page for page, of_page in reasons.items() if of_page} == NOT_RUN


def inline_commands() -> list[str]:
    return sorted({line for page in PAGES for line in re.findall(r"`(allocframe [^`]+)`", page.read_text())})


@pytest.mark.parametrize("line", inline_commands())
def test_a_command_in_a_sentence_exists(line: str) -> None:
    command, words = get_command(allocframe.cli.app), shlex.split(line)[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    assert not hasattr(command, "commands") or words[:1] in ([], ["--help"]), line
    if words:
        with contextlib.suppress(typer.Exit), contextlib.redirect_stdout(io.StringIO()):
            command.make_context("allocframe", words)
