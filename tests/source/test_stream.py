"""A Debezium stream through a broker: after restarts and replays the memory equals the table."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer, TopicPartition

from schemas.topics import DEAD_LETTERS, FACTS
from tests.conftest import wait_until
from tests.runtime.recorder import Running
from tests.source.records import envelope
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.kafka.offsets import progress
from workers.runtime.worker import Done
from workers.source.config import parse
from workers.source.values import PLACEHOLDER
from workers.source.worker import SourceWorker

PARTITIONS = 3  # of the upstream topic; ours have four
CONFIG = """
sources:
  - topic: {topic}
    format: debezium
    namespace: "team-{{{{ row.id % 3 }}}}"
    when: row.active
    statements:
      material: "The {{{{ row.name }}}} is made of {{{{ row.material }}}}."
      price: "The {{{{ row.name }}}} costs {{{{ row.price }}}} euros."
      story: "{{{{ row.name }}}}: {{{{ row.story }}}}"
"""
Row = dict[str, Any]
Change = tuple[Row, dict[str, Any] | None]
"""A record: its key, and its value or None for a tombstone."""


def stream(seed: int, count: int, rows: int) -> tuple[list[Change], dict[int, Row]]:
    """Changes of a table as Debezium writes them, and the table at their end.

    Most updates touch one column, some none that is stated; an unchanged long column is not sent, and some changes have the old row.
    """
    draw = random.Random(seed)
    table: dict[int, Row] = {}
    changes: list[Change] = []
    clock = 1_700_000_000_000
    while len(changes) < count:
        number, clock = draw.randrange(rows), clock + draw.choice((0, 1, 250))
        old = table.get(number)
        if old is None:
            row = {
                "id": number,
                "name": f"lamp {number}",
                "material": "oak",
                "price": 1,
                "stock": 0,
                "active": True,
                "story": "new",
            }
            table[number] = row
            changes.append(({"id": number}, envelope("c", None, row, clock)))
        elif draw.random() < 0.1:
            del table[number]
            only_key = {**dict.fromkeys(old), "id": number}
            changes.append(({"id": number}, envelope("d", draw.choice((old, only_key)), None, clock)))
            changes.append(({"id": number}, None))
        else:
            column = draw.choice(("material", "price", "stock", "stock", "active", "story"))
            value = {"material": draw.choice(("oak", "ash", None)), "active": draw.random() < 0.7}.get(
                column, draw.randrange(100)
            )
            row = table[number] = old | {column: value}
            sent = row if column == "story" else row | {"story": PLACEHOLDER}
            before = draw.choice((None, old)) if sent is row else None
            changes.append(({"id": number}, envelope("u", before, sent, clock)))
    return changes, table


def expected(table: dict[int, Row]) -> dict[tuple[str, str], str]:
    """What the rows of a table state, by namespace and row."""
    found = {}
    for number, row in table.items():
        texts = {
            "material": row["material"] and f"The {row['name']} is made of {row['material']}.",
            "price": f"The {row['name']} costs {row['price']} euros.",
        }
        for name, text in texts.items():
            if row["active"] and text:
                found[f"team-{number % 3}", f"{number}:{name}"] = text
    return found


class Memory:
    """The contract of keyed facts, as short as it can be: the newest statement of a key counts, each fact_id once."""

    def __init__(self) -> None:
        self.stated: dict[tuple[str, str], tuple[str, str | None]] = {}
        self.decided: set[str] = set()

    @classmethod
    def of(cls, records: list[Any]) -> "Memory":
        memory = cls()
        for record in records:
            memory.take(record.key.decode(), json.loads(record.value))
        return memory

    def take(self, namespace: str, body: dict[str, Any]) -> None:
        key = (namespace, body.get("key") or body["forget_key"])
        if body["fact_id"] in self.decided or body["observed_at"] < self.stated.get(key, ("", None))[0]:
            return
        self.decided.add(body["fact_id"])
        self.stated[key] = (body["observed_at"], body.get("text"))

    def texts(self, topic: str) -> dict[tuple[str, str], str]:
        found = {
            (n, key.removeprefix(f"{topic}:")): text for (n, key), (_, text) in self.stated.items() if text
        }
        return {key: text for key, text in found.items() if not key[1].endswith(":story")}

    def digest(self) -> str:
        return hashlib.sha256(
            json.dumps(sorted((*k, *v) for k, v in self.stated.items())).encode()
        ).hexdigest()


class Upstream:
    """A topic of another system, on the tests' broker."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings, self.topic = settings, f"{settings.topic_prefix.strip('.')}-shop.public.product"
        ensure_topics(settings)
        admin = settings.admin()
        admin.create_topics({self.topic: {"num_partitions": PARTITIONS, "replication_factor": 1}})
        admin.close()
        self.config = parse(CONFIG.format(topic=self.topic))

    def send(self, changes: list[Change]) -> None:
        producer = KafkaProducer(bootstrap_servers=self.settings.bootstrap, acks="all")
        for key, value in changes:
            body = None if value is None else json.dumps(value).encode()
            producer.send(
                self.topic, key=json.dumps(key).encode(), value=body, partition=key["id"] % PARTITIONS
            )
        producer.flush()
        producer.close()

    def lag(self) -> int:
        admin, consumer = self.settings.admin(), self.settings.consumer()
        found = progress(admin, consumer, self.settings.group("source"), [self.topic])
        consumer.close(autocommit=False)
        admin.close()
        return sum(end - committed for committed, end in found.values())

    def read(self, topic: str) -> list[Any]:
        """The records of one of factstream's topics, in the order of each partition."""
        consumer = self.settings.consumer()
        partitions = [TopicPartition(self.settings.topic(topic), n) for n in range(self.settings.partitions)]
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        records: list[Any] = []
        empty = 0
        while empty < 3:
            polled = [record for some in consumer.poll(timeout_ms=200).values() for record in some]
            records += polled
            empty = 0 if polled else empty + 1
        consumer.close(autocommit=False)
        return records


class Crashing(SourceWorker):
    """A source worker that ends after it has sent its second batch, before anything of it is committed."""

    batches = 0

    def process(self, records: Any) -> Done:
        done = super().process(records)
        self.batches += 1
        if self.batches == 2:
            raise RuntimeError("a crash")
        return done


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(upstream: Upstream, kind: type[SourceWorker] = SourceWorker) -> Running:
        worker = kind(upstream.settings, upstream.config)
        started.append(Running(worker, upstream.settings, tmp_path, max_records=100))
        return started[-1]

    yield start
    for running in started:
        running.end()


@pytest.mark.parametrize(
    "count, rows", [(600, 40), pytest.param(10_000, 500, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_the_memory_equals_the_table_after_restarts_crashes_and_a_replay(
    settings: KafkaSettings, start: Callable[..., Running], count: int, rows: int
) -> None:
    changes, table = stream(7, count, rows)
    upstream = Upstream(settings)
    upstream.send(changes[: count // 2])
    assert start(upstream, Crashing).join() == 1
    running = start(upstream)
    wait_until(lambda: upstream.lag() == 0, 120)
    assert running.end() == 0
    upstream.send(changes[count // 2 :])
    assert start(upstream, Crashing).join() == 1
    running = start(upstream)
    wait_until(lambda: upstream.lag() == 0, 120)
    running.end()
    first = upstream.read(FACTS)
    memory = Memory.of(first)
    assert memory.texts(upstream.topic) == expected(table)
    assert upstream.read(DEAD_LETTERS) == []
    assert not any(PLACEHOLDER.encode() in record.value for record in first)

    admin = settings.admin()  # everything once more, as an operator does who resets the group
    admin.delete_groups([settings.group("source")])
    admin.close()
    start(upstream)
    wait_until(lambda: upstream.lag() == 0, 120)
    both = upstream.read(FACTS)
    assert {record.value for record in both} == {record.value for record in first} and len(both) > len(first)
    again = Memory.of(both)
    assert (again.texts(upstream.topic), again.digest()) == (memory.texts(upstream.topic), memory.digest())
