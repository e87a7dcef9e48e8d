"""Results of a crash run, and their checks: nothing lost, nothing twice, the same memory."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kafka import TopicPartition

from pipeline.history import layout
from pipeline.history import log as history
from pipeline.memory import bank
from pipeline.memory.codec import memory_to_record
from pipeline.memory.events import Decision
from schemas import topics
from schemas.changelog import MAX_CHANGELOG_BYTES, PositionRecord, changelog_key
from schemas.common import decode, encode
from schemas.fact import Fact
from tests.faults.facts import Pair
from tests.faults.plan import BROKER_FAULTS
from workers.kafka.config import KafkaSettings
from workers.kafka.offsets import end_offsets


@dataclass
class Report:
    """The figures of one run; `done` counts the faults by kind, `struck` the kills and pauses by worker and step."""

    facts: int
    digest: str = ""
    struck: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    twice: int = 0
    changelog: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def fill(report: Report, facts: Sequence[Pair], settings: KafkaSettings, data: Path) -> None:
    """Counts the published facts in the history in `data`, and compares the changelog with it."""
    rows = [row for row in decisions(data) if row.outcome != "evicted"]
    report.outcomes = Counter(row.outcome for row in rows)
    taken = Counter(row.fact_id for row in rows if row.fact_id and row.outcome != "duplicate")
    report.lost = len({fact.fact_id for _, fact in facts if isinstance(fact, Fact)} - set(taken))
    report.twice = sum(count - 1 for count in taken.values())
    report.twice += sum(count - 1 for count in Counter(row.cause for row in rows).values())
    report.digest = bank.digest(fold_banks(data).values())
    report.changelog = changelog_differences(settings, data)


def check(report: Report, calm: Report) -> None:
    """What must hold, whatever was done to the workers and to the broker. `calm` is the run without faults."""
    assert report.lost == 0, f"{report.lost} facts lost"
    assert report.twice == 0, f"{report.twice} decided twice"
    assert not report.changelog, (
        f"{len(report.changelog)} differences of the changelog: {report.changelog[:5]}"
    )
    assert report.digest == calm.digest, "another memory than without the faults"
    if not set(BROKER_FAULTS) & set(report.done):  # after these, facts are sent again and count as duplicates
        assert report.outcomes == calm.outcomes


def decisions(data: Path) -> Iterator[Decision]:
    for number in layout.partitions(data):
        for _, rows in history.read(data, number):
            yield from rows


def fold_banks(data: Path) -> dict[int, bank.Bank]:
    """The memory of each partition, as the history has it."""
    return {
        number: bank.fold(row for _, rows in history.read(data, number) for row in rows)
        for number in layout.partitions(data)
    }


def changelog_differences(settings: KafkaSettings, data: Path) -> list[str]:
    """What a replica that reads the changelog now would have otherwise than the history."""
    records = compacted(settings)
    wrong = []
    for number, held in fold_banks(data).items():
        for namespace in held.namespaces:
            for memory in held.memories(namespace):
                key = changelog_key(namespace, memory.memory_id)
                if records.pop((number, key), None) != encode(memory_to_record(memory)):
                    wrong.append(f"{key!r} is not as in the history")
            value = records.pop((number, changelog_key(namespace)), None)
            if value is None or decode(
                PositionRecord, value, MAX_CHANGELOG_BYTES
            ).positions != held.positions(namespace):
                wrong.append(f"the position of {namespace}")
    return wrong + [f"{key!r} is not a memory any more" for _, key in records]


def compacted(settings: KafkaSettings) -> dict[tuple[int, bytes], bytes]:
    """The changelog as compaction leaves it: (partition, key) to value."""
    consumer = settings.consumer()
    name = settings.topic(topics.MEMORY_CHANGELOG)
    parts = [TopicPartition(name, p) for p in sorted(consumer.partitions_for_topic(name) or ())]
    ends = end_offsets(consumer, parts)
    consumer.assign(parts)
    consumer.seek_to_beginning()
    last: dict[tuple[int, bytes], bytes | None] = {}
    while any(consumer.position(tp) < end for tp, end in ends.items()):
        for records in consumer.poll(timeout_ms=100).values():
            for record in records:
                last[record.partition, record.key] = record.value
    consumer.close()
    return {place: value for place, value in last.items() if value is not None}
