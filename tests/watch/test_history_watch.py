"""What changes beside the allocations is followed: by both versions' streams as recorded, or by lists."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import changed
import pandas as pd
import pytest
from historyserver import HistoryServer
from streamserver import HOLD, told

import allocframe as af
from allocframe.snapshot import history_tables
from allocframe.tables import HISTORY
from allocframe.watch import history_watch
from allocframe.watch.history_watch import HistoryWatch
from allocframe.watch.row_filter import RowFilter

Frames = dict[str, pd.DataFrame]


class Followed:
    """A watch, and everything that it has reported."""

    def __init__(self, watch: HistoryWatch) -> None:
        self.watch = watch
        self.frames: Frames = {name: table.empty() for name, table in HISTORY.items()}
        self.gaps: list[pd.Timestamp] = []
        self.notes: list[str] = []
        self.changes = 0

    def until(self, reached: Callable[[Frames], Any]) -> Frames:
        end = time.monotonic() + 60
        while True:
            if (change := self.watch.take()) is not None:
                self.changes += 1
                for name, rows in change.frames.items():
                    self.frames[name] = pd.concat([self.frames[name], rows], ignore_index=True)
                self.gaps += [change.gap_since] if change.gap_since is not None else []
                self.notes = list(change.notes)
                if reached(self.frames):
                    return self.frames
            assert time.monotonic() < end, (self.watch.last_error, self.frames)
            time.sleep(0.02)


@contextmanager
def following(server: HistoryServer, known: RowFilter | None = None, **more: Any) -> Iterator[Followed]:
    with af.Client(server.address) as client:
        settings = {"namespace": "*", "known_at": None, "stream": True, **more}
        watch = client._watch_history(known=known or RowFilter(), **settings)
        watch.start()
        try:
            yield Followed(watch)
        finally:
            watch.close()
            server.close()


def job(version: int, index: int, **fields: Any) -> dict[str, Any]:
    spec = {
        "ID": "web", "Namespace": "default", "Version": version, "SubmitTime": 10**18 + index,
        "JobModifyIndex": index, "ModifyIndex": index, "TaskGroups": [{"Name": "app", "Count": index}],
    }  # fmt: skip
    return {**spec, **fields}


def line(index: int, *events: tuple[str, str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "Index": index,
        "Events": [
            {"Topic": topic, "Type": kind, "Index": index, "Payload": {topic: thing, **more}}
            for topic, kind, thing in events
        ],
    }


def test_the_recorded_streams_tell_all_that_the_lists_told_afterwards_and_more() -> None:
    for version in changed.VERSIONS:
        lines = [
            text + b"\n" for text in changed.read(version, "event-stream-all-topics.ndjson").splitlines()
        ]
        polled = af.History.from_json(
            jobs=changed.jobs(version),
            deployments=changed.answers(version, "changes-deployments")[0],
            nodes=[changed.node(version)],
            evaluations=changed.answers(version, "changes-evaluations")[0],
        )

        def lacks(frames: Frames, polled: af.History = polled) -> dict[str, int]:
            missing = {}
            for name in ("job_versions", "job_changes", "deployments", "nodes", "node_events", "evaluations"):
                rows, key = getattr(polled, name), list(HISTORY[name].key)
                both = rows[key].astype("str").merge(frames[name][key].astype("str"), on=key)
                missing[name] = len(rows) - len(both) if len(rows) else -1
            return {name: count for name, count in missing.items() if count}

        with following(HistoryServer(told({}, *lines, HOLD))) as followed:
            # the stream comes in parts: on a busy machine the last rows come later than the job
            frames = followed.until(
                lambda frames: {"flaky"} <= set(frames["changes"]["job_id"]) and not lacks(frames)
            )
        assert lacks(frames) == {}, version
        purged = frames["changes"].set_index("job_id")["at"]
        assert {"flaky", "report"} <= set(purged.index)
        assert len(purged) == len(set(purged.index)) == 5, "the job and three runs, each once"
        dereg = next(
            event["Payload"]["Evaluation"]["CreateTime"]
            for one in changed.lines(version, "event-stream-all-topics.ndjson")
            for event in one["Events"]
            if (event["Topic"], event["Type"]) == ("Evaluation", "JobDeregistered")
        )
        assert purged["flaky"].value == dereg
        text = "".join(frame.to_json(date_format="iso") for frame in frames.values())
        for secret in ("made-up-2", "db-1.internal", changed.node(version)["SecretID"] or "made-up-2"):
            assert secret not in text


def test_a_job_that_is_stopped_is_not_purged_whatever_lines_its_events_come_in() -> None:
    evaluation = {"ID": "e", "JobID": "web", "Namespace": "default", "CreateTime": 10**18, "ModifyIndex": 20}
    lines = [
        line(10, ("Job", "JobRegistered", job(0, 10))),
        line(20, ("Job", "JobDeregistered", job(1, 20, Stop=True))),
        line(20, ("Evaluation", "JobDeregistered", {**evaluation, "TriggeredBy": "job-deregister"})),
    ]
    with following(HistoryServer(told({}, *lines, HOLD))) as followed:
        frames = followed.until(lambda frames: len(frames["evaluations"]))
    assert frames["changes"].empty
    assert frames["job_versions"]["stopped"].tolist()[-1]


def test_a_new_version_is_compared_with_the_one_before_that_the_server_still_has() -> None:
    server = HistoryServer(told({}, line(20, ("Job", "JobRegistered", job(1, 20))), HOLD))
    server.versions["web"] = [job(1, 20), job(0, 10)]
    with following(server) as followed:
        frames = followed.until(lambda frames: len(frames["job_changes"]))
    assert frames["job_changes"][["path", "old", "new"]].to_numpy().tolist() == [["Count", "10", "20"]]


def test_a_long_list_is_left_within_a_part_when_the_watch_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make_slowly(**rows: Any) -> Any:
        made.append(len(rows.get("evaluations", ())))
        time.sleep(0.1)
        return history_tables.make_tables(**rows)

    monkeypatch.setattr(history_watch, "make_tables", make_slowly)
    monkeypatch.setattr(history_watch, "PART", 2)
    evaluations = [{"ID": f"e{number}", "ModifyIndex": number} for number in range(200)]
    with following(HistoryServer(told({}, HOLD), evaluations=evaluations)):
        end = time.monotonic() + 60
        while not made:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert len(made) < 20, "it would run for ten seconds"
    assert set(made) == {2}


def test_a_job_that_was_purged_before_its_versions_could_be_read_is_told() -> None:
    server = HistoryServer(told({}, line(20, ("Job", "JobRegistered", job(8, 20))), HOLD))
    with following(server) as followed:
        frames = followed.until(lambda frames: len(frames["job_versions"]))
    assert frames["job_versions"]["version"].tolist() == [8]
    assert frames["job_changes"].empty
    assert followed.notes == ["what 1 version of jobs changed is not known: purged before it could be read"]


def test_what_the_archive_has_is_not_reported_again_and_jobs_are_not_read_again() -> None:
    known = RowFilter()
    history = af.History.from_json(jobs=[[job(1, 20), job(0, 10)]])
    known.new_rows({"job_versions": history.job_versions, "job_changes": history.job_changes})
    server = HistoryServer(told({}, HOLD), jobs=[job(1, 20, TaskGroups=None)])
    long_ago = pd.Timestamp.now("UTC") - pd.Timedelta("1h")
    with following(server, known, known_at=long_ago) as followed:
        frames = followed.until(lambda _: followed.changes == 2)
        assert not any("/versions" in target for target in server.asked)
    assert all(frame.empty for frame in frames.values())
    assert followed.gaps == [long_ago]


def test_without_the_right_to_nodes_the_rest_is_followed_and_a_note_says_so() -> None:
    server = HistoryServer(told({}, line(10, ("Job", "JobRegistered", job(0, 10))), HOLD))
    server.forbidden = {"Node", "nodes"}
    with following(server) as followed:
        followed.until(lambda frames: len(frames["job_versions"]))
        assert followed.watch.mode == "stream"
    assert any(note.startswith("nodes could not be read") for note in followed.notes)


def test_without_a_stream_lists_tell_it_and_a_job_that_vanished_is_purged_at_an_unknown_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history_watch, "POLL_INTERVAL", 0.1)
    other = job(0, 11, ID="other", Namespace="other")
    node = {"ID": "n", "Name": "one", "Status": "ready", "ModifyIndex": 5, "Events": []}
    server = HistoryServer(None, jobs=[job(0, 10), job(0, 12, ID="api"), other], nodes=[node])
    server.versions |= {"web": [job(0, 10)], "api": [job(0, 12, ID="api")], "other": [other]}
    with following(server) as followed:
        followed.until(lambda frames: len(frames["job_versions"]) == 3 and len(frames["nodes"]))
        assert followed.watch.mode == "lists"
        event = {
            "Message": "Node heartbeat missed",
            "Subsystem": "Cluster",
            "Timestamp": "2026-11-26T00:00:00Z",
        }
        # The namespace "other" vanishes as a whole, as it does for a token that lost its rights.
        server.lists = {
            "jobs": [job(1, 20, ID="api")], "deployments": [], "evaluations": [],
            "nodes": [{**node, "Status": "down", "ModifyIndex": 9, "Events": [event]}],
        }  # fmt: skip
        server.lists["jobs"].append(job(0, 13, ID="new"))
        server.versions |= {
            "api": [job(1, 20, ID="api"), job(0, 12, ID="api")],
            "new": [job(0, 13, ID="new")],
        }
        frames = followed.until(lambda frames: len(frames["changes"]) and len(frames["node_events"]))
    assert frames["changes"]["job_id"].tolist() == ["web"]
    assert frames["changes"]["at"].isna().all()
    assert frames["nodes"]["status"].tolist() == ["ready", "down"]
    assert len(frames["job_changes"]) == 1


def test_news_that_are_older_than_the_list_change_nothing() -> None:
    now = {"ID": "d", "JobID": "web", "Namespace": "default", "Status": "successful", "ModifyIndex": 30}
    before = {**now, "Status": "running", "ModifyIndex": 20, "CreateIndex": 20}
    later = threading.Event()
    failed = {**now, "ID": "e", "Status": "failed", "ModifyIndex": 40, "CreateIndex": 35}
    lines = [
        line(20, ("Deployment", "PlanResult", before)),
        later,
        line(40, ("Deployment", "PlanResult", failed)),
    ]
    with following(HistoryServer(told({}, *lines, HOLD), deployments=[now])) as followed:
        followed.until(lambda frames: len(frames["deployments"]))
        came = pd.Timestamp.now("UTC")
        later.set()
        rows = followed.until(lambda frames: len(frames["deployments"]) > 1)["deployments"]
    assert rows["status"].tolist() == ["successful", "failed"]
    # Servers before 1.9 tell no times. It was seen when it happened.
    assert pd.isna(rows["ended_at"].iloc[0])
    assert came <= rows["ended_at"].iloc[1] <= pd.Timestamp.now("UTC")


def test_events_of_a_node_that_pass_through_its_ten_at_once_are_all_kept() -> None:
    def node(last: int) -> dict[str, Any]:
        events = [
            {"Message": f"event {n}", "Subsystem": "Cluster", "Timestamp": f"2026-11-26T00:00:{n:02}Z"}
            for n in range(max(0, last - 10), last)
        ]
        return {"ID": "n", "Name": "one", "ModifyIndex": 10 + last, "Events": events}

    lines = [line(10 + last, ("Node", "NodeEligibility", node(last))) for last in range(1, 31)]
    with following(HistoryServer(told({}, *lines, HOLD))) as followed:
        events = followed.until(lambda frames: len(frames["node_events"]) == 30)["node_events"]
    assert events["message"].tolist() == [f"event {n}" for n in range(30)]


def test_a_node_that_is_removed_is_marked() -> None:
    node = {"ID": "n", "Name": "one", "Status": "down", "ModifyIndex": 20}
    lines = [line(20, ("Node", "NodeDeregistration", node))]
    listed = {**node, "Status": "ready", "ModifyIndex": 5}
    with following(HistoryServer(told({}, *lines, HOLD), nodes=[listed])) as followed:
        rows = followed.until(lambda frames: len(frames["nodes"]) > 1)["nodes"]
    assert rows["gone"].tolist() == [False, True]
