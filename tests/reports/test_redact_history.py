"""What had changed, in redacted evidence: the same changes, and no name or value of the cluster."""

from __future__ import annotations

import json
import re
from pathlib import Path

import changed
import pytest

import allocframe as af
from allocframe.reports.redact import redacted
from allocframe.reports.redact_history import redact_path
from allocframe.tables import HISTORY


@pytest.fixture(scope="module", params=changed.VERSIONS)
def snap(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> af.Snapshot:
    """Recovered from the log of a real agent, with every value of its jobs."""
    file = tmp_path_factory.mktemp("log") / "logs.ndjson"
    file.write_bytes(changed.read(request.param, "raft-logs.ndjson"))
    return af.recover(file, values=True)


def words_of(snap: af.Snapshot) -> set[str]:
    """Return the names and values of the cluster that a redacted history must not hold."""
    assert snap.history is not None
    names: set[str] = set()
    for table in HISTORY:
        frame = getattr(snap.history, table)
        for column in ("job_id", "parent_job_id", "node_id", "node_name", "task_group", "task", "alloc_id",
                       "deployment_id", "eval_id", "previous_eval_id", "next_eval_id"):  # fmt: skip
            if column in frame:
                names |= set(frame[column].dropna().astype("str"))
    fields = snap.history.job_changes
    for path in fields["path"]:
        names |= set(re.findall(r"\[([^\]]+)\]", path))
    for values in (fields["old"], fields["new"]):
        names |= {value for value in values.dropna() if not re.fullmatch(r"-?\d+|true|false", value)}
    return {name for name in names if len(name) > 2}


def test_a_redacted_history_has_the_same_changes_and_no_word_of_the_cluster(
    snap: af.Snapshot, tmp_path: Path
) -> None:
    plain = af.load(redacted(snap, tmp_path / "plain.allocframe"))
    before, after = snap.history, plain.history
    assert before is not None
    assert after is not None
    words = words_of(snap)
    assert len(words) > 30
    for table in HISTORY:
        frame = getattr(after, table)
        assert len(frame) == len(getattr(before, table)), table
        text = frame.to_csv()
        assert [word for word in words if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text)] == []
    for column in ("kind", "at", "version_before", "version_after", "source"):
        assert after.changes[column].equals(before.changes[column]), column
    assert after.job_versions["version"].equals(before.job_versions["version"])
    for table, column in (
        ("changes", "job_id"),
        ("job_changes", "path"),
        ("nodes", "node_id"),
        ("evaluations", "eval_id"),
    ):
        assert getattr(after, table)[column].nunique() == getattr(before, table)[column].nunique()
    jobs = dict(zip(snap.allocations["alloc_id"], snap.allocations["job_id"], strict=True))
    assert len(set(jobs.values())) == plain.allocations["job_id"].nunique()
    assert set(plain.allocations["job_id"]) & set(after.job_versions["job_id"]), "the same name in both"


def test_amounts_of_nomads_own_fields_stay_and_values_that_the_author_chose_do_not(
    snap: af.Snapshot, tmp_path: Path
) -> None:
    after = af.load(redacted(snap, tmp_path / "plain.allocframe")).history
    assert after is not None
    assert snap.history is not None
    pairs = list(zip(snap.history.job_changes.itertuples(), after.job_changes.itertuples(), strict=True))
    amounts = [(old, new) for old, new in pairs if old.path in ("Resources.MemoryMB", "Count", "Stop")]
    assert amounts
    assert all((old.path, old.old, old.new) == (new.path, new.old, new.new) for old, new in amounts)
    chosen = [(old, new) for old, new in pairs if old.path.startswith(("Env[", "Meta[", "Config"))]
    assert chosen
    for old, new in chosen:
        assert old.path != new.path
        for one, other in ((old.old, new.old), (old.new, new.new)):
            assert one != other or one is None or one != one
    details = [json.loads(text) for text in after.changes["detail"].dropna()]
    assert any("fields" in detail for detail in details)


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("Resources.MemoryMB", "Resources.MemoryMB"),
        ("Env[DB_HOST]", "Env[key]"),
        ("Config.image", "Config.key"),
        ("Config.mount[0].source.x", "Config.key"),
        ("Templates[2].Custom", "Templates[key].field"),
        ("secret", "field"),
        ("Env[a]b]", "field"),
        ("[odd", "field"),
        ("", ""),
    ],
)
def test_of_a_path_only_nomads_own_words_stay(path: str, kept: str) -> None:
    assert redact_path(path, lambda kind, name: kind) == kept


def test_a_redacted_report_tells_what_changed_without_names(snap: af.Snapshot, tmp_path: Path) -> None:
    if snap.history is None or "2.0.5" not in set(snap.history.nodes["nomad_version"]):
        pytest.skip("one version is enough")
    page = af.report(snap, output=tmp_path / "a.md", job="checkout", redact=True).read_text()
    assert "Job versions are left out" not in page
    assert re.search(r"version \d+ was submitted; it changes", page)
    found = [word for word in words_of(snap) if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", page)]
    # What is left are words of any report.
    assert set(found) <= {"app", "one", "report", "running", "server", "true"}
