"""Speed of facts through the whole stack, compared with the encoder alone on the same cores.

A stack of its own, in a temporary folder: broker, encoder, writer and generator, as `up` starts them. In
turns, some facts are published until each is durably decided, and as many are encoded in this process while
the stack is idle.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.bench.harness import Progress, clock, in_turns, median_rate, median_speedup
from pipeline.bench.synthetic.texts import made_up_facts
from pipeline.ingest.encoder import Encoder
from schemas.common import DEFAULT_NAMESPACE
from schemas.fact import Fact
from workers import client
from workers.kafka.config import KafkaSettings
from workers.runtime import supervisor


@dataclass(frozen=True)
class StreamResult:
    """Medians of facts per second; `of_encode` is the median of the rounds' ratios.

    `ready_s`: seconds from the start of `up` until it is ready. `load_s`: seconds of a process that only loads
    the model.
    """

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


def measure(
    folder: Path, model: str, device: str, facts: int, rounds: int, progress: Progress
) -> StreamResult:
    """Publishes `facts` invented facts per round. Raises StackError when the stack does not start."""
    load_s = _seconds_to_load(model, device)
    begun = clock()
    with supervisor.running(folder, model, device) as (settings, _):
        ready_s = clock() - begun
        encoder = Encoder.load(model, device)
        texts = made_up_facts(facts * rounds, 0)

        def texts_of(turn: int) -> list[str]:
            return texts[turn * facts : (turn + 1) * facts]

        stream, _, alone = in_turns(
            rounds,
            lambda turn: _publish(settings, texts_of(turn)),
            lambda turn: encoder.encode(texts_of(turn)[:16]),  # warms up
            lambda turn: encoder.encode(texts_of(turn)),
            after=lambda: progress("streaming", 1, rounds),
        )
    return StreamResult(
        model, str(encoder.backbone.device), torch.get_num_threads(), facts, rounds, median_rate(facts, stream),
        median_rate(facts, alone), median_speedup(stream, alone).wall, ready_s, load_s,
    )  # fmt: skip


def _publish(settings: KafkaSettings, texts: list[str]) -> None:
    """Publishes facts, and returns when the last is decided. Raises ClientError if one is not."""
    facts = ((DEFAULT_NAMESPACE, Fact(text=text)) for text in texts)
    published = client.publish(settings, facts, wait=True)
    if (decided := published.outcomes.total()) != len(texts):
        raise client.ClientError(f"{decided} of {len(texts)} facts were decided")


def _seconds_to_load(model: str, device: str) -> float:
    script = "import sys; from pipeline import MemoryLM; MemoryLM.load(*sys.argv[1:])"
    command = [sys.executable, "-c", script, model, device]
    subprocess.run(command, check=True)  # the first one brings the files into the page cache
    begun = clock()
    subprocess.run(command, check=True)
    return clock() - begun
