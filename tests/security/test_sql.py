"""SQL over tables: one SELECT that reaches no file, no variable and changes nothing."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

import allocframe as af
from allocframe.store import sql

READS = [
    "SELECT count(*) FROM events",
    "FROM allocations LIMIT 1",
    "WITH x AS (SELECT job_id FROM allocations) SELECT count(*) FROM x",
    "SELECT * FROM range(3)",
    "SELECT unnest([1, 2])",
    "SELECT (SELECT count(*) FROM Events) UNION ALL SELECT 1",
    "VALUES (1)",
    "DESCRIBE events",
    "SUMMARIZE task_states",
]
FILES = [
    "SELECT * FROM '{file}'",
    "SELECT * FROM read_text('{file}')",
    "SELECT * FROM read_csv('{file}')",
    "SELECT * FROM read_blob('/proc/self/environ')",
    "SELECT * FROM glob('/*')",
    "WITH x AS (SELECT * FROM read_text('{file}')) SELECT * FROM x",
    "SELECT (SELECT content FROM read_text('{file}'))",
    "SELECT * FROM events WHERE EXISTS (SELECT * FROM '{file}')",
    "SELECT * FROM (WITH \"{file}\" AS (SELECT 1) SELECT 1), '{file}'",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query_table('{file}')",
    "SELECT getenv('HOME')",
    "SELECT current_setting('temp_directory')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM variable_of_this_test",
]
CHANGES = [
    "EXPLAIN ANALYZE COPY events TO '{new}'",
    "COPY events TO '{new}'",
    "EXPLAIN ANALYZE DELETE FROM events",
    "DELETE FROM events",
    "WITH x AS (DELETE FROM events RETURNING *) SELECT * FROM x",
    "WITH x AS (INSERT INTO events SELECT * FROM events RETURNING *) SELECT * FROM x",
    "CREATE TABLE x AS SELECT 1",
    "ATTACH '{new}' AS other",
    "SET memory_limit = '1MB'",
    "PRAGMA database_list",
    "CALL enable_logging()",
    "INSTALL httpfs",
    "SELECT 1; SELECT 2",
    "",
]


@pytest.fixture(params=["snapshot", "archive"])
def source(
    request: pytest.FixtureRequest, snap: af.Snapshot, archive: af.Archive
) -> af.Snapshot | af.Archive:
    return snap if request.param == "snapshot" else archive


@pytest.mark.parametrize("query", READS)
def test_tables_can_be_read(source: af.Snapshot | af.Archive, query: str) -> None:
    assert len(source.sql(query))


@pytest.mark.parametrize("query", FILES)
def test_kind_sql_neither_files_nor_settings_are_reached(
    source: af.Snapshot | af.Archive, query: str, tmp_path: Path
) -> None:
    (file := tmp_path / "there.csv").write_text("a,b\n1,2\n")
    with pytest.raises((ValueError, duckdb.ParserException)):
        source.sql(query.format(file=file))


def test_kind_sql_nothing_is_changed(source: af.Snapshot | af.Archive, tmp_path: Path) -> None:
    before = source.sql("SELECT count(*) AS n FROM events")["n"].item()
    for query in CHANGES:
        with pytest.raises((ValueError, duckdb.ParserException)):
            source.sql(query.format(new=tmp_path / "new.csv"))
        assert not (tmp_path / "new.csv").exists(), query
    assert source.sql("SELECT count(*) AS n FROM events")["n"].item() == before > 0


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('{file}')",
        "FROM '{file}'",
        "FROM glob('/*')",
        "SELECT * FROM read_blob('{file}')",
    ],
)
def test_kind_sql_the_database_itself_reaches_no_file_if_the_check_of_queries_is_deceived(
    source: af.Snapshot | af.Archive, query: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file := tmp_path / "there.csv").write_text("a,b\n1,2\n")
    monkeypatch.setattr("allocframe.store.sql._check_select", sql._only_select)
    with pytest.raises(duckdb.Error):
        source.sql(query.format(file=file))


def test_kind_sql_no_setting_can_be_changed_if_the_check_of_queries_is_deceived() -> None:
    with duckdb.connect() as connection:
        sql.lock_files(connection)
        for statement in ("SET enable_external_access = true", "SET memory_limit = '90%'", "RESET threads",
                          "SET allowed_directories = ['/']", "SET lock_configuration = false"):  # fmt: skip
            with pytest.raises(duckdb.InvalidInputException, match="configuration"):
                connection.execute(statement)


def test_kind_sql_files_are_reached_if_they_are_allowed(
    source: af.Snapshot | af.Archive, tmp_path: Path
) -> None:
    (file := tmp_path / "owners.csv").write_text("job_id,team\ncheckout,shop\n")
    joined = f"SELECT team, count(*) AS n FROM allocations JOIN '{file}' USING (job_id) GROUP BY ALL"
    assert source.sql(joined, allow_files=True)["team"].tolist() == ["shop"]
    with pytest.raises(ValueError, match="one SELECT"):
        source.sql("DELETE FROM allocations", allow_files=True)
    with pytest.raises(ValueError, match="only the tables"):
        source.sql(joined)
