"""An archive in an S3-compatible store: written by two processes at once, read, compacted and retained."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from children import started
from watched import Versions, history, ring

import allocframe as af

pytestmark = pytest.mark.skipif(find_spec("moto") is None, reason="needs moto, of the group dev")

STEPS = 3


@pytest.fixture
def options() -> Iterator[dict[str, str]]:
    """The options of an empty bucket in a store of its own process: delta-rs may hold up this one."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address, command = f"http://127.0.0.1:{port}", [sys.executable, "-m", "moto.server", "-p", str(port)]
    with started(command, stderr=subprocess.DEVNULL):
        end = time.monotonic() + 60
        while True:
            try:
                bucket = urllib.request.Request(f"{address}/bucket", method="PUT")
                urllib.request.urlopen(bucket, timeout=10).close()
                break
            except OSError:
                assert time.monotonic() < end, "the store does not answer"
                time.sleep(0.1)
        yield {
            "AWS_ENDPOINT_URL": address,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": "canary-key",
        }


def test_an_archive_in_an_object_store_keeps_what_two_writers_append_at_once_each_event_once(
    options: dict[str, str], tmp_path: Path
) -> None:
    events = history(STEPS)
    versions = Versions(
        tmp_path, {("a", cut): {"events": ring(events, cut), "restarts": 0} for cut in range(1, STEPS + 1)}
    )
    steps = [versions.seen(cut, changed=[("a", cut)], before=[("a", cut - 1)]) for cut in range(1, STEPS + 1)]
    archives = [af.Archive("s3://bucket/nomad", storage_options=options) for _ in range(2)]
    archives[0].append(steps[0])
    failed: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for step in steps[1:]:
                archives[number].append(step, recorder=f"recorder {number}")
        except BaseException as error:  # noqa: BLE001 - reported below
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    archive = af.Archive("s3://bucket/nomad", storage_options=options)
    for maintain in (lambda: None, archive.compact):
        maintain()
        assert archive.events()["seq"].tolist() == list(range(STEPS))
        assert archive.coverage()["complete"].all()
        assert archive.snapshot().allocations["alloc_id"].tolist() == ["a"]
    assert archive.info["tables"]["events"]["files"] == 1
    assert archive.sql("SELECT count(*) AS n FROM events")["n"].tolist() == [STEPS]
    assert archive.repair() == []
    assert "canary-key" not in repr(archive) + str(archive.info)


def test_a_store_that_cannot_be_reached_is_an_error_of_one_line_without_the_key() -> None:
    options = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "x"}
    options |= {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "canary-key", "max_retries": "0"}
    with pytest.raises(OSError, match="s3://bucket/nomad") as caught:
        af.Archive("s3://bucket/nomad", storage_options=options).events()
    assert "\n" not in str(caught.value)
    assert "canary-key" not in str(caught.value)
