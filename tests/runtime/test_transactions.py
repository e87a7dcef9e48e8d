"""Transactions of other producers: what is aborted is never processed; one left open stops nothing."""

from collections.abc import Callable

import pytest
from kafka import KafkaProducer

from schemas.topics import FACTS
from tests.conftest import wait_until
from tests.runtime.recorder import Recorder, Running, committed, publish
from workers.encode.worker import EncoderWorker
from workers.generate.worker import GeneratorWorker
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings


class Reader(Recorder):
    read_committed = True


def test_workers_whose_topics_other_systems_write_read_committed() -> None:
    assert EncoderWorker.read_committed and GeneratorWorker.read_committed


def transactional(settings: KafkaSettings) -> KafkaProducer:
    ensure_topics(settings)
    made = KafkaProducer(bootstrap_servers=settings.bootstrap, transactional_id="upstream", acks="all")
    made.init_transactions()
    return made


def send(producer: KafkaProducer, settings: KafkaSettings, *values: bytes) -> None:
    for value in values:
        producer.send(settings.topic(FACTS), value, partition=0)
    producer.flush()


@pytest.mark.kafka
def test_aborted_records_are_not_processed(apache: KafkaSettings, run: Callable[..., Running]) -> None:
    producer = transactional(apache)
    for ending, values in (
        (producer.abort_transaction, [b"aborted", b"aborted"]),
        (producer.commit_transaction, [b"one", b"two"]),
        (producer.abort_transaction, [b"aborted"]),
    ):
        producer.begin_transaction()
        send(producer, apache, *values)
        ending()
    worker = Reader()
    running = run(worker, apache)
    wait_until(lambda: worker.values == [b"one", b"two"], 60)
    wait_until(lambda: committed(apache, worker) == 8)  # five records and three marks: no lag is left
    producer.begin_transaction()
    send(producer, apache, b"open")
    publish(apache, b"after it")
    idles = worker.idles
    wait_until(lambda: worker.idles > idles + 10)
    assert worker.values == [b"one", b"two"], "it may still be aborted"
    producer.commit_transaction()
    wait_until(lambda: worker.values == [b"one", b"two", b"open", b"after it"])
    producer.close()
    assert running.end() == 0


def test_transaction_left_open_does_not_stop_the_embedded_broker(
    settings: KafkaSettings, run: Callable[..., Running]
) -> None:
    producer = transactional(settings)
    producer.begin_transaction()
    send(producer, settings, b"left open")
    producer._sender.force_close()  # as if it crashed
    publish(settings, b"after it")
    worker = Reader()
    running = run(worker)
    wait_until(lambda: b"after it" in worker.values)
    assert running.end() == 0


def test_marks_of_transactions_leave_no_lag(settings: KafkaSettings, run: Callable[..., Running]) -> None:
    producer = transactional(settings)
    producer.begin_transaction()
    send(producer, settings, b"one")
    producer.commit_transaction()
    producer.close()
    worker = Reader()
    running = run(worker)
    wait_until(lambda: committed(settings, worker) == 2)
    assert worker.values == [b"one"] and running.end() == 0
