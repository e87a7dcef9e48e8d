"""Erasure in a bucket: no late writer and no crash in between keeps the text."""

from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore

from pipeline.history import compaction
from pipeline.memory.bank import fold
from pipeline.query import run as query
from pipeline.store import opening
from pipeline.store.bucket import Bucket
from pipeline.store.objects import ObjectStore
from pipeline.store.place import folder_of
from tests.history import test_erasure as folder_tests
from tests.history.test_erasure import FACTS, MEMORY, NOW, SECRET, fact_message, files_with_text, request
from tests.store.stores import bucket
from tests.write.local_writer import HOME, Local, batch, begin, decided, writer
from workers.runtime.worker import Retry
from workers.write.worker import WriterWorker

URL = "s3://facts/one"


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """The bucket at URL, and merges after four versions."""
    memory = MemoryStore()
    monkeypatch.setattr(opening, "_bucket", lambda url: bucket(memory))
    monkeypatch.setattr(compaction, "FAN", 4)
    monkeypatch.setenv("FACTSTREAM_CACHE", str(tmp_path / "cache"))
    return memory


@pytest.fixture
def data() -> Path:
    return folder_of(URL)


def objects(memory: MemoryStore) -> dict[str, bytes]:
    return {
        meta["path"]: bytes(obstore.get(memory, meta["path"]).bytes())
        for meta in obstore.list(memory).collect()
    }


def with_text(memory: MemoryStore, folder: Path) -> list[str]:
    """The objects with the erased text."""
    for name, body in objects(memory).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return files_with_text(folder)


def learn(worker: WriterWorker) -> None:
    """Six versions; the first has the secret, and is merged with three others."""
    for offset, text in enumerate(FACTS):
        worker.process(batch(fact_message(offset, text), start=offset))
    worker.idle()


def digest(data: Path) -> str:
    with opening.store_at(data).view(HOME) as folder:
        return fold(decided(folder)).digest()


def add_rows(data: Path) -> None:
    answer = {
        "request_id": "1", "namespaces": ["default"], "use_memory": True, "memory_ids": [MEMORY], "gates": [], "finish_reason": "stop",
        "prompt": "Where from?", "text": "He is from Munich.", "offset": 1, "answered_at": NOW, "partition": 0,
    }  # fmt: skip
    letter = {
        "topic": "facts", "partition": 0, "offset": 1, "reason": "r", "error": "e", "worker": "w", "time": NOW, "key": b"default",
        "value": SECRET.encode(),
    }  # fmt: skip
    store = opening.store_at(data)
    store.add("generations", [answer], "a")
    store.add("dead_letters", [letter], "a")


def test_no_object_keeps_the_text_and_the_memory_is_that_of_a_folder(
    memory: MemoryStore, data: Path, tmp_path: Path
) -> None:
    add_rows(data)
    for place in (data, tmp_path / "folder"):
        worker, _ = writer(place)
        learn(worker)
        assert place != data or len(with_text(memory, tmp_path / "before")) >= 4
        worker.process(batch(request("erase", 6), start=6))
    assert with_text(memory, tmp_path / "after") == []
    assert digest(data) == digest(tmp_path / "folder") == worker._held[HOME].bank.digest()
    sql = "select count(*) as n from memories union all select count(*) from generations where text = ''"
    assert [row["n"] for row in query.run(data, sql).to_pylist()] == [2, 1]
    assert files_with_text(data) == [], "nor does a copy on this machine"


def test_a_merge_by_who_lost_the_partition_does_not_bring_the_text_back(
    memory: MemoryStore, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "FAN", 64)
    late, _ = writer(data)
    for offset, text in enumerate(FACTS):
        late.process(batch(fact_message(offset, text), start=offset))
    real, new = compaction.merge, WriterWorker(Local(), data, now=lambda: NOW)

    def slowly(*args: Any) -> Path:
        """The merge of files with the text ends only after another writer has erased it."""
        path = real(*args)
        monkeypatch.setattr(compaction, "merge", real)
        begin(new)
        new.process(batch(request("erase", 6), start=6))
        return path

    monkeypatch.setattr(compaction, "merge", slowly)
    monkeypatch.setattr(compaction, "FAN", 4)
    late.idle()
    assert digest(data) == new._held[HOME].bank.digest() and len(new._held[HOME].bank) == 2
    with opening.store_at(data).view(HOME) as folder:
        assert len(decided(folder)) == 7 and files_with_text(data) == [], "nor has a copy here"
    new.idle()
    assert with_text(memory, tmp_path / "after") == [], "what it has uploaded is gone"
    with pytest.raises(Retry):
        late.process(batch(fact_message(7, "A late fact."), start=7))


@pytest.mark.parametrize("step", ["upload", "create", "replace", "delete"])
@pytest.mark.parametrize("after", [False, True])
def test_an_erasure_that_dies_at_any_request_is_ended_by_the_next_owner(
    memory: MemoryStore, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    add_rows(data)
    worker, _ = writer(data)
    learn(worker)
    real = getattr(Bucket, step)
    erasing = False

    class Dead(BaseException):
        pass

    def dies(own: Bucket, key: Any, *args: Any) -> Any:
        """At the first request of its kind that belongs to the erasure."""
        versions = step == "create" and "manifest" not in key
        if erasing and not versions:
            if after:
                real(own, key, *args)
            raise Dead
        return real(own, key, *args)

    monkeypatch.setattr(Bucket, step, dies)
    erasing = True
    with pytest.raises(Dead):
        worker.process(batch(request("erase", 6), start=6))
    erasing = False
    fresh, _ = writer(data)
    fresh.idle()
    assert with_text(memory, tmp_path / "after") == [], "the next owner has done the rest"
    assert fold(decided(fresh._store.files(HOME))).digest() == fresh._held[HOME].bank.digest()
    assert folder_tests and isinstance(fresh._store, ObjectStore)
