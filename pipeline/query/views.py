"""SQL views of a data folder: history, memories, memories_at(moment), generations, dead_letters.

`memories` is the bank's fold in SQL, from the newest checkpoints on. `memories_at(moment)` is the fold of all decisions until
that moment. Both show a memory's importance decayed to their moment, `history` to the time of the decision.
docs/analytics.md explains the columns.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa

from pipeline.config import BankConfig
from pipeline.history import checkpoint, layout, log, storage
from pipeline.query.sandbox import file_pattern, quoted
from schemas.dead_letter import DEAD_LETTERS
from schemas.history import CHECKPOINT, GENERATIONS, HISTORY

HALF_LIFE_S = BankConfig().half_life_days * 86_400

_PARTITION = "CAST(regexp_extract(filename, 'partition=([0-9]+)', 1) AS INTEGER)"
_FIRST_VERSION = "CAST(regexp_extract(filename, '([0-9]+)(-[0-9]+)?[.]parquet$', 1) AS BIGINT)"

_DECISIONS = f"""
SELECT * EXCLUDE (priors, surprisals, vectors, filename, file_row_number),
    {_PARTITION} AS history_partition,  -- of the history; `partition` is that of the record that caused the decision
    {_FIRST_VERSION} * {log.MAX_ROWS} + file_row_number AS history_position  -- the order of decisions in a partition
FROM ({{files}})
"""


def decayed(importance: str, at: str) -> str:
    """SQL of the importance at a time, from the stored one: see pipeline/decide/importance.py."""
    return f"pow(2, {importance} - epoch({at}) / {HALF_LIFE_S})"


def removals(decisions: str) -> str:
    """SQL of the removals of memories in a table of decisions, each with its outcome."""
    return f"""
    SELECT history_partition, namespace, memory_id, outcome, history_position
    FROM {decisions} WHERE outcome IN ('evicted', 'forgotten', 'erased')
    UNION ALL
    SELECT history_partition, namespace, nearest, outcome, history_position
    FROM {decisions} WHERE outcome = 'superseded'"""


def _fold(at: str) -> str:
    """SQL of the memories after `kept` (from checkpoints) and `decided` (later decisions), with their importance at a time."""
    return f"""
learned AS (
    SELECT * FROM decided WHERE outcome IN ('learned', 'superseded')
), removed AS ({removals("decided")}
    UNION ALL  -- a memory that is learned again begins anew
    SELECT history_partition, namespace, memory_id, outcome, history_position FROM learned
), candidates AS (
    FROM kept
    UNION ALL
    SELECT history_partition, history_position, memory_id, namespace, text, category, source, fact_id, observed_at,
        decided_at, loss_delta, importance, 0, 0, NULL, encoder_id
    FROM learned
), live AS (
    SELECT * FROM candidates ANTI JOIN removed ON candidates.history_partition = removed.history_partition
        AND candidates.namespace = removed.namespace AND candidates.memory_id = removed.memory_id
        AND removed.history_position > candidates.history_position
), changed AS (
    SELECT live.history_partition, live.namespace, live.memory_id,
        count(*) FILTER (WHERE later.outcome = 'used') AS uses,
        count(*) FILTER (WHERE later.outcome = 'reinforced') AS reinforced,
        max(later.decided_at) FILTER (WHERE later.outcome = 'used') AS last_used_at,
        max(later.observed_at) FILTER (WHERE later.outcome = 'reinforced') AS observed_at,
        arg_max(later.importance, later.history_position) AS importance
    FROM live JOIN decided AS later ON later.history_partition = live.history_partition
        AND later.namespace = live.namespace AND later.memory_id = live.memory_id
        AND later.history_position > live.history_position
    WHERE later.outcome IN ('used', 'reinforced')
    GROUP BY ALL
)
SELECT live.memory_id, live.namespace, live.text, live.category, live.source, live.fact_id,
    greatest(live.observed_at, changed.observed_at) AS observed_at,  -- of the newest statement
    live.learned_at,
    live.loss_delta::FLOAT AS loss_delta,  -- when it was learned
    {decayed("coalesce(changed.importance, live.importance)", at)} AS importance,
    (live.uses + coalesce(changed.uses, 0))::BIGINT AS uses,
    (live.reinforced + coalesce(changed.reinforced, 0))::BIGINT AS reinforced,
    greatest(live.last_used_at, changed.last_used_at) AS last_used_at,
    live.encoder_id
FROM live LEFT JOIN changed USING (history_partition, namespace, memory_id)
"""


_HISTORY = f"""
CREATE VIEW history AS
SELECT * REPLACE ({decayed("importance", "decided_at")} AS importance) FROM ({{decisions}})
"""

_MEMORIES = f"""
CREATE VIEW memories AS
WITH decided AS (
    SELECT * FROM ({{decisions}})
    JOIN (VALUES {{since}}) AS since(history_partition, since) USING (history_partition)
    WHERE history_position >= since
), kept AS (
    SELECT {_PARTITION} AS history_partition, -1 AS history_position, memory_id, namespace, text, category, source, fact_id,
        observed_at, learned_at, loss_delta, importance, uses, reinforced, last_used_at, encoder_id
    FROM ({{checkpoints}})
), {_fold("now()")}
"""

_MEMORIES_AT = f"""
CREATE MACRO memories_at(moment) AS TABLE
WITH decided AS (
    SELECT * FROM ({{decisions}}) WHERE decided_at <= CAST(moment AS TIMESTAMPTZ)
), kept AS (  -- none: the moment may be before any checkpoint
    SELECT history_partition, history_position, memory_id, namespace, text, category, source, fact_id, observed_at,
        decided_at AS learned_at, loss_delta, importance, 0 AS uses, 0 AS reinforced,
        CAST(NULL AS TIMESTAMPTZ) AS last_used_at, encoder_id
    FROM decided WHERE false
), {_fold("CAST(moment AS TIMESTAMPTZ)")}
"""

# A record that Kafka delivers again is answered, or dead-lettered, again: only the first row counts. Records of two brokers
# may share an offset, so dead letters are compared by their bytes, too; by hashes, since all bytes may not fit in memory.
_GENERATIONS = """
CREATE VIEW generations AS SELECT * EXCLUDE (filename, file_row_number) FROM ({files})
QUALIFY row_number() OVER (PARTITION BY request_id, "partition", "offset" ORDER BY answered_at, filename) = 1
"""
_DEAD_LETTERS = """
CREATE VIEW dead_letters AS SELECT * EXCLUDE (filename, file_row_number) FROM ({files}) AS letters
SEMI JOIN (
    SELECT filename, file_row_number FROM (
        SELECT topic, "partition", "offset", md5(key) AS key, md5(value) AS value, time, filename, file_row_number
        FROM ({files}))
    QUALIFY row_number() OVER (PARTITION BY topic, "partition", "offset", key, value ORDER BY time, filename) = 1
) AS first USING (filename, file_row_number)
"""


class HistoryFiles(NamedTuple):
    """The files of all partitions' histories as they are now."""

    decisions: list[Path]
    later: list[Path]  # the files among them with decisions that no checkpoint has
    checkpoints: list[Path]
    since: dict[int, int]  # partition -> the first history_position that its checkpoint does not have


def history_files(data: Path) -> HistoryFiles:
    """Lists the files. Raises `HistoryError` where a history cannot be listed, or has a newer format."""
    found = HistoryFiles([], [], [], {})
    for partition in layout.partitions(data):
        if files := layout.live_files(data, partition):
            storage.check_format(files[-1].path)
            newest = checkpoint.newest(data, partition, files)
            if newest:
                found.checkpoints.append(newest.path)
            found.since[partition] = newest.position if newest else 0
            found.decisions.extend(file.path for file in files)
            found.later.extend(file.path for file in files if not newest or file.last > newest.version)
    return found


def create_views(connection: duckdb.DuckDBPyConnection, data: Path, files: HistoryFiles) -> None:
    """Creates the views of these files, and of the generations and dead letters that exist. Raises duckdb.Error."""
    source = partial(_source, connection)
    decisions = _DECISIONS.format(files=source("decisions", _patterns(files.decisions), HISTORY))
    later = _DECISIONS.format(files=source("later", _patterns(files.later), HISTORY))
    checkpoints = source("checkpoints", _patterns(files.checkpoints), CHECKPOINT)
    since = ", ".join(f"({n}, {position})" for n, position in files.since.items()) or "(0, 0)"
    connection.execute(_HISTORY.format(decisions=decisions))
    connection.execute(_MEMORIES.format(decisions=later, checkpoints=checkpoints, since=since))
    connection.execute(_MEMORIES_AT.format(decisions=decisions))
    for view, folder, schema in (
        (_GENERATIONS, layout.GENERATIONS_FOLDER, GENERATIONS),
        (_DEAD_LETTERS, layout.DEAD_LETTERS_FOLDER, DEAD_LETTERS),
    ):
        exists = any((data / folder).glob("*.parquet"))
        patterns = [file_pattern(data / folder, "*.parquet")] if exists else []
        connection.execute(view.format(files=source(folder, patterns, schema)))


def _patterns(paths: Sequence[Path]) -> list[str]:
    return [file_pattern(path.parent, path.name) for path in paths]


def _source(connection: duckdb.DuckDBPyConnection, name: str, patterns: list[str], schema: pa.Schema) -> str:
    """SQL of the rows of the files, or of no rows with the same columns while there are none."""
    if patterns:
        return (
            f"SELECT * FROM read_parquet([{', '.join(map(quoted, patterns))}], hive_partitioning = false, "
            f"union_by_name = {schema is not HISTORY}, filename = true, file_row_number = true)"
        )
    connection.register("no_rows", schema.empty_table())
    connection.execute(f"CREATE TABLE no_{name} AS FROM no_rows")
    connection.unregister("no_rows")
    return f"SELECT *, '' AS filename, 0::BIGINT AS file_row_number FROM no_{name}"
