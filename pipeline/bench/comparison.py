"""Comparison of the bare model, prompting and the memory on the same prompts.

It works in chunks, for the sake of progress reports, and runs each prompt through the bare model once only.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.bench import prompting
from pipeline.bench.harness import Progress
from pipeline.bench.prompting import GATINGS, WORDINGS, Found
from pipeline.bench.scores import Measure, share
from pipeline.memory_lm import MemoryLM

GENERATE_CHUNK = 32
"""Prompts that are continued together."""
SCORE_CHUNK = 256
"""Pairs that are scored together, and texts that are learned together: smaller chunks leave batches half empty."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """Numbers of prompts. Generated texts and prompting, which cost most, are measured on the first few only."""

    facts: int = 1000
    texts: int = 200
    prompting: int = 200


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt after which `better` should be likelier than each of the others."""

    prompt: str
    better: str
    others: tuple[str, ...]

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.better, *self.others)


@dataclass
class Comparison:
    """A run of a comparison: the model with its memory, the bare model's results so far, and the measures so far."""

    lm: MemoryLM
    limits: Limits
    progress: Progress = lambda what, more, total: None
    on_measure: Callable[[Measure], object] = lambda measure: None
    """Called with each measure as soon as it is known, so that a run that is stopped has reported some."""
    bare_scores: dict[tuple[str, str], float] = field(default_factory=dict)
    bare_texts: dict[str, str] = field(default_factory=dict)
    measures: list[Measure] = field(default_factory=list)

    def add(self, measure: Measure) -> None:
        """Keeps and reports a measure."""
        self.measures.append(measure)
        self.on_measure(measure)

    def counter(self, what: str, total: int) -> Callable[[int], object]:
        """A function that reports progress, given the number of items done since the last call."""
        return lambda more: self.progress(what, more, total)


def compare(run: Comparison, lm: MemoryLM, name: str, cases: Sequence[Case]) -> None:
    """Measures in how many cases the better target is the likeliest: bare, by prompting and with memory."""
    what, few = name.replace("_", " "), cases[: run.limits.prompting]
    bare = share(wins(run, lm, cases, False, what))
    won = wins(run, lm, cases, True, what)
    ways = {way: share(flags) for way, flags in prompted_wins(run, lm, few, what).items()}
    top, by = best(ways)
    memory_on_few = share(won[: len(few)])
    run.add(Measure(name, len(cases), bare, top, share(won), len(few), by, memory_on_few))


def best(ways: Mapping[str, float | None]) -> tuple[float | None, str]:
    """The highest figure, and the way of prompting that has it."""
    by = max(ways, key=lambda way: ways[way] or 0.0)
    return ways[by], by if ways[by] is not None else ""


def wins(run: Comparison, lm: MemoryLM, cases: Sequence[Case], use_memory: bool, what: str) -> list[bool]:
    """Whether the better target is the likeliest, for each case."""
    pairs = [(case.prompt, target) for case in cases for target in case.targets]
    scores = iter(score(run, lm, pairs, use_memory, what))
    return [_first_is_highest([next(scores) for _ in case.targets]) for case in cases]


def prompted_wins(run: Comparison, lm: MemoryLM, cases: Sequence[Case], what: str) -> dict[str, list[bool]]:
    """The same by each way of prompting. Where the gate is closed, a gated way takes the bare model's result."""
    facts = prompting.found(lm, [case.prompt for case in cases])
    bare = wins(run, lm, cases, False, what)
    done = run.counter(f"{what}, prompting", len(WORDINGS) * len(cases))
    ways: dict[str, list[bool]] = {}
    for wording in WORDINGS:
        scores = prompting.score(
            lm.encoder.backbone, wording, facts, [c.prompt for c in cases], [c.targets for c in cases], done
        )
        ways |= always_and_gated(wording, facts, [_first_is_highest(some) for some in scores], bare)
    return ways


def prompted_texts(run: Comparison, lm: MemoryLM, prompts: Sequence[str], what: str) -> dict[str, list[str]]:
    """The text that each way of prompting generates."""
    facts = prompting.found(lm, prompts)
    bare = generate(run, lm, prompts, False, what)
    done = run.counter(f"{what}, prompting", len(WORDINGS) * len(prompts))
    ways: dict[str, list[str]] = {}
    for wording in WORDINGS:
        texts = prompting.generate(lm, wording, facts, prompts, done)
        ways |= always_and_gated(wording, facts, texts, bare)
    return ways


def always_and_gated(
    wording: str, facts: Sequence[Found], always: list[T], bare: list[T]
) -> dict[str, list[T]]:
    """A wording's results by name: always with the fact, and with the bare results where its gate is closed."""
    gated = [a if fact.open else b for a, fact, b in zip(always, facts, bare, strict=True)]
    return {wording + gating: results for gating, results in zip(GATINGS, (always, gated), strict=True)}


def learn(
    run: Comparison, lm: MemoryLM, texts: Sequence[str], min_loss_delta: float | None, what: str
) -> Counter[str]:
    """Learns the texts, and counts the outcomes."""
    outcomes: Counter[str] = Counter()
    for at in range(0, len(texts), SCORE_CHUNK):
        part = texts[at : at + SCORE_CHUNK]
        outcomes.update(str(d.outcome) for d in lm.learn(part, min_loss_delta=min_loss_delta))
        run.progress(what, len(part), len(texts))
    return outcomes


def score(
    run: Comparison, lm: MemoryLM, pairs: Sequence[tuple[str, str]], use_memory: bool, what: str
) -> list[float]:
    """Mean log-probability per token (nats) of each (prompt, target); those of the bare model are kept in `run`."""
    if use_memory:
        return _score(run, lm, pairs, True, what)
    new = [pair for pair in dict.fromkeys(pairs) if pair not in run.bare_scores]
    run.bare_scores.update(zip(new, _score(run, lm, new, False, f"{what}, bare"), strict=True))
    return [run.bare_scores[pair] for pair in pairs]


def _score(
    run: Comparison, lm: MemoryLM, pairs: Sequence[tuple[str, str]], use_memory: bool, what: str
) -> list[float]:
    scores: list[float] = []
    for at in range(0, len(pairs), SCORE_CHUNK):
        part = pairs[at : at + SCORE_CHUNK]
        scores += lm.score([p for p, _ in part], [t for _, t in part], use_memory=use_memory)
        run.progress(what, len(part), len(pairs))
    return scores


def generate(run: Comparison, lm: MemoryLM, prompts: Sequence[str], use_memory: bool, what: str) -> list[str]:
    """Greedy continuations; those of the bare model are kept in `run`."""
    if use_memory:
        return continuations(lm, prompts, True, run.counter(what, len(prompts)))
    new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in run.bare_texts]
    texts = continuations(lm, new, False, run.counter(f"{what}, bare", len(new)))
    run.bare_texts.update(zip(new, texts, strict=True))
    return [run.bare_texts[prompt] for prompt in prompts]


def continuations(
    lm: MemoryLM,
    prompts: Sequence[str],
    use_memory: bool,
    done: Callable[[int], object],
    namespace: str = "default",
) -> list[str]:
    """Greedy continuations, a chunk at a time; `done` gets the size of each chunk."""
    texts: list[str] = []
    for at in range(0, len(prompts), GENERATE_CHUNK):
        part = prompts[at : at + GENERATE_CHUNK]
        texts += [g.text for g in lm.generate(part, namespace, use_memory, prompting.TOKENS)]
        done(len(part))
    return texts


def _first_is_highest(scores: Sequence[float]) -> bool:
    return all(scores[0] > other for other in scores[1:])
