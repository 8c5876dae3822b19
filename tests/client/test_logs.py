"""Lines of logs: which are chosen around a time, and which notes say what is missing."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from faultserver import good, http, serving

import allocframe as af
from allocframe.client import log_timestamps, logs

ALLOC = "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7"
NEAR = pd.Timestamp("2026-11-24T09:00:00Z").value


def frame(data: bytes, file: str = "web.stdout.0", *, end: int | None = None) -> bytes:
    body = {"Data": base64.b64encode(data).decode(), "File": f"alloc/logs/{file}", "Offset": end or len(data)}
    return json.dumps(body, separators=(",", ":")).encode()


@pytest.fixture(params=["1.3.1", "2.0.5"])
def cluster_of(request: pytest.FixtureRequest) -> Iterator[af.sim.Cluster]:
    with af.sim.Cluster("crash_loop", allocations=40, seed=2, version=request.param) as cluster:
        yield cluster


def failure(client: af.Client) -> Any:
    """Return the last run that failed, of which the start is still among the events."""
    events = client.snapshot(namespace="*", progress=False).events
    failed = events[(events["type"] == "Terminated") & (events["exit_code"] == 1)]
    return failed.sort_values("time").iloc[-1]


def test_the_lines_around_a_failure_end_with_its_last_words(cluster_of: af.sim.Cluster) -> None:
    with af.Client(cluster_of.address, token=cluster_of.token) as client:
        failed = failure(client)
        result = client.logs(failed["alloc_id"], failed["task"], around=failed["time"], lines=6)
    words = result.frame[result.frame["stream"] == "stderr"]
    assert "panic: runtime error" in result.text
    assert (failed["time"] - words["time"].dropna()).abs().min() < pd.Timedelta("1s")
    assert words["time"].isna().any(), "a stack trace has no times"
    assert any("begin with a time (RFC 3339)" in note for note in result.notes)
    assert result.frame.attrs["notes"] == result.notes


def test_without_a_time_the_last_lines_come(client: af.Client, snap: af.Snapshot) -> None:
    running = snap.task_states[snap.task_states["state"] == "running"].iloc[0]
    result = client.logs(running["alloc_id"], running["task"], stream="stdout", lines=2)
    whole = client.logs(running["alloc_id"], running["task"], stream="stdout", lines=10_000)
    assert result.frame["line"].tolist() == whole.frame["line"].tolist()[-2:]
    assert result.notes == []
    data = "".join(f"{line}\n" for line in whole.frame["line"]).encode()
    at = int(result.frame["offset"].iloc[0])
    assert data[at:].decode() == "".join(f"{line}\n" for line in result.frame["line"])


def test_offsets_are_those_in_the_file_and_a_rotated_start_is_reported() -> None:
    parts = [frame(b"old\nsplit li", "web.stdout.3"), frame(b"ne\nnew\n", "web.stdout.4")]
    tail = logs.parse_tail(b"".join(parts) + b"{}", 1000)
    assert [(line.file, line.offset, line.text) for line in tail.lines] == [
        ("web.stdout.3", 0, "old"), ("web.stdout.3", 4, "split line"), ("web.stdout.4", 3, "new"),
    ]  # fmt: skip
    assert (tail.rotated, tail.cut) == (True, False)
    notes = logs.choose_lines(tail, "stdout", 5, None, NEAR)[1]
    assert notes == ["stdout: lines before web.stdout.3 are gone: the node keeps few log files"]


def test_a_line_that_begins_before_what_was_asked_for_is_left_out() -> None:
    tail = logs.parse_tail(frame(b"half\nwhole\n", end=1011), 11)
    assert [line.text for line in tail.lines] == ["whole"]
    assert tail.lines[0].offset == 1005
    assert tail.cut


def test_lines_without_a_time_are_the_last_ones_and_that_is_said() -> None:
    tail = logs.parse_tail(frame(b"a\nb\nc\n"), 1000)
    shown, notes = logs.choose_lines(tail, "stderr", 2, NEAR, NEAR)
    assert [line.text for line, _ in shown] == ["b", "c"]
    assert notes == ["stderr: no line begins with a known time format; these are the last lines"]


def test_a_time_that_the_log_does_not_reach_is_said() -> None:
    tail = logs.parse_tail(frame(b"2026-11-24 08:00:00 a\n2026-11-24 08:30:00 b\n"), 1000)
    shown, notes = logs.choose_lines(tail, "stdout", 1, NEAR, NEAR)
    assert [line.text[-1] for line, _ in shown] == ["b"]
    assert "2 of 2 lines begin with a time (RFC 3339), without a time zone: read as UTC" in notes[0]
    assert "none is near the time asked for: 2026-11-24 08:00:00 to 2026-11-24 08:30:00 UTC" in notes[0]


def test_more_is_read_until_the_moment_is_reached_or_the_bound() -> None:
    lines = [
        f"{pd.Timestamp(NEAR + n * 10**9, tz='UTC').isoformat()} {'x' * 60} {n}\n" for n in range(-3000, 1)
    ]
    log = "".join(lines).encode()

    def answers(sizes: list[int]) -> list[bytes]:
        return [good(frame(log[-size:], end=len(log)), Connection="close") for size in sizes]

    early = pd.Timestamp(NEAR - 2900 * 10**9, tz="UTC")
    with serving(*answers([65536, 524288])) as server, af.Client(server.address) as client:
        result = client.logs(ALLOC, "web", stream="stdout", around=early, lines=1)
        assert [request.rpartition("offset=")[2] for request in server.requests] == ["65536", "524288"]
    assert result.frame["line"].tolist() == [lines[100].rstrip()]
    with serving(*answers([65536])) as server, af.Client(server.address) as client:
        result = client.logs(ALLOC, "web", stream="stdout", around=early, lines=1, max_bytes=65536)
        assert len(server.requests) == 1
    assert "stdout: only the last 65,536 bytes were read; max_bytes= reads more" in result.notes


def test_a_frame_that_is_cut_or_no_base64_is_asked_for_again_and_then_an_error() -> None:
    whole = good(frame(b"line\n"), Connection="close")
    for bad in (frame(b"line\n")[:-5], frame(b"line\n").replace(b'Data":"', b'Data":"*'), b"[1]"):
        with serving(good(bad, Connection="close"), whole) as server, af.Client(server.address) as client:
            assert client.logs(ALLOC, "web", stream="stdout").text == "line"
            assert client.counters["retries"] == 1
        with serving(good(bad, Connection="close")) as server:
            client = af.Client(server.address, retries=1)
            with pytest.raises(af.DecodeError, match="log"):
                client.logs(ALLOC, "web", stream="stdout")


def test_far_more_than_was_asked_for_is_not_taken_in() -> None:
    bomb = good(gzip.compress(b" " * (64 << 20)), Content_Encoding="gzip")
    with serving(bomb) as server, pytest.raises(af.ResponseTooLarge):
        af.Client(server.address).logs(ALLOC, "web")


def test_a_stream_that_was_never_written_is_empty_and_that_is_said() -> None:
    message = b'log entry for task "web" and log type "stdout" not found'
    gone = http(message, "404 Not Found", length=len(message), Connection="close")
    with serving(gone, good(b"", Connection="close")) as server, af.Client(server.address) as client:
        result = client.logs(ALLOC, "web")
    assert len(result) == 0
    assert result.notes == [f"{name}: empty, or already removed" for name in ("stdout", "stderr")]
    assert result.frame.dtypes.equals(logs.frame_of([]).dtypes)


def test_what_programs_write_is_shown_harmless_and_kept_as_it_is() -> None:
    line = "\x1b[31m<script>alert(1)</script>\u202e"
    with serving(good(frame(line.encode() + b"\xff\n"), Connection="close")) as server:
        result = af.Client(server.address).logs(ALLOC, "web", stream="stdout")
    assert result.text == line + "\ufffd"
    assert "\x1b" not in repr(result) + result._repr_html_()
    assert "<script" not in result._repr_html_()
    assert "\u202e" not in repr(result)


def test_refusals_say_what_to_do(cluster: af.sim.Cluster, snap: af.Snapshot) -> None:
    states = snap.task_states.merge(snap.allocations[["alloc_id", "namespace"]], on="alloc_id")
    mine = states[(states["state"] == "running") & (states["namespace"] == "default")].iloc[0]
    reader, logger = cluster.add_token(), cluster.add_token(logs=True)
    with (
        af.Client(cluster.address, token=reader) as client,
        pytest.raises(af.PermissionDenied, match="read-logs"),
    ):
        client.logs(mine["alloc_id"], mine["task"])
    with af.Client(cluster.address, token=logger, read_only=True) as client:
        assert len(client.logs(mine["alloc_id"], mine["task"]))
        with pytest.raises(af.BadRequest, match="unknown task name"):
            client.logs(mine["alloc_id"], "nope")
    lost = snap.allocations[snap.allocations["client_status"] == "lost"].iloc[0]
    with af.Client(cluster.address, token=cluster.token) as client, pytest.raises(af.NodeUnreachable):
        client.logs(lost["alloc_id"], "server")
    message = b'task "web" not started yet. No logs available'
    with (
        serving(http(message, "404 Not Found", length=len(message))) as server,
        pytest.raises(af.Conflict, match="not written a log yet"),
    ):
        af.Client(server.address).logs(ALLOC, "web")


@pytest.mark.parametrize(
    "wrong",
    [{"stream": "stdin"}, {"lines": 0}, {"max_bytes": 1 << 40}, {"around": "yesterday-ish"}, {"task": ""}],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_sent(
    client: af.Client, wrong: dict[str, Any]
) -> None:
    with pytest.raises(af.ConfigError):
        client.logs(ALLOC, **{"task": "web", **wrong})
    assert client.counters["requests"] == 0


@pytest.mark.parametrize(
    ("line", "form", "moment"),
    [
        ("2026-11-24T09:00:00Z up", "RFC 3339", "2026-11-24T09:00:00Z"),
        ("2026-11-24T09:00:00.123456789+02:00 up", "RFC 3339", "2026-11-24T07:00:00.123456789Z"),
        ("\x1b[32m[2026-11-24 09:00:00,5]\x1b[0m up", "RFC 3339", "2026-11-24T09:00:00.5Z"),
        ("2026/11/24 09:00:00 up", "RFC 3339", "2026-11-24T09:00:00Z"),
        ('{"level":"info","ts":1795510800.25}', "Unix time", "2026-11-24T09:00:00.25Z"),
        ('{"msg":"up","time":"2026-11-24T09:00:00Z"}', "RFC 3339", "2026-11-24T09:00:00Z"),
        ("level=info ts=2026-11-24T09:00:00Z", "RFC 3339", "2026-11-24T09:00:00Z"),
        ("1795510800123 up", "Unix time", "2026-11-24T09:00:00.123Z"),
        ("E1124 09:00:00.5 7 main.go] up", "klog", "2026-11-24T09:00:00.5Z"),
        ("<13>Nov 24 09:00:00 host app: up", "syslog", "2026-11-24T09:00:00Z"),
        ("10.0.0.1 - - [24/Nov/2026:09:00:00 +0100] up", "access log", "2026-11-24T08:00:00Z"),
    ],
)
def test_times_are_read_in_the_formats_that_programs_use(line: str, form: str, moment: str) -> None:
    stamp = log_timestamps.stamp(line, NEAR)
    assert stamp is not None
    assert (stamp.form, stamp.ns) == (form, pd.Timestamp(moment).value)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "\tat main.go:42",
        "12345678901234567890 up",
        "2026-13-45T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "Feb 30 09:00:00 up",
        "gave up: deadline time=2026-11-24T09:00:00Z",
        '{"msg":"at time: 2026-11-24T09:00:00Z"}',
    ],
)
def test_what_is_no_time_is_none(line: str) -> None:
    assert log_timestamps.stamp(line, NEAR) is None


def test_a_year_that_is_left_out_is_the_closest_one() -> None:
    new_year = pd.Timestamp("2027-01-01T00:10:00Z").value
    stamp = log_timestamps.stamp("Dec 31 23:59:00 host app", new_year)
    assert stamp is not None
    assert stamp.ns == pd.Timestamp("2026-12-31T23:59:00Z").value
