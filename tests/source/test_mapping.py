"""The mapping of a change: what is stated, unchanged, forgotten or refused, and under which identity."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from unittest.mock import ANY

import pytest

from workers.source.change import Change
from workers.source.config import Source, parse
from workers.source.mapping import Mapped, map_change

TIME = datetime(2026, 3, 1, 12, tzinfo=UTC)
SHOP = """
statements:
  material: {text: "The {{ row.name }} is made of {{ row.material }}.", category: catalogue}
  price:
    text: "The {{ row.name }} costs {{ row.price }} euros."
    when: row.price > 0
    min_loss_delta: 0
    metadata: {sku: "{{ row.sku }}", shelf: "{{ row.shelf }}"}
    valid_until: "{{ row.until }}"
"""
LAMP = {
    "id": 7,
    "sku": "h-1",
    "name": "Lamp",
    "material": "walnut",
    "price": 40,
    "shelf": None,
    "until": None,
}


def source(text: str = SHOP, **more: str) -> Source:
    body = "\n".join(f"    {line}" for line in text.strip().splitlines())
    given = "".join(f"    {name}: {value}\n" for name, value in more.items())
    return parse(f"sources:\n  - topic: products\n{given}{body}").sources[0]


def mapped(change: Change, given: Source | None = None) -> dict[str, Mapped]:
    return {one.statement: one for one in map_change(given or source(), change, "r")}


def verdicts(change: Change, given: Source | None = None) -> dict[str, str]:
    return {name: one.verdict for name, one in mapped(change, given).items()}


def changed(before: Any, after: Any, key: Any = ("id",), **more: Any) -> Change:
    row = after or before
    found = {name: row[name] for name in key} if isinstance(key, tuple) else key
    return Change("products", found, before, after, TIME, **more)


def body(one: Mapped) -> dict[str, Any]:
    (message,) = one.messages
    assert message.namespace == message.body["namespace"]
    return message.body


def test_a_row_makes_a_fact_of_each_statement() -> None:
    found = mapped(changed(None, LAMP | {"until": date(2026, 4, 1)}))
    assert body(found["material"]) == {
        "text": "The Lamp is made of walnut.", "category": "catalogue", "key": "products:7:material", "namespace": "default",
        "source": "products", "fact_id": ANY, "observed_at": "2026-03-01T12:00:00+00:00",
    }  # fmt: skip
    price = body(found["price"])
    assert price["metadata"] == {"sku": "h-1"} and price["min_loss_delta"] == 0
    assert price["valid_until"] == "2026-04-01T00:00:00+00:00" and "category" not in price


def test_what_is_unchanged_sends_nothing() -> None:
    assert verdicts(changed(LAMP, LAMP | {"price": 41})) == {"material": "unchanged", "price": "states"}
    assert verdicts(changed(LAMP, LAMP | {"id": 7})) == {"material": "unchanged", "price": "unchanged"}
    assert verdicts(changed(LAMP, LAMP | {"shelf": "B"})) == {"material": "unchanged", "price": "states"}
    assert not mapped(changed(LAMP, LAMP))["material"].messages


def test_without_all_of_the_old_row_everything_is_sent() -> None:
    assert verdicts(changed(None, LAMP)) == {"material": "states", "price": "states"}
    given = source(compare_before="false")
    assert verdicts(changed(LAMP, LAMP), given) == {"material": "states", "price": "states"}


def test_a_statement_whose_condition_became_false_is_forgotten_once() -> None:
    free = LAMP | {"price": 0}
    found = mapped(changed(LAMP, free))
    assert found["price"].verdict == "forgets" and body(found["price"])["forget_key"] == "products:7:price"
    assert verdicts(changed(free, free | {"name": "Desk"})) == {"material": "states", "price": "nothing"}
    assert verdicts(changed(free, LAMP))["price"] == "states"
    assert verdicts(changed(None, free))["price"] == "forgets"  # what it said before is not known
    assert verdicts(changed(None, free, created=True))["price"] == "nothing"


def test_a_null_or_a_blank_text_states_nothing() -> None:
    assert verdicts(changed(LAMP, LAMP | {"material": None, "price": None})) == {
        "material": "forgets",
        "price": "forgets",
    }
    blank = source('statements: {note: "{{ row.material }}"}')
    assert verdicts(changed(None, LAMP | {"material": "  "}), blank) == {"note": "forgets"}


def test_a_row_that_moves_to_another_namespace_or_key_leaves_nothing_behind() -> None:
    given = source(
        'statements: {note: {text: "{{ row.name }}", key: "sku/{{ row.sku }}", namespace: "t-{{ row.id }}"}}'
    )
    found = mapped(changed(LAMP, LAMP | {"sku": "h-2", "id": 8}), given)["note"]
    old, new = found.messages
    assert (old.namespace, old.body["forget_key"]) == ("t-7", "sku/h-1")
    assert (new.namespace, new.body["key"]) == ("t-8", "sku/h-2")
    assert old.body["fact_id"] != new.body["fact_id"]  # each is decided once, by its own
    gone = source('statements: {note: {text: "{{ row.name }}", key: "sku/{{ row.sku }}", when: row.price}}')
    found = mapped(changed(LAMP, LAMP | {"sku": "h-2", "price": 0}), gone)["note"]
    assert [message.body["forget_key"] for message in found.messages] == ["sku/h-1", "sku/h-2"]


def test_a_deleted_row_forgets_by_the_columns_of_its_key() -> None:
    for before in (LAMP, {**dict.fromkeys(LAMP), "id": 7}, None):
        found = mapped(Change("products", {"id": 7}, before, None, TIME))
        assert [body(one)["forget_key"] for one in found.values()] == [
            "products:7:material",
            "products:7:price",
        ]
    by_sku = source('statements: {note: {text: "{{ row.name }}", key: "sku/{{ row.sku }}"}}')
    assert verdicts(Change("products", {"id": 7}, LAMP, None, TIME), by_sku) == {"note": "forgets"}
    for before in ({**dict.fromkeys(LAMP), "id": 7}, None):
        one = mapped(Change("products", {"id": 7}, before, None, TIME), by_sku)["note"]
        assert one.verdict == "refused" and "only these are known: id" in one.reason


@pytest.mark.parametrize(
    "key, text",
    [
        ({"id": 7}, "7"), ("h-1", "h-1"), ({"sku": "a:b"}, "a:b"), ({"lang": "de", "id": 7}, '{"id":7,"lang":"de"}'),
        ({"a": Decimal("1.10"), "b": date(2026, 1, 1)}, '{"a":"1.10","b":"2026-01-01"}'), ({"a": b"\x01", "b": 1}, '{"a":"01","b":1}'),
    ],
)  # fmt: skip
def test_an_identity_is_the_topic_the_record_key_and_the_name(key: Any, text: str) -> None:
    assert body(mapped(changed(None, LAMP, key))["material"])["key"] == f"products:{text}:material"


def test_two_keys_of_several_columns_never_meet() -> None:
    keys = [
        {"a": "x,y", "b": "z"},
        {"a": "x", "b": "y,z"},
        {"a": 'x","b":"y', "b": "z"},
        {"a": "x"},
        {"b": "x", "a": None},
    ]
    texts = {body(mapped(changed(None, LAMP, key))["material"])["key"] for key in keys}
    assert len(texts) == len(keys)


@pytest.mark.parametrize(
    "text, row, reason, words",
    [
        ("note: '{{ row.colour }}'", {}, "undefined-field", "note.text: there is no field 'colour'"),
        ("note: {text: a, when: row.colour}", {}, "undefined-field", "note.when: there is no field 'colour'"),
        ("note: {text: a, key: '{{ row.shelf }}'}", {}, "null-identity", "note.key: it is blank, or reads a null"),
        ("note: {text: a, namespace: '{{ row.name }}'}", {"name": " \u0001"}, "invalid-field", "note.namespace"),
        ("note: {text: a, key: '{{ row.name * 100 }}'}", {}, "invalid-field", "note.key: 400 characters; at most 256"),
        ("note: '{{ row.name }}'", {"name": "\u009b"}, "invalid-field", "note.text: control character"),
        ("note: '{{ row.name }}, {{ row.name }}'", {"name": "Lamp " * 1000}, "too-long", "note.text: it renders to more than 8192"),
        ("note: '{{ row.name * 4000 }}'", {"name": "é "}, "invalid-field", "note.text: the text has 11999 bytes"),
        ("note: {text: a, valid_until: '{{ row.name }}'}", {}, "invalid-field", "note.valid_until: not an ISO 8601 time"),
        ("note: {text: a, metadata: {a: '{{ row.name * 2000 }}'}}", {}, "invalid-field", "note.metadata: more than 4096"),
        ("note: {text: '{{ row.name / 2 }}'}", {}, "not-rendered", "note.text: unsupported operand"),
    ],
    ids=range(11),
)  # fmt: skip
def test_what_cannot_be_stated_names_the_statement_and_the_field(
    text: str, row: dict[str, Any], reason: str, words: str
) -> None:
    one = mapped(changed(None, LAMP | row), source(f"statements:\n  {text}"))["note"]
    assert one.verdict == "refused" and one.error and one.error.reason == reason
    assert words in one.reason and one.messages == ()


def test_a_statement_that_is_refused_does_not_hold_up_the_others() -> None:
    given = source("statements: {bad: '{{ row.colour }}', good: '{{ row.name }} is a lamp.'}")
    assert verdicts(changed(None, LAMP), given) == {"bad": "refused", "good": "states"}


def test_without_a_record_key_a_statement_needs_a_key_of_its_own() -> None:
    one = mapped(changed(None, LAMP, key=None))["material"]
    assert one.error and one.error.reason == "no-key" and "a template `key` of its own" in one.reason
    given = source('statements: {note: {text: "{{ row.name }}", key: "{{ row.sku }}"}}')
    assert verdicts(changed(None, LAMP, key=None), given) == {"note": "states"}


def test_a_template_may_read_the_key_the_topic_and_the_event() -> None:
    given = source("statements: {note: '{{ key }} of {{ topic }} by {{ event.type }}'}")
    change = Change("products", "h-1", None, LAMP, TIME, event={"type": "t"})
    assert body(mapped(change, given)["note"])["text"] == "h-1 of products by t"


def test_a_record_that_is_not_about_a_statement_leaves_it_as_it_is() -> None:
    given = source("""
where: event.type != 'seen'
statements:
  made: {text: "{{ row.name }} was made.", where: event.type == 'made'}
  price: "{{ row.name }} costs {{ row.price }} euros."
""")
    for kind, found in [
        ("made", ("states", "states")),
        ("priced", ("nothing", "states")),
        ("seen", ("nothing", "nothing")),
    ]:
        change = Change("products", "h-1", None, LAMP, TIME, event={"type": kind})
        assert tuple(verdicts(change, given).values()) == found
    nulls = source("statements: {made: {text: a, where: row.shelf.row > 3}}")
    assert verdicts(changed(None, LAMP), nulls) == {"made": "nothing"}
    assert verdicts(Change("products", "h-1", None, None, TIME), given) == {
        "made": "forgets",
        "price": "forgets",
    }


def test_a_row_that_becomes_what_a_statement_is_about_states_it() -> None:
    given = source("statements: {note: {text: '{{ row.name }}', where: row.shelf == 'sale'}}")
    assert verdicts(changed(LAMP, LAMP | {"shelf": "sale"}), given) == {"note": "states"}


def test_a_deletion_by_an_event_that_a_statement_is_not_about_forgets_nothing() -> None:
    given = source("""
where: event.type in ('changed', 'removed')
statements: {stock: {text: "{{ row.stock }}", key: "{{ event.subject }}"}}
""")
    for kind, verdict in (("viewed", "nothing"), ("removed", "forgets")):
        change = Change("products", None, None, None, TIME, event={"type": kind, "subject": "7"})
        assert verdicts(change, given) == {"stock": verdict}
    of_column = source("statements: {note: {text: '{{ row.name }}', where: row.shelf == 'sale'}}")
    assert verdicts(changed(LAMP, None), of_column) == {"note": "forgets"}  # its columns may not be sent


def test_a_record_that_is_read_again_says_the_same_or_what_the_changed_file_says() -> None:
    text = "statements: {note: {text: '%s', when: %s}}"
    said = [
        body(mapped(changed(None, LAMP), source(text % given))["note"])["fact_id"]
        for given in [
            ("{{ row.name }}", "true"),
            ("{{ row.name }}", "true"),
            ("A {{ row.name }}.", "true"),
            ("a", "false"),
        ]
    ]
    assert said[0] == said[1] and len(set(said)) == 3  # a fact_id is decided once
    assert all(one.startswith("r/note/") for one in said)
