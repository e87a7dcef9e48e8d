"""How fast facts go through the whole stack, against the encoder alone on the same cores.

A stack of its own in a temporary folder: broker, encoder, writer and generator, as `up` starts them. In turns: some facts
from their publishing until each is durably decided, then as many by `Encoder.encode` in this process, while the stack
has nothing to do.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from pipeline.bench.synthetic.texts import made_up_facts
from pipeline.ingest.encoder import Encoder
from schemas.common import DEFAULT_NAMESPACE
from schemas.fact import Fact
from workers.client import publishing as client
from workers.kafka.clients import KafkaSettings
from workers.runtime import supervisor as stack

Tell = Callable[[str, int, int], object]


@dataclass(frozen=True)
class StreamResult:
    """Facts a second, medians; `of_encode` is the median of the rounds' ratios. `ready_s`: from the start of `up` until it
    is ready; `load_s`: until a process that only loads the model has it."""

    model: str
    device: str
    threads: int
    facts: int
    rounds: int
    stream: float
    encode: float
    of_encode: float
    ready_s: float
    load_s: float


def measure(folder: Path, model: str, device: str, facts: int, rounds: int, tell: Tell) -> StreamResult:
    """Invented facts. Raises StackError when the stack does not start. `tell` gets (what, more, total)."""
    load_s = _seconds_to_load(model, device)
    begun = time.monotonic()
    with stack.running(folder, model, device) as (settings, _):
        ready_s = time.monotonic() - begun
        encoder = Encoder.load(model, device)
        texts = made_up_facts(facts * rounds, 0)
        stream, alone = [], []
        for turn in range(rounds):
            part = texts[turn * facts : (turn + 1) * facts]
            stream.append(facts / _stream(settings, part))
            encoder.encode(part[:16])  # warms up
            begun = time.monotonic()
            encoder.encode(part)
            alone.append(facts / (time.monotonic() - begun))
            tell("streaming", 1, rounds)
    ratio = median(a / b for a, b in zip(stream, alone, strict=True))
    return StreamResult(
        model, str(encoder.backbone.device), torch.get_num_threads(), facts, rounds, median(stream),
        median(alone), ratio, ready_s, load_s,
    )  # fmt: skip


def _stream(settings: KafkaSettings, texts: list[str]) -> float:
    """Seconds from before the first is sent until the last is decided."""
    begun = time.monotonic()
    done = client.publish(settings, ((DEFAULT_NAMESPACE, Fact(text=text)) for text in texts), wait=True)
    took = time.monotonic() - begun
    if (decided := sum(done.outcomes.values())) != len(texts):
        raise client.ClientError(f"{decided} of {len(texts)} facts were decided")
    return took


def _seconds_to_load(model: str, device: str) -> float:
    script = "import sys; from pipeline import MemoryLM; MemoryLM.load(*sys.argv[1:])"
    subprocess.run([sys.executable, "-c", script, model, device], check=True)  # the first one reads the files
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", script, model, device], check=True)
    return time.monotonic() - begun
