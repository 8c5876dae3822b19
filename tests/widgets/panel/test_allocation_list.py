"""The list to choose from."""

from __future__ import annotations

import time
from typing import Any

import pandas as pd
import pytest

from allocframe.widgets.panel.allocation_list import SHOWN, Listing


def rows(*given: tuple[str, str, str, str], **more: Any) -> pd.DataFrame:
    """Return allocations from (ID, job, node, status)."""
    return pd.DataFrame(
        [
            {
                "alloc_id": identity, "namespace": "default", "name": f"{job}.app[0]", "job_id": job, "node_name": node,
                "client_status": status, "desired_status": "run", **more,
            }
            for identity, job, node, status in given
        ]
    )  # fmt: skip


A, B, C = ("a1", "web", "n1", "running"), ("b2", "api", "n2", "failed"), ("c3", "api", "n1", "running")


@pytest.fixture
def listing() -> Listing:
    made = Listing()
    made.take(rows(A, B, C), "", anew=True)
    return made


def test_what_runs_comes_first(listing: Listing) -> None:
    assert listing.shown == ("c3", "a1", "b2")
    assert listing.counted() == "3 allocations"


@pytest.mark.parametrize(
    ("needle", "expected"),
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
def test_every_word_is_looked_for_in_job_node_status_namespace_and_id(
    listing: Listing, needle: str, expected: tuple[str, ...]
) -> None:
    listing.find(needle)
    assert listing.shown == expected
    assert listing.matching == len(expected)


def test_fetching_again_moves_and_removes_no_row(listing: Listing) -> None:
    listing.find("api")
    listing.take(rows(("0", "api", "n0", "running"), ("b2", "api", "n2", "complete"), A), "api", anew=False)
    assert listing.shown == ("c3", "b2", "0")
    labels = {identity: label.replace("\u00a0", " ") for label, identity in listing.options()}
    assert labels["c3"].startswith("✕ gone")
    assert "api.app[0]" in labels["c3"]
    assert labels["b2"].startswith("○ complete")
    listing.take(rows(("0", "api", "n0", "running"), A), "api", anew=True)
    assert listing.shown == ("0",)


def test_no_two_labels_are_alike_and_the_columns_are_in_line(listing: Listing) -> None:
    twins = [(f"deadbeef-{n}", "web", "n1", "running") for n in range(3)]
    listing.take(rows(*twins, ("12345678-9", "w", "n1", "running")), "", anew=True)
    labels = [label for label, _ in listing.options()]
    assert len(set(labels)) == 4
    assert {label.index("n1") for label in labels} == {labels[0].index("n1")}
    assert [label for label in labels if "12345678-9" in label] == []


def test_odd_names_are_shown_as_text_on_one_line(listing: Listing) -> None:
    listing.take(rows(("x1", "<b>\u202e\x1b[31m\n", "n", "running")), "", anew=True)
    ((label, _),) = listing.options()
    assert "\\u202e\\x1b[31m\\n" in label
    assert not set("\u202e\x1b\n") & set(label)


def test_ten_thousand_allocations_are_two_hundred_rows_and_the_number_of_the_others() -> None:
    many = rows(*((f"{n:08x}", f"job-{n % 50}", f"n{n % 9}", "running") for n in range(10_000)))
    listing = Listing()
    started = time.perf_counter()
    listing.take(many, "", anew=True)
    taken = time.perf_counter() - started
    assert len(listing.options()) == SHOWN
    assert listing.counted() == "10,000 allocations; the first 200 are shown, 9,800 more: narrow the filter"
    started = time.perf_counter()
    listing.find("job-7 n3")
    found = time.perf_counter() - started
    assert 0 < listing.matching < 200
    assert taken < 2.0
    assert found < 0.2


def test_an_empty_cluster_is_an_empty_list() -> None:
    listing = Listing()
    assert (listing.options(), listing.counted()) == ([], "0 allocations")
    listing.take(rows(A).iloc[:0], "x", anew=True)
    assert listing.shown == ()
    assert listing.namespace("a1") is None
