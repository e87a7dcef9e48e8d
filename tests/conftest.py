"""What several test modules share: one embedded broker, settings whose topics no other test sees, small models."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workers import broker
from workers.kafka import KafkaSettings

_prefixes = itertools.count()


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[broker.EmbeddedBroker]:
    running = broker.start(broker.free_port(), tmp_path_factory.mktemp("broker") / "broker.log")
    yield running
    running.stop()


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> KafkaSettings:
    """Settings with a topic prefix of their own, of the cluster at KAFKA_BOOTSTRAP or of the embedded broker.

    On the latter the session is short, so that groups form in a second; Apache Kafka allows 6 s at least.
    """
    prefix = f"t{os.getpid()}.{next(_prefixes)}."
    if bootstrap := os.environ.get("KAFKA_BOOTSTRAP"):
        return KafkaSettings(bootstrap, prefix)
    embedded: broker.EmbeddedBroker = request.getfixturevalue("embedded")
    return KafkaSettings(embedded.bootstrap, prefix, session_timeout_ms=1500)


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from models import make_gpt2  # transformers takes seconds to import, and few tests need it

    return make_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from models import make_llama  # transformers takes seconds to import, and few tests need it

    return make_llama(tmp_path_factory.mktemp("llama"))


def wait_until(true: Callable[[], object], limit_s: float = 30.0) -> None:
    """Poll until `true()`; fails after `limit_s`, which is far more than it takes."""
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether the process still runs: a zombie that nobody has reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
