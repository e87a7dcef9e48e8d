"""Gathering of records into batches: how long it waits, how much it takes, and what a rebalance does."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition

from workers.runtime import gathering
from workers.runtime.gathering import gather
from workers.runtime.group import Rebalances

HOME = TopicPartition("facts", 0)


class Consumer:
    """Returns the next of some polls, then waits for the rest of the time; `rebalances` are decided in a poll."""

    def __init__(self, polls: list[list[int]], rebalances: Rebalances, moved_at: int = -1) -> None:
        self.polls, self.rebalances, self.moved_at, self.calls = polls, rebalances, moved_at, 0
        self.sought: dict[TopicPartition, int] = {}

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        self.calls += 1
        if self.calls == self.moved_at:
            self.rebalances.on_partitions_revoked([HOME])
            return {}
        if self.polls:
            return {HOME: records(*self.polls.pop(0))}
        time.sleep(timeout_ms / 1000)
        return {}

    def assignment(self) -> set[TopicPartition]:
        return {HOME}

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.sought[tp] = offset


def records(*offsets: int) -> list[Any]:
    return [SimpleNamespace(offset=offset, value=b"x" * 10) for offset in offsets]


def offsets(batch: dict[TopicPartition, list[Any]]) -> list[int]:
    return [record.offset for own in batch.values() for record in own]


def test_after_a_quiet_time_nothing_waits() -> None:
    consumer = Consumer([[1]], Rebalances(lambda: None))
    assert offsets(gather(consumer, {HOME: records(0)}, time.monotonic() - 1, consumer.rebalances)) == [0]
    assert gather(consumer, {}, time.monotonic() + 9, consumer.rebalances) == {} and consumer.calls == 0


def test_records_are_gathered_until_the_time_is_over() -> None:
    consumer = Consumer([[1, 2], [3]], Rebalances(lambda: None))
    until = time.monotonic() + 0.2
    assert offsets(gather(consumer, {HOME: records(0)}, until, consumer.rebalances)) == [0, 1, 2, 3]
    assert time.monotonic() >= until


def test_or_until_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "MAX_BYTES", 30)
    consumer = Consumer([[1, 2], [3]], Rebalances(lambda: None))
    assert offsets(gather(consumer, {HOME: records(0)}, time.monotonic() + 99, consumer.rebalances)) == [
        0,
        1,
        2,
    ]


def test_what_was_gathered_before_a_rebalance_is_read_again() -> None:
    consumer = Consumer([[6]], Rebalances(lambda: None), moved_at=2)
    assert gather(consumer, {HOME: records(5)}, time.monotonic() + 99, consumer.rebalances) == {}
    assert consumer.sought == {HOME: 5} and len(consumer.rebalances.events) == 1
