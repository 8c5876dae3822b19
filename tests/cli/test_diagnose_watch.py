"""``allocframe diagnose --watch`` tells what is new, changed and over, as lines and to a webhook."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tables import alloc, ended, event, gave_up, restarting, snapshot, started

import allocframe as af
from allocframe import cli, sim
from allocframe.cli import _follow
from allocframe.diagnosis.follow import IncidentTracker
from allocframe.errors import AllocframeError, ConfigError
from allocframe.nomad.config import Scrubber, Secret

SCRUB = Scrubber(Secret("t0ken-of-the-watch"))
CALM = alloc("c", event("Received", 0), started(1), JobID="calm", Name="calm.app[0]")


def crashing(name: str = "a", words: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return an allocation in a loop, of crashes or of downloads that fail."""
    if words is None:
        runs = [each for t in (1, 20, 40) for each in (started(t), ended(t + 5), restarting(t + 5))]
    else:
        error = "Failed Artifact Download"
        runs = [
            each
            for t in (1, 20, 40)
            for each in (event(error, t, words, download_error=words), restarting(t + 1))
        ]
    return alloc(
        name, event("Received", 0), *runs, state="pending", JobID=name, Name=f"{name}.app[0]", **fields
    )


class Looks:
    """What the watch sees, one snapshot after the other; then it stops."""

    def __init__(self, folder: Path, *looks: list[dict[str, Any]] | Exception) -> None:
        self.stop = threading.Event()
        self._folder, self._looks = folder, list(looks)

    def __call__(self) -> tuple[af.Snapshot, None]:
        look = self._looks.pop(0)
        if not self._looks:
            self.stop.set()
        if isinstance(look, Exception):
            raise look
        return snapshot(self._folder, *look), None

    def follow(self, webhook: _follow.Webhook | None = None, *, as_json: bool = False) -> None:
        _follow.follow(self, self.stop, interval=0, as_json=as_json, webhook=webhook, scrub=SCRUB)


@contextmanager
def receiver(*codes: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve a webhook that answers with these codes, then with 200; yield its address and what it took."""
    answers, taken = list(codes), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code = answers.pop(0) if answers else 200
            if self.headers["Content-Type"] != "application/json":
                code = 415
            if code == 200:
                taken.append(body)
            self.send_response(code)
            if code == 302:
                self.send_header("Location", "http://127.0.0.1:9/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook/s3cret-path", taken
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def hook(address: str) -> _follow.Webhook:
    return _follow.Webhook(address, SCRUB, lambda seconds: None)


def test_an_incident_is_told_when_it_is_new_and_when_it_is_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = crashing(DesiredStatus="stop", ClientStatus="complete")
    Looks(tmp_path, [CALM], [CALM, crashing()], [CALM, crashing()], [CALM, stopped]).follow()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["new", "ended"]
    assert "a crashes." in lines[0]
    assert "Cause (certain): the program ends by itself." in lines[0]


def test_an_incident_that_gets_worse_is_told_again(tmp_path: Path) -> None:
    tracker = IncidentTracker()
    others = [alloc(f"o{n}", event("Received", 0), started(1), JobID="a", Name=f"a.app[{n}]") for n in (1, 2)]
    assert [each.event for each in tracker.update(af.diagnose(snapshot(tmp_path, crashing(), *others)))] == [
        "new"
    ]
    (news,) = tracker.update(af.diagnose(snapshot(tmp_path, crashing(), others[0])))
    assert (news.event, news.incident.severity) == ("changed", "critical")
    over = crashing()
    over["TaskStates"]["server"]["Events"][-1] = gave_up(45)
    over["TaskStates"]["server"]["State"], over["ClientStatus"] = "dead", "failed"
    (news,) = tracker.update(af.diagnose(snapshot(tmp_path, over)))
    assert (news.event, news.incident.state) == ("changed", "gave up")


def test_of_what_is_gone_from_the_evidence_the_last_is_told(tmp_path: Path) -> None:
    tracker = IncidentTracker()
    tracker.update(af.diagnose(snapshot(tmp_path, CALM, crashing())))
    (news,) = tracker.update(af.diagnose(snapshot(tmp_path, CALM)))
    assert (news.event, news.incident.jobs) == ("ended", [("default", "a")])


def test_what_goes_on_is_not_over_while_nobody_can_see_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    down = AllocframeError("no answer to https://ops:pa55word@nomad.example?token=abcdef: down")
    Looks(tmp_path, [CALM, crashing()], down, down, [CALM, crashing()]).follow()
    out, error = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert error.splitlines() == ["cannot diagnose: no answer to https://...@nomad.example?token=... down"]


def test_lines_for_programs_are_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Looks(tmp_path, [CALM, crashing()]).follow(as_json=True)
    (line,) = capsys.readouterr().out.splitlines()
    news = json.loads(line)
    assert (news["event"], news["incident"]["cause"]["kind"]) == ("new", "crash")


def test_a_webhook_gets_each_incident_once_without_secrets(tmp_path: Path) -> None:
    words = 'download of "https://u:pa55word@files.example/a.tgz?sig=s1gnature" with t0ken-of-the-watch: 404'
    with receiver(503, 429, 500) as (address, taken):  # the fourth try is the last
        Looks(tmp_path, [CALM, crashing(words=words)]).follow(hook(address))
    (news,) = taken
    assert news["text"].startswith("new     critical a cannot download its artifact.")
    sent = json.dumps(news)
    assert not [secret for secret in ("pa55word", "s1gnature", "t0ken-of-the-watch") if secret in sent]
    assert "files.example/a.tgz" in sent


@pytest.mark.parametrize(
    ("codes", "tries"), [((500,) * 9, 4), ((429,) * 9, 4), ((404,) * 9, 1), ((302,) * 9, 1)]
)
def test_a_webhook_that_refuses_is_given_up_and_its_address_kept_secret(
    codes: tuple[int, ...], tries: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pauses: list[float] = []
    with receiver(*codes) as (address, taken):
        Looks(tmp_path, [CALM, crashing()]).follow(_follow.Webhook(address, SCRUB, pauses.append))
        assert taken == []
    assert len(pauses) == tries - 1
    assert all(0 < pause <= bound for pause, bound in zip(pauses, (0.5, 1, 2), strict=False))
    out, error = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert error.splitlines() == [f"cannot post an incident to the webhook at 127.0.0.1: HTTP {codes[0]}"]


def test_a_webhook_that_is_down_does_not_end_the_watch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Looks(tmp_path, [CALM, crashing()]).follow(hook("http://127.0.0.1:9/s3cret-path"))
    error = capsys.readouterr().err
    assert error.startswith("cannot post an incident to the webhook at 127.0.0.1: ")
    assert "s3cret" not in error


@pytest.mark.parametrize("address", ["ftp://files.example/a", "file:///etc/passwd", "nonsense", "http://"])
def test_a_webhook_must_be_http(address: str) -> None:
    with pytest.raises(ConfigError, match="--webhook must be an http or https address"):
        hook(address)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--watch", "--from", "a.json"],
        ["--watch", "--archive", "a", "--address", "http://127.0.0.1:9"],
        ["--webhook", "http://127.0.0.1:9"],
    ],
)
def test_options_that_do_not_go_together_are_refused(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["allocframe", "diagnose", *arguments])
    assert cli.run() == 2


def test_a_live_cluster_is_watched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop_after_one_look(look: Any, stop: threading.Event, **_: Any) -> None:
        snap, evaluations = look()
        assert len(snap) > 0
        assert evaluations is not None
        print(len(IncidentTracker().update(af.diagnose(snap, evaluations=evaluations))))

    monkeypatch.setattr("allocframe.cli.diagnose.follow", stop_after_one_look)
    with sim.Cluster("crash_loop", allocations=60) as cluster:
        monkeypatch.setenv("NOMAD_TOKEN", cluster.token)
        arguments = ["--watch", "--interval", "1", "--address", cluster.address]
        monkeypatch.setattr("sys.argv", ["allocframe", "diagnose", *arguments])
        assert cli.run() == 0
    assert int(capsys.readouterr().out) >= 1
