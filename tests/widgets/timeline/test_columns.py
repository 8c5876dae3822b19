"""What the timeline shows, against the tables that it is made of."""

from __future__ import annotations

import base64
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tables import alloc, ended, event, restarting, snapshot, started

import allocframe as af
from allocframe.stats import vocabulary
from allocframe.widgets.timeline.columns import KINDS, LEAD, timeline_columns
from allocframe.widgets.timeline.page import page_fragment, script_hash, still_picture

INCIDENTS = Path(__file__).parents[2] / "data" / "incidents"
CAPTURES = ["nomad-1.3.1-two", "nomad-1.3.1-nodeloss", "lab/nomad-2.0.5-dispatchfew"]
HOSTILE = "</script><img src=x onerror=alert(1)>&"


def numbers(columns: dict[str, Any], name: str, kind: str = "<u4") -> Any:
    return np.frombuffer(base64.b64decode(columns[name]), dtype=kind)


@pytest.fixture(params=CAPTURES, scope="module")
def snap(request: pytest.FixtureRequest) -> af.Snapshot:
    return af.load(INCIDENTS / f"{request.param}.allocframe")


@pytest.fixture(scope="module")
def data(snap: af.Snapshot) -> dict[str, Any]:
    return json.loads(json.dumps(timeline_columns(snap)))  # type: ignore[no-any-return]


def test_every_event_is_on_the_lane_of_its_task_at_its_time(snap: af.Snapshot, data: dict[str, Any]) -> None:
    events = data["events"]
    lanes = [data["lanes"]["name"][number] for number in numbers(events, "lane")]
    allocs = [data["allocs"][number] for number in numbers(events, "alloc")]
    types = [events["types"][number] for number in numbers(events, "type", "<u2")]
    milliseconds = data["base"] + numbers(events, "at").astype("int64") * data["unit"]
    tasks = [lane.rpartition(" ")[2] for lane in lanes]
    drawn = Counter(zip(allocs, tasks, types, milliseconds.tolist(), strict=True))
    for lost in [key for key in drawn if key[2] == "Lost"]:
        del drawn[lost]
    told = snap.events.dropna(subset=["time"])
    stamps = told["time"].astype("datetime64[ns, UTC]").astype("int64") // 1_000_000
    assert drawn == Counter(
        zip(told["alloc_id"], told["task"], told["type"].astype("str"), stamps, strict=True)
    )
    names = snap.allocations.set_index("alloc_id")["name"]
    for lane, alloc_id in zip(lanes, allocs, strict=True):
        job = str(names[alloc_id]).rpartition(".")[0]
        folded = "/dispatch-" in job or "/periodic-" in job
        assert lane.startswith(job.partition("/")[0] if folded else str(names[alloc_id]))


def test_an_event_says_its_message_and_what_its_exit_code_means(tmp_path: Path) -> None:
    snap = snapshot(
        tmp_path,
        alloc("a", event("Received", 0, "Task received"), started(1), ended(9, 137, 9), restarting(9)),
        alloc(
            "b", event("Terminated", 9, "Exit Code: 137", exit_code=137, signal=9), JobID="x", Name="x.a[0]"
        ),
    )
    events = timeline_columns(snap)["events"]
    said = [events["texts"][number] for number in numbers(events, "text")]
    assert said == ["Task received", "", "killed by SIGKILL", "", "Exit Code: 137 · killed by SIGKILL"]


def test_jobs_without_a_namespace_are_jobs_of_their_own(tmp_path: Path) -> None:
    rows = [
        alloc(job, event("Received", 0), started(1), JobID=job, Name=f"{job}.app[0]", Namespace=None)
        for job in ("api", "web")
    ]
    data = timeline_columns(snapshot(tmp_path, *rows))
    assert data["jobs"] == {"name": ["api", "web"], "namespace": ["unknown", "unknown"]}
    assert numbers(data["lanes"], "job").tolist() == [0, 1]


def test_failures_requests_and_losses_are_those_of_the_statistics(
    snap: af.Snapshot, data: dict[str, Any]
) -> None:
    explained = af.stats.explain_events(snap)
    requested = (explained["type"] == "Terminated") & explained["cause"].isin(vocabulary.REQUEST_CAUSES)
    expected = Counter(
        vocabulary.CAUSE_KINDS[cause] for cause in explained.loc[explained["failure"] | requested, "cause"]
    )
    # allocations, not tasks: the number that incidents and reports say
    drawable = snap.allocations["alloc_id"].isin(explained["alloc_id"])
    lost = snap.allocations["client_status"].isin(["lost", "unknown"])
    expected["lost with its node"] += int((drawable & lost).sum())
    drawn = Counter(KINDS[kind - 1] for kind in numbers(data["events"], "kind", "u1") if kind)
    assert drawn == +expected


def test_runs_are_those_of_the_statistics(snap: af.Snapshot, data: dict[str, Any]) -> None:
    runs = af.stats.runs(snap)
    begin, end = (numbers(data["runs"], name).astype("int64") * data["unit"] for name in ("from", "to"))
    told = (
        runs["started_at"].astype("datetime64[ns, UTC]").astype("int64") // 1_000_000 - data["base"]
    ).tolist()
    assert sorted(begin.tolist()) == sorted(max(each, 0) for each in told)
    assert bool((end >= begin).all())
    ends = Counter(data["runs"]["ends"][code] for code in numbers(data["runs"], "end", "u1"))
    assert ends["running"] == int((runs["end"] == "running").sum())
    assert ends["failed"] == int(runs["failure"].sum())


def test_rows_are_sorted_by_lane_and_time_as_the_script_expects(data: dict[str, Any]) -> None:
    for table, time in ((data["events"], "at"), (data["runs"], "from")):
        keys = list(zip(numbers(table, "lane"), numbers(table, time), strict=True))
        assert keys == sorted(keys)
    assert sorted(numbers(data["lanes"], "job")) == numbers(data["lanes"], "job").tolist()


def test_the_window_opens_on_the_worst_incident_with_a_lead(snap: af.Snapshot, data: dict[str, Any]) -> None:
    worst = af.diagnose(snap).incidents[0]
    begin, end = (pd.Timestamp(data["base"] + n * data["unit"], unit="ms", tz="UTC") for n in data["open"])
    if worst.began_at is None or worst.severity == "info":
        pytest.skip("no incident with a beginning")
    assert begin <= worst.began_at <= end
    first = pd.Timestamp(data["base"], unit="ms", tz="UTC")
    lead = (worst.began_at - begin) / (end - begin)
    assert begin == first or lead > LEAD / (1 + LEAD + 0.1) * 0.9


def test_an_incident_has_the_lanes_of_its_allocations(snap: af.Snapshot, data: dict[str, Any]) -> None:
    incidents = af.diagnose(snap).incidents
    lane, alloc = numbers(data["events"], "lane"), numbers(data["events"], "alloc")
    for drawn, incident in zip(data["incidents"], incidents, strict=True):
        of = {data["allocs"].index(each) for each in incident.alloc_ids if each in data["allocs"]}
        assert set(numbers(drawn, "lanes")) >= {on for on, its in zip(lane, alloc, strict=True) if its in of}


def test_changes_carry_what_was_changed() -> None:
    with af.sim.Cluster("mixed", allocations=100, seed=7) as cluster:
        client = af.Client(cluster.address, token=cluster.token)
        snap = client.snapshot(namespace="*", history=True)
        data = timeline_columns(snap)
        changes = data["changes"]
        without = timeline_columns(client.snapshot(namespace="*"))
    ledger = snap.history.changes.dropna(subset=["at"])
    assert len(changes) == len(ledger)
    (deploy,) = [each for each in changes if each["title"] == "checkout: job version 0 → 1"]
    assert data["jobs"]["name"][deploy["job"]] == "checkout"
    assert any(line.startswith("app server Config.image: ") and "→" in line for line in deploy["lines"])
    assert any("were not fetched" in note for note in without["notes"])


def test_clusters_have_lanes_of_their_own_although_their_names_are_the_same() -> None:
    snap = af.load(INCIDENTS / "nomad-1.3.1-two.allocframe")
    one, two = timeline_columns(snap), timeline_columns(af.combine({"east": snap, "west": snap}))
    assert len(two["lanes"]["name"]) == 2 * len(one["lanes"]["name"])
    assert {name.partition(": ")[0] for name in two["jobs"]["name"]} == {"east", "west"}
    assert [each["title"] for each in two["incidents"]].count(f"east: {one['incidents'][0]['title']}") == 1
    assert len(numbers(two["events"], "at")) == 2 * len(numbers(one["events"], "at"))


def test_hostile_names_cannot_leave_the_data_of_a_page(data: dict[str, Any]) -> None:
    hostile = {
        **data,
        "jobs": {**data["jobs"], "name": [HOSTILE] * len(data["jobs"]["name"])},
        "summary": HOSTILE,
    }
    page = page_fragment(hostile)
    assert "<img" not in page
    assert page.count("</script") == 2
    text = page.partition('<script type="application/json">')[2].partition("</script>")[0]
    assert json.loads(text) == hostile
    assert "<img" not in still_picture(hostile)


def test_a_page_can_allow_the_script_by_its_hash(data: dict[str, Any]) -> None:
    import hashlib

    script = page_fragment(data).rpartition('<script type="module">')[2].removesuffix("</script>")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert script_hash() == f"sha256-{digest}"


def test_long_times_fit_into_the_numbers() -> None:
    snap = af.load(INCIDENTS / "nomad-1.3.1-two.allocframe")
    incidents = af.diagnose(snap)
    early = pd.DataFrame({"kind": ["job version"], "at": [pd.Timestamp("2019-01-01", tz="UTC")]})
    history = af.History({"changes": early.reindex(columns=_change_columns())})
    data = timeline_columns(snap, incidents, history)
    assert data["unit"] == 100
    assert data["span"] < 1 << 32
    assert data["changes"][0]["at"] == 0


def _change_columns() -> list[str]:
    from allocframe.tables import CHANGES

    return [column.name for column in CHANGES.columns]


def test_a_saved_notebook_shows_a_still_picture(snap: af.Snapshot) -> None:
    bundle = af.timeline(snap)._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "application/vnd.jupyter.widget-view+json" in data
    assert "<svg" in data["text/html"] or "No failure" in data["text/html"]


def test_the_end_of_the_logs_of_a_task_can_be_asked_for() -> None:
    with (
        af.sim.Cluster("calm", allocations=20, seed=1) as cluster,
        af.Client(cluster.address, token=cluster.token) as client,
    ):
        snap = client.snapshot(namespace="*")
        widget = af.timeline(snap, client=client)
        sent: list[Any] = []
        widget.send = lambda content, buffers=None: sent.append(content)
        running = snap.task_states[snap.task_states["state"] == "running"].iloc[0]
        ask = {"type": "logs", "id": "1", "alloc": running["alloc_id"], "task": running["task"]}
        from views import eventually

        widget._handle_custom_msg(ask, [])
        eventually(lambda: sent)
        widget._handle_custom_msg({**ask, "alloc": "../../v1/jobs"}, [])
        widget._handle_custom_msg({"type": "logs"}, [])
    assert sent[0]["id"] == "1"
    assert "stdout" in sent[0]["text"] or "wrote nothing" in sent[0]["text"]
    assert len(sent) == 1
