"""An archive in Spark: the same tables and statistics as in pandas and DuckDB, with a real Delta Lake."""

from __future__ import annotations

import doctest
import os
import runpy
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from archived import LAST, recorded, watched
from tables import as_duckdb, as_frames, plain

import allocframe as af
from allocframe import stats
from allocframe.archive import schema
from allocframe.archive.delta import DeltaTables
from allocframe.stats import _source
from allocframe.stats._derived import derive, share_derived
from allocframe.watch.change import Change

ROOT = Path(__file__).parent.parent
LONG_AGO = "2000-01-01"

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # py4j leaves its sockets to the garbage collector
]


@pytest.fixture(scope="module")
def session() -> Iterator[Any]:
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java: apt-get install default-jre-headless (`make test` does so as root)")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        made = _started()
    yield made
    made.stop()


def _started() -> Any:
    """Start Spark in this process, with little of everything: the tables are small."""
    from delta import configure_spark_with_delta_pip
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkRuntimeError
    from pyspark.sql import SparkSession

    settings = {
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.driver.host": "127.0.0.1",
        # Java's full compiler pays off only after minutes, and its checks of Spark's classes take seconds.
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xms1g -Xmn600m "
        "-XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "America/New_York",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.jars.ivy": str(ROOT / "build" / "ivy"),
    }
    builder = SparkSession.builder.master("local[1]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    try:
        made = configure_spark_with_delta_pip(builder).getOrCreate()
    except (PySparkRuntimeError, Py4JError) as error:
        pytest.skip(f"Spark does not start, perhaps because its Delta Lake cannot be fetched: {error}")
    made.sparkContext.setLogLevel("ERROR")
    return made


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, change: Change) -> af.Archive:
    """Two days with more events than Nomad keeps, removed allocations, a gap, and duplicate rows."""
    folder = tmp_path_factory.mktemp("spark")
    made = recorded(folder, watched(folder, days=2, leak=(40, 20), blind=(30, 26)))
    made.append(change, recorder="one")
    made.append(change, recorder="two")
    gone = change.added[change.added["client_status"] == "running"].iloc[:3]
    none = {
        name: getattr(change, name).iloc[:0]
        for name in ("added", "task_states", "events", "reschedules", "new_events")
    }
    later = change.at + pd.Timedelta("1h")
    last = Change(at=later, index=None, source="list", full=True, changed=none["added"], removed=gone, **none)
    made.append(last, recorder="one")
    _append_in_vain(made, change)
    return made


def _append_in_vain(archive: af.Archive, change: Change) -> None:
    """Leave rows of an append that was cut off before it counted."""
    write = DeltaTables.append

    def cut_off(self: DeltaTables, name: str, *rest: Any) -> None:
        if name == "snapshots":
            raise OSError("no space left on device")
        write(self, name, *rest)

    never = change.added.assign(alloc_id="never", modify_index=10**9)
    events = change.events.assign(alloc_id="never")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeltaTables, "append", cut_off)
        with pytest.raises(OSError, match="no space"):
            archive.append(
                replace(
                    change,
                    index=None,
                    full=False,
                    added=never,
                    task_states=change.task_states.assign(alloc_id="never"),
                    events=events,
                    reschedules=change.reschedules.iloc[:0],
                    new_events=events,
                    gap=None,
                )
            )


@pytest.fixture(scope="module")
def seen(archive: af.Archive) -> Iterator[af.Snapshot]:
    with archive.snapshot(since=LONG_AGO) as made:
        yield made


@pytest.fixture(scope="module")
def tables(session: Any, archive: af.Archive) -> dict[str, Any]:
    found = af.spark.tables(session, archive._tables.location)
    # Not cache(): it keeps the plan of the rows, which Spark analyses again for every column of a statistic.
    return {name: frame.localCheckpoint() for name, frame in found.items()}


@pytest.fixture(scope="module", autouse=True)
def _derived_once() -> Iterator[None]:
    """Let all tests share what statistics derive from these tables, as a statistic that calls others does."""
    with share_derived():
        yield


@pytest.fixture(scope="module", autouse=True)
def _computed_in_spark() -> Iterator[None]:
    """Let Spark compute on these tables, although they are small."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_source, "FETCHED_ROWS", 0)
        yield


@pytest.fixture(scope="module")
def frames(seen: af.Snapshot) -> dict[str, pd.DataFrame]:
    return as_frames(seen)


@pytest.fixture(scope="module")
def relations(seen: af.Snapshot) -> dict[str, Any]:
    return as_duckdb(seen)


def _told(frame: Any) -> pd.DataFrame:
    """Return a Spark DataFrame's rows with times and durations as whole microseconds, whatever they were."""
    return _whole(frame.toArrow().to_pandas())


def _whole(frame: pd.DataFrame) -> pd.DataFrame:
    found = frame.copy()
    for name in found:
        if isinstance(found[name].dtype, pd.DatetimeTZDtype) or found[name].dtype.kind == "M":
            times = found[name].dt.tz_localize(None) if found[name].dt.tz is not None else found[name]
            found[name] = times.astype("datetime64[ns]").dt.floor("us").astype("str")
        elif found[name].dtype.kind == "m":
            found[name] = found[name].astype("int64").where(found[name].notna())
    return found


@pytest.mark.parametrize("table", ["events", "task_states"])
def test_the_tables_are_those_of_the_archive_with_all_it_ever_saw(
    tables: dict[str, Any], seen: af.Snapshot, table: str
) -> None:
    there, here = _told(tables[table]), _whole(getattr(seen, table))
    columns = list(there.columns)
    key = getattr(seen, table).attrs["key"]
    assert set(here.columns) - set(columns) <= {"event_count", "events_truncated"}
    assert len(here) > {"events": 100, "task_states": 20}[table]
    assert plain(there, *key) == plain(here[columns], *key)


def test_allocations_are_as_they_were_last_seen_and_since_when_they_are_gone(
    tables: dict[str, Any], archive: af.Archive
) -> None:
    there, here = _told(tables["allocations"]), _whole(archive.allocations())
    assert list(there.columns) == list(here.columns)
    assert (here["gone_at"].notna()).sum() >= 3
    assert plain(there, "alloc_id") == plain(here, "alloc_id")


def test_what_an_append_left_that_was_cut_off_does_not_count(tables: dict[str, Any]) -> None:
    for frame in tables.values():
        assert frame.filter("alloc_id = 'never'").count() == 0


@pytest.mark.parametrize(
    ("rate", "by"),
    [
        (stats.failures, ["node_name", "cause"]),
        pytest.param(stats.restarts, "job_id", marks=pytest.mark.deep),
        pytest.param(stats.oom_kills, [], marks=pytest.mark.deep),
    ],
    ids=["failures", "restarts", "oom_kills"],
)
def test_spark_duckdb_and_pandas_give_equal_rates(
    tables: dict[str, Any],
    relations: dict[str, Any],
    frames: dict[str, pd.DataFrame],
    rate: Any,
    by: Any,
) -> None:
    here, duck, there = (rate(source, by=by) for source in (frames, relations, tables))
    assert here["count"].sum() > 0
    assert plain(there) == plain(here)
    assert plain(duck) == plain(here)


@pytest.mark.deep
def test_spark_cuts_time_into_the_same_bins(tables: dict[str, Any], frames: dict[str, pd.DataFrame]) -> None:
    asked = {"by": "job_id", "bin": "6h", "since": LAST - pd.Timedelta("2D"), "until": LAST}
    here, there = (
        stats.restarts(frames, **asked),
        stats.restarts(tables, **asked),
    )
    assert here["bin"].nunique() == 9
    assert plain(there) == plain(here)


@pytest.mark.deep
def test_spark_keeps_clusters_apart(tables: dict[str, Any], frames: dict[str, pd.DataFrame]) -> None:
    from pyspark.sql.functions import lit

    events = tables["events"]
    both = events.withColumn("cluster", lit("eu")).unionAll(events.withColumn("cluster", lit("us")))
    found = stats.failures(both.localCheckpoint(), by=["cluster", "job_id"])
    alone = stats.failures(frames["events"], by="job_id").set_index("job_id")["count"]
    assert alone.sum() > 0
    for name in ("eu", "us"):
        mine = found[found["cluster"] == name].set_index("job_id")["count"]
        assert mine.sort_index().to_dict() == alone.sort_index().to_dict()


def test_spark_explains_events_alike(tables: dict[str, Any], seen: af.Snapshot) -> None:
    columns = ["alloc_id", "task", "seq", "attempt", "exit_meaning", "oom", "failure", "decision", "cause"]
    there = stats.explain_events(tables["events"]).select(*columns).toArrow().to_pandas()
    here = stats.explain_events(seen)[columns]
    assert plain(there, "alloc_id", "task", "seq") == plain(here, "alloc_id", "task", "seq")


@pytest.mark.deep
def test_a_statistic_that_is_not_made_for_spark_fetches_the_tables_that_it_needs(
    tables: dict[str, Any], frames: dict[str, pd.DataFrame]
) -> None:
    here = stats.crash_loops(frames)
    there = stats.crash_loops(tables)
    columns = ["job_id", "task", "crashes"]
    assert len(here) > 0
    assert plain(there[columns], "job_id", "task") == plain(here[columns], "job_id", "task")


def test_small_tables_are_fetched_and_give_the_same(
    tables: dict[str, Any], frames: dict[str, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_source, "FETCHED_ROWS", len(frames["events"]))
    small = dict(tables)
    assert derive(small).eager
    for rate in (stats.restarts, stats.failures):
        assert plain(rate(small, by=["job_id", "node_name"])) == plain(
            rate(frames, by=["job_id", "node_name"])
        )


@pytest.fixture
def _already_read(
    session: Any, archive: af.Archive, tables: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let `af.spark.tables` return what was read before: Spark would plan it all anew for each result."""

    def read(given: Any, path: str) -> dict[str, Any]:
        assert (given, path) == (session, archive._tables.location)
        return tables

    monkeypatch.setattr(af.spark, "tables", read)
    # Spark no longer finds the columns of a checkpoint that is cached, too.
    monkeypatch.setattr(type(tables["events"]), "cache", lambda frame: frame)


@pytest.mark.usefixtures("_already_read")
def test_the_job_of_the_documents_writes_the_restarts_of_each_job_and_day_that_pandas_counts(
    session: Any,
    archive: af.Archive,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    frames: dict[str, pd.DataFrame],
) -> None:
    monkeypatch.setattr("sys.argv", ["restarts_by_day.py", archive._tables.location, str(tmp_path / "out")])
    monkeypatch.setattr(type(session), "stop", lambda self: None)
    runpy.run_path(str(ROOT / "docs" / "spark_job.py"), run_name="__main__")
    written = pd.read_parquet(tmp_path / "out")
    here = stats.restarts(frames, by=["namespace", "job_id"], bin="1D")
    assert written["count"].sum() == (frames["events"]["type"] == "Restarting").sum() > 0
    assert written["bin"].nunique() > 1
    assert list(written) == list(here)
    key = ("namespace", "job_id", "bin")
    assert plain(_whole(written), *key) == plain(_whole(here), *key)


@pytest.mark.deep
def test_the_example_in_the_docstring_runs(
    session: Any, archive: af.Archive, request: pytest.FixtureRequest
) -> None:
    given = {"af": af, "session": session, "folder": archive._tables.location}
    found = doctest.DocTestFinder().find(af.spark.tables, globs=given)
    request.getfixturevalue("_already_read")
    assert [doctest.DocTestRunner().run(one) for one in found] == [doctest.TestResults(0, 3)]


def test_a_folder_that_is_no_archive_is_an_error_that_names_it(session: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no archive in {tmp_path}"):
        af.spark.tables(session, os.fspath(tmp_path))


def test_runs_of_a_job_have_their_parent_also_in_an_archive_from_before_that_column(
    session: Any, tmp_path: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = schema.STORED["allocations"]
    columns = tuple(column for column in stored.table.columns if not column.derived)
    jobs = change.added["job_id"].astype("str").where(change.added.index > 0, "ocr/periodic-1700000000")
    with monkeypatch.context() as old:
        old.setitem(
            schema.STORED, "allocations", replace(stored, table=replace(stored.table, columns=columns))
        )
        af.Archive(tmp_path / "old").append(replace(change, added=change.added.assign(job_id=jobs)))
    found = af.spark.tables(session, tmp_path / "old")["allocations"].select("job_id", "parent_job_id", "run")
    runs = found.filter("parent_job_id IS NOT NULL").collect()
    assert [tuple(row) for row in runs] == [("ocr/periodic-1700000000", "ocr", "periodic-1700000000")]
