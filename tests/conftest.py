"""Fixtures of all tests: one embedded broker, topics of their own, small models and the default one."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: each computes on one thread
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.helpers.apache import SCRIPT, Apache
from workers.kafka.config import KafkaSettings
from workers.runtime import embedded_broker as broker

if TYPE_CHECKING:
    from pipeline import MemoryLM
    from pipeline.ingest.encoder import Encoder

_prefixes = itertools.count()

os.environ.pop("PYTHONUNBUFFERED", None)  # the processes that tests start write as a user's do

# Examples that hypothesis tries for each property; `make test` asks for the quick profile. Its own defaults are others in CI.
hypothesis.settings.register_profile("quick", hypothesis.settings.default, max_examples=20, deadline=None)
hypothesis.settings.register_profile("full", hypothesis.settings.default, max_examples=300, deadline=None)
hypothesis.settings.load_profile("full")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kafka", action="store_true",
        help="run on Apache Kafka: the cluster at KAFKA_BOOTSTRAP, or one that KAFKA_SCRIPT starts",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--kafka") and not os.environ.get("KAFKA_BOOTSTRAP") and not SCRIPT.exists():
        raise pytest.UsageError(
            f"--kafka needs a cluster at KAFKA_BOOTSTRAP, or a script at {SCRIPT} (KAFKA_SCRIPT)"
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """On Apache Kafka, leaves out the tests that talk to no broker or to one of their own."""
    if config.getoption("--kafka"):
        on_kafka, others = list[pytest.Function](), list[pytest.Function]()
        for item in items:
            known = item.get_closest_marker("kafka") or {"kafka", "cluster"} & set(item.fixturenames)
            (on_kafka if known else others).append(item)
        config.hook.pytest_deselected(items=others)
        items[:] = on_kafka


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    """The bootstrap of the Apache Kafka that the tests run on; None when they run on the embedded broker."""
    if bootstrap := os.environ.get("KAFKA_BOOTSTRAP"):
        yield bootstrap
    elif request.config.getoption("--kafka"):
        cluster = Apache(tmp_path_factory.mktemp("kafka"))
        yield cluster.bootstrap
        cluster.stop()
    else:
        yield None


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[broker.EmbeddedBroker]:
    running = broker.start(broker.free_port(), tmp_path_factory.mktemp("broker") / "broker.log")
    yield running
    running.stop()


@pytest.fixture
def settings(request: pytest.FixtureRequest, kafka: str | None) -> KafkaSettings:
    """Settings with a topic prefix of their own, of Apache Kafka or of the embedded broker.

    The session is short, so that groups form in a second; a cluster of somebody else allows 6 s at least.
    """
    prefix = f"t{os.getpid()}.{next(_prefixes)}."
    if kafka is not None:
        return KafkaSettings(kafka, prefix, session_timeout_ms=session_ms())
    embedded: broker.EmbeddedBroker = request.getfixturevalue("embedded")
    return KafkaSettings(embedded.bootstrap, prefix, session_timeout_ms=1500)


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small random model of GPT-2's build."""
    from tests.helpers.models import make_gpt2  # transformers takes seconds to import, and few tests need it

    return make_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small random model of LLaMA's build, with a chat template."""
    from tests.helpers.models import make_llama  # transformers takes seconds to import, and few tests need it

    return make_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def encoder() -> "Encoder":
    """The encoder of the default model, loaded once in a process."""
    from pipeline.ingest.encoder import Encoder

    return Encoder.load()


@pytest.fixture
def lm(encoder: "Encoder") -> "MemoryLM":
    """The default model with an empty memory."""
    from pipeline import MemoryLM

    return MemoryLM(encoder)


def session_ms() -> int:
    """The session timeout of the tests' workers."""
    return 6000 if os.environ.get("KAFKA_BOOTSTRAP") else 1500


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
