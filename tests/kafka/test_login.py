"""TLS and SASL against Apache Kafka: every client logs in, or fails with a clear error."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka import TopicPartition

from schemas import topics
from tests.helpers.apache import MISSING, SCRIPT
from workers.kafka.admin import ensure_topics
from workers.kafka.config import MECHANISMS, OAUTHBEARER, KafkaSettings
from workers.kafka.errors import KafkaUnavailable

pytestmark = pytest.mark.kafka

WRONG = "not-the-passw0rd"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    if not SCRIPT.is_file():
        pytest.skip(MISSING)
    command = [str(SCRIPT), "start", "--dir", str(tmp_path_factory.mktemp("kafka")), "--secure"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("ready")
        yield json.loads(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def secure(node: dict[str, Any]) -> KafkaSettings:
    return KafkaSettings(
        f"127.0.0.1:{node['secure_port']}", f"s{os.getpid()}.", security_protocol="SASL_SSL", username=node["users"][0],
        password=node["password"], ca_file=node["ca"], connect_timeout_s=8.0,
    )  # fmt: skip


@pytest.mark.parametrize("mechanism", [name for name in MECHANISMS if name != OAUTHBEARER])
def test_every_client_logs_in(secure: KafkaSettings, mechanism: str) -> None:
    settings = replace(secure, sasl_mechanism=mechanism)
    assert len(ensure_topics(settings)) == len(topics.TOPICS)
    producer, consumer = settings.producer(), settings.consumer()
    value = mechanism.encode()
    producer.send(topics.FACTS, value, partition=0)
    [sent] = producer.flush_or_raise()
    place = TopicPartition(settings.topic(topics.FACTS), 0)
    consumer.assign([place])
    consumer.seek(place, sent.offset)
    assert [r.value for batch in consumer.poll(timeout_ms=10_000).values() for r in batch] == [value]
    producer.close()
    consumer.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"password": WRONG}, "refused the user 'alice' with SCRAM-SHA-512.*FACTSTREAM_PASSWORD"),
        ({"password": WRONG, "sasl_mechanism": "PLAIN"}, "refused the user 'alice' with PLAIN"),
        ({"username": "eve"}, "refused the user 'eve'"),
        ({"ca_file": None}, "certificate verify failed.*FACTSTREAM_CA_FILE"),
        ({"ca_file": __file__}, "not a readable PEM file.*FACTSTREAM_CA_FILE"),
        ({"ca_file": "/no/such/file.pem"}, "no/such/file.pem.*FACTSTREAM_CA_FILE"),
        ({"security_protocol": "PLAINTEXT"}, "FACTSTREAM_SECURITY_PROTOCOL, which is PLAINTEXT"),
    ],
)
def test_error_of_a_failed_login_gives_the_reason(
    secure: KafkaSettings, change: dict[str, Any], said: str
) -> None:
    settings = replace(secure, connect_timeout_s=4.0, **change)
    for make in (settings.admin, settings.consumer, settings.producer):
        with pytest.raises(KafkaUnavailable, match=said) as caught:
            make()
        assert WRONG not in str(caught.value) and str(secure.password) not in str(caught.value)


def run(env: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workers.cli", *words]
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=120)


@pytest.mark.timeout(400)  # eight processes that import a model's library or a client's, on a busy machine
def test_stack_runs_over_tls_without_secrets_in_its_logs(
    secure: KafkaSettings, llama: Path, tmp_path: Path
) -> None:
    env, data, password = secure.env(), tmp_path / "data", str(secure.password)
    command = [
        sys.executable,
        "-m",
        "workers.cli",
        "up",
        "--bootstrap",
        secure.bootstrap,
        "--data",
        str(data),
    ]
    # Into a file: whoever writes more into a pipe than it holds waits for a reader.
    with (tmp_path / "errors").open("wb") as errors:
        stack = subprocess.Popen(
            [*command, "--model", str(llama), "--json"], env=os.environ | env, stdout=subprocess.PIPE, stderr=errors
        )  # fmt: skip
    assert stack.stdout is not None
    try:
        pids = json.loads(stack.stdout.readline())["pids"]
        facts = tmp_path / "facts.txt"
        facts.write_text("The Harlow lamp is made of walnut.\n")
        told = run(
            env, "publish", str(facts), "--wait", "--min-loss-delta", "0", "--bootstrap", secure.bootstrap
        )
        assert "1 learned" in told.stdout, told.stderr
        asked = run(
            env,
            "ask",
            "The Harlow lamp is",
            "--bootstrap",
            secure.bootstrap,
            "--max-new-tokens",
            "4",
            "--json",
        )
        assert asked.returncode == 0, asked.stderr
        doctor = run(env, "doctor", "--bootstrap", secure.bootstrap, "--model", str(llama))
        assert "7 topics" in doctor.stdout
        wrong = run(
            env | {"FACTSTREAM_PASSWORD": WRONG}, "worker", "writer", "--data", str(tmp_path / "other")
        )
        assert (
            wrong.returncode == 1
            and "refused the user 'alice'" in wrong.stderr
            and "Traceback" not in wrong.stderr
        )
        for pid in pids.values():
            assert password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        said = [told, asked, doctor, wrong]
        assert not any(secret in one.stdout + one.stderr for one in said for secret in (password, WRONG))
    finally:
        stack.terminate()
        stack.communicate(timeout=60)
    logs = [path.read_bytes() for path in [*(data / "logs").iterdir(), tmp_path / "errors"]]
    assert len(logs) >= 4 and not any(password.encode() in log for log in logs)
