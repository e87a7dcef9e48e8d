"""The whole stack on a real broker: from published facts to answers, SQL and dead letters.

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
from kafka import TopicPartition

from pipeline.query import run as query
from schemas import topics
from schemas.common import decode
from schemas.fact import Fact
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse
from tests.conftest import wait_until
from tests.docs.test_readme import BLOCKS
from workers import client
from workers.kafka.config import KafkaSettings
from workers.runtime.embedded_broker import free_port

BAD = {
    b'{"text": ': "invalid-json",
    b'{"text": "  "}': "invalid-field",
    b'{"text": "' + b"x" * 2_000_000 + b'"}': "too-large",
    b'{"text": "a", "min_loss_delta": NaN}': "invalid-json",
    b'{"text": "\xff"}': "invalid-utf8",
    b'{"text": "a", "namespace": "elsewhere"}': "key-mismatch",
    b'{"text": "a", "namespace": "a\\u0000b"}': "invalid-field",
}


@dataclass
class Stack:
    settings: KafkaSettings
    data: Path
    process: subprocess.Popen[str]


def start(data: Path, kafka: str | None, prefix: str = "") -> Stack:
    """`up` on a broker of its own, or with topics of its own on Apache Kafka."""
    settings = KafkaSettings(kafka or f"127.0.0.1:{free_port()}", prefix if kafka else "")
    command = [sys.executable, "-m", "workers.cli", "up", "--data", str(data)]
    if kafka:
        command += ["--bootstrap", kafka, "--topic-prefix", prefix]
    else:
        command += ["--port", settings.bootstrap.split(":")[1]]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("ready"), line
    return Stack(settings, data, process)


def stop(stack: Stack) -> None:
    stack.process.send_signal(signal.SIGTERM)
    assert stack.process.wait(40) == 0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, kafka: str | None) -> Iterator[Stack]:
    running = start(tmp_path_factory.mktemp("data"), kafka, f"p{os.getpid()}.")
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


def test_published_facts_are_answered_within_their_namespace_only(stack: Stack) -> None:
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
    where = ("--bootstrap", stack.settings.bootstrap, "--topic-prefix", stack.settings.topic_prefix)
    command(stack, "memories", "forget", answer.memories[0].memory_id, *where)
    assert query.run(stack.data, "select * from memories where text like '%Zephyr%'").num_rows == 0
    rows = query.run(
        stack.data, "select distinct memory_id from history where text like '%Zephyr%'"
    ).to_pylist()
    assert len(rows) == 2
    for row in rows:
        command(stack, "memories", "forget", "--erase", row["memory_id"], *where)
    assert query.run(stack.data, "select * from history where text like '%Zephyr%'").num_rows == 0
    assert query.run(stack.data, "select * from generations where prompt like '%Zephyr%'").num_rows == 0


def test_dead_letters_keep_the_original_bytes_and_the_reason(stack: Stack) -> None:
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
                found[record.value] = dict(record.headers)["factstream.reason"].decode()
        if len(found) >= len(BAD):
            break
    consumer.close()
    assert found == BAD


@pytest.mark.slow
def test_the_same_folder_makes_the_same_memory_and_the_same_answer(tmp_path: Path, kafka: str | None) -> None:
    first = start(tmp_path, kafka, f"p{os.getpid()}.first.")
    facts = ("The Harlow desk lamp is made of walnut.", "Ines Okafor keeps the rota.")
    done = publish(first, *facts, namespace="a")
    prompt: dict[str, Any] = {"prompt": "The Harlow desk lamp is made of", "namespace": "a"}
    before = ask(first, prompt | {"after": done.after}).text
    stop(first)
    digest = command(first, "digest")
    again = start(tmp_path, kafka, f"p{os.getpid()}.again.")
    try:
        assert "walnut" in before
        wait_until(
            lambda: ask(again, prompt).text == before
        )  # its replica fills from a changelog written anew
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


@pytest.mark.slow
def test_a_crash_of_generator_or_broker_loses_nothing_awaited(tmp_path: Path, gpt2: Path) -> None:
    """`up` restarts the generator, and answers come. It restarts the broker, which is then empty: `publish` sends
    undecided facts again, and they count once."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "workers.cli",
        "up",
        "--json",
        "--data",
        str(tmp_path),
        "--port",
        str(port),
    ]
    process = subprocess.Popen([*command, "--model", str(gpt2)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    up = Stack(KafkaSettings(f"127.0.0.1:{port}"), tmp_path, process)
    try:
        pids = json.loads(process.stdout.readline())["pids"]
        os.kill(pids["generator"], signal.SIGSTOP)  # it has the request and has not answered
        threading.Timer(1, os.kill, (pids["generator"], signal.SIGKILL)).start()
        assert ask(up, {"prompt": "Hello", "max_new_tokens": 2}).error is None

        def facts() -> Iterator[tuple[str, Fact]]:
            for n in range(300):
                if n == 200:
                    os.kill(pids["broker"], signal.SIGKILL)
                yield (
                    f"space-{n % 5}",
                    Fact(text=f"The lamp of room {n} stands at gate {n + 7}.", min_loss_delta=0),
                )

        done = client.publish(up.settings, facts(), wait=True)
        assert done.sent == done.outcomes.total() == 300
        sql = "select fact_id, count(*) as n from history where outcome <> 'duplicate' and fact_id is not null group by 1"
        counted = query.run(tmp_path, sql).to_pylist()
        assert len(counted) == 300 and {row["n"] for row in counted} == {1}
        prompt = {
            "prompt": "The lamp of room 9",
            "namespace": "space-4",
            "max_new_tokens": 2,
            "after": done.after,
        }
        assert ask(up, prompt).error is None  # the new generator has the whole memory
    finally:
        stop(up)


# --- the README's programs ---


def program(stack: Stack, word: str) -> list[str]:
    """The command that runs the README's program with this word in it, on the stack's broker."""
    (code,) = (code for _, code in BLOCKS if word in code)
    assert "pipeline" in code or "127.0.0.1:9092" in code
    code = code.replace("127.0.0.1:9092", stack.settings.bootstrap)
    for topic in topics.TOPICS:
        code = code.replace(f'"{topic.name}"', f'"{stack.settings.topic(topic.name)}"')
    return [sys.executable, "-u", "-c", code]


def run(stack: Stack, word: str) -> str:
    done = subprocess.run(program(stack, word), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def running(stack: Stack, word: str) -> Iterator[subprocess.Popen[str]]:
    """A program that runs until the end of the block, and at most 120 s."""
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
