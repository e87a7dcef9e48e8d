"""The queries behind the pages: the memories, the events of one, decisions over time, the map.

Every function runs a bounded query, with values as parameters or quoted and names taken from a list, or reads a bounded
number of memories. Each raises `QueryError`, and `HistoryError` if a file is damaged.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.query import filter as filters
from pipeline.query import run as query
from pipeline.query import views
from pipeline.query.projection import mean_states, pca

TIMEOUT_S = 10.0
PAGE = 50
"""Memories on a page of the table."""
MAX_WORDS = 8
MAX_FIELDS = 4
"""Fields of the metadata in a filter."""
MAX_EVENTS = 100
"""Events of one memory's life."""
MAX_POINTS = 2_000
"""Memories on the map."""
BUCKETS = 48
WIDTHS_S = (1, 5, 15, 60, 300, 900, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400, 365 * 86400)
TOP_CATEGORIES = 7

SORTS = {
    "text": "lower(text)",
    "category": "category",
    "learned": "learned_at",
    "delta": "loss_delta",
    "reinforced": "reinforced",
    "hits": "uses",
}
STATES = {
    "remembered": "state = 'remembered'",
    "superseded": "state = 'superseded'",
    "gone": "state IN ('evicted', 'forgotten', 'erased')",
    "all": "true",
}

# The memories of the view and the removed ones, each with the outcome that removed it.
_LIVES = f"""
WITH learned AS (
    SELECT * FROM history WHERE outcome IN ('learned', 'superseded')
    QUALIFY row_number() OVER (PARTITION BY namespace, memory_id ORDER BY history_position DESC) = 1
), removed AS (
    SELECT namespace, memory_id, arg_max(outcome, history_position) AS state
    FROM ({views.removals("history")}) GROUP BY ALL
), counts AS (
    SELECT namespace, memory_id, count(*) FILTER (WHERE outcome = 'used') AS uses,
        count(*) FILTER (WHERE outcome = 'reinforced') AS reinforced
    FROM history WHERE outcome IN ('used', 'reinforced') GROUP BY ALL
), lives AS (
    SELECT learned.memory_id, learned.namespace, coalesce(learned.text, '') AS text, learned.category, learned.source,
        learned.decided_at AS learned_at, learned.loss_delta,
        if(memories.memory_id IS NULL, learned.metadata, memories.metadata) AS metadata,
        coalesce(memories.observed_at, learned.observed_at) AS observed_at,
        if(memories.memory_id IS NULL, coalesce(removed.state, 'forgotten'), 'remembered') AS state,  -- else with its key, or all
        coalesce(memories.uses, counts.uses, 0) AS uses,
        coalesce(memories.reinforced, counts.reinforced, 0) AS reinforced
    FROM learned LEFT JOIN memories USING (namespace, memory_id)
        LEFT JOIN removed USING (namespace, memory_id) LEFT JOIN counts USING (namespace, memory_id)
)
"""
# Those of the view alone, which needs half of the time.
_REMEMBERED = """
WITH lives AS (
    SELECT memory_id, namespace, text, category, source, learned_at, loss_delta, metadata, observed_at, 'remembered' AS state,
        uses, reinforced
    FROM memories
)
"""


@dataclass(frozen=True, slots=True)
class Filter:
    """The memories that the table shows, and their order; texts are as they were typed."""

    words: str = ""
    state: str = "remembered"
    category: str = ""
    sort: str = "learned"
    down: bool = True
    page: int = 1
    namespace: str = ""
    metadata: str = ""
    """NAME=VALUE, and others after commas."""
    time: str = "learned"
    since: str = ""
    before: str = ""

    @property
    def is_narrow(self) -> bool:
        """Whether one of the filters is set that the page folds away."""
        return any((self.namespace, self.metadata, self.since, self.before))

    def params(self, sort: str, down: bool, page: int) -> dict[str, str | int]:
        """The query string of another page or order of this table: see `filter_of`."""
        params: dict[str, str | int] = {
            "q": self.words,
            "state": self.state,
            "category": self.category,
            "sort": sort,
        }
        params |= {"order": "down" if down else "up", "page": page}
        names = ("namespace", "metadata", "since", "before", "time") if self.is_narrow else ()
        return params | {name: value for name in names if (value := getattr(self, name))}

    def condition(self) -> filters.Condition:
        """The condition on a row of `lives`; what cannot be read is left out, as someone may still be typing it."""
        fields, times = list[tuple[str, str]](), dict[str, datetime]()
        for text in self.metadata.split(",")[:MAX_FIELDS]:
            with suppress(ValueError):
                fields.append(filters.field_of(text))
        for name, text in (("since", self.since), ("before", self.before)):
            with suppress(ValueError):
                times[name] = filters.time_of(text)
        words = self.words.split()[:MAX_WORDS]
        return filters.Filter(words, self.namespace, self.category, fields, self.time, **times).condition()


def filter_of(params: Mapping[str, str]) -> Filter:
    """The filter in a query string; invalid values are ignored."""
    page, state, sort, time = (params.get(name, "") for name in ("page", "state", "sort", "time"))
    return Filter(
        params.get("q", "")[:200],
        state if state in STATES else "remembered",
        params.get("category", "")[:256],
        sort if sort in SORTS else "learned",
        params.get("order") != "up",
        int(page) if page.isdecimal() and 0 < len(page) < 6 and int(page) else 1,
        params.get("namespace", "").strip()[:128],
        params.get("metadata", "")[:400],
        time if time in filters.TIMES else "learned",
        params.get("since", "")[:40],
        params.get("before", "")[:40],
    )


def memories(data: Path, filter: Filter) -> tuple[list[dict[str, Any]], int]:
    """One page of the table, and the number of memories on all pages."""
    condition, lives = filter.condition(), _REMEMBERED if filter.state == "remembered" else _LIVES
    order = f"{SORTS[filter.sort]} {'DESC' if filter.down else 'ASC'} NULLS LAST, namespace, memory_id"
    rows = _rows(
        data,
        f"{lives}, page AS (SELECT *, count(*) OVER () AS total FROM lives "
        f"WHERE {STATES[filter.state]} AND {condition.sql} ORDER BY {order} LIMIT $limit OFFSET $offset) "
        "SELECT *, (SELECT arg_max(h.outcome, h.history_position) FROM history h WHERE h.namespace = page.namespace "
        "AND h.memory_id = page.memory_id AND h.outcome IN ('learned', 'superseded')) = 'superseded' AS replaces "
        f"FROM page ORDER BY {order}",
        condition.parameters | {"limit": PAGE, "offset": (filter.page - 1) * PAGE},
    )
    return rows, rows[0]["total"] if rows else 0


def life(data: Path, namespace: str, memory_id: str) -> list[dict[str, Any]]:
    """The events of one memory, the oldest first; a use has the prompt and the answer."""
    one = _text(memory_id)
    return _rows(
        data,
        "SELECT h.outcome, h.memory_id, h.nearest, h.similarity, h.text, h.category, h.source, h.namespace, h.decided_at, "
        "h.loss_delta, h.min_loss_delta, h.importance, h.gate, g.prompt, g.text AS answer, "
        f"h.memory_id = {one} AS own, (SELECT any_value(o.text) FROM history o WHERE o.memory_id = h.nearest "
        "AND o.outcome IN ('learned', 'superseded')) AS nearest_text "
        f"FROM history h LEFT JOIN generations g ON h.outcome = 'used' AND g.request_id = h.request_id "
        f"WHERE h.namespace = {_text(namespace)} AND (h.memory_id = {one} "
        f"OR (h.nearest = {one} AND h.outcome IN ('superseded', 'outdated', 'restored'))) "
        f"ORDER BY h.history_position LIMIT {MAX_EVENTS}",
    )


def decision(data: Path, topic_id: str, partition: int, offset: int) -> dict[str, Any] | None:
    """The decision about one fact, with the text of the memory it was compared with."""
    rows = _rows(
        data,
        "SELECT h.*, (SELECT any_value(o.text) FROM history o WHERE o.memory_id = h.nearest AND o.outcome IN "
        "('learned', 'superseded')) AS nearest_text FROM history h WHERE h.topic = 'facts' AND h.topic_id = "
        f'{_text(topic_id)} AND h."partition" = {partition} AND h."offset" = {offset} '
        "ORDER BY h.history_position LIMIT 1",
    )
    return rows[0] if rows else None


def categories(data: Path) -> list[dict[str, Any]]:
    """The number of memories of each category, the largest first."""
    return _rows(
        data, "SELECT category, count(*) AS count FROM memories GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 100"
    )


def over_time(data: Path) -> dict[str, Any]:
    """Decisions in equal intervals of time: outcomes, loss delta, seconds to a decision, categories."""
    span = _rows(
        data,
        "SELECT epoch(min(decided_at)) AS first, epoch(max(decided_at)) AS last FROM history WHERE topic = 'facts'",
    )
    if not span or span[0]["first"] is None:
        return {"width_s": 0, "buckets": [], "outcomes": [], "learning": [], "categories": [], "now": []}
    first, last = span[0]["first"], span[0]["last"]
    width = next((w for w in WIDTHS_S if (last - first) / w < BUCKETS), WIDTHS_S[-1])
    begin = int(first // width)
    buckets = [n * width for n in range(max(begin, int(last // width) - 1000), int(last // width) + 1)]
    bucket = f"CAST(floor(epoch(decided_at) / {width}) AS BIGINT) * {width} AS bucket"
    facts = f"SELECT {bucket}, * EXCLUDE (text) FROM history WHERE topic = 'facts' AND outcome <> 'used'"
    now = [{"category": row["category"] or "none", "count": row["count"]} for row in categories(data)]
    top = ", ".join(_text(row["category"]) for row in now[:TOP_CATEGORIES]) or "''"
    return {
        "width_s": width,
        "buckets": buckets,
        "outcomes": _rows(data, f"SELECT bucket, outcome, count(*) AS count FROM ({facts}) GROUP BY ALL"),
        "learning": _rows(
            data,
            "SELECT bucket, median(loss_delta) FILTER (WHERE outcome IN ('learned', 'superseded')) AS learned, "
            "median(loss_delta) FILTER (WHERE outcome = 'skipped') AS skipped, "
            "median(lag) AS median, quantile_cont(lag, 0.95) AS p95 FROM (SELECT *, "
            f"greatest(0, epoch(decided_at) - epoch(published_at)) AS lag FROM ({facts})) GROUP BY ALL",
        ),
        "categories": _rows(
            data,
            f"SELECT bucket, CASE WHEN category IN ({top}) THEN category ELSE 'others' END AS category, "
            f"count(*) AS count FROM (SELECT * REPLACE (coalesce(category, 'none') AS category) FROM ({facts}) "
            "WHERE outcome IN ('learned', 'superseded')) GROUP BY ALL",
        ),
        "now": now[:12],
    }


def atlas(data: Path) -> list[dict[str, Any]]:
    """The newest memories as points on a plane; memories of similar meaning lie close together."""
    rows = _rows(
        data,
        "SELECT memory_id, namespace, text, category FROM memories "
        f"ORDER BY learned_at DESC, memory_id LIMIT {MAX_POINTS}",
    )
    states = mean_states(data, {(row["namespace"], row["memory_id"]) for row in rows})
    shown = [row for row in rows if (row["namespace"], row["memory_id"]) in states]
    places = pca([states[row["namespace"], row["memory_id"]] for row in shown])
    return [
        row | {"text": row["text"][:300], "x": round(float(x), 4), "y": round(float(y), 4)}
        for row, (x, y) in zip(shown, places, strict=True)
    ]


def last_decided(data: Path) -> datetime | None:
    """When the last fact was decided: the memory has not changed since."""
    sql = "SELECT max(decided_at) AS last FROM history WHERE topic = 'facts'"
    return _rows(data, sql)[0]["last"]  # type: ignore[no-any-return]


def _rows(data: Path, sql: str, parameters: query.Parameters | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = query.run(data, sql, TIMEOUT_S, parameters).to_pylist()
    return rows


def _text(value: str) -> str:
    """An SQL string literal. DuckDB's strings have one escape, the doubled quote; a NUL is left out."""
    return "'" + value.replace("'", "''").replace("\0", "") + "'"
