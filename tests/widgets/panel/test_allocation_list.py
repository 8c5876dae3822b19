"""The list of allocations to choose from."""

from __future__ import annotations

import time
from typing import Any

import pandas as pd
import pytest

from allocframe.widgets.panel.allocation_list import MAX_ROWS, AllocationList


def rows(*values: tuple[str, str, str, str], **columns: Any) -> pd.DataFrame:
    """Return allocations from (ID, job, node, status)."""
    return pd.DataFrame(
        [
            {
                "alloc_id": identity,
                "namespace": "default",
                "name": f"{job}.app[0]",
                "job_id": job,
                "node_name": node,
                "client_status": status,
                "desired_status": "run",
                **columns,
            }
            for identity, job, node, status in values
        ]
    )


A, B, C = ("a1", "web", "n1", "running"), ("b2", "api", "n2", "failed"), ("c3", "api", "n1", "running")


@pytest.fixture
def allocation_list() -> AllocationList:
    allocation_list = AllocationList()
    allocation_list.update(rows(A, B, C), "", reset=True)
    return allocation_list


def test_running_allocations_come_first(allocation_list: AllocationList) -> None:
    assert allocation_list.shown == ("c3", "a1", "b2")
    assert allocation_list.summary() == "3 allocations"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("c3", "a1", "b2")),
        ("api", ("c3", "b2")),
        ("API n1", ("c3",)),
        ("failed", ("b2",)),
        ("a1", ("a1",)),
        ("  ", ("c3", "a1", "b2")),
        ("nothing", ()),
        ("(.*", ()),
        ("default", ("c3", "a1", "b2")),
    ],
)
def test_every_word_is_searched_in_job_node_status_namespace_and_id(
    allocation_list: AllocationList, text: str, expected: tuple[str, ...]
) -> None:
    allocation_list.search(text)
    assert allocation_list.shown == expected
    assert allocation_list.matching == len(expected)


def test_a_new_fetch_moves_and_removes_no_row(allocation_list: AllocationList) -> None:
    allocation_list.search("api")
    allocation_list.update(
        rows(("0", "api", "n0", "running"), ("b2", "api", "n2", "complete"), A), "api", reset=False
    )
    assert allocation_list.shown == ("c3", "b2", "0")
    labels = {identity: label.replace("\u00a0", " ") for label, identity in allocation_list.options()}
    assert labels["c3"].startswith("✕ removed")
    assert "api.app[0]" in labels["c3"]
    assert labels["b2"].startswith("○ complete")
    allocation_list.update(rows(("0", "api", "n0", "running"), A), "api", reset=True)
    assert allocation_list.shown == ("0",)


def test_labels_are_unique_and_their_columns_aligned(allocation_list: AllocationList) -> None:
    twins = [(f"deadbeef-{n}", "web", "n1", "running") for n in range(3)]
    allocation_list.update(rows(*twins, ("12345678-9", "w", "n1", "running")), "", reset=True)
    labels = [label for label, _ in allocation_list.options()]
    assert len(set(labels)) == 4
    assert {label.index("n1") for label in labels} == {labels[0].index("n1")}
    assert [label for label in labels if "12345678-9" in label] == []


def test_control_characters_in_names_are_shown_as_text_on_one_line(allocation_list: AllocationList) -> None:
    allocation_list.update(rows(("x1", "<b>\u202e\x1b[31m\n", "n", "running")), "", reset=True)
    ((label, _),) = allocation_list.options()
    assert "\\u202e\\x1b[31m\\n" in label
    assert not set("\u202e\x1b\n") & set(label)


def test_of_ten_thousand_allocations_two_hundred_are_shown() -> None:
    many = rows(*((f"{n:08x}", f"job-{n % 50}", f"n{n % 9}", "running") for n in range(10_000)))
    allocation_list = AllocationList()
    started = time.perf_counter()
    allocation_list.update(many, "", reset=True)
    update_seconds = time.perf_counter() - started
    assert len(allocation_list.options()) == MAX_ROWS
    assert allocation_list.summary() == (
        "10,000 allocations. The first 200 are shown; narrow the filter to see the others"
    )
    started = time.perf_counter()
    allocation_list.search("job-7 n3")
    search_seconds = time.perf_counter() - started
    assert 0 < allocation_list.matching < 200
    assert update_seconds < 2.0
    assert search_seconds < 0.2


def test_an_empty_cluster_is_an_empty_list() -> None:
    allocation_list = AllocationList()
    assert (allocation_list.options(), allocation_list.summary()) == ([], "0 allocations")
    allocation_list.update(rows(A).iloc[:0], "x", reset=True)
    assert allocation_list.shown == ()
    assert allocation_list.namespace("a1") is None
