"""Recall of facts by the bare model, by prompting and with memory, and the cost of a memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from pipeline.bench.comparison import (
    Case,
    Comparison,
    best,
    compare,
    generate,
    learn,
    prompted_texts,
    wins,
)
from pipeline.bench.files import FactRow
from pipeline.bench.harness import clock, percentile, resident_bytes
from pipeline.bench.scores import Measure, contains, divided, repeated_4grams, share
from pipeline.bench.side_effects import loss_gate, neighbour_cases, neighbours, perplexity_drift, untouched
from pipeline.bench.synthetic.texts import made_up_facts
from pipeline.memory_lm import MEMORIES, MemoryLM

SEED = 20261123
CURVE_SIZES = (10, 100, 1000)
"""Sizes of memory at which the main measures are repeated, besides the whole of it."""
CURVE_FACTS = 100
"""Facts that are measured at each of these sizes."""

MEASURED = {"efficacy": "prompt", "paraphrase": "paraphrase", "question": "question"}
"""The main measures, and the kind of prompt that each uses."""
PROMPTS: dict[str, Callable[[FactRow], str]] = {
    "prompt": lambda row: row.prompt,
    "paraphrase": lambda row: row.paraphrases[0],
    "question": lambda row: f"Question: {row.question}\nAnswer:",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds and bytes per fact or prompt; resident bytes are the process's growth while it learned."""

    learn_ms: float
    retrieve_ms: float
    retrieve_p99_ms: float
    stored_bytes: float
    resident_bytes: float


@dataclass(frozen=True, slots=True)
class Point:
    """The main measures at one size of memory."""

    memories: int
    asked: int
    shares: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Recall:
    """The measurement's result."""

    model: str
    facts: int
    extra: int
    memories: int
    outcomes: dict[str, int]
    updates: dict[str, int]
    measures: list[Measure]
    cost: Cost
    curve: list[Point]
    seconds: float


def measure(
    run: Comparison, rows: Sequence[FactRow], extra: int, folder: Path, with_curve: bool = False
) -> Recall:
    """Learns the rows' facts and `extra` invented ones, and measures everything.

    run.lm: with an empty memory; folder: an empty one, into which the memory is saved once.
    """
    begun, lm = clock(), run.lm
    sample = Random(SEED).sample(list(rows), min(run.limits.facts, len(rows)))
    texts = [row.text for row in rows] + made_up_facts(extra, SEED)
    Random(SEED).shuffle(texts)

    bytes_before, before = resident_bytes(), clock()
    outcomes = learn(run, lm, texts, 0.0, "learning")
    learn_s, grown = clock() - before, resident_bytes() - bytes_before
    lm.save(folder)
    saved = (folder / MEMORIES).stat().st_size
    memories = max(1, lm.count())

    for name, kind in MEASURED.items():
        compare(run, lm, name, cases_of(sample, kind))
    neighbours(run, lm, sample)
    retrieve_s = retrieval(run, lm, sample)
    generated = Generated([], {}, [])
    for kind in PROMPTS:
        generated_targets(run, lm, f"said_{kind}", sample, kind, generated)
    reversed_facts(run, lm, rows, sample, generated)
    repetition(run, generated)
    untouched(run, lm)
    perplexity_drift(run, lm)
    loss_gate(run, rows, sample)
    curve = []
    if with_curve:
        sizes = [*(size for size in CURVE_SIZES if size < len(texts)), len(texts)]
        curve = [curve_point(run, texts, sample, size) for size in sizes]
    updates = updated_facts(run, lm, sample)
    cost = Cost(
        1000 * learn_s / len(texts),
        1000 * sum(retrieve_s) / len(retrieve_s),
        1000 * percentile(retrieve_s, 0.99),
        saved / memories,
        grown / memories,
    )
    return Recall(
        lm.encoder.backbone.name, len(rows), extra, memories, dict(outcomes), updates, run.measures, cost, curve,
        clock() - begun,
    )  # fmt: skip


def cases_of(rows: Sequence[FactRow], kind: str) -> list[Case]:
    """The fact's target against the true one, after prompts of this kind."""
    return [Case(PROMPTS[kind](row), row.target, (row.target_true,)) for row in rows]


def retrieval(run: Comparison, lm: MemoryLM, sample: Sequence[FactRow]) -> list[float]:
    """Measures how often the row's fact is retrieved first. Returns the seconds of each prompt, one at a time."""
    seconds: list[float] = []
    for kind, prompt in PROMPTS.items():
        first = []
        for row in sample:
            begun = clock()
            hits = lm.retrieve([prompt(row)])[0]
            seconds.append(clock() - begun)
            first.append(bool(hits) and hits[0].text == row.text)
            run.progress("retrieving", 1, len(PROMPTS) * len(sample))
        run.add(Measure(f"retrieved_{kind}", len(sample), memory=share(first)))
    return seconds


@dataclass
class Generated:
    """All texts generated with memory, by each way of prompting, and by the bare model."""

    memory: list[str]
    prompting: dict[str, list[str]]
    bare: list[str]


def generated_targets(
    run: Comparison, lm: MemoryLM, name: str, rows: Sequence[FactRow], kind: str, generated: Generated
) -> None:
    """Measures how often the target occurs in the generated text, and adds the texts to `generated`."""
    rows = rows[: run.limits.texts]
    what, prompts = name.replace("_", " "), [PROMPTS[kind](row) for row in rows]
    few = prompts[: run.limits.prompting]
    bare = generate(run, lm, prompts, False, what)
    memory = generate(run, lm, prompts, True, what)
    ways = prompted_texts(run, lm, few, what)
    top, by = best({way: _share_with_target(texts, rows) for way, texts in ways.items()})
    run.add(
        Measure(
            name, len(rows), _share_with_target(bare, rows), top, _share_with_target(memory, rows), len(few), by,
            _share_with_target(memory[: len(few)], rows),
        )
    )  # fmt: skip
    generated.memory += memory
    generated.bare += bare
    for way, texts in ways.items():
        generated.prompting.setdefault(way, []).extend(texts)


def _share_with_target(texts: Sequence[str], rows: Sequence[FactRow]) -> float | None:
    return share(contains(text, row.target) for text, row in zip(texts, rows, strict=False))


def repetition(run: Comparison, generated: Generated) -> None:
    """Measures how much the generated texts repeat themselves, for prompting with the way that repeats least."""
    ways = {way: repeated_4grams(texts) for way, texts in generated.prompting.items()}
    known = {way: value for way, value in ways.items() if value is not None}
    by = min(known, key=lambda way: known[way], default="")
    few = len(generated.prompting.get(by, []))
    run.add(
        Measure(
            "repeated_4grams", len(generated.memory), repeated_4grams(generated.bare), known.get(by),
            repeated_4grams(generated.memory), few, by,
        )
    )  # fmt: skip


def reversed_facts(
    run: Comparison, lm: MemoryLM, rows: Sequence[FactRow], sample: Sequence[FactRow], generated: Generated
) -> None:
    """Measures recall with a memory that learned the reversed form of every fact that has one."""
    forms = {row.text: row.reversed_text for row in rows if row.reversed_text}
    reversible = [row for row in sample if row.reversed_text]
    if not reversible:
        return
    other = MemoryLM(lm.encoder, lm.bank.settings)
    for memory in lm.bank.memories("default"):
        if memory.text not in forms:
            other.put(memory)
    learn(run, other, [text for text in forms.values() if text], 0.0, "learning reversed facts")
    for kind in PROMPTS:
        compare(run, other, f"reversed_{kind}", cases_of(reversible, kind))
    for kind in PROMPTS:
        generated_targets(run, other, f"said_reversed_{kind}", reversible, kind, generated)


def updated_facts(run: Comparison, lm: MemoryLM, sample: Sequence[FactRow]) -> dict[str, int]:
    """Learns a later fact for each row, and measures how often its target beats the older and the true one.

    It changes the memory.
    """
    outcomes = learn(run, lm, [row.update.text for row in sample], 0.0, "learning updates")
    cases = [Case(row.prompt, row.update.target, (row.target, row.target_true)) for row in sample]
    compare(run, lm, "update", cases)
    return dict(outcomes)


def curve_point(run: Comparison, texts: Sequence[str], sample: Sequence[FactRow], size: int) -> Point:
    """The main measures with memories of this size, each with as many of the sample's facts as fit into it."""
    lm, sample = run.lm, sample[:CURVE_FACTS]
    memories = {memory.text: memory for memory in lm.bank.memories("default")}
    sampled = {row.text for row in sample}
    others = [text for text in texts if text not in sampled]
    flags: dict[str, list[bool]] = {}
    for at in range(0, len(sample), size):
        rows = sample[at : at + size]
        part = MemoryLM(lm.encoder, lm.bank.settings)
        for text in [*(row.text for row in rows), *others][:size]:
            if text in memories:
                part.put(memories[text])
        what = f"with {size:,} memories"
        for name, kind in MEASURED.items():
            flags.setdefault(name, []).extend(wins(run, part, cases_of(rows, kind), True, what))
            hits = part.retrieve([PROMPTS[kind](row) for row in rows])
            first = [bool(some) and some[0].text == row.text for some, row in zip(hits, rows, strict=True)]
            flags.setdefault(f"retrieved_{kind}", []).extend(first)
        cases = neighbour_cases(rows)
        flags.setdefault("neighbours", []).extend(wins(run, part, cases, True, what))
        flags.setdefault("neighbours_bare", []).extend(wins(run, part, cases, False, what))
    shares = {name: share(some) for name, some in flags.items()}
    shares["neighbour_retention"] = divided(shares.pop("neighbours"), shares.pop("neighbours_bare"))
    return Point(size, len(sample), shares)
