"""Whatever is sent: a result, or an error that is one of ours; no row goes missing without a word."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzz
import pytest
from faultserver import FaultServer, good
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from streamserver import HOLD, StreamServer, batch, told
from tables import alloc, ended, started

import allocframe as af
from allocframe.client import logs
from allocframe.nomad import exec as _exec
from allocframe.nomad import retry
from allocframe.nomad.event_stream import NotAnEvent
from allocframe.watch import updates

_bounded = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
"""The same examples on every run: what else there is to find is `make fuzz`'s."""

_ODD = [
    b"null", b"{}", b"[]", b"-1", b"1e999", b"NaN", b"Infinity", b"true", b'""', b'"\\ud800"', b"\xff",
    b"\x00", b"\x1b[31m", b"\xef\xbb\xbf", b"18446744073709551616", b"9" * 5000, b"[" * 100, b"{" * 100,
    b'{"a":' * 80, b",", b":", b"\n", b'"',
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, name: str) -> bytes:
    """Return something that was really sent, with a few places changed."""
    data = draw(st.sampled_from(fuzz.seeds(name)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        to = min(len(data), at + draw(st.sampled_from([0, 1, 4, 30, 400])))
        new = draw(
            st.one_of(st.just(b""), st.sampled_from(_ODD), st.binary(max_size=4), st.just(data[at:to] * 2))
        )
        data = data[:at] + new + data[to:]
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data


@pytest.mark.parametrize("name", fuzz.TARGETS)
@_bounded
@given(data=st.data())
def test_what_was_really_sent_and_then_changed_is_read_or_an_error(name: str, data: st.DataObject) -> None:
    fuzz.TARGETS[name](data.draw(mutated(name)))


@pytest.mark.parametrize("name", fuzz.TARGETS)
@_bounded
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_an_error(name: str, data: bytes) -> None:
    fuzz.TARGETS[name](data)


class AnyServer(FaultServer):
    """Answers every request alike."""

    def _answer(self, connection: socket.socket) -> bool:
        if not self._request(connection):
            return False
        connection.sendall(self.answers[0])  # type: ignore[arg-type]
        return True


ID = "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7"
CALLS: dict[str, Callable[[af.Client], object]] = {
    "snapshot": lambda client: client.snapshot(progress=False).events,
    "allocation": lambda client: client.allocation(ID).placement,
    "start of an ID": lambda client: client.allocation("5457"),
    "evaluations": lambda client: client.evaluations(),
    "stop": lambda client: client.stop(ID),
    "signal": lambda client: client.signal(ID, "SIGHUP"),
    "restart": lambda client: client.restart(ID, all_tasks=True),
    "exec": lambda client: client.exec(ID, ["true"]),
    "logs": lambda client: client.logs(ID, "web"),
    "usage": lambda client: client.usage([ID], samples=2, interval=0),
    "watch": lambda client: client.watch(stream=False).poll(0.0),
    "stream": lambda client: client.watch().poll(0.0),
    "rights": lambda client: client._session.rights(),
}

_names = st.sampled_from(
    [
        "ID", "TaskStates", "Events", "Details", "Metrics", "ScoreMetaData", "Job", "EvalID", "Index",
        "Tasks", "ResourceUsage", "Timestamp", "config", "Version", "AccessorID", "Policies", "Roles",
        "RulesJSON", "Namespaces", "Name", "AllocatedResources", "ModifyIndex", "FailedTGAllocs", "Data",
        "File", "Offset", "Type", "Namespace", "Time",
    ]
)  # fmt: skip
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(ID),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_names | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def any_server() -> Iterator[AnyServer]:
    server = AnyServer(b"", keep_alive=True)
    yield server
    server.close()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@settings(_bounded, max_examples=8)
@given(said=_json)
def test_whatever_json_a_server_answers_a_call_ends_with_a_result_or_one_of_our_errors(
    any_server: AnyServer, call: Callable[[af.Client], object], said: Any
) -> None:
    any_server.answers[0] = good(json.dumps(said).encode(), X_Nomad_Index="7")
    with (
        af.Client(any_server.address, retries=0, timeout=20) as client,
        contextlib.suppress(af.AllocframeError),
    ):
        call(client)


# What was found so, each with a name


@pytest.mark.parametrize("code", ["1e999", "Infinity", "NaN", "1.5", "true", "null", '"0"'])
def test_an_exit_code_that_is_not_a_whole_number_is_not_a_frame(code: str) -> None:
    session = _exec.ExecSession("/exec")
    with pytest.raises(af.ExecError, match="invalid frame"):
        session.receive(f'{{"exited": true, "result": {{"exit_code": {code}}}}}')
    assert session.exit_code is None


@pytest.mark.parametrize("states", [[1], "x", 5, True])
def test_task_states_of_another_type_neither_end_a_stream_nor_lose_an_allocation(states: Any) -> None:
    identity = "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7"
    good = alloc(identity, started(0), ModifyIndex=5, JobVersion=4)
    odd = {**good, "TaskStates": states}
    last = alloc(identity, started(0), ended(1), ModifyIndex=13, JobVersion=4)
    server = StreamServer([good], told({}, batch(11, odd), batch(12, odd), batch(13, last), HOLD))
    try:
        with af.Client(server.address) as client, client.watch() as watch:
            found = next(watch)
            while found.index != 13:
                found = next(watch)
            assert watch.snapshot.allocations["modify_index"].tolist() == [13]
            assert watch.stats["reconnects"] == 0
    finally:
        server.close()


@pytest.mark.parametrize("index", [True, -1, 2**64, 1e3, "7"])
def test_an_index_that_none_can_be_is_none(index: Any) -> None:
    assert updates.parse_allocation({"ID": "a", "ModifyIndex": index}) is None
    with pytest.raises(NotAnEvent):
        updates.parse(json.dumps({"Index": index, "Events": []}).encode())


def test_a_gzip_file_that_is_damaged_inside_is_an_error_that_names_it(tmp_path: Path) -> None:
    file = tmp_path / "page.json.gz"
    file.write_bytes(gzip.compress(b"x" * 1000)[:20] + b"\xff" * 20)
    with pytest.raises(af.DecodeError, match=r"page\.json\.gz is damaged"):
        af.read_json(file)


@pytest.mark.parametrize("end", ["9" * 30, "-5", "1e999", '"7"'])
def test_an_offset_of_a_log_that_none_can_be_is_an_error(end: str) -> None:
    with pytest.raises(af.DecodeError, match="invalid offset"):
        logs.parse_tail(b'{"Data": "YQ==", "File": "a", "Offset": %s}' % end.encode(), 100)


def test_a_retry_after_that_no_calendar_has_says_nothing() -> None:
    assert retry.retry_after(f"1 Oct {'3' * 80} 0:2") is None
    assert retry.retry_after("\x1d8") == 8.0


@pytest.mark.parametrize("said", [None, 5, "x", {"ID": ID}, [None, 5, {}, {"ID": 5}]])
def test_what_is_no_list_of_allocations_is_an_error_that_says_so(any_server: AnyServer, said: Any) -> None:
    any_server.answers[0] = good(json.dumps(said).encode())
    with af.Client(any_server.address, retries=0) as client:
        with pytest.raises((af.DecodeError, af.NotFound), match=r"not a list|no allocation starts with"):
            client.allocation("5457")
        if isinstance(said, list | None):
            assert client.evaluations().empty or len(said) > 0
        else:
            with pytest.raises(af.DecodeError, match="not a list"):
                client.evaluations()


def test_a_page_whose_odd_value_duckdb_quotes_cut_in_a_character_is_read(tmp_path: Path) -> None:
    odd = "".join(chr(0x1F600 + n % 60) for n in range(400))
    for pad in range(8):
        file = tmp_path / f"{pad}.json"
        file.write_text(json.dumps([["x" * pad + odd], {"ID": "a"}], ensure_ascii=False))
        with af.read_json(file) as snap:
            assert snap.allocations["alloc_id"].tolist() == ["a"]
            assert len(snap.issues) == 1
