"""Speed of generation with a memory, compared with transformers' `generate` of the bare model.

Both continue the same prompts by the same number of tokens, in turns, and so does another program where one is named (peer.py).
Then requests of mixed lengths are answered, all together and one after another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch

from pipeline.bench.harness import Progress, clock, in_turns, median_rate, median_speedup, median_timing
from pipeline.bench.peer import LlamaCpp
from pipeline.bench.synthetic.texts import made_up_facts
from pipeline.memory_lm import Job, MemoryLM

MEMORIES = 64
REQUESTS = 16
BATCHES = (1, 8)
PEER_BATCHES = (1, 4, 16, 64)
SHORTEST, LONGEST = 8, 64
"""Tokens of the mixed requests' answers, evenly spread."""


@dataclass(frozen=True)
class AgainstBare:
    """Medians: tokens per second, and the rounds' ratios, by wall time and by processor time (`_cpu`)."""

    batch: int
    memory: float
    bare: float
    of_bare: float
    of_bare_cpu: float


@dataclass(frozen=True)
class AgainstPeer:
    """The same, compared with another program: with a memory, and without."""

    batch: int
    memory: float
    without: float
    peer: float
    memory_of_peer: float
    without_of_peer: float
    memory_of_peer_cpu: float
    without_of_peer_cpu: float


@dataclass(frozen=True)
class Mixed:
    """Seconds for all requests, and until the first and the last answer of those that run together."""

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
    open_gates: float  # share of the mixed prompts with an open gate
    against_bare: list[AgainstBare]
    peer: str | None
    against_peer: list[AgainstPeer]
    mixed: Mixed


def measure_model(
    model: str, device: str, tokens: int, rounds: int, progress: Progress, beside_peer: bool
) -> GenerateResult:
    """Loads the model, and the peer if it is wanted, and measures. Raises ModelError."""
    peer = LlamaCpp(model) if beside_peer else None  # if it is missing, that shows before the model is loaded
    return measure(MemoryLM.load(model, device), BATCHES, tokens, rounds, progress, peer)


def measure(
    lm: MemoryLM,
    batches: Sequence[int],
    tokens: int,
    rounds: int,
    progress: Progress,
    peer: LlamaCpp | None = None,
) -> GenerateResult:
    """Learns invented facts, and answers prompts about them. lm: with an empty memory; batches: their sizes.

    With a peer, PEER_BATCHES are compared with it too.
    """
    backbone = lm.encoder.backbone
    facts = made_up_facts(MEMORIES, 0)
    lm.learn(facts, min_loss_delta=0)
    prompts = [" ".join(fact.rstrip(".").split()[:-1]) for fact in facts]
    ends, backbone.eos_ids = backbone.eos_ids, frozenset()  # every answer has all its tokens
    try:
        gates_open = [any(hit.gate > 0 for hit in hits) for hits in lm.retrieve(prompts[:REQUESTS])]
        against_bare = [_against_bare(lm, prompts, size, tokens, rounds, progress) for size in batches]
        against_peer = [
            _against_peer(lm, peer, prompts, size, tokens, rounds, progress) for size in PEER_BATCHES if peer
        ]
        mixed = _mixed(lm, prompts[:REQUESTS], rounds, progress)
    finally:
        backbone.eos_ids = ends
    return GenerateResult(
        backbone.name, str(backbone.dtype).removeprefix("torch."), str(backbone.device), torch.get_num_threads(),
        tokens, rounds, sum(gates_open) / len(gates_open), against_bare, peer.name if peer else None, against_peer, mixed,
    )  # fmt: skip


def _against_bare(
    lm: MemoryLM, prompts: list[str], size: int, tokens: int, rounds: int, progress: Progress
) -> AgainstBare:
    memory, bare = in_turns(
        rounds + 1,
        lambda turn: _answer(lm, _batch(prompts, size, turn), tokens, True),
        lambda turn: bare_generate(lm, _batch(prompts, size, turn), tokens),
        after=lambda: progress(f"batch {size}", 1, rounds + 1),
    )
    memory, bare = memory[1:], bare[1:]  # the first round warms up
    speedup = median_speedup(memory, bare)
    count = size * tokens
    return AgainstBare(size, median_rate(count, memory), median_rate(count, bare), speedup.wall, speedup.cpu)


def _against_peer(
    lm: MemoryLM, peer: LlamaCpp, prompts: list[str], size: int, tokens: int, rounds: int, progress: Progress
) -> AgainstPeer:
    with peer.serving(size, tokens) as generate:
        memory, without, theirs = in_turns(
            rounds + 1,
            lambda turn: _answer(lm, _batch(prompts, size, turn), tokens, True),
            lambda turn: _answer(lm, _batch(prompts, size, turn), tokens, False),
            lambda turn: generate(_batch(prompts, size, turn)),
            after=lambda: progress(f"batch {size}, {peer.name}", 1, rounds + 1),
        )
    memory, without, theirs = memory[1:], without[1:], theirs[1:]  # the first round warms up
    fused, bare = median_speedup(memory, theirs), median_speedup(without, theirs)
    count = size * tokens
    return AgainstPeer(
        size, median_rate(count, memory), median_rate(count, without), median_rate(count, theirs),
        fused.wall, bare.wall, fused.cpu, bare.cpu,
    )  # fmt: skip


def _batch(prompts: list[str], size: int, turn: int) -> list[str]:
    return [prompts[(turn * size + i) % len(prompts)] for i in range(size)]


def _answer(lm: MemoryLM, prompts: list[str], tokens: int, use_memory: bool) -> None:
    """Answers that do not stop where their facts end, so that all have as many tokens."""
    jobs = [Job(p, use_memory=use_memory, max_new_tokens=tokens, stop_at_answer=False) for p in prompts]
    assert all(answer.completion_tokens == tokens for answer in lm.answer(jobs))


def bare_generate(lm: MemoryLM, prompts: list[str], tokens: int) -> list[str]:
    """The continuations by transformers alone, from text to text."""
    backbone = lm.encoder.backbone
    ids, mask = backbone.pad([backbone.tokenize_prompt(prompt) for prompt in prompts], left=True)
    with torch.inference_mode():
        rows = backbone.model.generate(
            ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False,
            pad_token_id=backbone.tokenizer.eos_token_id,
        )[:, ids.shape[1] :]  # fmt: skip
    return [backbone.decode(row) for row in rows.tolist()]


def _mixed(lm: MemoryLM, prompts: list[str], rounds: int, progress: Progress) -> Mixed:
    step = (LONGEST - SHORTEST) / (len(prompts) - 1)
    # Seven and sixteen have no common divisor: long and short answers take turns.
    lengths = [SHORTEST + round(step * (7 * i % len(prompts))) for i in range(len(prompts))]
    jobs = [Job(p, max_new_tokens=n, stop_at_answer=False) for p, n in zip(prompts, lengths, strict=True)]
    first, last = list[float](), list[float]()

    def together(_: int) -> None:
        begun, answered, engine = clock(), list[float](), lm.engine()
        rows = engine.submit(jobs)
        while engine.busy:
            answered.extend(clock() for one in engine.step() if one.finished)
        assert [len(row.tokens) for row in rows] == lengths
        first.append(answered[0] - begun)
        last.append(answered[-1] - begun)

    def one_by_one(_: int) -> None:
        for job in jobs:
            lm.answer([job])

    joint, single = in_turns(rounds, together, one_by_one, after=lambda: progress("mixed lengths", 1, rounds))
    speedup = median_speedup(joint, single)
    return Mixed(
        len(jobs), median_timing(joint).wall, median_timing(single).wall, speedup.wall, speedup.cpu, median(first),
        median(last),
    )  # fmt: skip
