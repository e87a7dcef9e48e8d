"""Filters of memories: what they let pass, and that nothing typed becomes SQL."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipeline.query import run as query
from pipeline.query.filter import Filter, field_of, time_of
from schemas.fact import Fact, FactMessage
from tests.client.local_stack import BEGIN, LocalStack
from workers.cli.app import app
from workers.http import pages

RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
DAY = timedelta(days=1)
FACTS: list[dict[str, Any]] = [
    {"text": "The Harlow lamp is made of walnut.", "category": "catalogue", "metadata": {"sku": "h-1", "price": 34.5, "tags": ["a", "b"]}},
    {"text": "The Zephyr kettle ships from Gdansk.", "category": "catalogue", "metadata": {"sku": "z'1", "maker": {"city": "Bonn"}}},
    {"text": "Lake Vorren is deep.", "metadata": {'a"b\\': "*", "on": True}},
    {"text": "Milo is a glaciologist.", "namespace": "people"},
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fact a day by its source, learned a second apart."""
    folder = tmp_path_factory.mktemp("filter")
    facts: list[tuple[str, FactMessage]] = [
        (fact.get("namespace", "default"), Fact.model_validate(fact | {"observed_at": BEGIN - n * DAY}))
        for n, fact in enumerate(FACTS)
    ]
    LocalStack(folder).publish(None, facts)
    return folder


def found(data: Path, filter: Filter) -> list[int]:
    """The numbers of the facts that pass."""
    condition = filter.condition()
    sql = f"select text from memories where {condition.sql}"
    texts = query.run(data, sql, parameters=condition.parameters)["text"].to_pylist()
    return sorted(n for n, fact in enumerate(FACTS) if fact["text"] in texts)


@pytest.mark.parametrize(
    "filter, passing",
    [
        (Filter(), [0, 1, 2, 3]),
        (Filter(words=["THE", "from"]), [1]),
        (Filter(namespace="people"), [3]),
        (Filter(category="catalogue"), [0, 1]),
        (Filter(metadata=[("sku", "h-1")]), [0]),
        (Filter(metadata=[("sku", "z'1")]), [1]),
        (Filter(metadata=[("price", "34.5")]), [0]),
        (Filter(metadata=[("tags", "b")]), [0]),
        (Filter(metadata=[("tags", "b"), ("sku", "z'1")]), []),
        (Filter(metadata=[("maker.city", "Bonn")]), [1]),
        (Filter(metadata=[("on", "true")]), [2]),
        (Filter(metadata=[('a"b\\', "*")]), [2]),
        (Filter(metadata=[("none", "x")]), []),
        (Filter(time="observed", since=BEGIN - DAY), [0, 1]),
        (Filter(time="observed", before=BEGIN - DAY), [2, 3]),
        (Filter(since=BEGIN + timedelta(seconds=1), before=BEGIN + timedelta(seconds=3)), [1, 2]),
    ],
)
def test_a_filter_lets_pass_what_has_all_of_it(data: Path, filter: Filter, passing: list[int]) -> None:
    assert found(data, filter) == passing


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=12), st.text(max_size=12).filter(lambda name: name and "*" not in name.split(".")))
def test_whatever_is_typed_is_a_value(data: Path, text: str, name: str) -> None:
    typed = text.encode("utf-8", "replace").decode()
    field = name.encode("utf-8", "replace").decode()
    for one in (f"{typed}' or 1=1 --", f'{typed}"'):
        some = Filter([one], one, one, [(field, one), (f"{field}\"'", one)])
        assert found(data, some) == []


def test_fields_and_times_are_read_or_refused() -> None:
    assert field_of(" a.b = c=d ") == ("a.b", "c=d")
    for wrong in ("sku", "=x", "a..b=c", "*=c", "a.*=c"):
        with pytest.raises(ValueError, match="NAME=VALUE"):
            field_of(wrong)
    assert time_of("2026-03-01") == datetime(2026, 3, 1, tzinfo=UTC)
    assert time_of("2026-03-01T12:00:00+02:00") == datetime(2026, 3, 1, 10, tzinfo=UTC)
    with pytest.raises(ValueError, match="yesterday"):
        time_of("yesterday")


def listed(data: Path, *arguments: str) -> list[str]:
    result = RUNNER.invoke(app, ["memories", *arguments, "--data", str(data), "--format", "json"])
    assert result.exit_code == 0, result.output
    return [row["text"] for row in json.loads(result.stdout)]


def test_the_commands_filter_and_page(data: Path) -> None:
    texts = [fact["text"] for fact in FACTS]
    assert listed(data, "list") == texts[::-1]
    assert listed(data, "list", "--by", "observed") == texts
    pages_of_two = [
        listed(data, "list", "--by", "observed", "--limit", "2", "--page", str(n)) for n in (1, 2, 3)
    ]
    assert pages_of_two == [texts[:2], texts[2:], []]
    assert (
        listed(data, "list", "--metadata", "sku=h-1", "--metadata", "tags=a", "--category", "catalogue")
        == texts[:1]
    )
    assert listed(data, "search", "the from made gdansk", "--before", "2027-01-01") == [texts[1], texts[0]]
    assert listed(data, "search", "the made", "--namespace", "people") == []
    for wrong in (["--metadata", "sku"], ["--since", "yesterday"]):
        result = RUNNER.invoke(app, ["memories", "list", "--data", str(data), *wrong])
        assert result.exit_code == 1 and result.stderr.startswith("error: ")


def test_a_query_takes_parameters(data: Path) -> None:
    sql = "select text from memories where metadata->>$field = $value or category = $category order by text limit $n"
    given_ = {"field": "sku", "value": "z'1", "category": "none' or true --", "n": "3"}
    arguments = [part for name, value in given_.items() for part in ("--param", f"{name}={value}")]
    result = RUNNER.invoke(app, ["query", sql, *arguments, "--data", str(data), "--format", "json"])
    assert [row["text"] for row in json.loads(result.stdout)] == [FACTS[1]["text"]]
    for wrong in (["--param", "n"], ["--param", "other=1"], []):
        result = RUNNER.invoke(app, ["query", "select $n", *wrong, "--data", str(data)])
        assert result.exit_code == 1 and result.stderr.splitlines()[-1].startswith("error: ")


def test_the_page_filters_and_ignores_what_it_cannot_read(data: Path) -> None:
    def shown(**typed: str) -> list[str]:
        rows, count = pages.memories(data, pages.filter_of(typed | {"order": "up"}))
        assert count == len(rows)
        return [row["text"] for row in rows]

    texts = [fact["text"] for fact in FACTS]
    assert shown() == shown(metadata="sk", since="20", before="soon", time="x") == texts
    assert shown(metadata="tags=b, sku=h-1") == shown(namespace="default", q="walnut") == texts[:1]
    assert shown(time="observed", since="2026-02-28", before="2026-03-01") == texts[1:2]
    assert shown(state="all", metadata="sku=z'1", category="catalogue") == texts[1:2]
    typed = pages.filter_of({"metadata": "sku=h-1", "since": "2026-03-01", "time": "observed"})
    again = {name: str(value) for name, value in typed.params("text", False, 2).items()}
    assert pages.filter_of(again) == pages.Filter(
        sort="text", down=False, page=2, metadata="sku=h-1", since="2026-03-01", time="observed"
    )
