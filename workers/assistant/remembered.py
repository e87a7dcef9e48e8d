"""What a namespace remembers, read from the data folder: lists for a chat, and a file of facts."""

from pathlib import Path
from typing import Any

import orjson

from pipeline.query import run as query
from pipeline.text.words import terms_of

LISTED = 20
"""Most memories of a list."""
MAX_WORDS = 16
EXPORTED = ("text", "category", "source", "key", "cardinality", "metadata", "observed_at", "valid_until")


def find(data: Path, namespace: str, words: str = "", all_words: bool = False) -> list[dict[str, Any]]:
    """The newest memories, or those that have the most of these words first, or with `all_words` all of them.

    Raises QueryError, HistoryError.
    """
    terms = {f"term{n}": term for n, term in enumerate(terms_of(words)[:MAX_WORDS])}
    hits = " + ".join(f"cast(contains(lower(text), ${name}) as int)" for name in terms) or "0"
    least = len(terms) if all_words else min(1, len(terms))
    sql = (
        f"SELECT memory_id, text, observed_at, uses, {hits} AS words FROM memories "
        f"WHERE namespace = $namespace AND words >= {least} ORDER BY words DESC, learned_at DESC, memory_id LIMIT {LISTED}"
    )
    rows: list[dict[str, Any]] = query.run(
        data, sql, parameters={"namespace": namespace, **terms}
    ).to_pylist()
    return [{name: value for name, value in row.items() if name != "words"} for row in rows]


def as_facts(data: Path, namespace: str) -> list[bytes]:
    """The memories as facts, a line of JSON each, the oldest first. Raises QueryError, HistoryError."""
    sql = f"SELECT {', '.join(EXPORTED)} FROM memories WHERE namespace = $namespace ORDER BY learned_at, memory_id"
    lines = []
    for row in query.run(data, sql, parameters={"namespace": namespace}).to_pylist():
        if row["metadata"] is not None:
            row["metadata"] = orjson.loads(row["metadata"])
        fact = {name: value for name, value in row.items() if value is not None}
        lines.append(orjson.dumps(fact, option=orjson.OPT_UTC_Z) + b"\n")
    return lines
