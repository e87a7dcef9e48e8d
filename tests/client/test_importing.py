"""Export and import: a memory comes back as it was, once; a bad file changes nothing."""

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import schemas
from pipeline.memory.bank import memory_id
from pipeline.query.export import export
from pipeline.query.filter import Filter
from schemas.common import BadMessage
from schemas.fact import Fact, FactMessage, Forget, ForgetAll, ForgetKey, Restore
from schemas.files.exported import EXPORTED, VERSION_KEY, ExportedMemory
from tests.client.local_stack import BEGIN, LocalStack, tells_names, tells_places
from workers.client import exported, importing
from workers.client.importing import Imported
from workers.kafka.config import KafkaSettings

LATER = BEGIN + timedelta(days=30)
NAMES = ("Torben Betts", "The Harlow lamp")
PLACES = ("Munich", "Perth", "Oslo")
KEYS = (None, "home", "lamp")


@pytest.fixture(autouse=True)
def a_cluster_of_one_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "ensure_topics", lambda settings, names: dict.fromkeys(names, "t"))


def exports(stack: LocalStack, file: Path, **chosen: Any) -> dict[str, int]:
    with file.open("wb") as out:
        return export(stack.data, Filter(**chosen), out, file.suffix == ".parquet", lambda done: None)


def imports(stack: LocalStack, file: Path, again: bool = False) -> Imported:
    checked = exported.check(file)
    assert not checked.wrong
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importing, "publish", stack.publish)
        return importing.import_memories(KafkaSettings(), file, checked, stack.data, again)


def speaking(stack: LocalStack) -> dict[str, tuple[object, ...]]:
    """What is carried of the memories that speak."""
    names = (
        "namespace",
        "text",
        "category",
        "source",
        "key",
        "cardinality",
        "metadata",
        "observed_at",
        "valid_until",
    )
    return {
        memory.memory_id: tuple(getattr(memory, name) for name in names)
        for namespace in stack.bank.namespaces
        for memory in stack.bank.memories(namespace)
    }


def superseded(stack: LocalStack) -> dict[str, str]:
    return {
        one.memory.memory_id: one.by for name in stack.bank.namespaces for one in stack.bank.superseded(name)
    }


def statement(n: int, name: str, place: str, key: str | None, many: bool, hours: int) -> Fact:
    return Fact(
        text=f"{name} was from {place}.", key=key, cardinality="many" if key and many else None,
        category="c" if n % 2 else None, metadata={"n": n, "tags": ["a"]} if n % 3 else None,
        fact_id=f"f{n}" if n % 4 else None, observed_at=BEGIN - timedelta(hours=hours),
        valid_until=LATER if n % 5 == 0 else None,
    )  # fmt: skip


statements = st.tuples(
    st.sampled_from(NAMES), st.sampled_from(PLACES), st.sampled_from(KEYS), st.booleans(), st.integers(1, 50)
)
requests = st.tuples(
    st.sampled_from(["forget", "forget_key", "restore", "forget_all"]),
    st.sampled_from(NAMES),
    st.sampled_from(PLACES),
    st.sampled_from(KEYS),
)


def message(n: int, action: Any) -> FactMessage:
    if action[0] in NAMES:
        return statement(n, *action)
    verb, name, place, key = action
    own = memory_id("ada", f"{name} was from {place}.", key)
    made: dict[str, FactMessage] = {
        "forget": Forget(forget=own), "restore": Restore(restore=own), "forget_key": ForgetKey(forget_key=key or "home"),
        "forget_all": ForgetAll(forget_all=True),
    }  # fmt: skip
    return made[verb]


@settings(max_examples=20, deadline=None)
@given(
    st.lists(statements | statements | statements | requests, max_size=14),
    st.sampled_from([".jsonl", ".parquet"]),
)
def test_a_memory_comes_back_as_it_was(script: list[Any], suffix: str) -> None:
    """What speaks is the same in a new stack, of the same model and of one that sees other relations in the texts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = LocalStack(folder / "source")
        source.publish(None, [("ada", message(n, action)) for n, action in enumerate(script)])
        file = folder / f"all{suffix}"
        exports(source, file)
        for model, prior in (("same", tells_names), ("other", tells_places)):
            target = LocalStack(folder / model, prior, model, LATER)
            imports(target, file)
            assert speaking(target) == speaking(source)
            digest = target.bank.digest()
            again = imports(target, file)
            assert target.bank.digest() == digest
            assert set(again.outcomes) <= {"duplicate"} and not again.forgotten


UPDATES: list[tuple[str, FactMessage]] = [
    ("ada", Fact(text="Torben Betts was from Munich.", observed_at=BEGIN)),
    ("ada", Fact(text="Ola lives in Temmin.", key="home", observed_at=BEGIN, metadata={"n": 1})),
    ("bob", Fact(text="The Harlow lamp is made of walnut.", category="catalogue", fact_id="f1")),
    ("ada", Fact(text="Torben Betts was from Perth.", observed_at=BEGIN + timedelta(hours=1))),
    ("ada", Fact(text="Ola has moved to Brask.", key="home", observed_at=BEGIN + timedelta(hours=1))),
    ("bob", Fact(text="The Harlow lamp is made of walnut.")),
]


@pytest.fixture
def source(tmp_path: Path) -> LocalStack:
    stack = LocalStack(tmp_path / "source")
    stack.publish(None, UPDATES)
    return stack


def lines(file: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in file.read_bytes().splitlines()]


def test_an_export_has_the_history_in_both_formats(source: LocalStack, tmp_path: Path) -> None:
    assert exports(source, tmp_path / "a.jsonl") == {"remembered": 3, "superseded": 2}
    exports(source, tmp_path / "a.parquet")
    munich, temmin, perth, brask, lamp = lines(tmp_path / "a.jsonl")
    schema = orjson.loads((Path(schemas.__file__).parent / "exported-memory.schema.json").read_bytes())
    for line in (munich, temmin, perth, brask, lamp):
        Draft202012Validator(schema).validate(line)
    assert munich["state"] == "superseded" and munich["superseded_by"] == perth["memory_id"]
    assert (temmin["rule"], temmin["metadata"], brask["key"]) == ("key", {"n": 1}, "home")
    assert (lamp["reinforced"], lamp["fact_id"], lamp["category"]) == (1, "f1", "catalogue")
    assert lamp["reinforced_at"] > lamp["learned_at"]
    rows = pq.read_table(tmp_path / "a.parquet")
    assert rows.schema.equals(EXPORTED) and rows.schema.metadata == EXPORTED.metadata
    assert {"version", *EXPORTED.names} == set(ExportedMemory.model_fields)
    for file in ("a.jsonl", "a.parquet"):
        read = [line.memory for line in exported.read(tmp_path / file)]
        assert [memory.text for memory in read] == [m["text"] for m in (munich, temmin, perth, brask, lamp)]
    exports(source, tmp_path / "b.jsonl", namespace="bob", category="catalogue")
    assert lines(tmp_path / "b.jsonl") == [lamp]


def test_superseded_ones_come_back_superseded(source: LocalStack, tmp_path: Path) -> None:
    exports(source, tmp_path / "a.jsonl")
    target = LocalStack(tmp_path / "target", begin=LATER)
    done = imports(target, tmp_path / "a.jsonl")
    assert superseded(target) == superseded(source) and len(superseded(target)) == 2
    assert done.outcomes == {"learned": 3, "superseded": 2} and done.forgotten == 0
    other = LocalStack(tmp_path / "other", tells_places, begin=LATER)
    assert imports(other, tmp_path / "a.jsonl").forgotten == 1  # the update without a key
    assert speaking(other) == speaking(source)


def test_what_was_replaced_by_something_else_is_left_out(source: LocalStack, tmp_path: Path) -> None:
    perth = memory_id("ada", "Torben Betts was from Perth.")
    source.publish(None, [("ada", Forget(forget=perth))])
    exports(source, tmp_path / "a.jsonl")
    checked = exported.check(tmp_path / "a.jsonl")
    assert (checked.remembered, checked.superseded, len(checked.orphans)) == (2, 1, 1)
    target = LocalStack(tmp_path / "target")
    imports(target, tmp_path / "a.jsonl")
    assert speaking(target) == speaking(source)


def test_what_was_forgotten_since_comes_back_on_demand(source: LocalStack, tmp_path: Path) -> None:
    exports(source, tmp_path / "a.jsonl")
    imports(source, tmp_path / "a.jsonl")
    before = speaking(source)
    source.publish(None, [("ada", ForgetAll(forget_all=True)), ("bob", ForgetAll(forget_all=True))])
    assert imports(source, tmp_path / "a.jsonl").not_remembered == 3 and not speaking(source)
    imports(source, tmp_path / "a.jsonl", again=True)
    assert speaking(source) == before
    digest = source.bank.digest()
    imports(source, tmp_path / "a.jsonl", again=True)
    assert source.bank.digest() == digest


def test_a_stopped_import_goes_on(
    source: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exports(source, tmp_path / "a.jsonl")
    monkeypatch.setattr(importing, "CHUNK", 2)
    target, calls = LocalStack(tmp_path / "target", begin=LATER), list[int]()
    publish = target.publish

    def stopping(settings: Any, facts: Any, *more: Any) -> Any:
        facts = list(facts)
        calls.append(len(facts))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return publish(settings, facts, *more)

    monkeypatch.setattr(target, "publish", stopping)
    with pytest.raises(KeyboardInterrupt):
        imports(target, tmp_path / "a.jsonl")
    assert imports(target, tmp_path / "a.jsonl").resumed_after == 2
    assert speaking(target) == speaking(source) and superseded(target) == superseded(source)
    assert imports(target, tmp_path / "a.jsonl").resumed_after == 0


def test_every_wrong_line_is_told_with_its_number(source: LocalStack, tmp_path: Path) -> None:
    exports(source, tmp_path / "a.jsonl")
    good = (tmp_path / "a.jsonl").read_bytes().splitlines()
    first = orjson.loads(good[0])
    wrong = [
        good[1].replace(b"Temmin", b"Elsewhere"), b'{"version":1', b"\xff", b"x" * 300_000, good[2].replace(b':1,', b':2,', 1),
        orjson.dumps(first | {"superseded_by": None}), orjson.dumps(first | {"colour": "red"}), good[3],
    ]  # fmt: skip
    (tmp_path / "b.jsonl").write_bytes(b"\n".join([good[3], b"", *wrong, good[4]]))
    checked = exported.check(tmp_path / "b.jsonl")
    assert [line.split(":")[0] for line in checked.wrong] == [f"line {n}" for n in range(3, 11)]
    for told, words in zip(
        checked.wrong,
        ("edited", "not JSON", "UTF-8", "at most", "version 2", "superseded_by", "colour", "there already"),
        strict=True,
    ):
        assert words in told
    assert (checked.wrong_count, checked.remembered) == (8, 2)


def test_a_foreign_parquet_file_is_refused(tmp_path: Path) -> None:
    for n, table in enumerate(
        [EXPORTED.remove_metadata(), EXPORTED.remove(3), EXPORTED.with_metadata({VERSION_KEY: "2"})]
    ):
        pq.write_table(table.empty_table(), tmp_path / f"{n}.parquet")
        with pytest.raises(BadMessage, match=r"is not an export|other columns|version 2"):
            exported.check(tmp_path / f"{n}.parquet")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(BadMessage, match="Parquet"):
        exported.check(tmp_path / "damaged.parquet")
