"""A generator with a fake model and a fake producer."""

from pathlib import Path

import pytest

from tests.generate.fakes import FakeModel, Sent
from workers.generate.replica import Replica
from workers.generate.reply_topics import ReplyTopics
from workers.generate.responses import Responder
from workers.generate.worker import GeneratorWorker
from workers.kafka.config import KafkaSettings
from workers.runtime.signals import Stop


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: Sent) -> GeneratorWorker:
    stop = Stop()
    monkeypatch.setattr("workers.generate.worker.encoder_of", lambda *_: None)
    monkeypatch.setattr("pipeline.memory_lm.MemoryLM", lambda _: FakeModel(stop))
    worker = GeneratorWorker(KafkaSettings(), tmp_path, "default", "cpu", stop)
    worker.load(alone=False)
    worker._producer, worker._topic_id = sent, "id"  # type: ignore[assignment]
    worker._responder = Responder(sent, 4)  # type: ignore[arg-type]
    worker._reply_topics = ReplyTopics(worker._settings, 4, ask=lambda _, topic: 4)
    worker._replica = Replica(worker._lm, None, 4)
    monkeypatch.setattr(worker._replica, "catch_up", lambda limit_s: True)
    return worker
