"""SQL that the tables share: the macros in their columns, and the views that they read from."""

from __future__ import annotations

MACROS = (
    # Nomad writes an empty text for a value that is missing.
    "CREATE MACRO given(t) AS nullif(t, '')",
    # DuckDB's own casts would turn '1.5' into 2 and '1' into true.
    """CREATE MACRO to_integer(t) AS CASE WHEN regexp_full_match(t, '-?[0-9]{1,18}')
       THEN CAST(t AS BIGINT) END""",
    "CREATE MACRO to_boolean(t) AS CASE t WHEN 'true' THEN true WHEN 'false' THEN false END",
    # Nomad writes 0 for a missing time. DuckDB reads the largest and smallest numbers as infinity.
    """CREATE MACRO at_ns(n) AS CASE WHEN n <> 0 AND n BETWEEN -9223372036854775806 AND 9223372036854775806
       THEN make_timestamp_ns(n) END""",
    # DuckDB reads nanoseconds exactly but ignores the UTC offset, so it is subtracted here.
    r"""CREATE MACRO offset_ns(t) AS CASE WHEN right(t, 1) IN ('Z', 'z') THEN 0 ELSE
       (CASE WHEN substr(t, -6, 1) = '-' THEN -60000000000 ELSE 60000000000 END)
       * (60 * TRY_CAST(substr(t, -5, 2) AS BIGINT) + TRY_CAST(substr(t, -2, 2) AS BIGINT)) END""",
    r"""CREATE MACRO rfc3339(t) AS CASE
       WHEN t IS NULL
         OR NOT regexp_full_match(t, '\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[-+]\d\d:\d\d)')
         THEN NULL
       WHEN right(t, 1) IN ('Z', 'z') THEN TRY_CAST(replace(t, 'z', 'Z') AS TIMESTAMP_NS)
       ELSE make_timestamp_ns(epoch_ns(TRY_CAST(substr(t, 1, length(t) - 6) AS TIMESTAMP_NS))
         - offset_ns(t)) END""",
    r"""CREATE MACRO go_part(t, unit) AS coalesce(
       TRY_CAST(regexp_extract(t, '(\d+(?:\.\d+)?)' || unit || '(?:\d|$)', 1) AS DECIMAL(38, 9)), 0)""",
    r"""CREATE MACRO go_duration(t) AS CASE
       WHEN regexp_full_match(t, '(\d+(\.\d+)?(h|m|s|ms|us|µs|ns))+') THEN
       TRY_CAST(go_part(t, 'h') * 3600000000000 + go_part(t, 'm') * 60000000000 + go_part(t, 's') * 1000000000
       + go_part(t, 'ms') * 1000000 + go_part(t, '(?:us|µs)') * 1000 + go_part(t, 'ns') AS BIGINT) END""",
)

# The table `pages` holds every record of every page. `listed` is the selected rows of `pages`: one per
# allocation, after `PageStore.drop_duplicates`. The other views unnest the lists and maps of `listed`.
VIEWS = {
    "listed": "SELECT *, rowid AS alloc_row FROM main.pages WHERE {condition}",
    "tasks": """SELECT alloc_row, ID, t.key AS task, t.value AS ts, Namespace, JobID,
          coalesce(JobVersion, Job.Version) AS job_version, TaskGroup, NodeName
        FROM (SELECT *, unnest(map_entries(TaskStates)) AS t FROM {s}.listed) WHERE t.value IS NOT NULL""",
    "task_events": """SELECT * EXCLUDE (ts)
        FROM (SELECT *, unnest(ts.Events) AS e, unnest(range(len(ts.Events))) AS seq FROM {s}.tasks)
        WHERE e IS NOT NULL""",
    "reschedule_events": """SELECT * FROM (SELECT alloc_row, ID, unnest(RescheduleTracker.Events) AS r,
        unnest(range(len(RescheduleTracker.Events))) AS seq FROM {s}.listed) WHERE r IS NOT NULL""",
    "task_resources": """
        SELECT alloc_row, ID, t.key AS task, t.value.Cpu.CpuShares AS cpu, t.value.Memory.MemoryMB AS memory,
          t.value.Memory.MemoryMaxMB AS memory_max, NULL::BIGINT AS disk,
          flatten(list_transform(coalesce(t.value.Networks, []),
            lambda n: list_concat(coalesce(n.ReservedPorts, []), coalesce(n.DynamicPorts, [])))) AS ports
        FROM (SELECT alloc_row, ID, unnest(map_entries(AllocatedResources.Tasks)) AS t FROM {s}.listed)
        UNION ALL
        SELECT alloc_row, ID, NULL, NULL, NULL, NULL, AllocatedResources.Shared.DiskMB,
          coalesce(AllocatedResources.Shared.Ports,
          flatten(list_transform(coalesce(AllocatedResources.Shared.Networks, []),
            lambda n: list_concat(coalesce(n.ReservedPorts, []), coalesce(n.DynamicPorts, [])))))
        FROM {s}.listed WHERE AllocatedResources IS NOT NULL""",
    "scored_nodes": """SELECT alloc_row, ID, Metrics AS m,
          unnest(CASE WHEN len(Metrics.ScoreMetaData) > 0 THEN Metrics.ScoreMetaData ELSE [NULL] END) AS s
        FROM {s}.listed WHERE Metrics IS NOT NULL""",
}
