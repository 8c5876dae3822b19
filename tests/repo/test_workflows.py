"""What runs on a server is what runs here: each step of a workflow is a target of the Makefile."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
MATRIX = re.compile(r"\$\{\{ matrix\.(\w+) \}\}")


def jobs(workflow: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(workflow.read_text())["jobs"]
    return found


def commands(job: dict[str, Any]) -> set[str]:
    """Return what a job runs, once for each value of its matrix."""
    matrix = job.get("strategy", {}).get("matrix", {})
    runs: set[str] = set()
    for values in itertools.product(*matrix.values()):
        chosen = dict(zip(matrix, values, strict=True))
        for step in job["steps"]:
            if "run" in step:
                runs.add(MATRIX.sub(lambda match, chosen=chosen: chosen[match[1]], step["run"]))
    return runs


def foreign(command: str) -> bool:
    """Tell whether a command is anything else than one existing target of the Makefile."""
    words = command.split()
    return len(words) != 2 or words[0] != "make" or words[1] not in TARGETS


def test_there_are_workflows_for_tests_and_for_releases() -> None:
    assert [workflow.name for workflow in WORKFLOWS] == ["release.yml", "test.yml"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_each_step_calls_an_existing_make_target_and_nothing_else(workflow: Path) -> None:
    assert [command for job in jobs(workflow).values() for command in commands(job) if foreign(command)] == []


@pytest.mark.parametrize(
    "command", ["pip install .", "make nothing", "make test && rm x", "make test\nls", "make"]
)
def test_what_is_no_make_target_is_noticed(command: str) -> None:
    assert foreign(command)


def test_the_tests_run_on_each_python_that_the_package_names() -> None:
    classifiers = re.findall(r"Python :: (3\.\d+)\"", (ROOT / "pyproject.toml").read_text())
    assert jobs(ROOT / ".github/workflows/test.yml")["test"]["strategy"]["matrix"]["python"] == classifiers


def test_every_lane_is_there() -> None:
    runs = {
        command for job in jobs(ROOT / ".github/workflows/test.yml").values() for command in commands(job)
    }
    lanes = ("test", "lint", "types", "docs", "coverage", "lowest", "package", "test-midnight")
    assert {f"make {lane}" for lane in lanes} <= runs


def test_a_release_is_tested_and_checked_before_it_is_published_without_a_stored_token() -> None:
    release = jobs(ROOT / ".github/workflows/release.yml")
    assert {"make lint", "make test", "make package"} <= commands(release["build"])
    assert release["publish"]["needs"] == "build"
    assert release["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_unless_a_job_says_more(workflow: Path) -> None:
    assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}


def test_hooks_are_local_and_call_the_tools_of_the_tests() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    entries = [hook["entry"].split()[0] for repo in config["repos"] for hook in repo["hooks"]]
    assert entries == [".venv/bin/ruff", ".venv/bin/ruff", ".venv/bin/mypy"]
