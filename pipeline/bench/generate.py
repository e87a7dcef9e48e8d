"""How fast answers are generated with a memory, against transformers' own `generate` of the bare model.

Both continue the same prompts by the same number of tokens, in turns, so that what else the machine does meets both. Then
requests of mixed lengths, all at once against one after another. Knows the library; knows nothing of Kafka.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from pipeline.bench.synthetic.texts import made_up_facts
from pipeline.memory_lm import Job, MemoryLM

MEMORIES = 64
REQUESTS = 16
SHORTEST, LONGEST = 8, 64  # tokens of the mixed requests' answers, evenly spread

Clock = Callable[[], float]
Tell = Callable[[str, int, int], object]


@dataclass(frozen=True)
class AgainstBare:
    """Medians over the rounds. The ratios are of each round's tokens a second, by the clock and by the processor's time
    alone: on a machine that does other things too, the second says more."""

    batch: int
    memory: float  # tokens a second
    bare: float
    of_bare: float
    of_bare_cpu: float


@dataclass(frozen=True)
class Mixed:
    """Seconds for all requests, and until the first and the last were answered, from when all were there."""

    requests: int
    together_s: float
    in_turn_s: float
    times_as_fast: float
    times_as_fast_cpu: float
    first_answer_s: float
    last_answer_s: float


@dataclass(frozen=True)
class GenerateResult:
    model: str
    dtype: str
    device: str
    threads: int
    tokens: int
    rounds: int
    open_gates: float  # share of the mixed prompts for which a memory spoke
    against_bare: list[AgainstBare]
    mixed: Mixed


@dataclass(frozen=True)
class Bench:
    lm: MemoryLM
    wall: Clock
    cpu: Clock
    tell: Tell  # gets (what, more, total) as it goes on
    tokens: int
    rounds: int

    def time(self, do: Callable[[], object]) -> tuple[float, float]:
        """Seconds by the clock, and of the processor."""
        wall, cpu = self.wall(), self.cpu()
        do()
        return self.wall() - wall, self.cpu() - cpu


def measure(bench: Bench, batches: Sequence[int]) -> GenerateResult:
    """Learns invented facts and asks for them, in batches of these sizes."""
    lm, backbone = bench.lm, bench.lm.encoder.backbone
    facts = made_up_facts(MEMORIES, 0)
    lm.learn(facts, min_loss_delta=0)
    prompts = [" ".join(fact.rstrip(".").split()[:-1]) for fact in facts]
    ends, backbone.eos_ids = backbone.eos_ids, frozenset()  # every answer has all its tokens
    try:
        spoke = [any(hit.gate > 0 for hit in hits) for hits in lm.retrieve(prompts[:REQUESTS])]
        measured = [_against_bare(bench, prompts, size) for size in batches]
        mixed = _mixed(bench, prompts[:REQUESTS])
    finally:
        backbone.eos_ids = ends
    return GenerateResult(
        backbone.name, str(backbone.dtype).removeprefix("torch."), str(backbone.device), torch.get_num_threads(),
        bench.tokens, bench.rounds, sum(spoke) / len(spoke), measured, mixed,
    )  # fmt: skip


def _against_bare(bench: Bench, prompts: list[str], size: int) -> AgainstBare:
    memory, bare = [], []
    for turn in range(bench.rounds + 1):
        asked = [prompts[(turn * size + i) % len(prompts)] for i in range(size)]
        ours = bench.time(lambda asked=asked: bench.lm.generate(asked, max_new_tokens=bench.tokens))  # type: ignore[misc]
        theirs = bench.time(lambda asked=asked: _bare(bench.lm, asked, bench.tokens))  # type: ignore[misc]
        if turn:  # the first one warms up
            memory.append(ours)
            bare.append(theirs)
        bench.tell(f"batch {size}", 1, bench.rounds + 1)
    count = size * bench.tokens
    memory_rate, bare_rate = (median(count / wall for wall, _ in times) for times in (memory, bare))
    share, share_cpu = (median(b[c] / a[c] for a, b in zip(memory, bare, strict=True)) for c in (0, 1))
    return AgainstBare(size, memory_rate, bare_rate, share, share_cpu)


def _bare(lm: MemoryLM, prompts: list[str], tokens: int) -> list[str]:
    """The same by transformers alone, from text to text."""
    backbone = lm.encoder.backbone
    ids, mask = backbone.pad([backbone.tokenize_prompt(prompt) for prompt in prompts], left=True)
    with torch.inference_mode():
        made = backbone.model.generate(
            ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
            pad_token_id=backbone.tokenizer.eos_token_id,
        )[:, ids.shape[1] :]  # fmt: skip
    return [backbone.decode(row) for row in made.tolist()]


def _mixed(bench: Bench, prompts: list[str]) -> Mixed:
    lm, steps = bench.lm, (LONGEST - SHORTEST) / (len(prompts) - 1)
    # Seven is prime to sixteen: long and short ones take turns.
    lengths = [SHORTEST + round(steps * (7 * i % len(prompts))) for i in range(len(prompts))]
    jobs = [Job(p, max_new_tokens=n) for p, n in zip(prompts, lengths, strict=True)]
    answered: list[float] = []

    def together() -> None:
        answered.clear()
        batch = lm.batch()
        answered.extend(bench.wall() for _ in batch.join([row for row, _ in lm.prepare(jobs)]))
        while batch.rows:
            answered.extend(bench.wall() for _ in batch.step())

    def in_turn() -> None:
        for job in jobs:
            lm.answer([job])

    once, each, first, last = [], [], [], []
    for _ in range(bench.rounds):
        begun = bench.wall()
        once.append(bench.time(together))
        first.append(answered[0] - begun)
        last.append(answered[-1] - begun)
        each.append(bench.time(in_turn))
        bench.tell("mixed lengths", 1, bench.rounds)
    fast, fast_cpu = (median(b[c] / a[c] for a, b in zip(once, each, strict=True)) for c in (0, 1))
    together_s, in_turn_s = (median(wall for wall, _ in times) for times in (once, each))
    return Mixed(len(jobs), together_s, in_turn_s, fast, fast_cpu, median(first), median(last))
