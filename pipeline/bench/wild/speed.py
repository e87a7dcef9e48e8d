"""Speed of single answers with memory, bare and by prompting, and the time to retrieve."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.bench import prompting
from pipeline.bench.harness import clock
from pipeline.bench.scores import divided
from pipeline.bench.wild.answers import TOKENS, Done
from pipeline.memory_lm import Job, MemoryLM


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second, and milliseconds a prompt, of prompts that come one by one."""

    prompts: int
    open_gates: float | None
    """The share of prompts with an open gate."""
    memory: float | None
    """Tokens a second from the prompt to the whole answer, retrieval included."""
    bare: float | None
    """The same without memory."""
    memory_decoding: float | None
    """Tokens a second after the first token."""
    bare_decoding: float | None
    """The same without memory."""
    retrieve_ms: float | None
    """The mean of the first times that the prompts come."""
    retrieve_again_ms: float | None
    """The mean of the second times: all facts that the model reads have been read."""
    first_ms: float | None
    """Time to the first token of an answer with memory, retrieval included; the second time of a prompt."""
    prompted_first_ms: float | None
    """Time to the first token by prompting: the fact found, after two examples; without the retrieval that finds it."""


@dataclass
class Timed:
    """The seconds and tokens of all prompts so far."""

    retrieve: list[float] = field(default_factory=list)
    retrieve_again: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    prompted_first: list[float] = field(default_factory=list)
    spoke: int = 0
    tokens: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    """Tokens, by whether memory was used."""
    whole: dict[bool, float] = field(default_factory=lambda: {True: 0.0, False: 0.0})
    decoding: dict[bool, float] = field(default_factory=lambda: {True: 0.0, False: 0.0})

    def speed(self) -> Speed:
        count, tokens = len(self.retrieve), self.tokens
        times = (self.retrieve, self.retrieve_again, self.first, self.prompted_first)
        once, again, first, prompted = (None if not some else 1000 * sum(some) / len(some) for some in times)
        return Speed(
            count,
            divided(self.spoke, count),
            divided(tokens[True], self.whole[True]),
            divided(tokens[False], self.whole[False]),
            divided(tokens[True] - count, self.decoding[True]),  # the first token comes with the prompt
            divided(tokens[False] - count, self.decoding[False]),
            once,
            again,
            first,
            prompted,
        )


def time_prompts(lm: MemoryLM, prompts: Sequence[str], namespace: str, timed: Timed, done: Done) -> None:
    """Retrieves for each prompt twice, and answers it with memory and bare; every answer has all its tokens."""
    backbone = lm.encoder.backbone
    ends, backbone.eos_ids = backbone.eos_ids, frozenset()
    try:
        for prompt in prompts:
            if not timed.retrieve:  # what is done once in a process is not counted
                _answer(lm, Job(prompt, use_memory=False, max_new_tokens=TOKENS), Timed())
            for seconds in (timed.retrieve, timed.retrieve_again):
                begun = clock()
                hits = lm.retrieve([prompt], namespace)[0]
                seconds.append(clock() - begun)
            timed.spoke += any(hit.gate > 0 for hit in hits)
            for use_memory in (True, False):
                job = Job(prompt, None, [namespace], use_memory, max_new_tokens=TOKENS, stop_at_answer=False)
                first = _answer(lm, job, timed)
                timed.first += [first] * use_memory
            fact = prompting.after(prompt, [hit.text for hit in hits[:1]])
            timed.prompted_first.append(_answer(lm, Job(fact, use_memory=False, max_new_tokens=1), Timed()))
            done(1)
    finally:
        backbone.eos_ids = ends


def _answer(lm: MemoryLM, job: Job, timed: Timed) -> float:
    """Answers the job, and returns the seconds to its first token."""
    begun, engine = clock(), lm.engine()
    [row] = engine.submit([job])
    engine.step()
    first = clock()
    while engine.busy:
        engine.step()
    end = clock()
    if row.error:
        raise row.error
    timed.tokens[job.use_memory] += len(row.tokens)
    timed.whole[job.use_memory] += end - begun
    timed.decoding[job.use_memory] += end - first
    return first - begun
