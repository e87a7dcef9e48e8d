"""Loops on threads that end with the test, and an Apache Kafka for those that need one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.apache import MISSING, SCRIPT, Apache
from tests.runtime.recorder import Running
from tests.runtime.stack.local_up import Up
from workers.kafka.config import KafkaSettings
from workers.runtime.worker import Worker


@pytest.fixture
def run(settings: KafkaSettings, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start loops, which are stopped when the test ends, however it ends."""
    started: list[Running] = []

    def start(worker: Worker, on: KafkaSettings = settings) -> Running:
        started.append(Running(worker, on, tmp_path))
        return started[-1]

    yield start
    for running in started:
        running.end()


@pytest.fixture
def apache(kafka: str | None, tmp_path: Path) -> Iterator[KafkaSettings]:
    if kafka is not None:
        yield KafkaSettings(kafka, f"{tmp_path.name}.", session_timeout_ms=6000)
    elif not SCRIPT.is_file():
        pytest.skip(MISSING)
    else:
        cluster = Apache(tmp_path / "kafka")
        yield KafkaSettings(cluster.bootstrap, session_timeout_ms=6000)
        cluster.stop()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def make(scripts: dict[str, str], **options: Any) -> Up:
        started.append(Up(tmp_path / "data", scripts, options))
        return started[-1]

    yield make
    for running in started:
        if running.thread.ident:
            running.end()
