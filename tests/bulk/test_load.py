"""factstream load: what the stream would have decided, once, wherever the load was killed."""

import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.ingest.encoder import Encoder
from schemas import topics
from tests.bulk.stack import AT, Killed, Stack, lines_of_facts
from tests.encode.test_encoder import Model
from workers.bulk import load as bulk
from workers.bulk.encode import encode
from workers.client import ClientError
from workers.kafka.config import KafkaSettings

FACTS = lines_of_facts(700)


def job(folder: Path, encoder: Any, lines: list[bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "facts.jsonl").write_bytes(b"\n".join(lines))
    encode(folder / "facts.jsonl", folder / "out", encoder, AT)
    return folder / "out"


@pytest.fixture(scope="module")
def encoder(gpt2: Path) -> Encoder:
    return Encoder.load(str(gpt2), "cpu")


@pytest.fixture(scope="module")
def out(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return job(tmp_path_factory.mktemp("job"), encoder, FACTS)


@pytest.fixture(scope="module")
def streamed(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    stack = Stack(tmp_path_factory.mktemp("stream"), encoder)
    stack.publish(FACTS)
    return stack


def agrees(stack: Stack, streamed: Stack) -> None:
    """The memory is the streamed one, and each record was decided once."""
    assert stack.digest() == streamed.digest()
    outcomes = [
        sorted((d.namespace, d.text or "", d.outcome) for d in one.decisions()) for one in (stack, streamed)
    ]
    assert outcomes[0] == outcomes[1]


def test_the_digest_is_the_streamed_one(out: Path, streamed: Stack, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    loaded = stack.load(out)
    assert (loaded.rows, loaded.sent, loaded.refused) == (len(FACTS), len(FACTS), 0)
    assert len({d.outcome for d in streamed.decisions()}) > 2  # the facts are not all simply learned
    agrees(stack, streamed)
    assert {d.cause.topic_id for d in stack.decisions()} == {loaded.job_id}


def test_a_load_is_repeated_after_a_kill_at_any_window(
    out: Path, streamed: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "WINDOW", 100)
    stack = Stack(tmp_path)
    for windows in (0, 1, 4, 7):
        with pytest.raises(Killed):
            stack.load(out, windows=windows)
        if windows > 1:
            stack.decide()  # what had arrived is decided later
    stack.load(out)
    agrees(stack, streamed)
    stack.load(out)
    agrees(stack, streamed)


def test_a_load_is_repeated_after_a_kill_between_messages(out: Path, streamed: Stack, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    for flushes in (1, 2, 3, 0, 4, 1):
        with pytest.raises(Killed):
            stack.load(out, flushes=flushes)
        if flushes != 3:
            stack.decide()
    stack.load(out)
    agrees(stack, streamed)


def rewritten(out: Path, folder: Path, seed: int) -> Path:
    """The same encodings as an engine may write them: in blocks of any size, each of records from anywhere."""
    shutil.copytree(out, folder)
    paths = sorted((folder / "encodings").iterdir())
    table = pa.concat_tables(map(pq.read_table, paths))
    for path in paths:
        path.unlink()
    dice = random.Random(seed)
    blocks = [[n] for n in range(3)]
    for n in range(3, table.num_rows):
        dice.choice(blocks).append(n)
    for name, block in zip("cab", blocks, strict=True):
        pq.write_table(table.take(block), folder / "encodings" / f"{name}.parquet")
    return folder


def test_blocks_in_any_order_are_put_in_order(out: Path, streamed: Stack, tmp_path: Path) -> None:
    stack = Stack(tmp_path / "data")
    stack.load(rewritten(out, tmp_path / "blocks", 3))
    agrees(stack, streamed)


def test_an_incomplete_job_is_loaded_up_to_its_gap(
    out: Path, streamed: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "WINDOW", 100)
    folder = tmp_path / "job"
    shutil.copytree(out, folder)
    second = folder / "encodings" / "00000001.parquet"
    kept = second.read_bytes()
    second.unlink()
    stack = Stack(tmp_path / "data")
    with pytest.raises(ValueError, match="row 257 of 700 is not encoded yet"):
        stack.load(folder)
    stack.decide()
    assert max(d.cause.offset for d in stack.decisions()) < 256
    second.write_bytes(kept)
    stack.load(folder)
    agrees(stack, streamed)


def test_records_that_are_there_twice_are_refused(out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    shutil.copytree(out, folder)
    shutil.copy(folder / "encodings" / "00000001.parquet", folder / "encodings" / "other.parquet")
    with pytest.raises(ValueError, match=r"row 257 is in two files: 00000001\.parquet and other\.parquet"):
        Stack(tmp_path / "data").load(folder)


def test_files_that_are_none_of_the_job_are_refused(out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    shutil.copytree(out, folder)
    path = folder / "encodings" / "00000001.parquet"
    table = pq.read_table(path)
    wrong = [table.set_column(0, "kind", table["offset"]), table.drop_columns(["text"])]
    for name in ("topic_id", "encoder_id"):
        column = pa.array(["other"] * table.num_rows)
        wrong.append(table.set_column(table.schema.get_field_index(name), name, column))
    for n, content in enumerate(wrong):
        pq.write_table(content, path)
        with pytest.raises(ValueError, match=r"belongs to another job|cannot be read"):
            Stack(tmp_path / f"data{n}").load(folder)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="is not a file of encodings"):
        Stack(tmp_path / "data").load(folder)
    with pytest.raises(ValueError, match=r"has no job\.json"):
        Stack(tmp_path / "data").load(tmp_path)


def test_refused_records_go_to_the_dead_letters_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = job(
        tmp_path / "job", Model(), [b'{"text": "a"}', b"{", b'{"text": "c"}', b'{"text": "a long one"}']
    )
    stack = Stack(tmp_path / "data")
    loaded = stack.load(folder)
    assert (loaded.sent, loaded.refused) == (2, 2)
    letters = stack.sent.on(topics.DEAD_LETTERS)
    told = [dict(letter.headers) for letter in letters]
    assert [letter.value for letter in letters] == [b"{", b'{"text": "a long one"}']
    assert [one["factstream.reason"] for one in told] == [b"invalid-json", b"too-long"]
    assert [(one["factstream.topic"], one["factstream.offset"]) for one in told] == [
        (loaded.job_id.encode(), b"1"), (loaded.job_id.encode(), b"3"),
    ]  # fmt: skip


def test_a_conversation_is_decided_as_one_record(tmp_path: Path) -> None:
    said = b'{"messages": [{"role": "user", "content": "My dog is called Rex. I live in Oslo."}], "min_loss_delta": 0}'
    hello = b'{"messages": [{"role": "user", "content": "Hello!"}]}'
    folder = job(tmp_path / "job", Model(), [said, hello, b'{"text": "c"}'])
    stack = Stack(tmp_path / "data")
    for _ in range(2):
        stack.load(folder)
        assert [(d.cause.offset, d.outcome) for d in stack.decisions()] == [
            (0, "learned"), (0, "learned"), (1, "skipped"), (2, "learned"),
        ]  # fmt: skip


def test_a_load_waits_for_writers_and_says_when_none_goes_on(
    settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = job(tmp_path / "job", Model(), [b'{"text": "a"}', b"{", b'{"text": "c"}'])
    monkeypatch.setattr(bulk, "STALL_TIMEOUT_S", 0.3)
    with pytest.raises(
        ClientError, match="1 messages are undecided, and none was decided for 0 s: is a writer"
    ):
        bulk.load(settings, folder)
    with pytest.raises(bulk.Stopped):
        bulk.load(settings, folder, stop=lambda: True)
