"""What a namespace remembers, read from the data folder: the lists of a chat."""

from pathlib import Path
from typing import Any

from pipeline.query import run as query
from pipeline.text.words import terms_of

LISTED = 20
"""Most memories of a list."""
MAX_WORDS = 16


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
