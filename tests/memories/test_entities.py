"""Entities and namespaces: one namespace for each set of entities, and nothing else has it."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.common import BadMessage
from workers.memories.entities import FIELDS, entities_of, namespace_of

# Among them what the written form consists of, and marks that join the sign before them.
NAMES = st.text(st.sampled_from("ab%&=*̸é25Dusrgen ") | st.characters(), max_size=12) | st.sampled_from(
    [
        "user=ann",
        "agent=ann",
        "user=ann&run=7",
        "user=user%3Dann",
        "%3D",
        "%253D",
        "default",
        "ann@example.com",
    ]
)
SETS = st.dictionaries(st.sampled_from(FIELDS), NAMES, min_size=1)


def normal(entities: dict[str, str]) -> dict[str, str]:
    return {field: unicodedata.normalize("NFC", name) for field, name in entities.items()}


@given(SETS)
@example({"agent_id": "̸x"})
@example({"user_id": "agent=x"})
@example({"user_id": "user=agent%3Dx"})
def test_a_namespace_gives_its_entities_back(entities: dict[str, str]) -> None:
    try:
        namespace = namespace_of(entities)
    except BadMessage:
        return
    assert entities_of(namespace) == normal(entities)
    assert len(namespace) <= 128


@given(SETS, SETS)
def test_two_sets_of_entities_never_share_a_namespace(one: dict[str, str], other: dict[str, str]) -> None:
    try:
        same = namespace_of(one) == namespace_of(other)
    except BadMessage:
        return
    assert same == (normal(one) == normal(other))


@given(NAMES.filter(bool))
def test_every_namespace_has_entities_and_no_two_the_same(namespace: str) -> None:
    try:
        again = namespace_of(entities_of(namespace))
    except BadMessage:  # a namespace that no set of entities reaches
        return
    assert again == unicodedata.normalize("NFC", namespace)


def test_the_rule_is_the_documented_one() -> None:
    assert namespace_of({"user_id": "ann@example.com"}) == "ann@example.com"
    assert namespace_of({"agent_id": "guide"}) == "agent=guide"
    assert namespace_of({"run_id": "7", "user_id": "a&b"}) == "user=a%26b&run=7"
    assert namespace_of({"user_id": "agent=guide"}) == "user=agent%3Dguide"


@pytest.mark.parametrize(
    "entities",
    [{}, {"user_id": ""}, {"user_id": "*"}, {"user_id": " ann"}, {"user_id": "a\x00"}, {"user_id": "x" * 129},
     dict.fromkeys(FIELDS, "x" * 40), {"user_id": "\ud800"}],
)  # fmt: skip
def test_what_is_no_namespace_is_refused(entities: dict[str, str]) -> None:
    with pytest.raises(BadMessage):
        namespace_of(entities)
