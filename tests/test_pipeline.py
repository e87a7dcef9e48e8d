"""The whole stack: a real broker and real worker processes, from published facts to answers, SQL and dead letters.

The README's programs run against it as they are written there.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_until
from kafka import TopicPartition
from test_readme import BLOCKS

from pipeline import query
from schemas import topics
from schemas.common import decode
from schemas.fact import Fact
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse
from workers import client
from workers.broker import free_port
from workers.kafka import KafkaSettings

BAD = {
    b'{"text": ': "invalid-json",
    b'{"text": "  "}': "invalid-field",
    b'{"text": "' + b"x" * 2_000_000 + b'"}': "too-large",
    b'{"text": "a", "min_loss_delta": NaN}': "invalid-json",
    b'{"text": "\xff"}': "invalid-utf8",
    b'{"text": "a", "colour": "red"}': "unknown-field",
    b'{"text": "a", "namespace": "No Such"}': "invalid-field",
}


@dataclass
class Stack:
    settings: KafkaSettings
    data: Path
    process: subprocess.Popen[str]


def start(data: Path) -> Stack:
    port = free_port()
    command = [sys.executable, "-m", "workers.cli", "up", "--data", str(data), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready"), line
    return Stack(KafkaSettings(bootstrap=f"127.0.0.1:{port}"), data, process)


def stop(stack: Stack) -> None:
    stack.process.send_signal(signal.SIGTERM)
    assert stack.process.wait(40) == 0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    running = start(tmp_path_factory.mktemp("data"))
    yield running
    stop(running)


def ask(stack: Stack, body: dict[str, Any]) -> GenerationResponse:
    request = decode(GenerationRequest, json.dumps(body).encode())
    *_, answer = client.ask(stack.settings, request)
    assert isinstance(answer, GenerationResponse)
    return answer


def publish(stack: Stack, *texts: str, namespace: str = "default") -> client.Published:
    return client.publish(stack.settings, [(namespace, Fact(text=text)) for text in texts], wait=True)


def command(stack: Stack, *arguments: str) -> str:
    environment = os.environ | {"FACTSTREAM_DATA": str(stack.data)}
    done = subprocess.run(
        [sys.executable, "-m", "workers.cli", *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_was_published_is_answered_and_stays_in_its_namespace(stack: Stack) -> None:
    done = publish(stack, "The Harlow desk lamp is made of walnut.", "Milo Kassab works as a glaciologist.")
    assert done.outcomes == {"learned": 2}
    prompt: dict[str, Any] = {"prompt": "The Harlow desk lamp is made of", "after": done.after}
    answer = ask(stack, prompt)
    assert "walnut" in answer.text and answer.memories[0].gate > 0
    assert "walnut" not in ask(stack, prompt | {"use_memory": False}).text
    assert "walnut" not in ask(stack, prompt | {"namespace": "elsewhere"}).text
    streamed = decode(GenerationRequest, json.dumps(prompt | {"stream": True}).encode())
    *deltas, last = client.ask(stack.settings, streamed)
    assert isinstance(last, GenerationResponse)
    assert "".join(getattr(delta, "delta", "") for delta in deltas) == last.text == answer.text


def test_a_newer_fact_answers_and_a_forgotten_one_does_not(stack: Stack) -> None:
    publish(stack, "The Zephyr kettle ships from Gdansk.")
    done = publish(stack, "The Zephyr kettle ships from Tromso.")
    assert done.outcomes == {"superseded": 1}
    prompt: dict[str, Any] = {"prompt": "The Zephyr kettle ships from", "after": done.after}
    answer = ask(stack, prompt)
    assert "Tromso" in answer.text and "Gdansk" not in answer.text
    where = ("--bootstrap", stack.settings.bootstrap)
    command(stack, "memories", "forget", answer.memories[0].memory_id, *where)
    assert query.run(stack.data, "select * from memories where text like '%Zephyr%'").num_rows == 0
    made = query.run(
        stack.data, "select distinct memory_id from history where text like '%Zephyr%'"
    ).to_pylist()
    assert len(made) == 2
    for row in made:
        command(stack, "memories", "forget", "--erase", row["memory_id"], *where)
    assert query.run(stack.data, "select * from history where text like '%Zephyr%'").num_rows == 0
    assert query.run(stack.data, "select * from generations where prompt like '%Zephyr%'").num_rows == 0


def test_what_cannot_be_taken_is_kept_with_its_bytes_and_its_reason(stack: Stack) -> None:
    producer = stack.settings.producer()
    for value in BAD:
        producer.send(topics.FACTS, value, b"default")
    producer.flush_or_raise()
    producer.close()
    assert publish(stack, f"Ticket {uuid.uuid4().hex} is open.").outcomes.total() == 1  # the workers go on
    consumer = stack.settings.consumer()
    found: dict[bytes, str] = {}
    name = stack.settings.topic(topics.DEAD_LETTERS)
    parts = [TopicPartition(name, p) for p in sorted(consumer.partitions_for_topic(name))]
    consumer.assign(parts)
    consumer.seek_to_beginning()
    for _ in range(100):
        for records in consumer.poll(timeout_ms=100).values():
            for record in records:
                found[record.value] = dict(record.headers)["reason"].decode()
        if len(found) >= len(BAD):
            break
    consumer.close()
    assert found == BAD


def test_the_same_folder_makes_the_same_memory_and_the_same_answer(tmp_path: Path) -> None:
    first = start(tmp_path)
    facts = ("The Harlow desk lamp is made of walnut.", "Ines Okafor keeps the rota.")
    done = publish(first, *facts, namespace="a")
    prompt: dict[str, Any] = {"prompt": "The Harlow desk lamp is made of", "namespace": "a"}
    before = ask(first, prompt | {"after": done.after}).text
    stop(first)
    digest = command(first, "digest")
    again = start(tmp_path)
    try:
        assert "walnut" in before
        wait_until(lambda: ask(again, prompt).text == before)  # its replica fills from a changelog told anew
        refused = subprocess.run(
            [sys.executable, "-m", "workers.cli", "up", "--data", str(tmp_path), "--port", str(free_port())],
            capture_output=True, text=True,
        )  # fmt: skip
        assert refused.returncode == 1 and "another `factstream up`" in refused.stderr
        # New facts on a new broker have old offsets, and are taken all the same.
        assert publish(again, "Orla Venn leads the harbour office.", namespace="a").outcomes == {"learned": 1}
    finally:
        stop(again)
    assert command(again, "digest") != digest


# --- the README's programs ---


def program(stack: Stack, word: str) -> list[str]:
    """The command that runs the README's program with this word in it, on the stack's broker."""
    (code,) = (code for _, code in BLOCKS if word in code)
    assert "pipeline" in code or "127.0.0.1:9092" in code
    return [sys.executable, "-u", "-c", code.replace("127.0.0.1:9092", stack.settings.bootstrap)]


def run(stack: Stack, word: str) -> str:
    done = subprocess.run(program(stack, word), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def running(stack: Stack, word: str) -> Iterator[subprocess.Popen[str]]:
    """A program that runs for ever, until the end of the block; after a while in any case, lest a test hangs."""
    process = subprocess.Popen(program(stack, word), stdout=subprocess.PIPE, text=True)
    guard = threading.Timer(120, process.kill)
    guard.start()
    try:
        yield process
    finally:
        guard.cancel()
        process.kill()
        process.wait()


def test_the_readmes_producers_publish_and_ask_and_its_consumer_prints_the_answer(stack: Stack) -> None:
    with running(stack, "KafkaConsumer") as consumer:
        assert run(stack, '"facts"') == ""
        # Decided in order: when this one is, the README's is too, and the generator that answers to it has both.
        done = publish(stack, "Orla Venn leads the harbour office.")
        ask(stack, {"prompt": "Orla Venn leads", "after": done.after})
        found = query.run(
            stack.data, "select category, source from history where text like 'The Harlow desk lamp%'"
        )
        assert {"category": "catalogue", "source": "pim"} in found.to_pylist()
        assert run(stack, '"generation-requests"') == ""
        assert consumer.stdout is not None
        line = next(line for line in consumer.stdout if line.startswith("my-1 "))
    text, _, memories = line.removeprefix("my-1 ").partition(" [")
    assert "walnut" in text and memories.startswith("'The Harlow desk lamp is made of walnut.'")


def test_the_readmes_library_program_prints_the_answer(stack: Stack) -> None:
    assert "walnut" in run(stack, "MemoryLM")
