"""Hostile messages on every consumed topic: none stops a worker, makes it grow, or is lost.

`HOSTILE_MESSAGES=20000 pytest tests/faults/test_hostile.py -s` (`make hostile`) is the long run; it prints what it saw.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from kafka import TopicPartition
from kafka.record.default_records import DefaultRecordBatch

from pipeline.query.run import run as query
from schemas import topics
from schemas.common import BadMessage
from schemas.dead_letter import decode_headers
from schemas.fact import Fact
from schemas.request import GenerationRequest
from tests.conftest import wait_until
from tests.helpers import hostile
from workers import client
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.kafka.partitioner import partition_for
from workers.runtime import embedded_broker as broker

MESSAGES = int(os.environ.get("HOSTILE_MESSAGES", "600"))

pytestmark = pytest.mark.slow

GROWTH = 256 * 1024 * 1024
"""Bytes that a worker may grow by: several polls of the size that `workers.kafka.consumer` allows. One bomb is 1 GiB."""


@dataclass
class Stack:
    """`factstream up` with a small model, and what it uses of memory."""

    process: subprocess.Popen[bytes]
    data: Path
    pids: dict[str, int]
    settings: KafkaSettings
    seen: dict[str, list[int]] = field(default_factory=dict)  # bytes resident, ten times a second
    done: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        while not self.done.wait(0.1):
            for name in ("encoder", "writer", "generator"):
                pages = int(Path(f"/proc/{self.pids[name]}/statm").read_text().split()[1])
                self.seen.setdefault(name, []).append(pages * os.sysconf("SC_PAGESIZE"))


@pytest.fixture
def stack(tmp_path: Path, llama: Path) -> Any:
    port, data = broker.free_port(), tmp_path / "data"
    command = [sys.executable, "-m", "workers.cli", "up", "--json"]
    command += ["--data", str(data), "--model", str(llama)]
    if bootstrap := os.environ.get("KAFKA_BOOTSTRAP"):
        prefix = f"h{os.getpid()}."
        command += ["--bootstrap", bootstrap, "--topic-prefix", prefix]
        settings = KafkaSettings(bootstrap, prefix)
    else:
        command += ["--port", str(port)]
        settings = KafkaSettings(f"127.0.0.1:{port}")
    env = {k: v for k, v in os.environ.items() if not k.startswith("FACTSTREAM_")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=env)
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        running = Stack(process, data, ready["pids"], settings)
        watcher = threading.Thread(target=running.watch)
        watcher.start()
        yield running
        running.done.set()
        watcher.join()
    finally:
        process.terminate()
        process.wait(60)


def publish(settings: KafkaSettings, count: int, what: str) -> Counter[str]:
    facts = [
        ("default", Fact(text=f"The {what} lamp {n} is made of walnut {n}.", min_loss_delta=0.0))
        for n in range(count)
    ]
    return client.publish(settings, facts, wait=True).outcomes


def ask(settings: KafkaSettings) -> str:
    *_, answer = client.ask(settings, GenerationRequest(prompt="The lamp is", max_new_tokens=4))
    assert not getattr(answer, "error", None)
    return str(answer)


@pytest.mark.timeout(1800)
def test_hostile_messages_are_dead_letters_and_nothing_else_happens(stack: Stack) -> None:
    settings, dice = stack.settings, random.Random(7)
    ensure_topics(settings)
    assert sum(publish(settings, 20, "first").values()) == 20
    ask(settings)
    before = {name: sizes[-1] for name, sizes in stack.seen.items()}
    started = time.monotonic()
    sent = send(settings, dice)
    letters = read_letters(settings, sent, stack)
    took = time.monotonic() - started
    for place, value in sent.items():
        if place[0] != topics.DEAD_LETTERS:
            assert place in letters, f"{place} is lost"
            assert same(letters[place][0], value), f"{place} has other bytes"
            assert letters[place][1], f"{place} has no reason"
    reasons: dict[tuple[str, int, int], str] = {}
    for file in (stack.data / "dead_letters").glob("*.parquet"):
        for row in pq.read_table(file).to_pylist():
            place = (row["topic"], row["partition"], row["offset"])
            assert same(row["value"], sent[place]), f"{place} was kept with other bytes"
            reasons[place] = row["reason"]
    assert set(reasons) == set(sent)  # also those that were sent to dead-letters themselves
    assert all(reasons.values())
    counted = query(stack.data, "select reason, count(*) as letters from dead_letters group by 1").to_pylist()
    assert {row["reason"]: row["letters"] for row in counted} == Counter(reasons.values())
    assert sum(publish(settings, 20, "last").values()) == 20
    ask(settings)
    grown = {
        name: (max(sizes) - before[name], sizes[-1] - before[name]) for name, sizes in stack.seen.items()
    }
    print(f"\n{len(sent)} hostile messages in {took:.0f} s: {dict(Counter(topic for topic, _, _ in sent))}")
    print("reasons:", dict(Counter(reasons.values()).most_common()))
    for name, (most, last) in grown.items():
        print(
            f"{name}: {before[name] >> 20} MiB before, at most {most >> 20:+} MiB, {last >> 20:+} MiB at the end"
        )
    for name, pid in stack.pids.items():
        assert Path(f"/proc/{pid}").exists(), f"the {name} was started again"
    for name in stack.seen:
        assert " ERROR failed" not in (log := (stack.data / "logs" / f"{name}.log").read_text()), log[-2000:]
        assert log.count(" ready ") == 1
        assert grown[name][0] < GROWTH, f"the {name} grew by {grown[name][0]} bytes"


def test_each_of_a_flood_of_requests_gets_an_answer_or_an_error(stack: Stack) -> None:
    settings = stack.settings
    ensure_topics(settings)
    ask(settings)
    before = {name: sizes[-1] for name, sizes in stack.seen.items()}
    producer, count = settings.producer(), 1500
    deadline = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
    for n in range(count):  # 48 MB of prompts, all of which may be answered for three seconds
        prompt = "The lamp is " * 2700 if n % 2 else "The lamp is"
        body = {"prompt": prompt, "max_new_tokens": 64, "deadline": deadline}
        producer.send(topics.GENERATION_REQUESTS, json.dumps(body).encode(), f"flood-{n}".encode())
    producer.flush_or_raise()
    producer.close()
    answers: dict[bytes, str] = {}
    consumer = settings.consumer()
    topic = settings.topic(topics.GENERATION_RESPONSES)
    consumer.assign([TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())])
    consumer.seek_to_beginning()

    def answered() -> bool:
        for records in consumer.poll(timeout_ms=500).values():
            for record in records:
                if record.key.startswith(b"flood-"):
                    error = json.loads(record.value).get("error")
                    answers[record.key] = error["reason"] if error else "answered"
        return len(answers) == count

    wait_until(answered, 150)
    consumer.close()
    reasons = Counter(answers.values())
    print("\n", dict(reasons))
    assert reasons["deadline"] > 0 and set(reasons) <= {"answered", "deadline"}
    ask(settings)  # and it goes on
    check_growth(stack, before)


def test_a_stalled_writer_costs_lag_but_no_memory(stack: Stack) -> None:
    settings, count = stack.settings, 1500
    ensure_topics(settings)
    publish(settings, 20, "first")
    before = {name: sizes[-1] for name, sizes in stack.seen.items()}
    os.kill(stack.pids["writer"], signal.SIGSTOP)
    try:
        outcomes: list[Counter[str]] = []
        thread = threading.Thread(target=lambda: outcomes.append(publish(settings, count, "many")))
        thread.start()
        time.sleep(15)  # far past its session's end: the group has given its partitions up
        assert not outcomes
    finally:
        os.kill(stack.pids["writer"], signal.SIGCONT)
    thread.join(120)
    assert sum(outcomes[0].values()) == count
    decided = query(
        stack.data, 'select count(*) as n, count(distinct (topic_id, partition, "offset")) as d from history'
    )
    assert decided.to_pylist() == [{"n": count + 20, "d": count + 20}]
    check_growth(stack, before)


def check_growth(stack: Stack, before: dict[str, int]) -> None:
    for name, sizes in stack.seen.items():
        most = max(sizes) - before[name]
        print(f"{name}: {before[name] >> 20} MiB before, at most {most >> 20:+} MiB")
        assert most < GROWTH, f"the {name} grew by {most} bytes"
        log = (stack.data / "logs" / f"{name}.log").read_text()
        assert " ERROR failed" not in log and log.count(" ready ") == 1


def send(settings: KafkaSettings, dice: random.Random) -> dict[tuple[str, int, int], bytes | None]:
    """Sends the messages, some as they are and some as batches that no client would make, and good ones between them;
    what the bad ones are, by their place."""
    producer, admin = settings.producer(), settings.admin()
    home = partition_for("default", settings.partitions)
    bombs = {size: hostile.bomb(size) for size in (32 << 20, 1 << 30)}
    sent: dict[tuple[str, int, int], bytes | None] = {}
    waiting: list[tuple[str, bytes | None]] = []

    def confirm() -> None:
        for (topic, value), place in zip(waiting, producer.flush_or_raise(), strict=True):
            sent[topic, place.partition, place.offset] = value
        waiting.clear()

    for n in range(MESSAGES):
        topic = hostile.CONSUMED[n % len(hostile.CONSUMED)]
        if n % 20 < len(hostile.CONSUMED) and n % 3 == 0:
            confirm()
            raw = dice.choice([
                bombs[32 << 20], bombs[1 << 30], hostile.batch(dice.randbytes(dice.randint(0, 300))),
                hostile.batch(dice.randbytes(90), codec=dice.randint(1, 4)), hostile.batch(b"{}", crc=dice.randrange(2**32)),
            ])  # fmt: skip
            error, offset = hostile.produce(admin, settings.topic(topic), home, raw)
            if not error:
                sent[topic, home, offset] = raw
                continue  # a broker that checks what it takes has refused it
        key, value = hostile.message(dice, topic)
        producer.send(topic, value, key, home)
        waiting.append((topic, value))
        if len(waiting) >= 200:
            confirm()
    confirm()
    producer.close()
    admin.close()
    return sent


def read_letters(
    settings: KafkaSettings, sent: dict[Any, Any], stack: Stack
) -> dict[Any, tuple[bytes | None, str]]:
    """The letters of the workers by the place of what they are about; returns when the writer has kept all."""
    consumer = settings.consumer()
    letters: dict[Any, tuple[bytes | None, str]] = {}
    topic = settings.topic(topics.DEAD_LETTERS)
    consumer.assign([TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())])
    consumer.seek_to_beginning()
    wanted = {place for place in sent if place[0] != topics.DEAD_LETTERS}
    last = time.monotonic()
    while wanted - letters.keys():
        for records in consumer.poll(timeout_ms=500).values():
            for record in records:
                with suppress(BadMessage):
                    headers = decode_headers(record.headers)
                    place = headers["topic"], headers["partition"], headers["offset"]
                    letters[place] = (record.value, headers["reason"])
                    last = time.monotonic()
        if time.monotonic() - last > 60:
            break
    consumer.close()
    wait_until(
        lambda: (
            query(stack.data, "select count(*) from dead_letters").to_pylist()[0]["count_star()"] >= len(sent)
        ),
        120,
    )
    return letters


def same(letter: bytes | None, value: bytes | None) -> bool:
    """Whether the bytes are those that were sent. Of a whole batch the broker has written the first 16: offset, length and
    epoch."""
    if letter is None or value is None or letter == value:
        return letter == value
    return letter[16:] == value[16:] and len(value) >= DefaultRecordBatch.HEADER_STRUCT.size
