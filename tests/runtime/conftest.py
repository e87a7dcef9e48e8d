"""Loops on threads that end with the test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.runtime.recorder import Running
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
