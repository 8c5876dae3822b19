"""Statistics and diagnosis read the events of a task each by itself: they see the same attempts."""

from __future__ import annotations

import narwhals as nw
import pandas as pd
import pytest
from recorded import INCIDENTS

import allocframe as af
from allocframe.diagnosis._attempts import ENDS, kind_of_text
from allocframe.diagnosis._failures import build_case
from allocframe.diagnosis._tables import moment
from allocframe.stats import vocabulary
from allocframe.stats._derived import derive

SAME = {
    "crash": ("failure",),
    "killed": ("failure",),
    "out of memory": ("out of memory",),
    "artifact": ("artifact",),
    "driver": ("driver",),
    "template": ("template failed",),
    "health check": ("health check",),
    "run duration": ("run duration",),
    "requested": ("operator", "template", "requested"),
    "forced": ("stopped", "template", "operator"),
    "stopped": ("stopped",),
    "completed": ("completed",),
    "sibling": ("sibling",),
    "cut": ("unknown",),
    "interrupted": (None,),
    "running": (None,),
}
"""For each end that a diagnosis tells, the causes that statistics may give."""


def seen_by_statistics(snap: af.Snapshot) -> pd.DataFrame:
    derived = derive(snap)
    attempts, tasks = (
        nw.from_native(rows.collect().to_native()).to_pandas() for rows in (derived.attempts, derived.tasks)
    )
    named = attempts.merge(tasks[[*derived.task_columns, "alloc_id", "task"]], on=derived.task_columns)
    cause = [None if pd.isna(code) else vocabulary.CAUSES[int(code)] for code in named["cause_code"]]
    started = pd.to_datetime(named["started_us"], unit="us", utc=True)
    named = named.assign(cause=cause, started=started).sort_values(["alloc_id", "task", "attempt"])
    return named[["alloc_id", "task", "started", "cause"]].reset_index(drop=True)


def seen_by_the_diagnosis(snap: af.Snapshot) -> pd.DataFrame:
    case = build_case(snap)
    rows, attempts = case.evidence, case.attempts
    table = pd.DataFrame(
        {
            "alloc_id": rows.allocations["alloc_id"].to_numpy()[attempts["alloc"]],
            "task": rows.tasks["task"].to_numpy()[attempts["owner"]],
            "started": [moment(time) for time in attempts["started"]],
            "end": [ENDS[end] for end in attempts["end"]],
        }
    )
    return table.sort_values(["alloc_id", "task"], kind="stable", ignore_index=True)


@pytest.mark.parametrize(
    "name",
    [
        "blind/nomad-2.0.5-many-teams", "blind/nomad-2.0.5-template-storm", "blind/nomad-2.0.5-prestart",
        "blind/nomad-2.0.5-alloc-stop-in-crash", "lab/nomad-1.3.1-badtemplate", "lab/nomad-2.0.5-healthcheck",
        "lab/nomad-1.3.1-badartifact", "lab/nomad-1.3.1-nobinary", "nomad-1.3.1-oom", "nomad-1.3.1-nodeloss",
    ],
)  # fmt: skip
def test_both_see_the_same_attempts_begin_and_end_in_the_same_way(name: str) -> None:
    with af.load(INCIDENTS / f"{name}.allocframe") as snap:
        ours, theirs = seen_by_the_diagnosis(snap), seen_by_statistics(snap)
    assert ours[["alloc_id", "task"]].astype(str).equals(theirs[["alloc_id", "task"]].astype(str))
    begun = ours["started"].notna()
    assert begun.equals(theirs["started"].notna())
    apart = (pd.to_datetime(ours["started"], utc=True) - theirs["started"])[begun].abs()
    assert not (apart > pd.Timedelta("1ms")).any()
    causes = [None if pd.isna(cause) else cause for cause in theirs["cause"]]
    pairs = set(zip(ours["end"], causes, strict=True))
    assert [pair for pair in pairs if pair[1] not in SAME[pair[0]]] == []


KINDS = {
    "volume": "volume",
    "template failed": "template",
    "secrets": "secrets",
    "plugin": "health check",
    "run duration": "run duration",
    "health check": "health check",
}


@pytest.mark.parametrize(
    "texts",
    [
        vocabulary.FAILED_START_TEXTS,
        vocabulary.KILLED_AS_FAILED,
        {vocabulary.RUN_DURATION: "run duration", vocabulary.HEALTH_CHECK: "health check"},
    ],
)
def test_both_read_the_same_cause_in_nomad_s_words(texts: dict[str, str]) -> None:
    read = {text: kind_of_text(text) for text in texts}
    assert read == {text: KINDS[cause] for text, cause in texts.items()}
