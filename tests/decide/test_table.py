"""A Debezium stream, decided by the memory: it equals the table, also when it is read again."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.config import Settings
from pipeline.memory import bank as banks
from pipeline.memory.bank import Bank
from pipeline.memory.events import ForgetRequest, NewFact, SourceOffset, labels_of
from schemas.fact import Fact, ForgetKey, decode_fact
from tests.decide.samples import encoding
from tests.source.records import Record, envelope
from tests.source.test_stream import CONFIG, Change, expected, stream
from workers.source.config import parse
from workers.source.record import Mapper
from workers.write.partition import decide_events

PUBLISHED = datetime(2026, 1, 1, tzinfo=UTC)


def messages(changes: list[Change]) -> list[tuple[bytes, bytes]]:
    """What the records of an upstream partition become on `facts`."""
    mapper = Mapper(parse(CONFIG.format(topic="t")))
    made = []
    for offset, (key, value) in enumerate(changes):
        body = None if value is None else json.dumps(value).encode()
        result = mapper.map(
            Record(body, json.dumps(key).encode(), "t", 0, offset, 1_800_000_000_000), echo=True
        )
        assert result.error is None
        made += [
            (m.namespace.encode(), json.dumps(m.body).encode()) for one in result.mapped for m in one.messages
        ]
    return made


def decide(bank: Bank, sent: list[tuple[bytes, bytes]], first: int) -> None:
    """Decide messages whose offsets on `facts` begin with `first`."""
    events: list[Any] = []
    for offset, (key, value) in enumerate(sent, first):
        namespace, message, unknown = decode_fact(key, value, strict=True)
        assert unknown == []
        cause = SourceOffset("facts", "id", 0, offset)
        if isinstance(message, Fact):
            observed_at = message.observed_at or PUBLISHED
            events.append(
                NewFact(
                    namespace, encoding(message.text), observed_at, PUBLISHED, cause, **labels_of(message)
                )
            )
        else:
            assert isinstance(message, ForgetKey)
            events.append(
                ForgetRequest(
                    namespace,
                    None,
                    False,
                    PUBLISHED,
                    cause,
                    message.forget_key,
                    message.observed_at,
                    message.fact_id,
                )
            )
    decide_events(bank, events, lambda: PUBLISHED)


def stated(bank: Bank) -> dict[tuple[str, str], str]:
    found = {
        (namespace, (memory.key or "").removeprefix("t:")): memory.text
        for namespace in ("team-0", "team-1", "team-2")
        for memory in bank.memories(namespace)
    }
    return {key: text for key, text in found.items() if not key[1].endswith(":story")}


SETTINGS = Settings(remembered_superseded=100)  # what may be restored is no part of this


@pytest.mark.parametrize(
    "count, rows", [(1500, 30), pytest.param(10_000, 500, marks=pytest.mark.slow)], ids=["short", "long"]
)
def test_the_memory_equals_the_table(count: int, rows: int) -> None:
    changes, table = stream(1, count, rows)
    sent, bank = messages(changes), Bank(SETTINGS)
    decide(bank, sent, 0)
    assert stated(bank) == expected(table)
    digest = banks.digest([bank])
    for reading in (1, 2):  # replayed twice, the first time from the middle
        decide(bank, sent[len(sent) // 2 * (reading == 1) :], reading * len(sent))
        assert (stated(bank), banks.digest([bank])) == (expected(table), digest)

    restarted = Bank(SETTINGS)  # a part was sent twice, because its offsets were not committed
    decide(restarted, sent[: len(sent) // 2] + sent[len(sent) // 3 :], 0)
    assert (stated(restarted), banks.digest([restarted])) == (expected(table), digest)


def test_a_row_deleted_and_inserted_again_at_the_same_time_survives_a_replay() -> None:
    row = {"id": 3, "name": "lamp 3", "material": "oak", "price": 1, "active": True, "story": "new"}
    changes: list[Change] = [
        ({"id": 3}, envelope("c", None, row, 1_700_000_000_000)),
        ({"id": 3}, envelope("d", row, None, 1_700_000_001_000)),  # one transaction: one time
        ({"id": 3}, envelope("c", None, row | {"price": 2}, 1_700_000_001_000)),
    ]
    sent, bank = messages(changes), Bank(SETTINGS)
    decide(bank, sent, 0)
    digest = banks.digest([bank])
    decide(bank, sent, len(sent))
    assert stated(bank) == expected({3: row | {"price": 2}}) and banks.digest([bank]) == digest
