"""However a history is cut into rings and seen, the archive has what was seen, once, and notes its gaps."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tables import event
from watched import RING, Versions, history, moment, ring

import allocframe as af
from allocframe.watch.change import Gap


def told(archive: af.Archive, identity: str) -> list[str]:
    """Return the details of the events of an allocation, in their order."""
    events = archive.events(alloc_id=identity)
    assert events["seq"].tolist() == list(range(len(events)))
    return events["details"].tolist()


def sent(events: list[dict[str, Any]]) -> list[str]:
    return [json.dumps(one["Details"], separators=(",", ":")) for one in events]


def reason(archive: af.Archive) -> str:
    (row,) = archive.coverage().dropna(subset="alloc_id").itertuples()
    assert not row.complete
    assert archive.snapshot().task_states["events_truncated"].tolist() == [True]
    return str(row.reason)


def complete(archive: af.Archive) -> bool:
    (row,) = archive.coverage().dropna(subset="alloc_id").itertuples()
    assert archive.snapshot().task_states["events_truncated"].tolist() == [not row.complete]
    assert row.complete == archive.missing().dropna(subset="alloc_id").empty
    return bool(row.complete)


@pytest.fixture
def archive(tmp_path: Path) -> af.Archive:
    return af.Archive(tmp_path / "archive")


def observed(
    folder: Path, archive: af.Archive, events: list[dict[str, Any]], *cuts: int, **fields: Any
) -> Versions:
    """Append an observation of one task after each of these numbers of events."""
    folder = folder / "pages"
    folder.mkdir()
    versions = Versions(folder, {("a", cut): {"events": ring(events, cut), **fields} for cut in cuts})
    had: list[tuple[str, int]] = []
    for n, cut in enumerate(cuts):
        now = [("a", cut)]
        archive.append(
            versions.seen(cut, added=now) if n == 0 else versions.seen(cut, changed=now, before=had)
        )
        had = now
    return versions


def test_a_history_seen_in_overlapping_rings_is_complete(tmp_path: Path, archive: af.Archive) -> None:
    events = history(40)
    observed(tmp_path, archive, events, 3, 9, 18, 27, 31, 40)
    assert told(archive, "a") == sent(events)
    assert complete(archive)


def test_rings_that_share_one_event_are_enough(tmp_path: Path, archive: af.Archive) -> None:
    events = history(19)
    observed(tmp_path, archive, events, 10, 19)
    assert told(archive, "a") == sent(events)
    assert complete(archive)


def test_rings_that_only_touch_do_not_prove_that_nothing_lies_between(
    tmp_path: Path, archive: af.Archive
) -> None:
    observed(tmp_path, archive, history(20), 10, 20)
    assert len(archive.events()) == 20
    assert reason(archive) == "more events came between two observations than Nomad keeps"
    (row,) = archive.missing().itertuples()
    assert (row.since, row.until) == (moment(9), moment(10))


def test_a_ring_of_fewer_than_ten_events_has_lost_none(tmp_path: Path, archive: af.Archive) -> None:
    events = [event("Driver", n, details_of=n) for n in range(4)]
    observed(tmp_path, archive, events, 4)
    assert complete(archive)


def test_a_full_ring_that_still_begins_with_received_has_lost_none(
    tmp_path: Path, archive: af.Archive
) -> None:
    observed(tmp_path, archive, history(10), 10)
    assert complete(archive)


def test_a_ring_that_was_full_when_first_seen_began_before_the_archive(
    tmp_path: Path, archive: af.Archive
) -> None:
    observed(tmp_path, archive, history(25), 25)
    assert len(archive.events()) == RING
    assert reason(archive) == "it began before the archive"


def test_an_allocation_that_came_and_filled_its_ring_between_two_observations(
    tmp_path: Path, archive: af.Archive
) -> None:
    (tmp_path / "pages").mkdir()
    versions = Versions(
        tmp_path / "pages",
        {
            ("b", 1): {"state": "dead"},
            ("a", 2): {"events": history(25, 5)[-10:], "CreateTime": moment(5).value},
        },
    )
    archive.append(versions.seen(1, added=[("b", 1)]))
    archive.append(versions.seen(40, added=[("a", 2)]))
    (row,) = archive.missing().itertuples()
    assert (row.alloc_id, row.reason) == ("a", "more events came between two observations than Nomad keeps")
    assert row.since == moment(5)


def test_a_stopped_recorder_is_named_as_the_reason(tmp_path: Path, archive: af.Archive) -> None:
    (tmp_path / "pages").mkdir()
    events = history(40)
    versions = Versions(tmp_path / "pages", {("a", cut): {"events": ring(events, cut)} for cut in (8, 40)})
    archive.append(versions.seen(8, added=[("a", 8)]))
    archive.append(
        versions.seen(40, changed=[("a", 40)], gap=Gap(moment(8), moment(40), "the recorder was stopped"))
    )
    assert reason(archive) == "nobody watched: the recorder was stopped"
    assert archive.snapshot().info["gaps"] == [
        {
            "since": moment(8).isoformat(),
            "until": moment(40).isoformat(),
            "reason": "the recorder was stopped",
        }
    ]


def test_a_node_that_begins_a_new_ring_may_have_dropped_what_came_before(
    tmp_path: Path, archive: af.Archive
) -> None:
    (tmp_path / "pages").mkdir()
    first, second = history(5), [event("Received", 60, details_of=60), event("Started", 61, details_of=61)]
    versions = Versions(tmp_path / "pages", {("a", 5): {"events": first}, ("a", 62): {"events": second}})
    archive.append(versions.seen(5, added=[("a", 5)]))
    archive.append(versions.seen(62, changed=[("a", 62)]))
    assert told(archive, "a") == sent(first + second)
    assert reason(archive) == "its node began a new list of events"


def test_events_of_equal_time_and_type_are_each_kept(tmp_path: Path, archive: af.Archive) -> None:
    same = [event("Driver", 1), event("Driver", 1), event("Driver", 1, details_of="x")]
    events = [event("Received", 0), *same, event("Started", 1)]
    observed(tmp_path, archive, events, 3, 4, 5)
    observed_again = archive.events()
    assert observed_again["type"].tolist() == ["Received", "Driver", "Driver", "Driver", "Started"]
    assert complete(archive)


def test_a_clock_that_is_set_back_does_not_change_the_order(tmp_path: Path, archive: af.Archive) -> None:
    kinds = [
        ("Received", 100),
        ("Started", 101),
        ("Terminated", 40),
        ("Restarting", 41),
        ("Started", 42),
        ("Terminated", 90),
    ]
    events = [event(kind, at, details_of=n) for n, (kind, at) in enumerate(kinds)]
    observed(tmp_path, archive, events, 2, 4, 6)
    assert told(archive, "a") == sent(events)
    assert complete(archive)


def test_an_index_that_went_back_takes_nothing_from_a_history(tmp_path: Path, archive: af.Archive) -> None:
    (tmp_path / "pages").mkdir()
    events = history(12)
    versions = Versions(
        tmp_path / "pages", {("a", 50): {"events": events[:6]}, ("a", 7): {"events": ring(events, 12)}}
    )
    archive.append(versions.seen(6, added=[("a", 50)]))
    archive.append(versions.seen(12, changed=[("a", 7)], before=[("a", 50)]))
    assert sorted(archive.events()["details"]) == sorted(sent(events))
    assert complete(archive)


def test_a_restart_counter_that_tells_of_more_is_believed(tmp_path: Path, archive: af.Archive) -> None:
    observed(tmp_path, archive, history(5), 5, restarts=7)
    assert reason(archive) == "its restart counter is higher than the restarts seen"


def test_an_allocation_that_went_while_it_ran_has_no_known_end(tmp_path: Path, archive: af.Archive) -> None:
    versions = observed(tmp_path, archive, history(5), 5)
    archive.append(versions.seen(9, removed=[("a", 5)]))
    (row,) = archive.coverage().dropna(subset="alloc_id").itertuples()
    assert (row.complete, row.reason) == (False, "it was gone before its end was seen")
    assert (row.missing_since, row.missing_until) == (moment(5), moment(9))


def test_what_retention_removed_is_not_called_complete(tmp_path: Path, archive: af.Archive) -> None:
    day = 86_400
    events = history(30)
    (tmp_path / "pages").mkdir()
    versions = Versions(
        tmp_path / "pages", {("a", cut): {"events": ring(events, cut)} for cut in (9, 18, 27, 30)}
    )
    for n, cut in enumerate((9, 18, 27)):
        archive.append(versions.seen(n * day, added=[("a", cut)]))
    assert complete(archive)
    archive.append(versions.seen(3 * day, changed=[("a", 30)], before=[("a", 27)]))
    archive.retain(1)
    assert told(archive, "a") == sent(events[-10:])
    assert reason(archive) == "removed by retention"


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[tuple[float, str]], list[int], int]:
    """Return a history (times and types), after how many events it was seen, and where rings began."""
    length = draw(st.integers(1, 45))
    steps = draw(st.lists(st.sampled_from([0, 0, 1, 1, 1, 2, -30]), min_size=length, max_size=length))
    kinds = draw(
        st.lists(st.sampled_from(["Started", "Terminated", "Driver"]), min_size=length, max_size=length)
    )
    times = [1000 + sum(steps[: n + 1]) for n in range(length)]
    anew = draw(st.one_of(st.just(0), st.just(0), st.integers(0, length - 1)))
    names = ["Received" if n in (0, anew) else kind for n, kind in enumerate(kinds)]
    cuts = draw(st.lists(st.integers(1, length), min_size=1, max_size=7, unique=True))
    return list(zip(times, names, strict=True)), cuts, anew


def window(cut: int, anew: int) -> range:
    """Return which events the ring holds after `cut` of them; a new ring begins with the event `anew`."""
    return range(max(anew if cut > anew else 0, cut - RING), cut)


@settings(
    max_examples=3, derandomize=True, database=None, suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)  # fmt: skip
@given(st.lists(lives(), min_size=20, max_size=20), st.data())
def test_whatever_way_histories_are_seen_the_archive_is_their_union(
    tasks: list[Any], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "pages").mkdir()
        histories = [
            [event(kind, at, details_of=n) for n, (at, kind) in enumerate(life)] for life, _, _ in tasks
        ]
        versions = Versions(
            folder / "pages",
            {
                (f"t{n}", cut): {"events": [histories[n][i] for i in window(cut, anew)], "restarts": 0}
                for n, (_, cuts, anew) in enumerate(tasks)
                for cut in cuts
            },
        )
        recorders = [af.Archive(folder / "archive"), af.Archive(folder / "archive")]
        for batch in _watched(tasks, versions, data):
            data.draw(st.sampled_from(recorders)).append(data.draw(st.permutations(batch)))
        if data.draw(st.booleans()):
            recorders[0].compact()
        _hold(recorders[1], tasks, histories)
        recorders[1].compact()
        _hold(recorders[0], tasks, histories)


def _watched(tasks: list[Any], versions: Versions, data: st.DataObject) -> list[list[Any]]:
    """Return batches of changes as two watches saw them: the second perhaps only some, some batches twice."""
    changes = []
    for _ in range(2 if data.draw(st.booleans()) else 1):
        had: list[tuple[str, int]] = []
        for step in range(max(len(cuts) for _, cuts, _ in tasks)):
            now = [(f"t{n}", sorted(cuts)[step]) for n, (_, cuts, _) in enumerate(tasks) if step < len(cuts)]
            changes.append(versions.seen(2000 + step, changed=now, before=had))
            starts_anew = data.draw(st.integers(0, 4)) == 0
            had = [] if starts_anew else [one for one in had if one[0] not in dict(now)] + now
    size = data.draw(st.integers(1, len(changes)))
    batches = [changes[n : n + size] for n in range(0, len(changes), size)]
    return batches + [batch for batch in batches if data.draw(st.booleans())]


def _hold(archive: af.Archive, tasks: list[Any], histories: list[Any]) -> None:
    events = archive.events()
    coverage = archive.coverage().set_index("alloc_id")
    truncated = archive.snapshot().task_states.set_index("alloc_id")["events_truncated"]
    for n, (_, cuts, anew) in enumerate(tasks):
        mine = events[(events["alloc_id"] == f"t{n}").to_numpy()]
        seen = sorted({i for cut in cuts for i in window(cut, anew)})
        assert mine["details"].tolist() == sent([histories[n][i] for i in seen])
        assert mine["seq"].tolist() == list(range(len(seen)))
        together = {(i - 1, i) for cut in cuts for i in window(cut, anew) if i - 1 in window(cut, anew)}
        began = (
            0 if min(cuts) <= anew else anew
        )  # of a ring that nobody saw before it was begun anew nothing can be known
        whole = all((i - 1, i) in together for i in range(began + 1, max(cuts))) and seen[0] == began
        assert bool(coverage.loc[f"t{n}", "complete"]) == whole, (cuts, anew)
        assert bool(truncated[f"t{n}"]) == (not whole)
