"""`factstream up --source-config`: a record of another system becomes a fact, and none is lost."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from kafka import KafkaProducer, TopicPartition

from schemas.topics import FACTS
from tests.conftest import wait_until
from tests.kafka.conftest import read_records
from tests.source.records import TOPIC, envelope
from workers.kafka.config import KafkaSettings
from workers.runtime.embedded_broker import free_port
from workers.runtime.stack import drain
from workers.runtime.supervisor import worker_commands

CONFIG = f"""
sources:
  - topic: {TOPIC}
    format: debezium
    statements: {{name: "The lamp {{{{ row.id }}}} is called {{{{ row.name }}}}."}}
"""


def test_the_source_worker_has_its_file_and_the_port_after_the_others(tmp_path: Path) -> None:
    commands = worker_commands(KafkaSettings(), tmp_path, "m", "text", "9464", tmp_path / "s.yaml")
    assert list(commands) == ["encoder", "writer", "generator", "source"]
    source = commands["source"]
    assert source[source.index("--config") + 1] == str(tmp_path / "s.yaml")
    assert source[source.index("--metrics-port") + 1].endswith(":9467")
    assert "source" not in worker_commands(KafkaSettings(), tmp_path, "m", "text")


def test_what_a_source_worker_has_not_read_counts_as_left() -> None:
    found = {TopicPartition("a", 0): (1, 3), TopicPartition("a", 1): (0, 4)}
    assert drain.count_by_topic(KafkaSettings(), found) == {"a": 6}
    assert drain.consumed_topics(KafkaSettings(), ["a"])["source"] == ["a"]


@pytest.mark.slow
def test_records_of_another_system_become_facts_and_are_drained(tmp_path: Path, llama: Path) -> None:
    config, data, port = tmp_path / "sources.yaml", tmp_path / "data", free_port()
    config.write_text(CONFIG)
    command = [
        sys.executable,
        "-m",
        "workers.cli",
        "up",
        "--data",
        str(data),
        "--model",
        str(llama),
        "--port",
        str(port),
    ]
    env = {name: value for name, value in os.environ.items() if not name.startswith("FACTSTREAM_")}
    process = subprocess.Popen(
        [*command, "--source-config", str(config), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )  # fmt: skip
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    assert ready["sources"] == 1 and "source" in ready["pids"]
    settings = KafkaSettings(f"127.0.0.1:{port}")

    producer = KafkaProducer(bootstrap_servers=settings.bootstrap)

    def send(number: int) -> None:
        value = envelope("c", None, {"id": number, "name": f"Lamp {number}"})
        producer.send(TOPIC, key=b'{"id": %d}' % number, value=json.dumps(value).encode())
        producer.flush()

    send(0)
    (fact,) = read_records(settings, FACTS, 1)
    assert json.loads(fact.value)["text"] == "The lamp 0 is called Lamp 0."

    os.kill(ready["pids"]["source"], signal.SIGSTOP)
    for number in range(1, 21):
        send(number)
    process.send_signal(signal.SIGTERM)  # the drain waits for the source worker
    wait_until(lambda: "draining" in (process.stderr.readline() if process.stderr else ""))
    os.kill(ready["pids"]["source"], signal.SIGCONT)
    assert process.wait(40) == 0
    producer.close()
    mapped = re.findall(r"states=(\d+)", (data / "logs" / "source.log").read_text())
    assert sum(map(int, mapped)) == 21
