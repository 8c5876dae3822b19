"""Walks that were interrupted continue from what they left, or say why they cannot."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from children import child
from faultserver import BODY, good, serving

import allocframe as af
from allocframe.tables import SNAPSHOT_TABLES

_FETCH = """
import sys
import allocframe as af
with af.Client(sys.argv[1], token=sys.argv[2]) as client:
    client.snapshot(namespace="*", per_page=2, workers=2, progress=False, resume=sys.argv[3])
    print("done", flush=True)
"""


class Broken(Exception):
    """What a test interrupts a walk with."""


def interrupted(client: af.Client, folder: Path, after: int, **query: Any) -> None:
    """Walk until `after` allocations are there."""

    def stop(done: int, estimate: int | None) -> None:
        if done >= after:
            raise Broken

    with pytest.raises(Broken):
        client.snapshot(namespace="*", per_page=5, progress=stop, resume=folder, **query)


def same_tables(one: af.Snapshot, other: af.Snapshot) -> None:
    for name in SNAPSHOT_TABLES:
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name))


def test_an_interrupted_walk_goes_on_and_says_of_which_times_its_rows_are(
    client: af.Client, tmp_path: Path
) -> None:
    whole = client.snapshot(namespace="*", per_page=5)
    pages = len(whole._capture.pages)
    folder = tmp_path / "walk"
    interrupted(client, folder, 60)
    before = client.counters["pages"], client.counters["requests"]
    with client.snapshot(namespace="*", per_page=5, resume=folder) as snap:
        same_tables(snap, whole)
        assert snap.info["complete"]
        assert snap.info["pages"] == pages
        assert client.counters["requests"] - before[1] < pages - 10
        [note] = [note for note in snap.info["notes"] if note.startswith("resumed")]
        assert "several times" in note
        assert note.count(" from ") == 2
        assert note in repr(snap)
        assert snap.info["started_at"] < snap.info["finished_at"]
    assert not folder.exists()


def test_a_walk_without_interruption_leaves_no_folder_and_no_note(client: af.Client, tmp_path: Path) -> None:
    with client.snapshot(namespace="*", resume=tmp_path / "walk") as snap:
        assert not [note for note in snap.info["notes"] if "resumed" in note]
        assert (tmp_path / "walk").stat().st_mode & 0o077 == 0
    assert not (tmp_path / "walk").exists()


def test_what_was_fetched_stays_where_its_use_failed_and_the_next_call_asks_for_nothing_anew(
    client: af.Client, tmp_path: Path
) -> None:
    folder = tmp_path / "walk"
    snap = client.snapshot(namespace="*", resume=folder)
    index = snap.info["index_last"]
    with pytest.raises(Broken), snap:
        raise Broken
    with client.snapshot(namespace="*", resume=folder) as again:
        same_tables(again, client.snapshot(namespace="*"))
        assert "no page had to be fetched again" in repr(again)
        assert again.info["index_last"] == index


def test_the_token_is_in_no_file_of_the_folder(
    client: af.Client, cluster: af.sim.Cluster, tmp_path: Path
) -> None:
    interrupted(client, tmp_path / "walk", 30)
    files = [file for file in (tmp_path / "walk").rglob("*") if file.is_file()]
    assert len(files) > 5
    assert not [file for file in files if cluster.token.encode() in file.read_bytes()]


@pytest.mark.parametrize(
    "query", [{"filter": 'ClientStatus == "failed"'}, {"task_states": False}, {"stale": True}]
)
def test_another_query_is_refused_and_names_what_differs(
    client: af.Client, tmp_path: Path, query: dict[str, Any]
) -> None:
    interrupted(client, tmp_path / "walk", 30)
    with pytest.raises(af.ConfigError, match=r"another query.*mixed"):
        client.snapshot(namespace="*", per_page=5, resume=tmp_path / "walk", **query)


def test_another_server_and_another_token_are_refused(
    client: af.Client, cluster: af.sim.Cluster, tmp_path: Path
) -> None:
    folder = tmp_path / "walk"
    interrupted(client, folder, 30)
    with (
        af.Client(cluster.address, token=cluster.add_token(["platform"])) as other,
        pytest.raises(af.ConfigError, match="another token accessor"),
    ):
        other.snapshot(namespace="*", per_page=5, resume=folder)
    with (
        af.sim.Cluster("calm", allocations=20, seed=1) as second,
        af.Client(second.address, token=second.token) as other,
        pytest.raises(af.ConfigError, match="another server"),
    ):
        other.snapshot(namespace="*", per_page=5, resume=folder)
    assert len(client.snapshot(namespace="*", per_page=5, resume=folder)) == len(cluster.state.allocs)


def test_pages_of_before_the_server_was_restored_are_not_mixed_with_later_ones(tmp_path: Path) -> None:
    index = ["900"]

    def page(connection: object) -> None:
        first = "prefix" not in server.requests[-1]
        more = {"X_Nomad_Nexttoken": "77777.5"} if first else {}
        answer = good(BODY if "prefix=54" in server.requests[-1] else b"[]", X_Nomad_Index=index[0], **more)
        connection.sendall(answer)  # type: ignore[attr-defined]

    def stop(done: int, estimate: int | None) -> None:
        raise Broken

    with serving(page) as server, af.Client(server.address) as client:
        with pytest.raises(Broken):
            client.snapshot(per_page=1, resume=tmp_path / "walk", progress=stop)
        index[0] = "7"
        with pytest.raises(af.AllocframeError, match="index is 7, but was 900"):
            client.snapshot(per_page=1, resume=tmp_path / "walk", progress=False)


def test_a_folder_of_something_else_is_left_alone(client: af.Client, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(af.ConfigError, match="holds no interrupted fetch"):
        client.snapshot(namespace="*", resume=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_two_walks_do_not_share_a_folder(client: af.Client, tmp_path: Path) -> None:
    folder = tmp_path / "walk"
    with (
        client.snapshot(namespace="*", resume=folder),
        pytest.raises(af.ConfigError, match="another process"),
    ):
        client.snapshot(namespace="*", resume=folder)


@pytest.mark.parametrize("damage", ["torn line", "cut page", "empty page", "missing page"])
def test_what_was_cut_when_a_walk_was_killed_is_fetched_again(
    client: af.Client, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "walk"
    interrupted(client, folder, 60)
    journal = folder / "pages.ndjson"
    last = sorted(folder.glob("0*.json"))[-1]
    if damage == "torn line":
        journal.write_bytes(journal.read_bytes()[:-20])
    elif damage == "missing page":
        last.unlink()
    else:
        last.write_bytes(b"" if damage == "empty page" else last.read_bytes()[:-3])
    with client.snapshot(namespace="*", per_page=5, resume=folder) as snap:
        same_tables(snap, client.snapshot(namespace="*"))


def test_a_page_of_the_right_size_that_is_no_json_is_fetched_again(client: af.Client, tmp_path: Path) -> None:
    folder = tmp_path / "walk"
    interrupted(client, folder, 60)
    for file in sorted(folder.glob("0*.json"))[3:5]:
        file.write_bytes(b"\0" * file.stat().st_size)
    with client.snapshot(namespace="*", per_page=5, resume=folder) as snap:
        same_tables(snap, client.snapshot(namespace="*"))


def test_kill_9_at_random_instants_costs_no_row_and_no_value(
    cluster: af.sim.Cluster, client: af.Client, tmp_path: Path
) -> None:
    folder, rng, kills = tmp_path / "walk", random.Random(7), 0
    for _attempt in range(40):
        wanted = len(list(folder.glob("0*.json"))) + rng.randrange(20, 110)
        with child(_FETCH, cluster.address, cluster.token, str(folder)) as process:
            while process.poll() is None and len(list(folder.glob("0*.json"))) < wanted:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            said, _ = process.communicate()
        if "done" in said:
            break
        assert process.returncode == -signal.SIGKILL, said
        kills += 1
    assert kills >= 3
    with client.snapshot(namespace="*", per_page=2, workers=2, resume=folder) as snap:
        same_tables(snap, client.snapshot(namespace="*"))
        assert snap.info["complete"]
        assert "several times" in repr(snap)


def test_the_command_goes_on_where_it_was_interrupted(
    client: af.Client, cluster: af.sim.Cluster, tmp_path: Path
) -> None:
    folder = tmp_path / "walk"

    def stop(done: int, estimate: int | None) -> None:
        raise Broken

    with pytest.raises(Broken):
        client.snapshot(namespace="*", progress=stop, resume=folder)
    assert json.loads((folder / "walk.json").read_text())["server"] == cluster.address
    done = subprocess.run(
        [sys.executable, "-m", "allocframe", "fetch", "--resume", str(folder), "-o", "x.allocframe"],
        cwd=tmp_path, env={"NOMAD_ADDR": cluster.address, "NOMAD_TOKEN": cluster.token, "PATH": ""},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "resumed" in done.stdout
    same_tables(af.load(tmp_path / "x.allocframe"), client.snapshot(namespace="*"))
    assert not folder.exists()
