"""Real workers that die, or stand still, at a named step, whose function is wrapped from here."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.history import compaction
from pipeline.history import log as history
from pipeline.ingest.encoder import Encoder
from schemas import topics
from tests.helpers.forking import Options, Step, fork_each, read_order
from workers.encode import worker as encoding
from workers.encode.worker import EncoderWorker
from workers.kafka.config import KafkaSettings
from workers.kafka.producer import Producer
from workers.observe import log
from workers.runtime import loop
from workers.runtime.worker import Worker
from workers.write.worker import WriterWorker

STEPS = {
    "encoder": ("taken", "before producing", "half produced", "produced", "before the commit", "after the commit"),
    "writer": (
        "taken", "decided", "before the rename", "after the rename", "before the changelog",
        "half the changelog", "after the changelog", "before the commit", "after the commit", "before merging", "merged",
    ),
}  # fmt: skip
STARTING = ("folded", "half the difference")
"""Steps of a writer that takes a partition."""


def wrap(
    owner: Any, name: str, before: Callable[..., None], after: Callable[..., None] = lambda: None
) -> None:
    real = getattr(owner, name)

    def wrapped(*args: Any, **more: Any) -> Any:
        before(*args)
        result = real(*args, **more)
        after()
        return result

    setattr(owner, name, wrapped)


def name_steps(worker: str, at: Step) -> None:
    """Names the steps of this process's worker."""
    wrap(loop.Loop, "commit", at("before the commit"), at("after the commit"))
    if worker == "encoder":
        name_encoder_steps(at)
    else:
        name_writer_steps(at)


def name_encoder_steps(at: Step) -> None:
    def sending(_: Any, topic: str, *__: Any) -> None:
        if topic == topics.FACT_ENCODINGS:
            at("half produced")()

    wrap(EncoderWorker, "process", at("taken"))
    wrap(encoding, "send", at("before producing"), at("produced"))
    wrap(Producer, "send", sending)


def name_writer_steps(at: Step) -> None:
    """A writer that takes a partition over sends to the changelog too: that step has a name of its own."""
    taking_over = False

    def begin(*_: Any) -> None:
        nonlocal taking_over
        taking_over = True

    def end() -> None:
        nonlocal taking_over
        taking_over = False

    def sending(_: Any, topic: str, *__: Any) -> None:
        if topic == topics.MEMORY_CHANGELOG:
            at("half the difference" if taking_over else "half the changelog")()

    def flushed() -> None:
        if not taking_over:
            at("after the changelog")()

    wrap(WriterWorker, "process", at("taken"))
    wrap(WriterWorker, "_append", at("decided"))
    wrap(os, "link", at("before the rename"), at("after the rename"))
    compaction.FAN = 4  # a merge every few files
    wrap(compaction, "merge", at("before merging"), at("merged"))
    wrap(history, "append", lambda *_: None, at("before the changelog"))
    wrap(WriterWorker, "_recover", at("folded"))
    wrap(WriterWorker, "assigned", begin, end)
    wrap(Producer, "flush_or_raise", lambda *_: None, flushed)
    wrap(Producer, "send", sending)


def main() -> None:
    model = sys.argv[1]
    encoder = Encoder.load(model, "cpu")
    Encoder.load = classmethod(lambda *_, **__: encoder)  # type: ignore[method-assign,assignment]
    fork_each(lambda options: run(options, model))


def run(options: Options, model: str) -> int:
    os.environ.update(options["env"])
    log.setup(options["worker"])
    data, settings = Path(options["data"]), KafkaSettings.from_env()
    name_steps(options["worker"], read_order(Path(options["order"])))
    worker: Worker = (
        EncoderWorker(settings, model, "cpu")
        if options["worker"] == "encoder"
        else WriterWorker(settings, data)
    )
    return loop.run(worker, settings, data, poll_ms=100, max_records=25)


if __name__ == "__main__":
    main()
