"""SQL views of a data folder: its decisions, memories, answers and dead letters.

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
    """SQL of the removals of single memories in a table of decisions, each with its outcome."""
    return f"""
    SELECT history_partition, namespace, memory_id, outcome, history_position
    FROM {decisions} WHERE outcome IN ('evicted', 'forgotten', 'erased') AND memory_id IS NOT NULL
    UNION ALL  -- a restored memory may replace another, too
    SELECT history_partition, namespace, nearest, 'superseded', history_position
    FROM {decisions} WHERE outcome IN ('superseded', 'restored') AND nearest IS NOT NULL"""


_LABELS = "category, source, fact_id, key, cardinality, metadata"
_MEMORY = "history_partition, namespace, memory_id"
_RESTATED = "later.outcome <> 'used' AND later.key IS NOT DISTINCT FROM live.key"  # what a key states only the key dates


def _fold(at: str) -> str:
    """SQL of the memories after `kept` (from checkpoints) and `decided` (later decisions), with their importance at a time.

    It is the fold of pipeline/memory/bank.py as joins. `speaks`: whether an event brings a memory back or takes it away.
    """
    return f"""
learned AS (
    SELECT * FROM decided WHERE outcome IN ('learned', 'superseded')
), events AS (
    SELECT {_MEMORY}, history_position, false AS speaks FROM ({removals("decided")})
    UNION ALL  -- a memory that is learned again begins anew
    SELECT {_MEMORY}, history_position, false FROM learned
    UNION ALL
    SELECT {_MEMORY}, history_position, true FROM decided WHERE outcome = 'restored'
), candidates AS (
    FROM kept
    UNION ALL
    SELECT history_partition, history_position, memory_id, namespace, text, {_LABELS}, observed_at, valid_until,
        decided_at, loss_delta, importance, 0, 0, NULL, encoder_id, false
    FROM learned
), last_event AS (
    SELECT {_MEMORY}, candidates.history_position, arg_max(events.speaks, events.history_position) AS speaks,
        max(events.history_position) FILTER (WHERE events.speaks) AS restored
    FROM candidates JOIN events USING ({_MEMORY})
    WHERE events.history_position > candidates.history_position
    GROUP BY ALL
), spoke AS (
    SELECT candidates.*, coalesce(restored, history_position) AS since
    FROM candidates LEFT JOIN last_event USING ({_MEMORY}, history_position)
    WHERE coalesce(speaks, NOT is_superseded)
), last_of_key AS (  -- a key with one value at a time
    SELECT history_partition, namespace, key, arg_max(memory_id, history_position) AS memory_id,
        max(history_position) AS history_position
    FROM decided WHERE key IS NOT NULL AND cardinality IS DISTINCT FROM 'many'
        AND outcome IN ('learned', 'superseded', 'reinforced', 'restored')
    GROUP BY ALL
), of_key AS (
    SELECT * FROM spoke ANTI JOIN last_of_key ON spoke.history_partition = last_of_key.history_partition
        AND spoke.namespace = last_of_key.namespace AND spoke.key = last_of_key.key
        AND spoke.memory_id <> last_of_key.memory_id AND last_of_key.history_position > spoke.since
), swept AS (  -- requests to forget a key, or all
    SELECT history_partition, namespace, key, observed_at AS until, history_position
    FROM decided WHERE outcome IN ('forgotten', 'erased') AND memory_id IS NULL
), met AS (
    SELECT of_key.*, until, swept.history_position AS swept_at FROM of_key JOIN swept USING (history_partition, namespace, key)
    UNION ALL
    SELECT of_key.*, until, swept.history_position AS swept_at FROM of_key JOIN swept USING (history_partition, namespace)
    WHERE swept.key IS NULL
), forgotten AS (  -- what was stated again before, with a later time, stays
    SELECT {_MEMORY}, met.history_position FROM met LEFT JOIN decided AS again USING ({_MEMORY})
    WHERE swept_at > met.since
    GROUP BY {_MEMORY}, met.history_position, until, met.observed_at, swept_at
    HAVING until IS NULL OR until >= greatest(met.observed_at, max(again.observed_at) FILTER (
        WHERE again.outcome IN ('reinforced', 'restored') AND again.key IS NOT DISTINCT FROM met.key
            AND again.history_position > met.history_position
            AND again.history_position < swept_at))
), live AS (
    SELECT * FROM of_key ANTI JOIN forgotten USING ({_MEMORY}, history_position)
), changed AS (
    SELECT {_MEMORY},
        count(*) FILTER (WHERE later.outcome = 'used') AS uses,
        count(*) FILTER (WHERE later.outcome = 'reinforced') AS reinforced,
        max(later.decided_at) FILTER (WHERE later.outcome = 'used') AS last_used_at,
        max(later.observed_at) FILTER (WHERE {_RESTATED}) AS observed_at,
        arg_max(later.importance, later.history_position) AS importance,
        arg_max({{{{'metadata': later.metadata, 'valid_until': later.valid_until}}}},
            (later.observed_at, later.history_position)) FILTER (
            WHERE {_RESTATED} AND later.observed_at >= live.observed_at) AS newest
    FROM live JOIN decided AS later USING ({_MEMORY})
    WHERE later.history_position > live.history_position
        AND (later.outcome = 'restored' OR (later.outcome IN ('used', 'reinforced') AND later.importance IS NOT NULL))
    GROUP BY ALL
)
SELECT live.memory_id, live.namespace, live.text, live.category, live.source, live.fact_id, live.key, live.cardinality,
    if(newest IS NULL, live.metadata, newest.metadata) AS metadata,
    greatest(live.observed_at, changed.observed_at) AS observed_at,  -- of the newest statement
    if(newest IS NULL, live.valid_until, newest.valid_until) AS valid_until,
    live.learned_at,
    live.loss_delta::FLOAT AS loss_delta,  -- when it was learned
    {decayed("coalesce(changed.importance, live.importance)", at)} AS importance,
    (live.uses + coalesce(changed.uses, 0))::BIGINT AS uses,
    (live.reinforced + coalesce(changed.reinforced, 0))::BIGINT AS reinforced,
    greatest(live.last_used_at, changed.last_used_at) AS last_used_at,
    live.encoder_id
FROM live LEFT JOIN changed USING ({_MEMORY})
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
    SELECT {_PARTITION} AS history_partition, -1 AS history_position, memory_id, namespace, text, {_LABELS},
        observed_at, valid_until, learned_at, loss_delta, importance, uses, reinforced, last_used_at, encoder_id,
        superseded_by IS NOT NULL AS is_superseded
    FROM ({{checkpoints}})
), {_fold("now()")}
"""

_MEMORIES_AT = f"""
CREATE MACRO memories_at(moment) AS TABLE
WITH decided AS (
    SELECT * FROM ({{decisions}}) WHERE decided_at <= CAST(moment AS TIMESTAMPTZ)
), kept AS (  -- none: the moment may be before any checkpoint
    SELECT history_partition, history_position, memory_id, namespace, text, {_LABELS}, observed_at, valid_until,
        decided_at AS learned_at, loss_delta, importance, 0 AS uses, 0 AS reinforced,
        CAST(NULL AS TIMESTAMPTZ) AS last_used_at, encoder_id, false AS is_superseded
    FROM decided WHERE false
), {_fold("CAST(moment AS TIMESTAMPTZ)")}
"""

_SUPERSEDED = f"""
CREATE VIEW superseded AS
WITH learned AS (
    SELECT * FROM history WHERE outcome IN ('learned', 'superseded')
    QUALIFY row_number() OVER (PARTITION BY {_MEMORY} ORDER BY history_position DESC) = 1
), ends AS (
    SELECT history_partition, namespace, nearest AS memory_id, history_position, memory_id AS superseded_by, rule, decided_at
    FROM history WHERE outcome IN ('superseded', 'restored') AND nearest IS NOT NULL
        AND rule IS DISTINCT FROM 'key_taken_up'  -- goes on with its key
    UNION ALL
    SELECT {_MEMORY}, history_position, NULL, NULL, NULL
    FROM history WHERE outcome IN ('restored', 'evicted', 'forgotten', 'erased') AND memory_id IS NOT NULL
    UNION ALL
    SELECT history_partition, namespace, learned.memory_id, gone.history_position, NULL, NULL, NULL
    FROM learned JOIN history AS gone USING (history_partition, namespace)
    WHERE gone.outcome IN ('forgotten', 'erased') AND gone.memory_id IS NULL AND coalesce(gone.key = learned.key, gone.key IS NULL)
        AND coalesce(gone.observed_at >= learned.observed_at, true)
)
SELECT memory_id, namespace, text, {_LABELS}, learned.observed_at, learned.valid_until, learned.decided_at AS learned_at,
    ends.superseded_by, ends.rule, ends.decided_at AS superseded_at
FROM learned JOIN ends USING ({_MEMORY})
WHERE ends.history_position > learned.history_position
QUALIFY row_number() OVER (PARTITION BY {_MEMORY} ORDER BY ends.history_position DESC) = 1 AND ends.superseded_by IS NOT NULL
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
    """The files of the partitions' histories as they are now."""

    decisions: list[Path]
    later: list[Path]  # the files among them with decisions that no checkpoint has
    checkpoints: list[Path]
    since: dict[int, int]  # partition -> the first history_position that its checkpoint does not have


def history_files(data: Path, only: int | None = None) -> HistoryFiles:
    """Lists the files, of one partition only if it is given.

    Raises `HistoryError` where a history cannot be listed, or has a newer format.
    """
    found = HistoryFiles([], [], [], {})
    for partition in layout.partitions(data) if only is None else [only]:
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
    by_name = not all(map(storage.is_newest, files.decisions))
    decisions = _DECISIONS.format(files=source("decisions", _patterns(files.decisions), HISTORY, by_name))
    later = _DECISIONS.format(files=source("later", _patterns(files.later), HISTORY, by_name))
    checkpoints = source("checkpoints", _patterns(files.checkpoints), CHECKPOINT)
    since = ", ".join(f"({n}, {position})" for n, position in files.since.items()) or "(0, 0)"
    connection.execute(_HISTORY.format(decisions=decisions))
    connection.execute(_MEMORIES.format(decisions=later, checkpoints=checkpoints, since=since))
    connection.execute(_MEMORIES_AT.format(decisions=decisions))
    connection.execute(_SUPERSEDED)
    for view, folder, schema in (
        (_GENERATIONS, layout.GENERATIONS_FOLDER, GENERATIONS),
        (_DEAD_LETTERS, layout.DEAD_LETTERS_FOLDER, DEAD_LETTERS),
    ):
        exists = any((data / folder).glob("*.parquet"))
        patterns = [file_pattern(data / folder, "*.parquet")] if exists else []
        connection.execute(view.format(files=source(folder, patterns, schema)))


def _patterns(paths: Sequence[Path]) -> list[str]:
    return [file_pattern(path.parent, path.name) for path in paths]


def _source(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    patterns: list[str],
    schema: pa.Schema,
    by_name: bool = True,
) -> str:
    """SQL of the rows of the files, with the columns of the schema. by_name: files of an older format lack some of them."""
    connection.register("no_rows", schema.empty_table())
    connection.execute(f"CREATE TABLE no_{name} AS FROM no_rows")
    connection.unregister("no_rows")
    none = f"SELECT *, '' AS filename, 0::BIGINT AS file_row_number FROM no_{name}"
    if not patterns:
        return none
    return (
        f"{none} UNION ALL BY NAME SELECT * FROM read_parquet([{', '.join(map(quoted, patterns))}], "
        f"hive_partitioning = false, union_by_name = {by_name}, filename = true, file_row_number = true)"
    )
