"""The gateway on the embedded broker, with a model that repeats what it is asked."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from schemas.request import GenerationRequest
from tests.client.answerer import answering
from tests.http.conftest import Running, serve
from tests.http.fake_model import repeat
from workers.client import LoopClient
from workers.http import app
from workers.kafka.config import KafkaSettings


@dataclass
class Gateway:
    running: Running
    settings: KafkaSettings
    data: Path
    asked: list[GenerationRequest]
    """What arrived at the model."""
    topics: LoopClient
    """The server's client of the topics."""

    @property
    def url(self) -> str:
        return f"{self.running.url}v1"

    def client(self, **options: object) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key="none", max_retries=0, **options)  # type: ignore[arg-type]


@pytest.fixture
def gateway(settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    made: list[LoopClient] = []

    def client(settings: KafkaSettings, timeout_s: float) -> LoopClient:
        made.append(LoopClient(settings, timeout_s))
        return made[0]

    monkeypatch.setattr(app, "LoopClient", client)
    with answering(settings, repeat) as asked:
        running = serve(settings, tmp_path)
        yield Gateway(running, settings, tmp_path, asked, made[0])
        running.end()
