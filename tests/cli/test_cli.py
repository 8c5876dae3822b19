"""The command line: output, exit codes, and errors of one line."""

from __future__ import annotations

import builtins
import json
import re
from pathlib import Path
from typing import Any

import pytest
from commands import run, run_as_process

import allocframe as af
from allocframe.__main__ import main


def test_demo_prints_what_happened_and_saves_the_evidence(tmp_path: Path) -> None:
    process = run_as_process("demo", "--story", "oom", "--allocations", "60", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    for text in (
        "Allocations by status",
        "Restarts by job",
        "search-indexer",
        "Latest failures",
        "NOMAD_ADDR",
    ):
        assert text in process.stdout
    assert len(af.load(tmp_path / "demo.allocframe")) >= 60
    assert f"postmortem, for your browser: {tmp_path / 'demo.html'}" in process.stdout
    assert "search-indexer runs out of memory" in (tmp_path / "demo.html").read_text()


@pytest.mark.parametrize("name", ["out.allocframe", "out.parquet", "out.csv"])
def test_fetch_writes_the_format_of_the_file_name(cluster: af.sim.Cluster, tmp_path: Path, name: str) -> None:
    process = run("fetch", "-o", name, cwd=tmp_path, NOMAD_ADDR=cluster.address, NOMAD_TOKEN=cluster.token)
    assert process.returncode == 0, process.stderr
    assert f"saved to {name}" in process.stdout
    assert (tmp_path / name).exists()
    assert cluster.token not in process.stdout + process.stderr


def test_fetch_prints_json_for_programs(cluster: af.sim.Cluster, tmp_path: Path) -> None:
    words = ["fetch", "--json", "-o", "a.allocframe"]
    process = run(*words, cwd=tmp_path, NOMAD_ADDR=cluster.address, NOMAD_TOKEN=cluster.token)
    assert process.returncode == 0, process.stderr
    facts = json.loads(process.stdout)
    with af.load(tmp_path / facts["saved_to"]) as snap:
        assert facts["rows"]["events"] == len(snap.events)
        statuses = snap.allocations["client_status"].value_counts()
        assert facts["statuses"] == statuses[statuses > 0].to_dict()
        assert facts["diagnosis"]["summary"] == af.diagnose(snap).summary
    assert facts["info"]["complete"] is True
    # without options: all of it, with the tasks, from the leader
    assert facts["info"]["query"] == {"task_states": "true", "namespace": "*", "per_page": "1000"}


def test_fetch_asks_for_what_its_options_say(cluster: af.sim.Cluster, tmp_path: Path) -> None:
    options = ["--newest", "5", "--no-task-states", "--resources", "--stale", "--history"]
    options += ["--filter", 'ClientStatus == "running"', "--namespace", "platform"]
    settings = {"NOMAD_ADDR": cluster.address, "NOMAD_TOKEN": cluster.token}
    facts = json.loads(run("fetch", "--json", *options, cwd=tmp_path, **settings).stdout)
    assert facts["info"]["query"] == {
        "task_states": "false", "resources": "true", "stale": "true", "namespace": "platform",
        "filter": 'ClientStatus == "running"', "reverse": "true", "per_page": "5",
    }  # fmt: skip
    assert facts["info"]["notes"] == ['only filter ClientStatus == "running"', "only newest 5"]
    assert facts["rows"]["allocations"] == 5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["fetch", "--address", "http://127.0.0.1:1"], 1, "NOMAD_ADDR"),
        (["fetch", "--prefix", "abc"], 2, "prefix"),
        (["fetch", "-o", "x.xlsx"], 2, ".allocframe, .parquet or .csv"),
        (["fetch", "-o", "nowhere/x.csv"], 2, "there is no folder"),
        (["fetch", "--bogus"], 2, "--help"),
        (["demo", "--story", "nonsense"], 2, "crash_loop"),
    ],
)
def test_errors_are_one_line_and_have_an_exit_code(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    process = run(*arguments, cwd=tmp_path)
    assert process.returncode == code
    assert message in process.stderr
    assert process.stderr.count("\n") == 1
    assert process.stdout == ""


def test_a_command_that_is_interrupted_says_in_one_line_what_can_be_used(
    cluster: af.sim.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(af.Client, "snapshot", interrupt)
    process = run("fetch", "-o", "a.csv", cwd=tmp_path, NOMAD_ADDR=cluster.address, NOMAD_TOKEN=cluster.token)
    assert (process.returncode, process.stdout) == (130, "")
    said = "allocframe: interrupted: only what was reported as saved or written is whole\n"
    assert process.stderr == said


def test_a_command_that_is_interrupted_while_it_loads_shows_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = builtins.__import__

    def interrupt(name: str, *others: Any) -> Any:
        if name == "cli":
            raise KeyboardInterrupt
        return found(name, *others)

    monkeypatch.setattr(builtins, "__import__", interrupt)
    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code, capsys.readouterr().err) == (130, "allocframe: interrupted\n")


def test_a_token_that_sees_nothing_is_reported_and_fails_a_strict_fetch(
    cluster: af.sim.Cluster, tmp_path: Path
) -> None:
    settings = {"NOMAD_ADDR": cluster.address, "NOMAD_TOKEN": cluster.add_token(["nowhere"])}
    for options, code in (([], 0), (["--strict"], 1)):
        process = run("fetch", *options, cwd=tmp_path, **settings)
        assert (process.returncode, process.stderr) == (code, "")
        assert "this token (NOMAD_TOKEN) may read-job only in nowhere" in process.stdout
    settings["NOMAD_TOKEN"] = cluster.token
    assert run("fetch", "--strict", cwd=tmp_path, **settings).returncode == 0


def test_a_process_ends_with_the_exit_code_of_its_command(tmp_path: Path) -> None:
    process = run_as_process("fetch", "--prefix", "abc", cwd=tmp_path, NOMAD_ADDR="http://127.0.0.1:1")
    assert (process.returncode, process.stdout, process.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("arguments", [[], ["archive"], ["report"]])
def test_without_a_command_the_help_is_printed(tmp_path: Path, arguments: list[str]) -> None:
    process = run(*arguments, cwd=tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout == run(*arguments, "--help", cwd=tmp_path).stdout
    assert "Commands:" in process.stdout


def test_the_help_has_examples(tmp_path: Path) -> None:
    top = run("--help", cwd=tmp_path).stdout
    assert "NOMAD_ADDR" in top
    assert set(re.findall(r"--[a-z-]+", top)) == {"--version", "--help"}
    assert "allocframe fetch -o outage.allocframe" in run("fetch", "--help", cwd=tmp_path).stdout
    assert run("--version", cwd=tmp_path).stdout.strip() == af.__version__


@pytest.mark.parametrize("command", [("diagnose",), ("report", "postmortem"), ("report", "cluster")])
def test_a_file_without_its_option_is_answered_with_the_option(command: tuple[str, ...]) -> None:
    result = run(*command, "outage.allocframe")
    assert result.returncode == 2
    assert "outage.allocframe" in result.stderr
    assert "--from FILE" in result.stderr
    assert f"(see: allocframe {' '.join(command)} --help)" in result.stderr
