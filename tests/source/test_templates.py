"""Templates: nulls and placeholders are never rendered, the sandbox holds, and the output is bounded."""

import base64
from typing import Any
from uuid import UUID

import pytest

from schemas.common import BadMessage
from workers.source.templates import Condition, Template
from workers.source.values import PLACEHOLDER, NullRead, UnavailableRead, guarded


def context(**row: Any) -> dict[str, Any]:
    return {"row": guarded(row), "key": guarded({"id": 7}), "topic": "t", "event": {}}


def test_columns_are_rendered_also_those_named_like_methods() -> None:
    row = context(name="Lamp", items=3, values=["a", "b"], address={"city": "Brask"}, price=12.5)
    text = "{{ row.name }} {{ row.items }} {{ row.values|join('/') }} {{ row.address.city }} {{ row.price }} {{ key.id }}\n"
    assert Template(text).render(row) == "Lamp 3 a/b Brask 12.5 7"


NULL_READS = [
    "{{ row.n }}", "{{ row.n | upper }}", "{{ row.n ~ '' }}", "{{ row.n | int }}", "{{ row.n.city.name }}", "{{ row.n * 2 }}",
    "{{ '%s' | format(row.n) }}", "{{ [row.n] | join }}", "{{ row }}", "{{ row.n | length }}", "{{ row.n | default('x') }}",
    "{{ row.deep[0].n }}",
]  # fmt: skip


@pytest.mark.parametrize("text", NULL_READS)
def test_a_null_is_never_rendered(text: str) -> None:
    with pytest.raises(NullRead):
        Template(text).render(context(n=None, deep=[{"n": None}]))


def test_a_template_may_ask_for_a_null() -> None:
    row = context(n=None)
    assert (
        Template("{% if row.n is none %}none{% endif %}{{ row.n | default('x', true) }}").render(row)
        == "nonex"
    )
    assert not Condition("row.n").holds(row)
    assert Condition("row.n == none and row.n != 'a'").holds(row)
    assert Template("{{ row | tojson }}").render(row) == '{"n": null}'


PLACEHOLDERS: list[Any] = [
    PLACEHOLDER, PLACEHOLDER.encode(), base64.b64encode(PLACEHOLDER.encode()).decode(), [PLACEHOLDER],
    {PLACEHOLDER: PLACEHOLDER}, f'{{"{PLACEHOLDER}":"{PLACEHOLDER}"}}', list(PLACEHOLDER.encode()),
    [str(UUID(hex="b68a35a717ad35b3af2aae46edb4545a"))],
]  # fmt: skip


@pytest.mark.parametrize("value", PLACEHOLDERS, ids=range(len(PLACEHOLDERS)))
@pytest.mark.parametrize(
    "text",
    [*(text for text in NULL_READS if "deep" not in text), "{% if row.n %}a{% endif %}", "{{ row.n == 'a' }}", "{{ row.n | tojson }}"],
)  # fmt: skip
def test_what_was_not_sent_is_never_rendered(text: str, value: Any) -> None:
    with pytest.raises(UnavailableRead):
        Template(text).render(context(n=value))


@pytest.mark.parametrize(
    "text, words",
    [
        ("{{ row.colour }}", "no field 'colour'"),
        ("{{ row.name.__class__.__mro__ }}", "unsafe"),
        ("{{ row.name + 1 }}", "str"),
        ("{{ row.list.append(1) }}", "unsafe"),
        ("{% for n in range(100000) %}{{ row.name }}{% endfor %}", "8192"),
        ("{{ range(10000000) | join }}", "Range"),
        ("{{ row.name() }}", "callable"),
        ("{{ '*' * row.many }}", "too long"),
        ("{{ row.many * [row.name] }}", "too long"),
        ("{{ '%*d' % (row.many, 1) }}", "too long"),
        ("{{ row.many ** row.many }}", "too long"),
    ],
)
def test_what_cannot_be_rendered_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(BadMessage, match=words):
        Template(text).render(context(name="Lamp", list=[1], many=10_000_000))


@pytest.mark.parametrize(
    "text, expected",
    [
        ("{{ '*' * row.stars }}", "***"),
        ("{{ row.price * 2 }} {{ row.stars ** 2 }} {{ row.stars % 2 }}", "5.0 9 1"),
        (
            "{{ 'In 20260301 %.2f, 100%% and %5d' % (row.price, row.stars) }}",
            "In 20260301 2.50, 100% and     3",
        ),
    ],
)
def test_operators_are_as_in_python_where_the_result_is_short(text: str, expected: str) -> None:
    assert Template(text).render(context(stars=3, price=2.5)) == expected


@pytest.mark.parametrize(
    "text, words",
    [
        ("{{ row.name }", "line 1"),
        ("a\n{% if row.a %}", "line 2"),
        ("{{ rwo.name }}", "row, key, topic, event, and not rwo"),
        ("{{ [1, 2] | random }}", "random"),
        ("{% include 'secrets' %}{{ config }}", "config"),
    ],
)
def test_a_wrong_template_is_refused_when_it_is_read(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Template(text)


def test_a_row_is_never_a_template() -> None:
    row = context(name="{{ 7 * 7 }}{% raw %}")
    assert Template("{{ row.name }}").render(row) == "{{ 7 * 7 }}{% raw %}"


def test_a_condition_is_an_expression_with_or_without_braces() -> None:
    row = context(status="active", price=0)
    assert Condition("row.status == 'active' and not row.price").holds(row)
    assert not Condition("{{ row.price > 0 }}").holds(row)
    for text in ("row.status ==", "{% if row.a %}b{% endif %}", "rwo.a"):
        with pytest.raises(ValueError):
            Condition(text)
    with pytest.raises(BadMessage, match="colour"):
        Condition("row.colour").holds(row)
