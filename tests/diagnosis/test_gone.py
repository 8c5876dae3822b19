"""What a version removed and nothing failed with: nodes, runs, groups, tasks, instances, services."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diagnosis as benchmark
import pytest
from tables import START, alloc, event, snapshot, started

import allocframe as af

SECOND = 10**9
BLIND = benchmark.REAL / "blind"
Row = dict[str, Any]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "2.0.5-system-falls-off-a-node",
            "guard no longer runs on d-2. Version 1 asked for constraint ${meta.os} = new at 19:55 UTC; "
            "d-2 is ready and eligible.",
        ),
        (
            "1.3.1-system-falls-off-a-node",
            "guard no longer runs on d-2. Version 1 asked for constraint ${meta.os} = new at 20:08 UTC; "
            "d-2 is ready and eligible.",
        ),
        (
            "2.0.5-periodic-switched-off",
            "invoice launches no more periodic runs. Version 1 turned its periodic launch off at 19:55 UTC; "
            "the last run was launched 50.4 s ago, and before that one every 8.0 s.",
        ),
    ],
)
def test_a_real_agent_shows_what_is_gone_and_no_page_says_that_nothing_stands_out(
    name: str, told: str
) -> None:
    with af.load(BLIND / f"nomad-{name}.allocframe") as snap:
        diagnosis, page = af.diagnose(snap), af.postmortem(snap).document
    (incident,) = diagnosis.incidents
    assert incident.summary.endswith(told)
    assert (incident.severity, [each.code for each in incident.findings]) == ("info", ["AF403"])
    assert incident.findings[0].summary.endswith(told.partition(". ")[2])
    assert diagnosis.summary.endswith(f"1 thing is open: {incident.title}.")
    assert page.title == incident.title


# Small cases


def runs(name: str, begin: float, n: int = 0, group: str = "app", on: str = "node-1", **fields: Any) -> Row:
    return alloc(
        f"{name}-{group}-{n}-{begin:g}-{on}", event("Received", begin), started(begin + 1), JobID=name,
        Name=f"{name}.{group}[{n}]", TaskGroup=group, NodeName=on, NodeID=f"id-of-{on}", **fields,
    )  # fmt: skip


def left(end: float, *args: Any, **fields: Any) -> Row:
    """Return an allocation that a new version stopped."""
    stopped = {"ClientStatus": "complete", "DesiredStatus": "stop", "state": "dead"}
    return runs(*args, **{**stopped, "ModifyTime": START + int((end + 1) * SECOND), **fields})


def group(name: str = "app", count: int = 2, tasks: str = "server", **fields: Any) -> Row:
    made = [{"Name": each, "Driver": "exec"} for each in tasks.split()]
    return {"Name": name, "Count": count, "Tasks": made, **fields}


def versions(*specs: Row, job: str = "web") -> list[Row]:
    """Return versions of a job, one every 100 s."""
    fixed = {"ID": job, "Namespace": "default"}
    return [
        {
            "Type": "service",
            **fixed,
            "Version": n,
            "JobModifyIndex": n,
            "SubmitTime": START + 100 * n * SECOND,
        }
        | spec
        for n, spec in enumerate(specs)
    ]


def of_groups(*groups: Row, **fields: Any) -> Row:
    return {"TaskGroups": list(groups), **fields}


def node(name: str, center: str = "dc1", pool: str = "default", **fields: Any) -> Row:
    return {
        "ID": f"id-of-{name}", "Name": name, "Datacenter": center, "NodePool": pool, "Status": "ready",
        "SchedulingEligibility": "eligible", "Drain": False, **fields,
    }  # fmt: skip


def clock(until: float = 1000) -> Row:
    return runs("steady", 0, ModifyTime=START + int(until * SECOND))


def texts(folder: Path, rows: list[Row], specs: list[Row], **more: Any) -> list[str]:
    history = af.History.from_json(jobs=[specs], **more)
    return [each.summary for each in af.diagnose(snapshot(folder, *rows, clock()), history=history).incidents]


WEB = [runs("web", 0, n) for n in range(2)]
SERVICE = {"Name": "web", "Checks": [{"Name": "alive"}, {"Name": "ready"}]}


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (
            of_groups(group(), group("worker", 3)),
            of_groups(group()),
            "web no longer has group worker. Version 1 removed group worker at 14:15 UTC; it had 3 "
            "instances.",
        ),
        (
            of_groups(group(tasks="server metrics")),
            of_groups(group()),
            "web no longer has task metrics. Version 1 removed task metrics of group app at 14:15 UTC.",
        ),
        (
            of_groups(group(count=5)),
            of_groups(group(count=2, Meta={"release": "2"})),
            "web wants 2 instances, not 5. Version 1 set group app from 5 to 2 instances at 14:15 UTC.",
        ),
        (
            of_groups(group(Services=[SERVICE])),
            of_groups(group()),
            "web no longer has service web. Version 1 removed service web of group app at 14:15 UTC.",
        ),
        (
            of_groups(group(Services=[SERVICE])),
            of_groups(group(Services=[{**SERVICE, "Checks": [{"Name": "alive"}]}])),
            "web no longer has check ready. Version 1 removed check ready of service web at 14:15 UTC.",
        ),
    ],
)
def test_what_a_version_removed_is_told_until_a_later_one_brings_it_back(
    tmp_path: Path, before: Row, after: Row, told: str
) -> None:
    image = {"Meta": {"release": "3"}}
    assert texts(tmp_path, WEB, versions(before, after)) == [told]
    assert texts(tmp_path, WEB, versions(before, after, {**after, **image})) == [told]
    assert texts(tmp_path, WEB, versions(before, after, {**before, **image})) == []
    # a rollback removes what had been tried
    assert texts(tmp_path, WEB, versions(after, before, after)) == []


def test_what_has_a_new_name_is_told_with_it(tmp_path: Path) -> None:
    specs = versions(of_groups(group(), group("worker", 3)), of_groups(group(), group("jobs", 3)))
    (told,) = texts(tmp_path, WEB, specs)
    assert told.endswith("it had 3 instances; jobs is new in it.")


def test_fewer_instances_by_a_request_to_scale_are_no_news_but_a_deploy_that_undoes_it_is(
    tmp_path: Path,
) -> None:
    def scaled(index: int) -> Row:
        return {
            "ID": f"e{index}", "Namespace": "default", "JobID": "web", "Type": "service",
            "CreateIndex": index, "Status": "complete", "TriggeredBy": "job-scaling", "JobModifyIndex": index,
            "CreateTime": START + 100 * index * SECOND,
        }  # fmt: skip

    down = versions(of_groups(group(count=5)), of_groups(group()))
    assert texts(tmp_path, WEB, down, evaluations=[scaled(1)]) == []
    back = versions(of_groups(group()), of_groups(group(count=5)), of_groups(group(Meta={"release": "2"})))
    assert texts(tmp_path, WEB, back, evaluations=[scaled(1)]) == [
        "web wants 2 instances, not 5. Version 2 set group app from 5 to 2 instances at 14:16 UTC; a scaling "
        "request had set it to 5."
    ]


SYSTEM = {"JobType": "system"}
NEW = [{"LTarget": "${meta.os}", "Operand": "=", "RTarget": "new"}]


@pytest.mark.parametrize(
    ("of_node", "told"),
    [
        (
            {},
            [
                "web no longer runs on node-2. Version 1 asked for constraint ${meta.os} = new at 14:15 UTC; "
                "node-2 is ready and eligible."
            ],
        ),
        ({"SchedulingEligibility": "ineligible"}, []),
        ({"Drain": True, "DrainStrategy": {}}, []),
    ],
)
def test_a_system_job_is_missed_only_on_nodes_that_take_work(
    tmp_path: Path, of_node: Row, told: list[str]
) -> None:
    rows = [runs("web", 0, **SYSTEM), left(100, "web", 0, on="node-2", **SYSTEM)]
    specs = versions(of_groups(group()), of_groups(group(Constraints=NEW)))
    specs = [{**each, "Type": "system"} for each in specs]
    nodes = [node("node-1"), node("node-2", **of_node)]
    assert texts(tmp_path, rows, specs, nodes=nodes) == told


@pytest.mark.parametrize(
    ("before", "after", "asked"),
    [
        ({"Datacenters": ["dc1"]}, {"Datacenters": ["dc2"]}, "datacenter dc2"),
        ({"NodePool": "default"}, {"NodePool": "gpu"}, "node pool gpu"),
    ],
)
def test_a_job_that_moved_by_its_datacenters_or_pool_is_told_and_one_that_a_deploy_placed_anew_is_not(
    tmp_path: Path, before: Row, after: Row, asked: str
) -> None:
    rows = [left(100, "web", 0), runs("web", 101, on="node-2", JobVersion=1)]
    nodes = [node("node-1"), node("node-2", "dc2", "gpu")]
    specs = versions(of_groups(group(), **before), of_groups(group(), **after))
    assert texts(tmp_path, rows, specs, nodes=nodes) == [
        f"web has moved off node-1. Version 1 asked for {asked} at 14:15 UTC; it runs on node-2 now."
    ]
    image = versions(of_groups(group()), of_groups(group(Meta={"release": "2"})))
    assert texts(tmp_path, rows, image, nodes=nodes) == []


def test_a_periodic_launch_that_was_turned_on_again_is_no_news(tmp_path: Path) -> None:
    def run(begin: int) -> Row:
        done = {"ClientStatus": "complete", "state": "dead", "JobType": "batch"}
        name = f"night/periodic-{START // SECOND + begin}"
        return {**runs("night", begin, **done), "JobID": name, "Name": f"{name}.app[0]"}

    on, off = ({"Periodic": {"Enabled": each, "Spec": "@daily"}, "Type": "batch"} for each in (True, False))
    specs = [of_groups(group(), **each) for each in (on, off, {**on, "Meta": {"a": "b"}})]
    rows = [run(begin) for begin in (10, 40, 70)]
    assert texts(tmp_path, rows, versions(*specs[:2], job="night")) == [
        "night launches no more periodic runs. Version 1 turned its periodic launch off at 14:15 UTC; the "
        "last run was launched 15.5 min ago, and before that one every 30.0 s."
    ]
    assert texts(tmp_path, rows, versions(*specs, job="night")) == []


PERIODIC = {"Enabled": True, "Spec": "*/30 * * * * *"}


@pytest.mark.parametrize(
    ("after", "edit"),
    [
        ({"Spec": "0 3 1 1 *"}, 'schedule from "*/30 * * * * *" to "0 3 1 1 *"'),
        ({"TimeZone": "Asia/Tokyo"}, 'time zone from none to "Asia/Tokyo"'),
        (
            {"Spec": "", "Specs": ["0 3 1 1 *", "0 4 1 1 *"]},
            'schedule from "*/30 * * * * *" to "0 3 1 1 *", "0 4 1 1 *"',
        ),
    ],
)
def test_a_schedule_after_whose_edit_no_run_comes_is_told_after_five_gaps(
    tmp_path: Path, after: dict[str, Any], edit: str
) -> None:
    def run(begin: int) -> Row:
        done = {"ClientStatus": "complete", "state": "dead", "JobType": "batch"}
        name = f"night/periodic-{START // SECOND + begin}"
        return {**runs("night", begin, **done), "JobID": name, "Name": f"{name}.app[0]"}

    before = {"Periodic": PERIODIC, "Type": "batch"}
    edited = {"Periodic": {**PERIODIC, **after}, "Type": "batch"}
    back = {**before, "Meta": {"a": "b"}}
    rows = [run(begin) for begin in (10, 40, 70)]

    def told(*specs: Row, until: float, more: int | None = None) -> list[str]:
        found = [*rows, clock(until), *([] if more is None else [run(more)])]
        jobs = versions(*(of_groups(group(), **each) for each in specs), job="night")
        diagnosis = af.diagnose(snapshot(tmp_path, *found), history=af.History.from_json(jobs=[jobs]))
        return [each.summary for each in diagnosis.incidents]

    assert told(before, edited, until=249) == []
    (text,) = told(before, edited, until=260)
    assert f"Version 1 changed its {edit} at 14:15 UTC; the last run was launched " in text
    assert text.endswith("and before that one every 30.0 s.")
    assert told(before, edited, until=260, more=180) == []  # slower, and on purpose
    assert [each for each in told(before, edited, back, until=260) if f"its {edit}" in each] == []
