"""Feeds every parser of what others send with anything, and says what must hold whatever it is.

    python tools/fuzz.py [SECONDS [TARGET ...]]

A target takes bytes and lets no error out: one that is typed is an answer, everything else is a finding. The
tests give them bytes that hypothesis makes, the same each time; this script those that atheris finds by
looking at which lines they reach, for SECONDS each (60), beginning with what real agents sent. What it finds
lies in build/fuzz/, and becomes a named test in tests/security/test_fuzz.py.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import allocframe as af
from allocframe.client import logs
from allocframe.client import usage as _usage
from allocframe.nomad import exec as _exec
from allocframe.nomad import protocol, retry
from allocframe.nomad.config import Config
from allocframe.nomad.connection import new_http_client
from allocframe.nomad.event_stream import NotAnEvent
from allocframe.watch import updates as _events
from allocframe.watch.change import Checkpoint
from allocframe.watch.state import WatchState
from allocframe.watch.update_queue import UpdateQueue

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests" / "data"
VERSIONS = ("1.3.1", "2.0.5")


def page(data: bytes) -> None:
    """Every record of a page is a row, noted as none, or an older form of one; invalid JSON is an error."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.json"
        file.write_bytes(data)
        records = _records(data)
        try:
            with af.read_json(file) as snap:
                rows, left_out = (
                    len(snap),
                    int(snap.issues["problem"].eq("not an allocation; record left out").sum()),
                )
                repr(snap), snap._repr_html_(), snap.events, snap.task_states, snap.reschedules
        except af.DecodeError:
            return
        if records is None:
            assert not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["), "it is no JSON, and was read"
        else:
            allocs = [record for record in records if isinstance(record, dict)]
            ids = [(_text(record.get("Namespace")), _text(record.get("ID"))) for record in allocs]
            nameless = sum(identity is None for _, identity in ids)
            assert rows == nameless + len({pair for pair in ids if pair[1] is not None})
            assert left_out == len(records) - len(allocs)


def _records(data: bytes) -> list[Any] | None:
    """Return the records of an array, read by Python's own reader; None where it is none."""
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    try:
        found = json.loads(text.strip(" \t\r\n"), strict=False, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _text(value: Any) -> str | None:
    """Return text as it is stored: half surrogates cannot be."""
    if not isinstance(value, str):
        return None
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in value)


def exec_frames(data: bytes) -> None:
    """A frame is output, an exit, a heartbeat, or an error that keeps what came; no output is lost."""
    session, came = _exec.BufferedSession("/exec"), b""
    for line in data.split(b"\n"):
        try:
            came += session.receive(line).stdout
        except af.ExecError as error:
            kept = error.stdout
            break
        kept = session.stdout
        assert session.exit_code is None or isinstance(session.exit_code, int)
    assert kept == came
    session.close_error(1006, "")


_state: list[WatchState] = []


def stream(data: bytes) -> None:
    """A line is a heartbeat, a batch or no event; each allocation of a batch comes once or counts as none."""
    queue, taken = UpdateQueue(), []
    for line in data.split(b"\n"):
        try:
            queue.put(_events.parse(line))
        except NotAnEvent:
            continue
    while updates := queue.take(7)[0]:
        taken += [form for update in updates for form in update.versions()]
    counts = queue.counts
    assert counts["events"] >= len({update.alloc_id for update in taken})
    if not _state:
        _state.append(WatchState(Checkpoint()))
    present = _state[0]
    newest = list({update.alloc_id: update for update in taken}.values())
    fresh = present.newer(newest)
    frames = present.apply(fresh, {})
    assert len(frames["added"]) + len(frames["changed"]) == len({_text(one.alloc_id) for one in fresh})


def log(data: bytes) -> None:
    """Frames of a log are lines with places in their files, or an error."""
    try:
        got = logs.parse_tail(data, 100)
    except af.DecodeError:
        return
    for around in (None, 1_790_000_000_000_000_000):
        shown, notes = logs.choose_lines(got, "stdout", 5, around, 1_790_000_000_000_000_000)
        frame = logs.frame_of([("stdout", line, when) for line, when in shown])
        assert len(frame) == min(len(got.lines), 5)
        assert (frame["offset"] >= 0).all()
        assert "\x1b" not in repr(logs.Logs(frame, notes))


def capture(data: bytes) -> None:
    """A saved file opens with all of its pages, or is an error that names it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.allocframe"
        file.write_bytes(data)
        with contextlib.suppress(af.DecodeError), af.load(file) as snap:
            repr(snap), snap._repr_html_(), snap.info
        assert [path.name for path in Path(folder).iterdir()] == ["x.allocframe"]


def packed(data: bytes) -> None:
    """A compressed file is read, or an error."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.json.gz"
        file.write_bytes(data)
        with contextlib.suppress(af.DecodeError):
            af.read_json(file).close()


def usage(data: bytes) -> None:
    """What a node says of usage is rows, or an error."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return
    with contextlib.suppress(af.DecodeError):
        _usage.samples_frame(_usage.usage_rows({"ID": "x"}, said, 0))


def address(data: bytes) -> None:
    """An address can be spoken to, or is refused by the name of its variable; neither shows the token."""
    text, said = data.decode("utf-8", "replace"), ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            config = Config.load(text, token="canary-token", environ={})
            said = repr(config)
            new_http_client(config).close()
        except af.ConfigError as error:
            said += str(error)
            assert "NOMAD_ADDR" in said
    assert "canary" not in said


def headers(data: bytes) -> None:
    """Headers are read, or overlooked."""
    text = data.decode("latin-1")
    names = ("X-Nomad-Index", "X-Nomad-LastContact", "X-Nomad-KnownLeader", "X-Nomad-NextToken")
    found = protocol.Headers.parse(dict.fromkeys(names, text))
    assert found.index is None or 0 <= found.index < 2**64
    pause = retry.retry_after(text)
    assert pause is None or 0 <= pause <= retry.MAX_RETRY_AFTER


Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {
    made.__name__: made for made in (page, exec_frames, stream, log, capture, packed, usage, address, headers)
}


def recorded(version: str, name: str) -> Any:
    return json.loads((DATA / f"nomad-{version}" / f"{name}.json").read_text())


@functools.cache
def seeds(name: str) -> list[bytes]:
    """Return what a target begins with: what real agents sent, or what was written by this package."""
    return [seed for version in VERSIONS for seed in SEEDS[name](version)]


def _pages(version: str) -> list[bytes]:
    rows = recorded(version, "list-all")[0]["json"]
    return [json.dumps(rows[:2]).encode(), json.dumps(rows[-1]).encode()]


def _sessions(version: str) -> list[bytes]:
    sessions = recorded(version, "exec-sessions").values()
    sent = (
        [json.dumps(one["server"]) for one in session["frames"] if "server" in one] for session in sessions
    )
    return ["\n".join(frames).encode() for frames in sent]


def _lines(version: str) -> list[bytes]:
    lines = (DATA / f"nomad-{version}" / "event-stream.ndjson").read_bytes().splitlines()
    return [b"\n".join(lines[at : at + 3]) for at in range(0, 12, 3)]


def _logs_of(version: str) -> list[bytes]:
    return [
        one["text"].encode() for one in recorded(version, "client-reads") if '"Data"' in one.get("text", "")
    ]


def _saved(version: str) -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "page.json"
        source.write_bytes(_pages(version)[0])
        with af.read_json(source) as snap:
            return [snap.filter(job_id="web").save(Path(folder) / "x.allocframe").read_bytes()]


SEEDS: dict[str, Callable[[str], list[bytes]]] = {
    "page": _pages,
    "exec_frames": _sessions,
    "stream": _lines,
    "log": _logs_of,
    "capture": _saved,
    "packed": lambda version: [gzip.compress(seed) for seed in _pages(version)],
    "usage": lambda version: [json.dumps(recorded(version, "alloc-stats")[0]["json"]).encode()],
    "address": lambda version: [
        b"http://127.0.0.1:4646",
        b"https://[::1]:8443/nomad/",
        b"unix:///run/nomad%20api",
    ],
    "headers": lambda version: [b"42", b"true", b"Wed, 21 Oct 2026 07:28:00 GMT"],
}


def fuzz(name: str, seconds: int) -> None:
    """Feed one target until the time is over, or something is found."""
    import atheris

    folder = ROOT / "build" / "fuzz" / name
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        "-max_len=65536",
        "-timeout=20",
        f"-artifact_prefix={folder}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[name])
    atheris.Fuzz()


_INSTRUMENTED = """
import sys, atheris
with atheris.instrument_imports(include=["allocframe"]):
    import fuzz
fuzz.fuzz(sys.argv[1], int(sys.argv[2]))
"""


def main() -> None:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    found = []
    for name in sys.argv[2:] or TARGETS:
        done = subprocess.run(
            [sys.executable, "-c", _INSTRUMENTED, name, str(seconds)],
            cwd=Path(__file__).parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            check=False,
        )  # fmt: skip
        runs = re.findall(r"Done (\d+) runs in (\d+) second", done.stdout)
        said = (
            f"nothing in {int(runs[-1][0]):,} runs, {runs[-1][1]} s"
            if runs and not done.returncode
            else "something"
        )
        print(f"{name:12} found {said}", flush=True)
        if done.returncode:
            found.append(name)
            print(
                "\n".join(line for line in done.stdout.splitlines() if not line.startswith("INFO"))[-4000:],
                file=sys.stderr,
            )
    sys.exit(f"{', '.join(found)}: see build/fuzz/" if found else 0)


if __name__ == "__main__":
    main()
