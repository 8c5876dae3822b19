"""Reports from an archive include removed allocations, trends, and what nobody watched."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from archived import LAST, recorded, watched
from commands import run

import allocframe as af
from allocframe.reports.archive_source import similar_incidents
from allocframe.watch.change import Change

LEAK = (76, 50)
"""Hours before the end: 2026-11-21 06:30 to 2026-11-22 08:30."""

BLIND = (60, 52)
"""2026-11-21 22:30 to 2026-11-22 06:30."""

WINDOW = {"since": "2026-11-21T06:00", "until": "2026-11-22T12:00"}


@pytest.fixture(scope="module")
def changes(tmp_path_factory: pytest.TempPathFactory) -> list[Change]:
    return watched(tmp_path_factory.mktemp("watched"), days=6, leak=LEAK, blind=BLIND)


@pytest.fixture(scope="module")
def archive(changes: list[Change], tmp_path_factory: pytest.TempPathFactory) -> af.Archive:
    return recorded(tmp_path_factory.mktemp("archived"), changes)


@pytest.fixture(scope="module")
def pages(archive: af.Archive, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    postmortem = af.report(archive, "postmortem", output=folder / "p.html", **WINDOW)
    cluster = af.report(archive, "cluster", output=folder / "c.html", days=3)
    return {"postmortem": postmortem, "cluster": cluster}


def text(page: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.read_text()))


def test_a_postmortem_includes_allocations_that_were_removed(
    archive: af.Archive, pages: dict[str, Path]
) -> None:
    removed = archive.allocations()
    removed = removed[
        removed["gone_at"].notna()
        & (removed["job_id"] == "checkout").to_numpy()
        & (removed["job_version"] == 1)
    ]
    assert len(removed) == 6
    kills = archive.events(oom_killed=True, until=WINDOW["until"])
    report_text = text(pages["postmortem"])
    told = re.search(
        r"checkout version 1 runs out of memory\. At least (\d+) failures in 6 instances", report_text
    )
    assert told is not None
    # The counter knows of kills whose events nobody saw.
    assert len(kills) <= int(told[1]) <= len(kills) + 10
    assert len(kills) > 6 * 3
    assert "removed by Nomad" not in report_text, "the archive still has them"


def test_a_postmortem_says_if_nobody_watched_during_part_of_its_window(
    pages: dict[str, Path],
) -> None:
    report_text = text(pages["postmortem"])
    assert (
        "Nobody watched from 2026-11-21 22:30 to 2026-11-22 06:30 UTC, 8.0 h in all. "
        "Allocations that came and went" in report_text
    )
    assert "the disk &lt;b&gt;was&lt;/b&gt; full" in report_text
    assert pages["postmortem"].read_text().count("<img ") == 1


def test_a_report_from_an_archive_holds_no_place_of_this_machine(
    archive: af.Archive, pages: dict[str, Path]
) -> None:
    for page in pages.values():
        assert str(archive._tables.folder) not in page.read_text()
        assert str(page.parent) not in page.read_text()


def test_a_later_recording_does_not_change_the_postmortem_of_an_earlier_time(
    changes: list[Change], pages: dict[str, Path], tmp_path: Path
) -> None:
    """The command, on an archive that ends 40 hours earlier, gives the same file."""
    earlier = [change for change in changes if change.at <= LAST - pd.Timedelta("40h")]
    shorter = recorded(tmp_path, earlier)
    window = ["--since", WINDOW["since"], "--until", WINDOW["until"]]
    command = ["report", "postmortem", "-o", "p.html", "--archive", shorter._tables.folder, *window]
    done = run(*command, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "written to p.html\n"), done.stderr
    assert (tmp_path / "p.html").read_bytes() == pages["postmortem"].read_bytes()


def test_a_report_on_the_cluster_has_trends_and_says_which_days_are_incomplete(
    pages: dict[str, Path],
) -> None:
    report_text = text(pages["cluster"])
    assert "From 2026-11-21 10:30 to 2026-11-24 10:30 UTC" in report_text
    assert "In the period before there were " in report_text
    assert "worst jobs" in report_text
    assert re.search(r"Sat 2026-11-21 .{0,80}1\.5 h unwatched", report_text)
    assert re.search(r"Sun 2026-11-22 .{0,80}6\.5 h unwatched", report_text)
    assert "not over" in report_text
    assert pages["cluster"].read_text().count("<img ") == 4


def test_without_an_archive_the_trends_say_how_to_get_one(report_on: Callable[[str, str], Path]) -> None:
    assert "Trends need an archive. Record one with allocframe record --archive DIR" in text(
        report_on("mixed", "cluster")
    )


def test_a_redacted_report_from_an_archive_keeps_the_gaps_and_no_name(
    archive: af.Archive, tmp_path: Path
) -> None:
    page = af.report(archive, "cluster", output=tmp_path / "r.md", days=3, redact=True)
    report_text = page.read_text()
    for name in ("checkout", "payments", "node-001", "was</b>", "10.1.2.3"):
        assert name not in report_text
    assert "Nobody watched from 2026-11-21 22:30 to 2026-11-22 06:30 UTC: allocations" in report_text
    assert "In the period before there were " in report_text


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("postmortem", {}, "needs since, such as"),
        ("postmortem", {"since": "2026-11-30"},
         r"must be before until, got .* the snapshot covers .* to 2026-11-24 10:30"),
        ("postmortem", {"since": "2026-11-01", "until": "2026-11-02"},
         "has no observation before .* It begins at 2026-11-18T10:30"),
        ("postmortem", {"since": "2026-11-21T23:00:10", "until": "2026-11-21T23:00:11"},
         r"there is no task event .*\. Nobody watched from 2026-11-21 23:00"),
        ("postmortem", {"since": "2026-11-21", "days": 3}, "days is for a cluster report from an archive"),
        ("cluster", {"since": "2026-11-21"}, "leave out since and until"),
        ("cluster", {"days": 0}, "days must be a whole number from 1"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_used_are_errors_that_say_why(
    archive: af.Archive, tmp_path: Path, kind: str, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(af.ConfigError, match=message):
        af.report(archive, kind, output=tmp_path / "a.html", **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_an_archive_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        af.ConfigError, match=r"there is no archive in .*none.*; allocframe record --archive DIR makes one"
    ):
        af.report(af.Archive(tmp_path / "none"), "cluster", output=tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []


def test_days_and_changes_of_rate_are_those_of_the_events(archive: af.Archive) -> None:
    with archive.snapshot(since="2026-11-19") as snap:
        days = af.stats.daily(snap).set_index("day")
        events = af.stats.explain_events(snap)
        change = af.stats.compare_periods(snap, by="job_id", period="3D").set_index("job_id")
    failed = events[events["failure"].astype(bool)]
    for day, row in days.iterrows():
        assert row["failures"] == (failed["time"].dt.floor("D") == day).sum()
    assert days.index[0] == pd.Timestamp("2026-11-19", tz="UTC")
    late, begin = failed[failed["time"] >= LAST - pd.Timedelta("3D")], LAST - pd.Timedelta("6D")
    mine = (late["job_id"] == "checkout").sum()
    assert change.loc["checkout", "failures"] == mine > 0
    before = failed[(failed["time"] < LAST - pd.Timedelta("3D")) & (failed["time"] >= begin)]
    assert change.loc["checkout", "failures_before"] == (before["job_id"] == "checkout").sum()
    full = days.loc["2026-11-19":"2026-11-20"]  # type: ignore[misc]
    assert full["complete"].all()
    assert (full["watched"] == 1).all()
    assert days.loc["2026-11-22", "watched"].item() == pytest.approx(1 - 6.5 / 24)
    assert days.loc["2026-11-22", "lacks"].startswith("6.5 h unwatched")


def test_of_a_live_snapshot_no_day_is_complete(snap: af.Snapshot) -> None:
    days = af.stats.daily(snap)
    assert not days["complete"].any()
    assert set(days["lacks"]) == {"no archive: Nomad has forgotten older events"}
    assert days["watched"].isna().all()


def test_a_postmortem_knows_similar_incidents_of_earlier_days(archive: af.Archive) -> None:
    """A later failure of the job that leaked for a day is not the first one."""
    with archive.snapshot(since="2026-11-21T06:00") as snap:
        leak = next(
            each
            for each in af.diagnose(snap).incidents
            if ("default", "checkout") in each.jobs and each.cause.mechanism == "out of memory"
        )
    later = replace(leak, alloc_ids=[], began_at=LAST, last_at=LAST)
    [first, *_] = similar_incidents(archive, [later], LAST)
    assert first["title"] == leak.title
    assert "job" in first["alike"]
    assert abs(first["at"] - leak.began_at) < pd.Timedelta("1h")
    assert similar_incidents(archive, [leak], leak.began_at - pd.Timedelta("300D")) == []
