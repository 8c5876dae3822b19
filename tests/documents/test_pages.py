"""Every block of Python and every command of the documents runs, on a simulated cluster, and prints what the page shows.

A ``text`` block that follows is what a block prints, ``...`` for what varies. A block after ``<!-- not run: why -->`` is left out.
The pages tell of one day; their dates are moved to the day on which the story of the simulated cluster ends.
"""

from __future__ import annotations

import ast
import contextlib
import doctest
import functools
import io
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import trustme
import typer
from typer.main import get_command

import allocframe as af
import allocframe.cli
from allocframe.watch.change import Change

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
TOLD = pd.Timestamp("2026-11-24 16:10", tz="UTC")
"""The end of the story that the pages tell."""

ENDED = (pd.Timestamp.now("UTC") - pd.Timedelta("16h10min")).normalize() + pd.Timedelta("16h10min")
VARIABLES = set(re.findall(r"\bNOMAD_[A-Z_]+", (ROOT / "allocframe" / "nomad" / "config.py").read_text()))
VARIABLES |= {"ALLOCFRAME_AUDIT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S
)

OTHERS = ("hcl", "ini", "nginx", "sql", "toml", "{eval-rst}", "{literalinclude} spark_job.py", "{toctree}")
"""What is neither Python nor commands; tests/archive runs the SQL."""

NOT_RUN = {
    "docs/access.md": ["asks a person", "needs the Nomad CLI and a management token"],
    "docs/fleet.md": ["needs two clusters; tests/client/test_fleet.py has them"],
    "docs/spark.md": ["needs Spark; tests/test_spark.py does the same"],
    "docs/recorder.md": ["it records until it is told to stop; tests/archive/test_recorder.py does so"],
    "docs/proxies.md": ["needs a machine to log in to", "only in a task of Nomad"],
}
"""The blocks that do not run, and why."""


@dataclass
class Block:
    where: str
    line: int
    language: str
    code: str
    why: str | None
    output: str = ""


def blocks(page: Path) -> list[Block]:
    text, found = page.read_text(), []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        block = Block(str(page.relative_to(ROOT)), line, match["language"], match["code"], match["why"])
        if block.language == "text" and found and found[-1].language in ("python", "sh"):
            found[-1].output = block.code
        found.append(block)
    return [block for block in found if block.language in ("python", "sh")]


def moved(code: str) -> str:
    """Move the dates of a page to the day of the simulated cluster."""
    shift = ENDED - TOLD
    return re.sub(r"\b2026-\d\d-\d\d\b", lambda day: f"{pd.Timestamp(day[0]) + shift:%Y-%m-%d}", code)


@pytest.fixture(scope="module")
def story() -> Iterator[af.sim.Cluster]:
    with af.sim.Cluster("mixed", allocations=120, seed=5, now_ns=ENDED.value) as made:
        yield made


@pytest.fixture(scope="module")
def evidence(story: af.sim.Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pages take for granted in the folder: saved evidence, an archive, and the files of TLS."""
    folder = tmp_path_factory.mktemp("pages")
    with af.Client(story.address, token=story.token) as client, client.snapshot(namespace="*") as snap:
        shutil.copy(snap.save(folder / "outage.allocframe"), folder / "monday.allocframe")
        archive, none = af.Archive(folder / "nomad-archive"), snap.allocations.iloc[:0]
        for minutes, new in ((130, snap.allocations), (0, none)):
            at, index = ENDED - pd.Timedelta(minutes=minutes), snap.info["index_last"]
            archive.append(
                Change(
                    at=at, index=index, source="list", full=True, added=new, changed=none, removed=none, task_states=snap.task_states,
                    events=snap.events, reschedules=snap.reschedules, new_events=snap.events,
                )
            )  # fmt: skip
    tables = (f'[{name}]\naddress = "{story.address}"\ntoken_env = "NOMAD_TOKEN"\n' for name in ("eu", "us"))
    (folder / "clusters.toml").write_text('region = "global"\n'.join(tables))
    authority = trustme.CA()
    mine = authority.issue_cert("client.global.nomad")
    authority.cert_pem.write_to_path(folder / "nomad-agent-ca.pem")
    mine.cert_chain_pems[0].write_to_path(folder / "global-cli-nomad.pem")
    mine.private_key_pem.write_to_path(folder / "global-cli-nomad-key.pem")
    return folder


@pytest.fixture
def folder(evidence: Path, story: af.sim.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = shutil.copytree(evidence, tmp_path / "work")
    monkeypatch.chdir(made)
    monkeypatch.setenv("NOMAD_ADDR", story.address)
    monkeypatch.setenv("NOMAD_TOKEN", story.token)
    monkeypatch.setenv("MPLBACKEND", "agg")
    return made


@pytest.mark.usefixtures("no_running_loop")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_block_of_the_page_runs_and_prints_what_the_page_shows(page: Path, folder: Path) -> None:
    with contextlib.ExitStack() as after:
        after.callback(plt.close, "all")
        client = after.enter_context(af.Client())
        snap = after.enter_context(client.snapshot(namespace="*"))
        running = snap.allocations.query("job_id == 'web-frontend' and client_status == 'running'")
        space = {"af": af, "client": client, "snap": snap, "alloc_id": running["alloc_id"].iloc[-1]}
        for block in blocks(page):
            if block.why is None:
                run = _python if block.language == "python" else _shell
                printed = run(block, space, after.callback)
                if block.output and not _like(block.output, printed):
                    pytest.fail(f"{block.where}:{block.line} prints\n{printed}")


def _python(block: Block, space: dict[str, Any], after: Callable[..., Any]) -> str:
    """Run a block as a cell of a notebook; return what it prints and shows."""
    tree = ast.parse("\n" * (block.line - 1) + moved(block.code), block.where)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(tree, block.where, "exec"), space)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), block.where, "eval"), space)
            if value is not None:
                print(repr(value))
            if hasattr(value, "close"):
                after(value.close)
    return said.getvalue()


def _shell(block: Block, space: dict[str, Any], after: Callable[..., Any]) -> str:
    """Run the lines of a block that are ours, and hold the others to what they name."""
    said = ""
    for line in moved(block.code).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["allocframe"]:
            said += _allocframe(*words[1:])
        elif words[:1] == ["make"]:
            said += _made(words[1], run=bool(block.output))
        elif words[:2] == ["pip", "install"]:
            assert _extras(words[-1]) <= set(_project()["optional-dependencies"]), line
        elif words[:1] == ["export"]:
            assert {word.partition("=")[0] for word in words[1:]} <= VARIABLES, line
        else:
            assert not words, f"{block.where}: nobody knows how to test {line!r}"
    return said


@functools.cache
def _allocframe(*arguments: str) -> str:
    """Run a command; one that is on several pages runs once."""
    command = [sys.executable, "-W", "error", "-m", "allocframe", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _made(target: str, *, run: bool) -> str:
    """Hold a line of make to the Makefile; where the page shows what it prints, run what it runs of ours."""
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert recipe, target
    ours = re.findall(r"^\t\$\(BIN\)/allocframe (.*)", recipe[1], re.M)
    return "".join(_allocframe(*shlex.split(line)) for line in ours) if run else ""


def _project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"])


def _extras(requirement: str) -> set[str]:
    named = re.fullmatch(r"(?:\.|allocframe)\[([\w,]+)\]", requirement)
    assert named, requirement
    return set(named[1].split(","))


def _like(wanted: str, printed: str) -> bool:
    """Tell whether a page shows what was printed, apart from times of day and how lines are broken."""
    when = r"\b20\d\d-\d\d-\d\d \d\d:\d\d(:\d\d)?"
    shown, got = (re.sub(when, "TIME", text) for text in (f"{wanted}\n", printed))
    return doctest.OutputChecker().check_output(shown, got, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)


def test_every_block_is_of_a_kind_that_is_run_or_known_not_to_be() -> None:
    fences = {fence for page in PAGES for fence in re.findall(r"^ *```[^`\n]+$", page.read_text(), re.M)}
    assert fences == {f"```{kind}" for kind in ("python", "sh", "text", *OTHERS)}


def test_the_blocks_that_do_not_run_are_these() -> None:
    found = {
        str(page.relative_to(ROOT)): [block.why for block in blocks(page) if block.why] for page in PAGES
    }
    assert {page: why for page, why in found.items() if why} == NOT_RUN


def inline() -> list[str]:
    return sorted({line for page in PAGES for line in re.findall(r"`(allocframe [^`]+)`", page.read_text())})


@pytest.mark.parametrize("line", inline())
def test_a_command_within_a_sentence_is_one_that_exists(line: str) -> None:
    command, words = get_command(allocframe.cli.app), shlex.split(line)[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    assert not hasattr(command, "commands") or words[:1] in ([], ["--help"]), line
    if words:
        with contextlib.suppress(typer.Exit), contextlib.redirect_stdout(io.StringIO()):
            command.make_context("allocframe", words)
