"""Speed of single answers with memory and bare, and the time to retrieve."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.bench.harness import clock
from pipeline.bench.scores import divided, mean
from pipeline.bench.wild.answers import TOKENS, Done
from pipeline.memory_lm import Job, MemoryLM


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second, and milliseconds a prompt, of prompts that come one by one."""

    prompts: int
    open_gates: float | None
    """The share of prompts with an open gate."""
    memory: float | None
    """From the prompt to the whole answer, retrieval included."""
    bare: float | None
    """The same without memory."""
    memory_decoding: float | None
    """After the first token."""
    bare_decoding: float | None
    """The same without memory."""
    retrieve_ms: float | None
    """The mean of the first times that the prompts come."""
    retrieve_again_ms: float | None
    """The mean of the second times, when texts are annotated already."""


@dataclass
class Timed:
    """The seconds and tokens of all prompts so far."""

    retrieve: list[float] = field(default_factory=list)
    retrieve_again: list[float] = field(default_factory=list)
    spoke: int = 0
    tokens: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    """By whether memory was used."""
    whole: dict[bool, float] = field(default_factory=lambda: {True: 0.0, False: 0.0})
    decoding: dict[bool, float] = field(default_factory=lambda: {True: 0.0, False: 0.0})

    def speed(self) -> Speed:
        count, tokens = len(self.retrieve), self.tokens
        again, once = mean(self.retrieve_again), mean(self.retrieve)
        return Speed(
            count,
            divided(self.spoke, count),
            divided(tokens[True], self.whole[True]),
            divided(tokens[False], self.whole[False]),
            divided(tokens[True] - count, self.decoding[True]),  # the first token comes with the prompt
            divided(tokens[False] - count, self.decoding[False]),
            None if once is None else 1000 * once,
            None if again is None else 1000 * again,
        )


def time_prompts(lm: MemoryLM, prompts: Sequence[str], namespace: str, timed: Timed, done: Done) -> None:
    """Retrieves for each prompt twice, and answers it with memory and bare."""
    backbone = lm.encoder.backbone
    ends, backbone.eos_ids = backbone.eos_ids, frozenset()
    try:
        for prompt in prompts:
            if not timed.retrieve:  # what is done once in a process is not counted
                _answer(lm, prompt, namespace, False, Timed())
            for seconds in (timed.retrieve, timed.retrieve_again):
                begun = clock()
                hits = lm.retrieve([prompt], namespace)[0]
                seconds.append(clock() - begun)
            timed.spoke += any(hit.gate > 0 for hit in hits)
            for use_memory in (True, False):
                _answer(lm, prompt, namespace, use_memory, timed)
            done(1)
    finally:
        backbone.eos_ids = ends


def _answer(lm: MemoryLM, prompt: str, namespace: str, use_memory: bool, timed: Timed) -> None:
    begun, engine = clock(), lm.engine()
    [row] = engine.submit([Job(prompt, None, [namespace], use_memory, max_new_tokens=TOKENS)])
    engine.step()
    first = clock()
    while engine.busy:
        engine.step()
    end = clock()
    if row.error:
        raise row.error
    timed.tokens[use_memory] += len(row.tokens)
    timed.whole[use_memory] += end - begun
    timed.decoding[use_memory] += end - first
