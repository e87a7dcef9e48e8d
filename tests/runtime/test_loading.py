"""Loading without garbage collection: what is made is kept, and collection goes on afterwards."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.ingest.encoder import Encoder
from pipeline.memory_lm import MemoryLM
from workers.encode.worker import EncoderWorker
from workers.generate.worker import GeneratorWorker
from workers.kafka.config import KafkaSettings
from workers.runtime.loading import kept_objects
from workers.runtime.signals import Stop


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_while_a_worker_loads() -> None:
    with kept_objects():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_was_loaded_is_not_looked_at_again() -> None:
    gc.unfreeze()
    with kept_objects():
        loaded = [[number] for number in range(10_000)]
    assert gc.get_freeze_count() >= len(loaded)
    assert not any(kept is loaded for kept in gc.get_objects())


def test_a_process_that_has_loaded_ends_without_a_complaint() -> None:
    program = "from workers.runtime.loading import kept_objects\nwith kept_objects():\n    import duckdb"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_collection_goes_on_after_a_failure() -> None:
    with pytest.raises(RuntimeError), kept_objects():
        raise RuntimeError("no such model")
    assert gc.isenabled()


def test_the_workers_of_a_model_load_so(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    class Loaded:
        encoder = SimpleNamespace(backbone=SimpleNamespace(batch_rows=40))

        def engine(self) -> None:
            return None

    def load(*_: object, **__: object) -> Loaded:
        seen.append(gc.isenabled())
        return Loaded()

    monkeypatch.setattr(Encoder, "load", load)
    monkeypatch.setattr(MemoryLM, "load", load)
    settings, stop = KafkaSettings(), Stop()
    EncoderWorker(settings, "default", "cpu", stop).load(True)
    generator = GeneratorWorker(settings, Path(), "default", "cpu", stop)
    generator.load(True)
    assert generator._batch == 40  # on a GPU with room for so many; none on a CPU says how many
    assert seen == [False, False] and gc.isenabled()
