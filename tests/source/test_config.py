"""sources.yaml: every mistake has the file's name, the line, the path and what is wrong."""

from pathlib import Path

import pytest

from workers.source.config import ConfigError, load, parse

GOOD = """\
registry: {url: "http://registry:8081"}
sources:
  - topic: shop.public.product
    format: debezium
    namespace: "tenant-{{ row.tenant }}"
    when: row.active
    statements:
      material: "The {{ row.name }} is made of {{ row.material }}."
      price:
        text: "The {{ row.name }} costs {{ row.price }} euros."
        when: row.price > 0
        namespace: prices
"""


def test_a_statement_may_be_its_text_and_takes_over_what_its_source_says() -> None:
    source = parse(GOOD).sources[0]
    material, price = source.statements["material"], source.statements["price"]
    assert material.namespace and material.namespace.text == "tenant-{{ row.tenant }}"
    assert price.namespace and price.namespace.text == "prices"
    assert (material.when and material.when.text, price.when and price.when.text) == (
        "row.active",
        "row.price > 0",
    )


@pytest.mark.parametrize(
    "old, new, error",
    [
        ("topic:", "topik:", "f.yaml:3: sources.0.topik: unknown key"),
        ("topic:", "topik:", "f.yaml:3: sources.0.topic: this key is missing"),
        ("format: debezium", "format: debz", "f.yaml:4: sources.0.format: Input should be 'rows', 'debezium' or"),
        ("row.material }}", "row.material }", "f.yaml:8: sources.0.statements.material.text: line 1 of the template"),
        ("row.material", "rwo.material", "not rwo"),
        ("row.price > 0", "row.price >", "f.yaml:11: sources.0.statements.price.when: not an expression"),
        ("        namespace: prices", "        namespace: ''", "f.yaml:12: sources.0.statements.price.namespace: a text"),
        ("        namespace: prices", "        colour: red", "f.yaml:12: sources.0.statements.price.colour: unknown key"),
        ("        namespace: prices", "        text: again", "f.yaml:12: sources.0.statements.price.text: this key is there twice"),
        ("      price:", "      pr ice:", "f.yaml:9: sources.0.statements.pr ice"),
        ("http://", "ftp://", "f.yaml:1: registry.url"),
        ("http://", "http://user:secret@", "f.yaml:1: registry.url"),
        ("sources:", "sources: [", "not YAML"),
        (GOOD, "", "a mapping with the key `sources` is expected"),
        (GOOD, "sources: []", "f.yaml:1: sources"),
        (GOOD, "sources: &a [*a]", "alias"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(old: str, new: str, error: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(GOOD.replace(old, new, 1), "f.yaml")
    assert error in str(raised.value)


def test_two_sources_of_a_topic_and_two_statements_of_a_key_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"shop\.public\.product has two sources"):
        parse(GOOD + GOOD.split("sources:\n")[1])
    twice = "sources: [{topic: t, statements: {a: {text: x, key: k}, b: {text: y, key: k}}}]"
    with pytest.raises(ConfigError, match="two statements have the key 'k'"):
        parse(twice)


def test_a_file_is_read_under_its_name(tmp_path: Path) -> None:
    file = tmp_path / "sources.yaml"
    file.write_text(GOOD)
    assert load(file) and load(file).registry
    file.write_bytes(b"#" * 2_000_000)
    with pytest.raises(ConfigError, match=r"sources\.yaml has 2000000 bytes"):
        load(file)


def test_aliases_do_not_multiply_without_a_limit() -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 18))
    with pytest.raises(ConfigError, match="more than 100000 values"):
        parse(bomb)
