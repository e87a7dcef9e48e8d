"""Loading without garbage collection: what is made is kept, and collection goes on afterwards."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.ingest.encoder import Encoder
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
    encoder = SimpleNamespace(backbone=SimpleNamespace(batch_rows=40))

    def load(*_: object) -> SimpleNamespace:
        seen.append(gc.isenabled())
        return encoder

    def memory(encoder: SimpleNamespace) -> SimpleNamespace:
        seen.append(gc.isenabled())
        return SimpleNamespace(encoder=encoder, engine=lambda: None)

    monkeypatch.setattr(Encoder, "load", load)
    monkeypatch.setattr("pipeline.memory_lm.MemoryLM", memory)
    settings, stop = KafkaSettings(), Stop()
    EncoderWorker(settings, "default", "cpu", stop).load(True)
    generator = GeneratorWorker(settings, Path(), "default", "cpu", stop)
    generator.load(True)
    assert generator._batch == 40  # on a GPU with room for so many; none on a CPU says how many
    assert seen == [False, False, False] and gc.isenabled()


PRELOADED = """
import os, sys, torch
from workers.runtime import loading

def tasks():
    return len(os.listdir("/proc/self/task"))

before, threads = tasks(), torch.get_num_threads()
loading.keep_encoder(sys.argv[1], "cpu")
print(len(loading._kept), os.path.exists(sys.argv[2]))
from pipeline.model import calibration
from pipeline.model.backbone import Backbone
backbone = Backbone.load(sys.argv[1], "cpu")
ids = backbone.tokenize(["Torben is from Munich, and so are the others in this text. " * 9])[0].ids
calibration.keep(calibration.calibrate(backbone, [ids] * 3), calibration.calibration_path(backbone))
before = tasks()
loading.keep_encoder(sys.argv[1], "cpu")
loading.keep_encoder("/no/such/folder", "cpu")
print(tasks() - before, torch.get_num_threads() == threads, "TOKENIZERS_PARALLELISM" in os.environ, flush=True)
kept = loading.encoder_of(sys.argv[1], "cpu", print)
if os.fork() == 0:
    torch.set_num_threads(2)
    encoder = loading.encoder_of(sys.argv[1], "cpu", print)
    print(encoder is kept, "decoder" in vars(encoder.backbone), [round(e.base_loss, 2) > 0 for e in encoder.encode(["Torben is from Munich."] * 4)][-1])
    print(len(encoder.backbone.tokenize(["Torben is from Munich."] * 400)), flush=True)
    os._exit(0)
print(os.wait()[1])
try:
    loading.encoder_of("/no/such/folder", "cpu", print)
except loading.ModelError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks on Linux only")
def test_forks_share_an_encoder_whose_loading_starts_no_thread(llama: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELOADED, str(llama), str(tmp_path / "calibrations")], capture_output=True, text=True, timeout=300,
        env={**os.environ, "FACTSTREAM_CACHE": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "0 False", "0 True False", "True True True", "400", "0", "there is no folder /no/such/folder"
    ], done.stderr  # fmt: skip
