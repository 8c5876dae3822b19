"""What differs between two versions of a job, held to Nomad's own diff of the same versions."""

from __future__ import annotations

import copy
import json
from typing import Any

import changed
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocframe.snapshot.job_diff import Hasher, compare_jobs, digest_job

SHOWN = Hasher(values=True)


def rows(before: dict[str, Any], after: dict[str, Any], hasher: Hasher = SHOWN) -> list[dict[str, Any]]:
    return list(compare_jobs(before, after, hasher))


def paths(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[str | None, str | None]]:
    return {row["path"]: (row["old"], row["new"]) for row in rows(before, after)}


def spec(version: str = "2.0.5") -> dict[str, Any]:
    return copy.deepcopy(changed.jobs(version)[0][0])


def task_of(job: dict[str, Any]) -> dict[str, Any]:
    return job["TaskGroups"][0]["Tasks"][0]


@pytest.mark.parametrize("version", changed.VERSIONS)
def test_the_fields_are_those_of_nomads_own_diff(version: str) -> None:
    compared = 0
    for answer in changed.answers(version, "changes-job-versions"):
        specs = answer["Versions"]
        for number, diff in enumerate(answer["Diffs"] or []):
            ours = {
                (row["task_group"], row["task"], row["path"], row["kind"], row["old"] or "", row["new"] or "")
                for row in rows(specs[number + 1], specs[number])
            }
            assert ours == changed.nomads_fields(diff)
            compared += len(ours)
    assert compared == 6


@pytest.mark.parametrize("version", changed.VERSIONS)
def test_the_same_version_in_the_api_the_stream_and_the_raft_log_does_not_differ(version: str) -> None:
    known = {(job["ID"], job["SubmitTime"]): job for specs in changed.jobs(version) for job in specs}
    compared = 0
    for entry in changed.lines(version, "raft-logs.ndjson"):
        job = (entry.get("Body") or {}).get("Job")
        if entry.get("CommandType") == "JobRegisterRequestType" and (job["ID"], job["SubmitTime"]) in known:
            other = known[job["ID"], job["SubmitTime"]]
            assert rows(job, other) == []
            assert digest_job(job) == digest_job(other)
            compared += 1
    assert compared == 5
    streamed = 0
    for line in changed.lines(version, "event-stream-all-topics.ndjson"):
        for event in line["Events"]:
            job = event["Payload"].get("Job")
            if event["Topic"] == "Job" and (job["ID"], job["SubmitTime"]) in known:
                assert not [
                    row for row in rows(job, known[job["ID"], job["SubmitTime"]]) if row["path"] != "Stop"
                ]
                streamed += 1
    assert streamed > 5


def test_values_of_the_environment_and_whatever_looks_secret_are_hashed() -> None:
    before, after = spec(), spec()
    task_of(before)["Config"] = {"image": "web:1", "args": ["--level=info"], "auth": {"password": "pa55"}}
    task_of(after)["Config"] = {
        "image": "web:2",
        "args": ["--password=hunter2"],
        "auth": {"password": "w0rd"},
    }
    task_of(after)["Env"] = {"DB_HOST": "db-9", "PLAIN": "seen"}
    task_of(after)["Templates"] = [{"EmbeddedTmpl": "key = {{ secret }}", "DestPath": "local/x"}]
    after["Meta"] = {"api_key": "k-123", "team": "blue"}
    after["Payload"] = "c2VjcmV0"
    text = json.dumps(rows(before, after, Hasher()))
    for hidden in ("hunter2", "pa55", "w0rd", "db-9", "seen", "{{ secret }}", "k-123", "c2VjcmV0", "made-up"):
        assert hidden not in text
    for shown in ("web:1", "web:2", "blue", "local/x"):
        assert shown in text


def test_hashes_tell_that_a_value_changed_and_came_back_but_differ_between_histories() -> None:
    first, second = ({"Env": {"A": value}} for value in ("x", "y"))
    jobs = [{"TaskGroups": [{"Name": "g", "Tasks": [{"Name": "t", **part}]}]} for part in (first, second)]
    hasher = Hasher()
    there, back = rows(jobs[0], jobs[1], hasher)[0], rows(jobs[1], jobs[0], hasher)[0]
    assert (there["old"], there["new"]) == (back["new"], back["old"])
    assert there["old"] != there["new"]
    assert there["old"] != rows(jobs[0], jobs[1], Hasher())[0]["old"]


def test_a_list_without_order_has_rows_only_for_what_was_added_or_removed() -> None:
    before, after = spec(), spec()
    before["Datacenters"], after["Datacenters"] = ["dc1", "dc2"], ["dc3", "dc2", "dc1"]
    before["Constraints"] = [{"LTarget": "a", "RTarget": "1", "Operand": "="}]
    after["Constraints"] = [
        {"LTarget": "b", "RTarget": "2", "Operand": "="},
        {"LTarget": "a", "RTarget": "1", "Operand": "="},
    ]
    assert paths(before, after) == {
        "Datacenters[0]": (None, "dc3"),
        "Constraints[0].LTarget": (None, "b"),
        "Constraints[0].RTarget": (None, "2"),
        "Constraints[0].Operand": (None, "="),
    }


def test_services_are_compared_by_name_and_arguments_by_position() -> None:
    before, after = spec(), spec()
    before["TaskGroups"][0]["Services"] = [{"Name": "a", "PortLabel": "x"}, {"Name": "b", "PortLabel": "x"}]
    after["TaskGroups"][0]["Services"] = [{"Name": "b", "PortLabel": "y"}, {"Name": "a", "PortLabel": "x"}]
    task_of(before)["Config"] = {"args": ["a", "b"]}
    task_of(after)["Config"] = {"args": ["b", "a", "c"]}
    assert paths(before, after) == {
        "Services[b].PortLabel": ("x", "y"),
        "Config.args[0]": ("a", "b"),
        "Config.args[1]": ("b", "a"),
        "Config.args[2]": (None, "c"),
    }


def test_a_new_group_and_a_removed_task_are_rows_for_each_of_their_fields() -> None:
    before, after = spec(), spec()
    after["TaskGroups"].append({"Name": "extra", "Count": 2, "Tasks": [{"Name": "t", "Driver": "exec"}]})
    before["TaskGroups"][0]["Tasks"].append({"Name": "sidecar", "Driver": "docker"})
    found = {(row["task_group"], row["task"], row["path"], row["kind"]) for row in rows(before, after)}
    assert found == {
        ("extra", None, "Count", "added"),
        ("extra", "t", "Driver", "added"),
        ("app", "sidecar", "Driver", "removed"),
    }


def test_a_field_that_a_newer_version_of_nomad_adds_at_its_default_is_no_change() -> None:
    before, after = spec(), spec()
    after["TaskGroups"][0]["BrandNew"] = {"Enabled": False, "Limit": 0, "Names": None, "Text": ""}
    assert rows(before, after) == []
    assert digest_job(before) == digest_job(after)


leaves = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abN") | st.just("Name"), inner)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(st.text("ab", min_size=1, max_size=2), values),
    st.dictionaries(st.text("ab", min_size=1, max_size=2), values),
)
def test_any_two_specifications_can_be_compared_and_none_differs_from_itself(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert rows(one, one) == []
    there, back = rows(one, other), rows(other, one)
    assert len(there) == len(back)
    if digest_job(one) == digest_job(other):
        assert there == []
