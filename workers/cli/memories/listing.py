"""`factstream memories list` and `search`: memories that a filter chooses, page by page."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.errors import report_errors, stderr
from workers.cli.options import Data
from workers.cli.tables import Format, show_query

if TYPE_CHECKING:
    from pipeline.query.filter import Filter


class Time(StrEnum):
    """The names of pipeline.query.filter.TIMES."""

    learned = "learned"
    observed = "observed"


Namespace = Annotated[str | None, typer.Option(help="Only memories of this namespace.")]
Category = Annotated[str | None, typer.Option(help="Only memories of this category.")]
Metadata = Annotated[
    list[str] | None,
    typer.Option(
        help="NAME=VALUE: only memories with this field in their metadata; may be repeated. a.b is the field b of the object a, "
        "and a list has the values of its items."
    ),
]
Since = Annotated[str | None, typer.Option(help="Only memories of this time or later: a day, or ISO 8601.")]
Before = Annotated[str | None, typer.Option(help="Only memories of an earlier time.")]
By = Annotated[
    Time,
    typer.Option(help="The time meant, and sorted by: when a memory was learned, or observed at its source."),
]
Limit = Annotated[int, typer.Option(min=1, help="The most rows to print: the size of a page.")]
Page = Annotated[int, typer.Option(min=1, help="Which page of the rows to print.")]


def newest(
    data: Data,
    namespace: Namespace = None,
    category: Category = None,
    metadata: Metadata = None,
    since: Since = None,
    before: Before = None,
    by: By = Time.learned,
    limit: Limit = 50,
    page: Page = 1,
    format: Format = Format.table,
) -> None:
    """List memories, the newest first: all, or those that the options choose.

    Example: factstream memories list --category catalogue --metadata sku=h-1 --since 2026-03-01
    """
    with report_errors():
        chosen = _filter(namespace, category, metadata, since, before, by)
        _show(data, chosen, "", {}, limit, page, format)


def search(
    text: Annotated[str, typer.Argument(help="Some words.")],
    data: Data,
    namespace: Namespace = None,
    category: Category = None,
    metadata: Metadata = None,
    since: Since = None,
    before: Before = None,
    by: By = Time.learned,
    limit: Limit = 20,
    page: Page = 1,
    format: Format = Format.table,
) -> None:
    """Find memories whose text contains some of these words; those that contain the most come first."""
    from pipeline.query.filter import MAX_WORDS
    from pipeline.text.words import terms_of

    with report_errors():
        chosen = _filter(namespace, category, metadata, since, before, by)
        terms = {f"term{n}": term for n, term in enumerate(terms_of(text)[:MAX_WORDS])}
        hits = " + ".join(f"cast(contains(lower(text), ${name}) as int)" for name in terms) or "0"
        _show(data, chosen, hits, dict(terms), limit, page, format)


def _filter(
    namespace: str | None,
    category: str | None,
    metadata: list[str] | None,
    since: str | None,
    before: str | None,
    by: Time,
) -> "Filter":
    """The filter that the options describe. Raises ValueError."""
    from pipeline.query.filter import Filter, field_of, time_of

    return Filter(
        namespace=namespace or "",
        category=category or "",
        metadata=[field_of(field) for field in metadata or []],
        time=by.value,
        since=time_of(since) if since else None,
        before=time_of(before) if before else None,
    )


def _show(
    data: Path, chosen: "Filter", hits: str, terms: dict[str, object], limit: int, page: int, format: Format
) -> None:
    """Prints one page of the chosen memories, with `hits` (SQL) only those that have some, the most first."""
    from pipeline.query.filter import TIMES

    condition, time = chosen.condition(), TIMES[chosen.time]
    columns, order = "memory_id, namespace, category, text", f"{time} desc, namespace, memory_id"
    if format is not Format.table:
        columns += ", metadata"
    rows = f"select {columns}, uses, {time} from memories where {condition.sql}"
    if hits:
        rows = f"select {columns}, {hits} as words, {time} from memories where {condition.sql} and words > 0"
        order = f"words desc, {order}"
    own = {"limit": limit, "offset": limit * (page - 1)}
    sql = f"{rows} order by {order} limit $limit offset $offset"
    shown = show_query(data, sql, format, condition.parameters | terms | own)
    if shown == limit and format is Format.table:
        stderr.print(f"there may be more: --page {page + 1}", highlight=False)
