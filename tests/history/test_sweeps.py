"""Erasure of a key and of a namespace: no text of it is left, and what others state stays."""

import json
from pathlib import Path

import pytest

from pipeline.history import checkpoint, tables
from pipeline.history import log as history
from pipeline.history.erasure import erase
from pipeline.memory.bank import fold, memory_id
from pipeline.memory.events import Decision, SourceOffset
from pipeline.query import run as query
from tests.history.test_erasure import NOW, everything
from tests.write.local_writer import HOME, Sent, agree, batch, decided, message, row, take, writer
from workers.write.worker import WriterWorker

HOMES = ["Ola lives in Temmin.", "Ola has moved to Brask.", "Ola is back in Temmin for good."]
OTHER = "The lamp of Temmin is old."
ANSWER = {
    "use_memory": True, "memory_ids": [], "gates": [], "finish_reason": "stop", "answered_at": NOW, "partition": 0,
    "prompt": "Where?", "text": "Off to Brask.",
}  # fmt: skip
LETTER = {
    "topic": "facts", "partition": 0, "reason": "r", "error": "e", "worker": "w", "time": NOW, "value": b'{"text":"Brask"',
}  # fmt: skip


def left(data: Path, word: str) -> list[str]:
    return [path.name for path, text in everything(data) if word in text]


def told(data: Path) -> tuple[WriterWorker, Sent]:
    """A writer that was told where Ola lives, with and without a key, and of a lamp."""
    worker, sent = writer(data)
    rows = [row(n, text, key="ola:home", metadata='{"at":"Brask"}') for n, text in enumerate(HOMES)]
    rows += [row(3, OTHER, key="lamp"), row(4, HOMES[2]), row(5, "Ola lives in Brask.", loss_delta=0.0)]
    for offset, one in enumerate(rows):
        worker.process(batch(message(one), start=offset))
    return worker, sent


def test_an_erased_key_leaves_no_text_that_it_ever_stated(tmp_path: Path) -> None:
    worker, sent = told(tmp_path)
    used = memory_id("default", HOMES[1], "ola:home")
    answers = [
        ANSWER | {"request_id": "used", "namespaces": ["default"], "memory_ids": [used], "offset": 0},
        ANSWER | {"request_id": "other", "namespaces": ["default"], "text": "Old.", "offset": 1},
    ]
    tables.append_generations(tmp_path, answers, "a")
    worker.process(batch(message(row(6, "", kind="erase_key", key="ola:home", observed_at=None)), start=6))
    for text in HOMES:
        assert left(tmp_path, text) == []
    assert left(tmp_path, '"at":"Brask"') == []
    assert left(tmp_path, "Ola lives in Brask.") and left(tmp_path, OTHER)  # other statements
    found = query.run(tmp_path, "select request_id, text from generations order by 1").to_pylist()
    assert [(one["request_id"], one["text"]) for one in found] == [("other", "Old."), ("used", "")]
    check(worker, sent, tmp_path, [OTHER])


def test_a_text_that_a_key_took_up_is_erased_with_the_key(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    for offset, key in enumerate((None, "ola:home")):
        worker.process(batch(message(row(offset, HOMES[0], key=key)), start=offset))
    worker.process(batch(message(row(2, "", kind="erase_key", key="ola:home", observed_at=None)), start=2))
    assert left(tmp_path, HOMES[0]) == []
    check(worker, sent, tmp_path, [])
    held = worker._held[HOME]
    assert checkpoint.write(tmp_path, HOME, held.version, held.last, held.bank)
    assert left(tmp_path, HOMES[0]) == [], "nothing that can be restored either"


def test_a_text_told_again_without_the_key_that_took_it_up_stays(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    told = [(HOMES[0], None), (HOMES[0], "ola:home"), (HOMES[1], "ola:home"), (HOMES[0], None)]
    for offset, (text, key) in enumerate(told):
        worker.process(batch(message(row(offset, text, key=key)), start=offset))
    worker.process(batch(message(row(4, "", kind="erase_key", key="ola:home", observed_at=None)), start=4))
    texts = query.run(tmp_path, 'select text from history order by "offset"').to_pylist()
    assert [one["text"] for one in texts] == [None, None, None, HOMES[0], None]
    check(worker, sent, tmp_path, [HOMES[0]])


def test_what_an_erased_memory_replaced_stays_replaced(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    told = [(HOMES[0], "many"), (HOMES[1], "many"), (HOMES[0], "one")]
    for offset, (text, cardinality) in enumerate(told):
        one = row(offset, text, key="ola:home", cardinality=cardinality)
        worker.process(batch(message(one), start=offset))
    gone = row(3, "", kind="erase", forget=memory_id("default", HOMES[0], "ola:home"), observed_at=None)
    worker.process(batch(message(gone), start=3))
    check(worker, sent, tmp_path, [])


def test_a_dead_letter_is_erased_however_its_json_escapes_the_text(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    worker.process(batch(message(row(0, "Ola's home is Temmin.", key="ola:home"))))
    value = b'{"text":"Ola\\u0027s home is Temmin.","category":7}'  # as .NET writes it
    tables.append_dead_letters(tmp_path, [LETTER | {"offset": 0, "key": b"default", "value": value}], "a")
    worker.process(batch(message(row(1, "", kind="erase_key", key="ola:home", observed_at=None)), start=1))
    assert query.run(tmp_path, "select value from dead_letters").to_pylist() == [{"value": None}]
    check(worker, sent, tmp_path, [])


def test_dead_letters_of_an_erased_namespace_go_in_any_of_unicodes_forms(tmp_path: Path) -> None:
    name, decomposed = "Zo\u00eb", "Zoe\u0308"
    letters = [
        (decomposed.encode(), b"{"),
        (None, json.dumps({"namespace": decomposed}).encode()),
        (b"x", b"{"),
    ]
    rows = [LETTER | {"offset": n, "key": key, "value": value} for n, (key, value) in enumerate(letters)]
    tables.append_dead_letters(tmp_path, rows, "a")
    cause = SourceOffset("facts", "id", 0, 0)
    history.append(tmp_path, HOME, 0, [Decision(name, "erased", cause, NOW, rule="forget_all")])
    erase(tmp_path, HOME, 0)
    found = query.run(tmp_path, 'select value from dead_letters order by "offset"').to_pylist()
    assert [one["value"] for one in found] == [None, None, b"{"]


@pytest.mark.parametrize("again", [False, True])
def test_an_erased_namespace_leaves_nothing(again: bool, tmp_path: Path) -> None:
    worker, sent = told(tmp_path)
    answers = [
        ANSWER | {"request_id": name, "namespaces": [name, "shared"], "offset": n}
        for n, name in enumerate(("default", "elsewhere"))
    ]
    tables.append_generations(tmp_path, answers, "a")
    keys = [b"default", b'"default"', None, b"elsewhere"]
    tables.append_dead_letters(
        tmp_path, [LETTER | {"offset": n, "key": key} for n, key in enumerate(keys)], "a"
    )
    worker.process(batch(message(row(6, "", kind="erase_all", observed_at=None)), start=6))
    for word in ("Ola", "of Temmin"):
        assert [name for name in left(tmp_path, word) if name != "a.parquet"] == []
    found = query.run(tmp_path, "select request_id, text from generations order by 1").to_pylist()
    assert [one["text"] for one in found] == ["", "Off to Brask."]
    letters = query.run(tmp_path, 'select value from dead_letters order by "offset"').to_pylist()
    assert [one["value"] for one in letters] == [None, None, None, LETTER["value"]]
    check(worker, sent, tmp_path, [])
    if again:  # in order: what follows is learned
        worker.process(batch(message(row(7, OTHER)), start=7))
        take(worker)
        check(worker, sent, tmp_path, [OTHER])


def check(worker: WriterWorker, sent: Sent, data: Path, texts: list[str]) -> None:
    """The bank, the fold, the changelog and the view have these memories."""
    bank = worker._held[HOME].bank
    assert [memory.text for memory in bank.memories("default")] == texts
    assert fold(decided(data)).digest() == bank.digest()
    agree(sent, data)
    assert [one["text"] for one in query.run(data, "select text from memories").to_pylist()] == texts
