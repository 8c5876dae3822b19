"""CPU and memory of tasks: measured values only, and errors for the rest."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import flatten
import pandas as pd
import pytest
from faultserver import any_json, http, serving
from matplotlib import pyplot as plt

import allocframe as af
from allocframe.client import usage as _usage

GIVEN = {"Cpu": {"CpuShares": 100}, "Memory": {"MemoryMB": 64, "MemoryMaxMB": 128}}


def alloc(*tasks: str) -> dict[str, Any]:
    return {"ID": "a", "JobID": "web", "AllocatedResources": {"Tasks": dict.fromkeys(tasks, GIVEN)}}


def samples(*rows: dict[str, Any]) -> pd.DataFrame:
    """Return samples of one task that reserves 100 MHz and 100 MiB, a second apart."""
    common = {
        "job_id": "web",
        "task_group": "g",
        "task": "t",
        "stale": False,
        "cpu_requested_mhz": 100.0,
        "memory_requested_mib": 100.0,
    }
    return _usage.samples_frame(
        [
            {**common, "alloc_id": row.get("job_id", "web"), "sample": n, "at": (n + 1) * 10**9, **row}
            for n, row in enumerate(rows)
        ]
    )


@pytest.mark.parametrize("version", flatten.VERSIONS)
def test_recorded_measurements_are_read_in_mib_with_the_tasks_that_have_ended_marked(version: str) -> None:
    recorded = flatten.recorded(version, "alloc-stats")[0]["json"]
    table = _usage.samples_frame(_usage.usage_rows(alloc("server", "absent"), recorded, 0)).set_index("task")
    server = recorded["Tasks"]["server"]
    assert table.loc["server", "memory_mib"] == server["ResourceUsage"]["MemoryStats"]["RSS"] / 2**20
    assert table.loc["server", "memory_measured"] == "RSS"
    assert table.loc["server", "at"].value == server["Timestamp"]
    assert (table.loc["server", "cpu_mhz"], table.loc["server", "cpu_requested_mhz"]) == (0.0, 100)
    assert table["stale"].dropna().to_dict() == {"server": False, "log-shipper": False, "init": True}
    assert table.loc["absent", ["at", "cpu_mhz", "memory_mib", "stale"]].isna().all()
    assert pd.isna(table.loc["init", "memory_requested_mib"]), "nobody gave it any"


@pytest.mark.parametrize("version", flatten.VERSIONS)
def test_a_node_without_a_sample_gives_missing_values_and_no_zeros(version: str) -> None:
    empty = next(e["json"] for e in flatten.recorded(version, "client-reads") if e.get("json"))
    assert empty["Timestamp"] == 0
    table = _usage.samples_frame(_usage.usage_rows(alloc("t"), empty, 0))
    assert table[["at", "cpu_mhz", "memory_mib"]].isna().all(axis=None)
    assert table["memory_requested_mib"].tolist() == [64]


def test_what_a_driver_does_not_measure_is_missing() -> None:
    usage = {
        "CpuStats": {"Measured": None, "TotalTicks": 0.0},
        "MemoryStats": {"Measured": ["Usage"], "RSS": 0, "Usage": 2**20},
    }
    stats = {"Timestamp": 5, "Tasks": {"t": {"Timestamp": 5, "ResourceUsage": usage}}}
    row = _usage.usage_rows(alloc("t"), stats, 0)[0]
    assert (row["cpu_mhz"], row["memory_mib"], row["memory_measured"]) == (None, 1.0, "Usage")


def test_the_running_allocations_of_a_snapshot_are_sampled_round_by_round(
    client: af.Client, snap: af.Snapshot
) -> None:
    started = time.monotonic()
    usage = client.usage(snap, samples=2, interval=1.0)
    assert time.monotonic() - started >= 1.0
    running = snap.allocations[snap.allocations["client_status"] == "running"]
    tasks = snap.task_states[snap.task_states["alloc_id"].isin(running["alloc_id"])]
    assert len(usage) == 2 * len(tasks)
    assert usage.errors.empty
    requested = snap.resources.dropna(subset=["task"]).set_index(["alloc_id", "task"])["memory_mib"]
    mine = usage.samples.set_index(["alloc_id", "task"])
    assert (mine["memory_requested_mib"] == requested.reindex(mine.index).astype("Float64")).all()
    assert set(usage.samples["sample"]) == {0, 1}
    assert repr(usage).startswith(f"<Usage: {len(usage.samples.dropna(subset=['at'])):,} samples of ")


def test_some_that_cannot_be_asked_do_not_stop_the_others(cluster: af.sim.Cluster, snap: af.Snapshot) -> None:
    running = snap.allocations[snap.allocations["client_status"] == "running"]
    mine = running.loc[running["namespace"] == "default", "alloc_id"].tolist()[:3]
    foreign = running.loc[running["namespace"] != "default", "alloc_id"].tolist()[:1]
    with af.Client(cluster.address, token=cluster.add_token()) as client:
        usage = client.usage(
            [*mine, *foreign, "00000000-0000-0000-0000-000000000000", "no id"], samples=2, interval=0
        )
    assert set(usage.samples["alloc_id"]) == set(mine)
    errors = usage.errors.set_index("alloc_id")["error"]
    assert len(errors) == 3, "what cannot be read is not asked again in each round"
    assert "Unknown allocation" in errors[foreign[0]]
    assert "alloc not found" in errors["00000000-0000-0000-0000-000000000000"]
    assert "must be a UUID" in errors["no id"]
    assert "errors for 3 allocations" in repr(usage)


def test_a_node_that_is_lost_between_two_rounds_is_an_error_of_that_round() -> None:
    identity = "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7"
    usage = {"CpuStats": {}, "MemoryStats": {"Measured": ["RSS"], "RSS": 2**20}}
    stats = {"Timestamp": 5, "Tasks": {"t": {"Timestamp": 5, "ResourceUsage": usage}}}
    gone = http(b"No path to node", "404 Not Found", length=15)
    with serving(any_json({**alloc("t"), "ID": identity}), any_json(stats), gone) as server:
        usage = af.Client(server.address).usage([identity], samples=2, interval=0)
        assert [request.rpartition("/")[2] for request in server.requests] == [identity, "stats", "stats"]
    assert usage.samples["memory_mib"].tolist() == [1.0]
    assert usage.errors["sample"].tolist() == [1]
    assert "No path to node" in usage.errors["error"][0]


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {"Tasks": [1]},
        {"Tasks": {"t": 5}},
        {"Timestamp": "x"},
        {"Tasks": {"t": {"Timestamp": 1 << 70}}},
        {
            "Tasks": {
                "t": {
                    "Timestamp": 5,
                    "ResourceUsage": {"CpuStats": {"Measured": ["Percent"], "TotalTicks": {}}},
                }
            }
        },
    ],
)
def test_an_answer_that_is_not_a_nodes_is_an_error_of_that_allocation(answer: Any) -> None:
    identity = "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7"
    with serving(any_json({**alloc("t"), "ID": identity}), any_json(answer)) as server:
        usage = af.Client(server.address).usage([identity])
    assert len(usage) == 0
    assert usage.errors["alloc_id"].tolist() == [identity]


def test_never_more_are_asked_at_a_time_than_workers() -> None:
    busy, most = [], []

    def slow(connection: Any) -> None:
        busy.append(1)
        most.append(len(busy))
        time.sleep(0.02)
        busy.pop()
        connection.sendall(any_json({"Tasks": {}}))

    ids = [f"{n:08x}-0000-0000-0000-000000000000" for n in range(12)]
    with serving(slow) as server, af.Client(server.address) as client:
        client.usage(ids, workers=3)
    assert 1 < max(most) <= 3


@pytest.mark.parametrize(
    "wrong", [{"samples": 0}, {"workers": 9}, {"interval": -1}, {"interval": float("nan")}]
)
def test_what_cannot_be_asked_is_refused_before_anything_is_sent(
    client: af.Client, wrong: dict[str, Any]
) -> None:
    with pytest.raises(af.ConfigError):
        client.usage(["00000000-0000-0000-0000-000000000000"], **wrong)
    with pytest.raises(af.ConfigError, match="list of IDs"):
        client.usage("00000000-0000-0000-0000-000000000000")
    assert client.counters["requests"] == 0


def test_headroom_is_what_is_left_at_the_95th_percentile_of_cpu_and_the_most_of_memory() -> None:
    table = af.stats.headroom(
        samples(*({"cpu_mhz": float(n), "memory_mib": float(n)} for n in range(101))), by="job_id"
    )
    row = table.iloc[0]
    assert (row["tasks"], row["samples"]) == (1, 101)
    assert (row["cpu_p50_mhz"], row["cpu_p95_mhz"], row["cpu_max_mhz"]) == (50, 95, 100)
    assert row["cpu_headroom"] == pytest.approx(0.05)
    assert row["memory_headroom"] == 0


def test_samples_that_are_old_missing_or_read_twice_do_not_count() -> None:
    good = {"cpu_mhz": 10.0, "memory_mib": 50.0, "at": 10**9}
    odd = [{**good, "memory_mib": 99.0, "stale": True, "at": 2 * 10**9}, {"at": None, "stale": None}]
    row = af.stats.headroom(samples(good, good, *odd)).iloc[0]
    assert (row["samples"], row["memory_max_mib"]) == (1, 50)


def test_what_is_not_measured_has_no_headroom_and_nothing_is_an_empty_table() -> None:
    unmeasured = af.stats.headroom(samples({"memory_mib": 50.0}))
    assert pd.isna(unmeasured["cpu_headroom"][0])
    assert unmeasured["memory_headroom"][0] == 0.5
    empty = af.stats.headroom(_usage.samples_frame([]))
    assert empty.columns.tolist() == unmeasured.columns.tolist()
    for resource, table in (("cpu", unmeasured), ("memory", empty)):
        ax = af.plots.headroom(table, resource)
        assert [text.get_text() for text in ax.texts] == [f"no {resource} was measured"]
    plt.close("all")


def test_the_plot_draws_those_with_the_least_headroom_first_and_says_what_it_leaves_out() -> None:
    jobs = [samples({"memory_mib": float(n), "job_id": f"<b>$job{n}\x1b"}) for n in range(30, 130, 3)]
    ax = af.plots.headroom(af.stats.headroom(pd.concat(jobs)))
    ax.figure.canvas.draw()
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert len(labels) == 25
    assert "job129" in labels[0]
    assert "\x1b" not in "".join(labels)
    assert "9 rows with more headroom not shown" in ax.get_title(loc="left")
    assert ax.get_xlim()[1] > 1.29
    plt.close("all")


def test_too_little_and_too_much_reserved_are_found_where_there_are_enough_samples(snap: af.Snapshot) -> None:
    tight = [{"cpu_mhz": 50.0, "memory_mib": 95.0}] * 10
    idle = [{"cpu_mhz": 5.0, "memory_mib": 9.0, "job_id": "idle"}] * 10
    unknown = [{"memory_mib": 9.0, "job_id": "unknown"}] * 10
    few = [{"memory_mib": 99.0, "job_id": "few"}] * 9
    findings = af.findings(snap, usage=pd.concat([samples(*rows) for rows in (tight, idle, unknown, few)]))
    by_job = {
        (finding.code, finding.severity, finding.subject["job_id"]): finding
        for finding in findings
        if finding.code.startswith("AF7")
    }
    assert set(by_job) == {("AF701", "warning", "web"), ("AF702", "info", "idle")}
    assert (
        "used up to 95 of 100 MiB reserved (95%), in 10 samples of 1 task"
        in by_job["AF701", "warning", "web"].summary
    )
    assert not [finding for finding in af.findings(snap) if finding.code.startswith("AF7")]


@pytest.fixture(scope="module", params=flatten.VERSIONS)
def simulated(request: pytest.FixtureRequest) -> Iterator[tuple[str, af.sim.Cluster]]:
    with af.sim.Cluster(
        "artifact_outage", allocations=40, seed=9, version=request.param, acl=False
    ) as cluster:
        yield request.param, cluster


def test_the_simulated_measurements_have_the_keys_and_types_of_recorded_ones(
    simulated: tuple[str, af.sim.Cluster],
) -> None:
    import httpx

    version, cluster = simulated
    recorded = flatten.recorded(version, "alloc-stats")[0]
    task = next(iter(recorded["json"]["Tasks"].values()))
    allocs = cluster.state.allocs.values()
    running = next(
        alloc for alloc in allocs if alloc.client_status == "running" and alloc.node.status == "ready"
    )
    never = next(alloc for alloc in allocs if not any(state.started_at for state in alloc.tasks.values()))
    url = f"{cluster.address}/v1/client/allocation/{{}}/stats"
    answer = httpx.get(url.format(running.id))
    assert answer.headers["content-type"] == recorded["headers"]["Content-Type"]
    _alike(answer.json(), {**recorded["json"], "Tasks": dict.fromkeys(answer.json()["Tasks"], task)})
    exchanges = {
        e["request"]["path"]: e
        for e in flatten.recorded(version, "client-reads")
        if "/stats" in e["request"]["path"]
    }
    for path, exchange in exchanges.items():
        identity = path.split("/")[4]
        target = identity if identity == "abc" or identity.startswith("0000") else never.id
        answer = httpx.get(url.format(target))
        assert answer.status_code == exchange["status"]
        assert answer.headers["content-type"] == exchange["headers"]["Content-Type"]
        body = answer.json() if answer.status_code == 200 else answer.text
        assert body == exchange.get("json", exchange.get("text"))


def _alike(answer: Any, expected: Any) -> None:
    assert json.dumps(type(answer).__name__) == json.dumps(type(expected).__name__) or None in (
        answer,
        expected,
    )
    if isinstance(answer, dict) and "Pids" in answer:
        answer, expected = (
            {**each, "Pids": next(iter(each["Pids"].values()))} for each in (answer, expected)
        )
    if isinstance(answer, dict):
        assert answer.keys() == expected.keys()
        for key in answer:
            _alike(answer[key], expected[key])
