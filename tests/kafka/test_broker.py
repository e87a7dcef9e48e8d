"""The embedded broker, the clients' settings, the topics, and what a producer promises."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError
from kafka.future import Future
from kafka.partitioner.default import DefaultPartitioner

from schemas import dead_letter as dead_letter_schema
from schemas.topics import DEAD_LETTERS, FACTS, MAX_RECORD_BYTES, MEMORY_HITS, TOPICS
from tests.conftest import runs, wait_until
from workers.kafka import clients as kafka_layer
from workers.kafka.admin import (
    TopicsMismatch,
    _check_configs,
    end_offsets,
    ensure_topics,
    lag,
    partition_count,
    standing,
    topic_ids,
)
from workers.kafka.clients import (
    KafkaSettings,
    KafkaUnavailable,
    Producer,
    RecordTooLarge,
    caught_up,
    partition_for,
)
from workers.runtime import embedded_broker as broker

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def producer(settings: KafkaSettings) -> Iterator[Producer]:
    ensure_topics(settings)
    made = settings.producer()
    yield made
    made.close()


def read(settings: KafkaSettings, topic: str, count: int) -> list[Any]:
    """The first `count` records of all partitions of a topic."""
    consumer = settings.consumer()
    consumer.assign([TopicPartition(settings.topic(topic), number) for number in range(settings.partitions)])
    records: list[Any] = []

    def enough() -> bool:
        for polled in consumer.poll(timeout_ms=200).values():
            records.extend(polled)
        return len(records) >= count

    wait_until(enough)
    consumer.close(autocommit=False)
    return records


def test_starts_answers_and_stops(tmp_path: Path) -> None:
    running = broker.start(broker.free_port(), tmp_path / "logs" / "broker.log")
    settings = KafkaSettings(running.bootstrap)
    admin = settings.admin()
    assert admin.list_topics() == []
    admin.close()
    running.stop()
    assert not runs(running.process.pid)
    again = broker.start(running.port, tmp_path / "logs" / "broker.log")  # the port is free at once
    again.stop()
    again.stop()
    assert "ready" in again.log.read_text()


def test_a_taken_port_says_what_to_do(embedded: broker.EmbeddedBroker, tmp_path: Path) -> None:
    with pytest.raises(broker.BrokerError, match=rf"--port N.*--bootstrap 127\.0\.0\.1:{embedded.port}"):
        broker.start(embedded.port, tmp_path / "broker.log")


def test_a_row_of_free_ports_has_none_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = broker.free_port(row=6) + 2
    tries = iter([taken - 2, taken - 1, taken, taken + 1])
    monkeypatch.setattr(random, "randrange", lambda low, high: next(tries))
    with socket.socket() as other:
        other.bind(("127.0.0.1", taken))
        assert broker.free_port(row=3) == taken + 1
        monkeypatch.setattr(random, "randrange", lambda low, high: taken)
        with pytest.raises(broker.BrokerError, match="no 3 ports"):
            broker.free_port(row=3)


def test_a_missing_binary_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", str(tmp_path / "nothing"))
    with pytest.raises(broker.BrokerError, match="--bootstrap HOST:PORT"):
        broker.start(broker.free_port(), tmp_path / "broker.log")


def test_a_broker_that_ends_at_once_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "tansu"
    binary.write_text("#!/bin/sh\necho out of luck\nexit 1\n")
    binary.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(binary))
    with pytest.raises(broker.BrokerError, match="out of luck"):
        broker.start(broker.free_port(), tmp_path / "broker.log")


def test_dies_with_a_killed_parent(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        assert broker.die_with_parent() is None  # only Linux offers this
        return
    code = (
        "import sys, time; from pathlib import Path; from workers.runtime import embedded_broker as broker;"
        "b = broker.start(broker.free_port(), Path(sys.argv[1]));"
        "print(b.process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "broker.log")], stdout=subprocess.PIPE
    )
    assert parent.stdout
    pid = int(parent.stdout.readline())
    assert runs(pid)
    parent.kill()
    parent.wait()
    wait_until(lambda: not runs(pid))
    parent.stdout.close()


def test_topics_are_made_once_by_many(settings: KafkaSettings) -> None:
    made: list[dict[str, str]] = []
    threads = [threading.Thread(target=lambda: made.append(ensure_topics(settings))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 3 and made[0] == made[1] == made[2] == ensure_topics(settings)
    assert set(made[0]) == {topic.name for topic in TOPICS} and len(set(made[0].values())) == len(TOPICS)
    admin = settings.admin()
    assert topic_ids(admin, settings) == made[0]
    assert partition_count(admin, settings) == settings.partitions == 4
    admin.close()


def test_topics_that_exist_decide_the_partition_count(settings: KafkaSettings) -> None:
    admin = settings.admin()
    spec = {"num_partitions": 2, "replication_factor": -1}
    admin.create_topics({settings.topic(FACTS): spec}, wait_for_metadata=True)
    ensure_topics(settings)
    assert partition_count(admin, settings) == 2
    admin.close()


def test_unequal_partition_counts_are_refused(settings: KafkaSettings) -> None:
    admin = settings.admin()
    for name, count in ((FACTS, 2), (MEMORY_HITS, 3)):
        spec = {"num_partitions": count, "replication_factor": -1}
        admin.create_topics({settings.topic(name): spec}, wait_for_metadata=True)
    admin.close()
    with pytest.raises(TopicsMismatch, match=rf"{settings.topic(FACTS)} has 2.*{MEMORY_HITS} has 3"):
        ensure_topics(settings)


@pytest.mark.parametrize(
    ("configs", "complaint"),
    [
        (
            {"memory-changelog": {"cleanup.policy": {"value": "delete"}}},
            "memory-changelog must have cleanup.policy",
        ),
        (
            {"dead-letters": {"max.message.bytes": {"value": "1048588"}}},
            "dead-letters must have max.message.bytes",
        ),
    ],
)
def test_topics_made_by_others_that_lose_data_are_refused(configs: dict[str, Any], complaint: str) -> None:
    admin: Any = SimpleNamespace(describe_configs=lambda *args, **kwargs: {"topic": configs})
    with pytest.raises(TopicsMismatch, match=complaint):
        _check_configs(admin, KafkaSettings())


def test_no_client_of_ours_creates_a_topic_by_asking(settings: KafkaSettings) -> None:
    consumer, admin = settings.consumer(), settings.admin()
    consumer.assign([TopicPartition(settings.topic("misspelt"), 0)])
    consumer.poll(timeout_ms=300)
    assert settings.topic("misspelt") not in admin.list_topics()
    assert consumer._cluster.config["allow_auto_create_topics"] is False
    consumer.close(autocommit=False)
    admin.close()


def test_two_megabytes_pass_with_key_headers_and_time(settings: KafkaSettings, producer: Producer) -> None:
    value = os.urandom(2_000_000)
    producer.send(FACTS, value, key=b"bob", headers=[("a", b"1")], timestamp_ms=1_700_000_000_000)
    (sent,) = producer.flush_or_raise()
    assert (sent.partition, sent.offset) == (partition_for("bob", 4), 0)
    (record,) = read(settings, FACTS, 1)
    assert record.value == value and record.key == b"bob"
    assert record.headers == [("a", b"1")] and record.timestamp == 1_700_000_000_000


def test_what_is_sent_is_told_in_order(producer: Producer) -> None:
    for number in range(20):
        producer.send(FACTS, b"%d" % number, partition=number % 2)
    sent = producer.flush_or_raise()
    assert [(m.partition, m.offset) for m in sent] == [(number % 2, number // 2) for number in range(20)]
    assert producer.flush_or_raise() == []


@pytest.mark.parametrize(
    ("key", "hashed"),  # of org.apache.kafka.common.utils.UtilsTest
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
def test_partition_is_that_of_any_kafka_client(key: str, hashed: int) -> None:
    assert partition_for(key, 2**31) == hashed & 0x7FFFFFFF
    partitioner = DefaultPartitioner()
    for count in (1, 3, 4, 50):
        numbers = range(count)
        cluster: Any = SimpleNamespace(
            topics=lambda: {"t"},
            partitions_for_topic=lambda topic, numbers=numbers: set(numbers),
            available_partitions_for_topic=lambda topic, numbers=numbers: set(numbers),
        )
        assert partition_for(key, count) == partitioner.partition(
            "t", None, key.encode(), None, None, cluster
        )


def test_a_dead_letter_keeps_bytes_and_key(settings: KafkaSettings, producer: Producer) -> None:
    value, key = b"\xff{not json\x00", b"\xfe key"
    producer.send(FACTS, value, key=key, partition=3, headers=[("theirs", b"x")])
    producer.flush_or_raise()
    (record,) = read(settings, FACTS, 1)
    kafka_layer.dead_letter(producer, record, "invalid-json", "é" * 2000, "encoder", NOW)
    producer.flush_or_raise()
    (letter,) = read(settings, DEAD_LETTERS, 1)
    assert (letter.value, letter.key, letter.partition) == (value, key, 3)
    headers = dict(letter.headers)
    assert tuple(name for name, _ in letter.headers) == dead_letter_schema.HEADERS
    assert len(headers.pop("error").decode()) == dead_letter_schema.MAX_ERROR_CHARS
    assert headers == {
        "topic": b"facts",
        "partition": b"3",
        "offset": b"0",
        "reason": b"invalid-json",
        "worker": b"encoder",
        "time": b"2026-03-01T12:00:00+00:00",
    }


def test_a_dead_letter_of_nothing_is_nothing(settings: KafkaSettings, producer: Producer) -> None:
    tombstone = SimpleNamespace(
        topic=settings.topic(FACTS), partition=1, offset=7, key=None, value=None, headers=[]
    )
    kafka_layer.dead_letter(producer, tombstone, "empty", "no value", "encoder", NOW)
    producer.flush_or_raise()
    (letter,) = read(settings, DEAD_LETTERS, 1)
    assert letter.value == b"" and letter.key is None


def test_a_dead_letter_that_fits_nowhere_is_cut(
    settings: KafkaSettings, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_layer, "DEAD_LETTER_MAX_BYTES", 2**20)
    huge = SimpleNamespace(
        topic=settings.topic(FACTS), partition=0, offset=0, key=b"k" * 2**21, value=b"v" * 2**21, headers=[]
    )
    kafka_layer.dead_letter(producer, huge, "too-large", "too large", "encoder", NOW)
    producer.flush_or_raise()
    (letter,) = read(settings, DEAD_LETTERS, 1)
    assert huge.value.startswith(letter.value) and huge.key.startswith(letter.key) and letter.value
    assert b"the value 2097152" in dict(letter.headers)["error"]


def test_a_record_too_large_is_refused_before_it_harms(producer: Producer) -> None:
    with pytest.raises(RecordTooLarge, match="facts"):
        producer.send(FACTS, b"x" * MAX_RECORD_BYTES)
    producer.send(FACTS, b"small", partition=0)
    assert [m.offset for m in producer.flush_or_raise()] == [0]


def test_the_buffer_is_bounded(producer: Producer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_layer, "MAX_UNACKNOWLEDGED", 10)
    for _ in range(35):
        producer.send(FACTS, b"x", partition=0)
        assert len(producer._pending) <= 10
    assert [m.offset for m in producer.flush_or_raise()] == list(range(35))


def test_flush_raises_what_failed_once(producer: Producer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failed(Future):  # type: ignore[misc]
        def get(self, timeout: float | None = None) -> None:
            raise KafkaTimeoutError("expired")

    send = producer._client.send
    monkeypatch.setattr(producer._client, "send", lambda *args, **kwargs: Failed())
    producer.send(FACTS, b"lost", partition=0)
    monkeypatch.setattr(producer._client, "send", send)
    producer.send(FACTS, b"kept", partition=0)
    with pytest.raises(KafkaTimeoutError, match="expired"):
        producer.flush_or_raise()
    producer.send(FACTS, b"next", partition=0)
    assert len(producer.flush_or_raise()) == 1


def test_a_producer_closes_whatever_is_unacknowledged(tmp_path: Path) -> None:
    running = broker.start(broker.free_port(), tmp_path / "broker.log")
    settings = KafkaSettings(running.bootstrap)
    ensure_topics(settings)
    producer = settings.producer()
    producer.send(FACTS, b"kept", partition=0)
    producer.flush_or_raise()
    running.process.kill()
    running.process.wait()
    producer.send(FACTS, b"too late", partition=0)
    producer.close(timeout_s=0.5)
    assert not producer._client._sender.is_alive()
    running.stop()


def test_lag_and_end_count_every_record_of_a_batch(settings: KafkaSettings, producer: Producer) -> None:
    for number in range(30):
        producer.send(FACTS, b"x", partition=number % 3)
    producer.flush_or_raise()
    partitions = [TopicPartition(settings.topic(FACTS), number) for number in range(4)]
    asker, admin = settings.consumer(), settings.admin()
    assert list(end_offsets(asker, partitions).values()) == [10, 10, 10, 0]
    assert lag(admin, asker, settings, "encoder", [FACTS, MEMORY_HITS]) == {FACTS: 30, MEMORY_HITS: 0}

    reader = settings.consumer(settings.group("encoder"), max_poll_records=4)
    reader.assign(partitions[:3])
    assert not caught_up(reader)
    wait_until(lambda: reader.poll(timeout_ms=100) == {} and caught_up(reader))
    reader.commit()
    producer.send(FACTS, b"x", partition=0)
    producer.flush_or_raise()
    assert lag(admin, asker, settings, "encoder", [FACTS]) == {FACTS: 1}
    for client in (asker, reader):
        client.close(autocommit=False)
    admin.close()


def test_a_client_that_forgot_a_topic_is_asked_again(
    settings: KafkaSettings, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer.send(FACTS, b"x", partition=0)
    producer.flush_or_raise()
    asker, place = settings.consumer(), TopicPartition(settings.topic(FACTS), 0)
    real, failures = asker.end_offsets, iter([KeyError(place)])

    def forgetful(partitions: Any) -> Any:
        for error in failures:
            raise error
        return real(partitions)

    monkeypatch.setattr(asker, "end_offsets", forgetful)
    assert end_offsets(asker, [place]) == {place: 1}
    asker.close(autocommit=False)


def test_what_stands_on_a_compacted_topic(settings: KafkaSettings, producer: Producer) -> None:
    first, second, empty = (TopicPartition(settings.topic(FACTS), number) for number in range(3))
    for key, value in ((b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"b", None), (None, b"no key")):
        producer.send(FACTS, value, key, partition=0)
    producer.send(FACTS, b"4", b"b", partition=1)
    producer.flush_or_raise()
    asker = settings.consumer()
    for _ in range(2):
        assert standing(asker, [first, second, empty]) == {
            first: ({b"a": hash(b"3")}, 5), second: ({b"b": hash(b"4")}, 1), empty: ({}, 0),
        }  # fmt: skip
        assert end_offsets(asker, [second, empty]) == {second: 1, empty: 0}
    assert standing(asker, []) == {}
    asker.close(autocommit=False)


def test_no_broker_says_what_to_do() -> None:
    settings = KafkaSettings(f"127.0.0.1:{broker.free_port()}", connect_timeout_s=0.3)
    for make in (settings.admin, settings.consumer, settings.producer):
        with pytest.raises(KafkaUnavailable, match=r"no broker answers at 127.*`factstream up`.*--bootstrap"):
            make()


def test_a_refusal_does_not_tell_the_password(embedded: broker.EmbeddedBroker) -> None:
    settings = KafkaSettings(
        embedded.bootstrap,
        connect_timeout_s=0.3,
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="PLAIN",
        username="ada",
        password="hunter2",
    )
    with pytest.raises(KafkaUnavailable, match="does not serve us") as refused:
        settings.admin()
    assert "hunter2" not in str(refused.value) + repr(settings)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("FACTSTREAM_")]:
        monkeypatch.delenv(name)
    assert KafkaSettings.from_env() == KafkaSettings()
    monkeypatch.setenv("FACTSTREAM_BOOTSTRAP", "kafka:9092, [::1]:9093")
    monkeypatch.setenv("FACTSTREAM_PARTITIONS", "7")
    monkeypatch.setenv("FACTSTREAM_PASSWORD", "secret")
    made = KafkaSettings.from_env(topic_prefix="a.", bootstrap=None)
    assert made.hosts() == [("kafka", 9092), ("::1", 9093)] and made.partitions == 7
    assert made.topic(FACTS) == "a.facts" and made.short("a.facts") == FACTS
    for name, value in made.env().items():
        monkeypatch.setenv(name, value)
    assert KafkaSettings.from_env() == made
    monkeypatch.setenv("FACTSTREAM_PARTITIONS", "many")
    with pytest.raises(ValueError, match="FACTSTREAM_PARTITIONS"):
        KafkaSettings.from_env()


@pytest.mark.parametrize(
    "wrong",
    [
        {"bootstrap": "nonsense"},
        {"bootstrap": "host:99999"},
        {"bootstrap": ""},
        {"partitions": 0},
        {"topic_prefix": "a/b"},
        {"security_protocol": "TLS"},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        KafkaSettings(**wrong)


def test_stop_kills_what_does_not_listen(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    broker.stop_process(process, 0.1)
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()
