"""Filters: what they find, that no value of theirs becomes SQL, and that they find nothing of others."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.memory.events import Decision
from schemas.common import BadMessage
from tests.memories.samples import NOW, learned, write
from workers.memories import reading
from workers.memories.entities import FIELDS, entities_of
from workers.memories.filters import MAX_CONDITIONS, where

SPACES = [
    "ann",
    "bob",
    "agent=guide",
    "user=ann&run=7",
    "user=ann&agent=guide",
    "run=7",
    "' OR true --",
    "user=ann%26&app=x",
]
METADATA = [
    None,
    '{"n":3,"topic":"food"}',
    '{"n":4.5,"topic":"Food","ok":true}',
    '{"a/b~c":null,"list":[1,"x"]}',
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four memories of each namespace, told apart by their text."""
    rows: list[Decision] = []
    for space in SPACES:
        for n, metadata in enumerate(METADATA):
            fields: dict[str, Any] = {"metadata": metadata, "category": ["food", "Foodstuff", None, "art"][n]}
            if n == 3:
                fields["valid_until"] = datetime(2026, 3, 8, tzinfo=UTC)
            rows.append(learned(len(rows), space, f"Fact {n} of {space} it's 100%.", **fields))
    return write(tmp_path_factory.mktemp("filters"), rows)


def found(data: Path, filters: dict[str, Any]) -> list[str]:
    """The namespaces of what a filter finds, with the number of the fact there."""
    rows, count = reading.page(data, where(filters), 1, 200)
    assert count == len(rows)
    return sorted(f"{row.namespace} {row.memory.split()[1]}" for row in rows)


def of(space: str, *numbers: int) -> list[str]:
    return [f"{space} {n}" for n in numbers]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"user_id": "ann"}, of("ann", 0, 1, 2, 3)),
        ({"AND": [{"user_id": "ann"}]}, of("ann", 0, 1, 2, 3)),
        ({"user_id": {"in": ["ann", "bob"]}, "categories": ["food"]}, [*of("ann", 0), *of("bob", 0)]),
        ({"user_id": "ann", "run_id": "*", "metadata": {"topic": "food"}}, of("user=ann&run=7", 1)),
        ({"user_id": "' OR true --", "categories": {"contains": "Food"}}, of("' OR true --", 1)),
        ({"user_id": "bob", "categories": {"icontains": "FOOD"}}, of("bob", 0, 1)),
        ({"user_id": "bob", "categories": {"ne": "food"}}, of("bob", 1, 2, 3)),
        ({"user_id": "bob", "categories": None}, of("bob", 2)),
        ({"user_id": "bob", "NOT": {"categories": {"in": ["food", "art"]}}}, of("bob", 1, 2)),
        ({"user_id": "bob", "NOT": [{"categories": "food"}, {"categories": "art"}]}, of("bob", 1, 2)),
        ({"user_id": "bob", "OR": [{"categories": "food"}, {"metadata": {"ok": True}}]}, of("bob", 0, 2)),
        ({"user_id": "bob", "metadata": {"topic": {"icontains": "FO"}}}, of("bob", 1, 2)),
        ({"user_id": "bob", "metadata": {"n": {"gte": 3, "lt": 4}}}, of("bob", 1)),
        ({"user_id": "bob", "metadata": {"n": {"in": [3, 4.5, "3"]}}}, of("bob", 1, 2)),
        ({"user_id": "bob", "metadata": {"n": "3"}}, []),
        ({"user_id": "bob", "metadata": {"a/b~c": None}}, of("bob", 3)),
        ({"user_id": "bob", "metadata": {"list": [1, "x"]}}, of("bob", 3)),
        ({"user_id": "bob", "metadata": {"topic": "*"}}, of("bob", 1, 2)),
        ({"user_id": "bob", "metadata": {"$.n": 3}}, []),
        ({"user_id": "bob", "keywords": "FACT 2"}, of("bob", 2)),
        ({"user_id": "bob", "text": {"contains": "fact"}}, []),
        ({"user_id": "bob", "expiration_date": "2026-03-07"}, of("bob", 3)),
        ({"user_id": "bob", "expiration_date": {"lt": "2026-03-07"}}, []),
        ({"user_id": "bob", "created_at": {"gte": (NOW + timedelta(minutes=6)).isoformat()}}, of("bob", 2, 3)),
        ({"user_id": "bob", "created_at": {"lte": "2026-03-01"}}, of("bob", 0, 1, 2, 3)),
        ({"user_id": "bob", "created_at": {"gt": "2026-03-01"}}, []),
        ({"user_id": "bob", "timestamp": {"lt": (NOW + timedelta(minutes=5)).timestamp()}}, of("bob", 0)),
        ({"OR": [{"user_id": "bob"}, {"run_id": "7"}], "categories": "food"},
         [*of("bob", 0), *of("run=7", 0), *of("user=ann&run=7", 0)]),
        ({"user_id": "ann", "agent_id": {"ne": "guide"}, "categories": "food"}, of("ann", 0)),
        ({"AND": [{"user_id": "ann"}, {"user_id": "bob"}]}, []),
    ],
)  # fmt: skip
def test_a_filter_finds(data: Path, filters: dict[str, Any], expected: list[str]) -> None:
    assert found(data, filters) == sorted(expected)


def test_ids_choose_among_the_memories_of_a_user(data: Path) -> None:
    rows, _ = reading.page(data, where({"user_id": "ann"}), 1, 2)
    others, _ = reading.page(data, where({"user_id": "bob"}), 1, 2)
    chosen = where({"user_id": "ann", "memory_ids": [rows[0].id, others[0].id]})
    assert [row.id for row in reading.page(data, chosen, 1, 10)[0]] == [rows[0].id]


@pytest.mark.parametrize(
    "filters",
    [
        {}, [], {"AND": []}, {"AND": {"user_id": "ann"}}, {"nope": 1}, {"user_id": {"like": "a%"}}, {"user_id": 5},
        {"memory; DROP TABLE x": 1}, {"created_at": "soon"}, {"created_at": {"contains": "2026"}}, {"metadata": {}},
        {"metadata": {"a": {"gt": True}}}, {"memory_ids": "x"}, {"user_id": {}}, {"text": "x" * 10_000},
        {"user_id": {"in": []}}, {"expiration_date": "2026-3-1"}, {"metadata": {"a": {"contains": 1}}},
        {"OR": [{"user_id": "a"}] * (MAX_CONDITIONS + 1)}, {"user_id": {"in": ["a"] * 1001}},
    ],
)  # fmt: skip
def test_what_is_no_filter_is_refused(filters: Any) -> None:
    with pytest.raises(BadMessage):
        where(filters)


def test_a_filter_of_any_depth_or_size_ends_with_an_error() -> None:
    deep: dict[str, Any] = {"user_id": "ann"}
    for _ in range(1000):
        deep = {"AND": [deep]}
    wide = {"OR": [{"user_id": {"in": ["a"] * 999}}] * 3}
    for filters in (deep, wide):
        with pytest.raises(BadMessage):
            where(filters)


names = st.sampled_from(
    [*SPACES, "ann", "guide", "7", "*", "x", "'", '"', "; SELECT 1", "$namespace", "%"]
) | st.text(max_size=5)
known = st.sampled_from(["ann", "bob", "guide", "7", "*"])
conditions: st.SearchStrategy[dict[str, Any]] = st.sampled_from(FIELDS).flatmap(
    lambda field: st.fixed_dictionaries(
        {field: known | names | st.fixed_dictionaries({"in": st.lists(known, min_size=1, max_size=3)})}
    )
)
extras = st.one_of(
    st.fixed_dictionaries({"categories": names}),
    st.fixed_dictionaries(
        {"metadata": st.dictionaries(names, names | st.integers(-5, 5), min_size=1, max_size=2)}
    ),
    st.fixed_dictionaries({"keywords": names}),
)
trees = st.recursive(
    conditions | extras,
    lambda nodes: st.fixed_dictionaries(
        {}, optional={name: st.lists(nodes, min_size=1, max_size=3) for name in ("AND", "OR", "NOT")}
    ).filter(bool),
    max_leaves=5,
)


@settings(max_examples=60)
@given(st.fixed_dictionaries({"user_id": known | names}), trees)
@example({"user_id": "ann"}, {"OR": [{"user_id": "ann"}, {"user_id": "bob"}]})
def test_whatever_else_a_filter_says_it_stays_with_its_user(
    data: Path, pin: dict[str, str], tree: dict[str, Any]
) -> None:
    """The user named beside any condition is the user of all that is found."""
    try:
        condition = where({"AND": [pin, tree]})
        rows, _ = reading.page(data, condition, 1, 200)
    except BadMessage:
        return
    for row in rows:
        entities = entities_of(row.namespace)
        assert pin["user_id"] in ("*", entities.get("user_id")) and set(entities) <= condition.entities
