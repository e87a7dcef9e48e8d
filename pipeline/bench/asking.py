"""Asking the bare model, prompting and memory the same prompts, in pieces, so that progress shows and nothing is done twice.

Knows MemoryLM's public face; knows nothing of what the answers are counted for.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from pipeline.bench import prompting
from pipeline.bench.prompting import GATINGS, WORDINGS, Found
from pipeline.bench.scores import Measure, share
from pipeline.memory_lm import MemoryLM

CHUNK = 64  # rows between two signs of progress
SCORED = (
    256  # pairs that are scored together, and texts that are learned: the fewer, the emptier their batches
)
TOKENS = 24  # of every generated text

Progress = Callable[[str, int, int], None]
"""(what is being measured, how many more are done, how many there are)"""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is asked. Generating and prompting cost the most, so they are asked of fewer: the first of the sample."""

    asked: int = 1000
    said: int = 200
    prompted: int = 200


@dataclass(frozen=True, slots=True)
class Case:
    """At the prompt, `better` is to be likelier than all the others."""

    prompt: str
    better: str
    others: tuple[str, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.better, *self.others)


@dataclass
class Bench:
    """One measurement: the model and its memory, and what is known already of the bare model, which never changes."""

    lm: MemoryLM
    limits: Limits
    clock: Callable[[], float]
    progress: Progress = lambda what, more, total: None
    measured: Callable[[Measure], None] = lambda measure: None
    """Told each measure as soon as it is known: who stops a run of hours has seen what it had measured."""
    scored: dict[tuple[str, str], float] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    measures: list[Measure] = field(default_factory=list)

    def add(self, measure: Measure) -> None:
        self.measures.append(measure)
        self.measured(measure)


def learn(bench: Bench, lm: MemoryLM, texts: Sequence[str], delta: float | None, what: str) -> Counter[str]:
    """Learns them, and counts what became of them."""
    outcomes: Counter[str] = Counter()
    for at in range(0, len(texts), SCORED):
        part = texts[at : at + SCORED]
        outcomes.update(str(d.outcome) for d in lm.learn(part, min_loss_delta=delta))
        bench.progress(what, len(part), len(texts))
    return outcomes


def score(
    bench: Bench, lm: MemoryLM, pairs: Sequence[tuple[str, str]], use_memory: bool, what: str
) -> list[float]:
    """Mean log-probability per token of each (prompt, target)."""
    if not use_memory:
        new = [pair for pair in dict.fromkeys(pairs) if pair not in bench.scored]
        bench.scored.update(zip(new, _score(bench, lm, new, False, f"{what}, bare"), strict=True))
        return [bench.scored[pair] for pair in pairs]
    return _score(bench, lm, pairs, True, what)


def _score(
    bench: Bench, lm: MemoryLM, pairs: Sequence[tuple[str, str]], use_memory: bool, what: str
) -> list[float]:
    scores: list[float] = []
    for at in range(0, len(pairs), SCORED):
        part = pairs[at : at + SCORED]
        scores += lm.score([p for p, _ in part], [t for _, t in part], use_memory=use_memory)
        bench.progress(what, len(part), len(pairs))
    return scores


def generate(bench: Bench, lm: MemoryLM, prompts: Sequence[str], use_memory: bool, what: str) -> list[str]:
    """Greedy continuations."""
    if not use_memory:
        new = [p for p in dict.fromkeys(prompts) if p not in bench.said]
        bench.said.update(zip(new, _generate(bench, lm, new, False, f"{what}, bare"), strict=True))
        return [bench.said[p] for p in prompts]
    return _generate(bench, lm, prompts, True, what)


def _generate(bench: Bench, lm: MemoryLM, prompts: Sequence[str], use_memory: bool, what: str) -> list[str]:
    texts: list[str] = []
    for at in range(0, len(prompts), CHUNK // 2):
        part = prompts[at : at + CHUNK // 2]
        texts += [g.text for g in lm.generate(part, use_memory=use_memory, max_new_tokens=TOKENS)]
        bench.progress(what, len(part), len(prompts))
    return texts


def wins(bench: Bench, lm: MemoryLM, cases: Sequence[Case], use_memory: bool, what: str) -> list[bool]:
    """Case by case, whether the better target is the likeliest."""
    pairs = [(case.prompt, target) for case in cases for target in case.targets]
    scores = iter(score(bench, lm, pairs, use_memory, what))
    return [_likeliest([next(scores) for _ in case.targets]) for case in cases]


def _likeliest(scores: Sequence[float]) -> bool:
    return all(scores[0] > other for other in scores[1:])


def prompted_wins(bench: Bench, lm: MemoryLM, cases: Sequence[Case], what: str) -> dict[str, list[bool]]:
    """The same by each way of prompting. Where the gate is shut a gated way asks the bare model."""
    facts = prompting.found(lm, [case.prompt for case in cases])
    bare = wins(bench, lm, cases, False, what)
    ways: dict[str, list[bool]] = {}
    for wording in WORDINGS:
        tell = partial(_tell, bench, f"{what}, prompting", len(WORDINGS) * len(cases))
        scores = prompting.score(
            lm.encoder.backbone, wording, facts, [c.prompt for c in cases], [c.targets for c in cases], tell
        )
        _ways(ways, wording, facts, [_likeliest(some) for some in scores], bare)
    return ways


def prompted_texts(bench: Bench, lm: MemoryLM, prompts: Sequence[str], what: str) -> dict[str, list[str]]:
    """What each way of prompting says."""
    facts = prompting.found(lm, prompts)
    bare = generate(bench, lm, prompts, False, what)
    ways: dict[str, list[str]] = {}
    for wording in WORDINGS:
        tell = partial(_tell, bench, f"{what}, prompting", len(WORDINGS) * len(prompts))
        _ways(ways, wording, facts, prompting.generate(lm, wording, facts, prompts, TOKENS, tell), bare)
    return ways


def _tell(bench: Bench, what: str, total: int, more: int) -> None:
    bench.progress(what, more, total)


def _ways(
    ways: dict[str, list[T]], wording: str, facts: Sequence[Found], told: list[T], bare: list[T]
) -> None:
    always, gated = (wording + gating for gating in GATINGS)
    ways[always] = told
    ways[gated] = [t if f.open else b for t, f, b in zip(told, facts, bare, strict=True)]


def compare(bench: Bench, lm: MemoryLM, name: str, cases: Sequence[Case]) -> None:
    """Bare, prompting and memory at these cases."""
    what, some = name.replace("_", " "), cases[: bench.limits.prompted]
    bare = share(wins(bench, lm, cases, False, what))
    won = wins(bench, lm, cases, True, what)
    ways = {way: share(told) for way, told in prompted_wins(bench, lm, some, what).items()}
    top, by = best(ways)
    there = share(won[: len(some)])
    bench.add(Measure(name, len(cases), bare, top, share(won), len(some), by, there))


def best(ways: Mapping[str, float | None]) -> tuple[float | None, str]:
    by = max(ways, key=lambda way: ways[way] or 0.0)
    return ways[by], by if ways[by] is not None else ""
