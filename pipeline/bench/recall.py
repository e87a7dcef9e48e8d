"""How well facts are recalled, and how little else changes: the bare model, prompting and memory side by side.

Knows MemoryLM's public face; the time, and how much memory the process holds, are told to it. Knows no file but the
folder that it may write to, and prints nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from random import Random

from pipeline.bench.asking import (
    Bench,
    Case,
    best,
    compare,
    generate,
    learn,
    prompted_texts,
    score,
    wins,
)
from pipeline.bench.files import FactRow
from pipeline.bench.scores import Measure, divided, percentile, repeated_4grams, says, share
from pipeline.bench.synthetic.texts import PROSE, everyday_prompts, made_up_facts
from pipeline.memory_lm import MEMORIES, MemoryLM

SEED = 20261123
UNTOUCHED = 200  # prompts that no memory concerns
SCANNED = 2000  # rows that are searched for facts that the model knows
KNOWN = 0.5  # the probability from which it knows one
CURVE = (10, 100, 1000)  # sizes of memory, beside all of it
CURVE_ASKED = 100  # at each of these sizes

KINDS: dict[str, Callable[[FactRow], str]] = {
    "prompt": lambda row: row.prompt,
    "paraphrase": lambda row: row.paraphrases[0],
    "question": lambda row: f"Question: {row.question}\nAnswer:",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What memory takes. Milliseconds and bytes; resident bytes are the process's growth while it learned."""

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
    bench: Bench,
    rows: Sequence[FactRow],
    extra: int,
    folder: Path,
    resident: Callable[[], int],
    with_curve: bool = False,
) -> Recall:
    """Measures all. bench.lm is an empty memory; resident() is how many bytes the process holds."""
    begun, lm = bench.clock(), bench.lm
    asked = Random(SEED).sample(list(rows), min(bench.limits.asked, len(rows)))
    texts = [row.text for row in rows] + made_up_facts(extra, SEED)
    Random(SEED).shuffle(texts)

    held, before = resident(), bench.clock()
    outcomes = learn(bench, lm, texts, 0.0, "learning")
    learned, grown = bench.clock() - before, resident() - held
    lm.save(folder)
    size = (folder / MEMORIES).stat().st_size
    memories = max(1, lm.count())

    for name, kind in zip(("efficacy", "paraphrase", "question"), KINDS, strict=True):
        compare(bench, lm, name, cases_of(asked, kind))
    neighbours(bench, lm, asked)
    times = retrieval(bench, lm, asked)
    texts_said = Texts([], {}, [])
    for kind in KINDS:
        said(bench, lm, f"said_{kind}", asked, kind, texts_said)
    reversed_facts(bench, lm, rows, asked, texts_said)
    repeats(bench, texts_said)
    untouched(bench, lm)
    drift(bench, lm)
    gate(bench, rows, asked)
    curve = [point(bench, texts, asked, n) for n in CURVE if n < len(texts)] if with_curve else []
    if with_curve:
        curve.append(point(bench, texts, asked, len(texts)))
    updates = update(bench, lm, asked)
    cost = Cost(
        1000 * learned / len(texts),
        1000 * sum(times) / len(times),
        1000 * percentile(times, 0.99),
        size / memories,
        grown / memories,
    )
    return Recall(
        lm.encoder.backbone.name, len(rows), extra, memories, dict(outcomes), updates, bench.measures, cost, curve,
        bench.clock() - begun,
    )  # fmt: skip


def cases_of(rows: Sequence[FactRow], kind: str) -> list[Case]:
    """What the fact says against what is true."""
    return [Case(KINDS[kind](row), row.target, (row.target_true,)) for row in rows]


def neighbours(bench: Bench, lm: MemoryLM, asked: Sequence[FactRow]) -> None:
    """The first neighbour of each row that has one: is its true answer still likelier, and does any gate open?

    Retention is the share where it is, divided by the bare model's share.
    """
    cases = [Case(row.neighbours[0], row.target_true, (row.target,)) for row in asked if row.neighbours]
    if not cases:
        return
    compare(bench, lm, "neighbours_true", cases)
    true = bench.measures[-1]
    few = share(wins(bench, lm, cases[: true.prompting_asked], False, "neighbours true"))
    bench.add(
        Measure(
            "neighbour_retention", true.asked, divided(true.bare, true.bare), divided(true.prompting, few),
            divided(true.memory, true.bare), true.prompting_asked, true.prompting_by,
            divided(true.memory_there, few),
        )
    )  # fmt: skip
    opened = [any(hit.gate > 0 for hit in hits) for hits in lm.retrieve([case.prompt for case in cases])]
    bench.add(Measure("neighbours_gate_open", len(cases), memory=share(opened)))


def retrieval(bench: Bench, lm: MemoryLM, asked: Sequence[FactRow]) -> list[float]:
    """Whether the row's fact is the first one found; the seconds that each prompt took, asked alone."""
    times: list[float] = []
    for kind, prompt in KINDS.items():
        first = []
        for row in asked:
            begun = bench.clock()
            hits = lm.retrieve([prompt(row)])[0]
            times.append(bench.clock() - begun)
            first.append(bool(hits) and hits[0].text == row.text)
            bench.progress("retrieving", 1, len(KINDS) * len(asked))
        bench.add(Measure(f"retrieved_{kind}", len(asked), memory=share(first)))
    return times


@dataclass
class Texts:
    """What was generated with memory, by each way of prompting, and by the bare model."""

    memory: list[str]
    prompting: dict[str, list[str]]
    bare: list[str]


def said(bench: Bench, lm: MemoryLM, name: str, rows: Sequence[FactRow], kind: str, texts: Texts) -> None:
    """Whether the target occurs in what is generated."""
    rows = rows[: bench.limits.said]
    what, prompts = name.replace("_", " "), [KINDS[kind](row) for row in rows]
    few = prompts[: bench.limits.prompted]
    bare = generate(bench, lm, prompts, False, what)
    memory = generate(bench, lm, prompts, True, what)
    ways = prompted_texts(bench, lm, few, what)
    top, by = best({way: _told(some, rows) for way, some in ways.items()})
    there = _told(memory[: len(few)], rows)
    bench.add(Measure(name, len(rows), _told(bare, rows), top, _told(memory, rows), len(few), by, there))
    texts.memory += memory
    texts.bare += bare
    for way, some in ways.items():
        texts.prompting.setdefault(way, []).extend(some)


def _told(texts: Sequence[str], rows: Sequence[FactRow]) -> float | None:
    return share(says(text, row.target) for text, row in zip(texts, rows, strict=False))


def repeats(bench: Bench, texts: Texts) -> None:
    """How much the generated texts repeat themselves; of prompting the way that does so least."""
    ways = {way: repeated_4grams(some) for way, some in texts.prompting.items()}
    known = {way: value for way, value in ways.items() if value is not None}
    by = min(known, key=lambda way: known[way], default="")
    few = len(texts.prompting.get(by, []))
    bench.add(
        Measure(
            "repeated_4grams", len(texts.memory), repeated_4grams(texts.bare), known.get(by),
            repeated_4grams(texts.memory), few, by,
        )
    )  # fmt: skip


def reversed_facts(
    bench: Bench, lm: MemoryLM, rows: Sequence[FactRow], asked: Sequence[FactRow], texts: Texts
) -> None:
    """Another memory, where every fact that has a reversed form was told in that form: asked as before."""
    told = {row.text: row.reversed_text for row in rows if row.reversed_text}
    turned = [row for row in asked if row.reversed_text]
    if not turned:
        return
    other = MemoryLM(lm.encoder, lm.bank.settings)
    for memory in lm.bank.memories("default"):
        if memory.text not in told:
            other.put(memory)
    learn(bench, other, [text for text in told.values() if text], 0.0, "learning reversed facts")
    for kind in KINDS:
        compare(bench, other, f"reversed_{kind}", cases_of(turned, kind))
    for kind in KINDS:
        said(bench, other, f"said_reversed_{kind}", turned, kind, texts)


def update(bench: Bench, lm: MemoryLM, asked: Sequence[FactRow]) -> dict[str, int]:
    """Later facts on top: the newest target is to beat both the older and the true one. Changes the memory."""
    outcomes = learn(bench, lm, [row.update.text for row in asked], 0.0, "learning updates")
    cases = [Case(row.prompt, row.update.target, (row.target, row.target_true)) for row in asked]
    compare(bench, lm, "update", cases)
    return dict(outcomes)


def untouched(bench: Bench, lm: MemoryLM) -> None:
    """Prompts that no memory concerns: the greedy text is to be the very same."""
    prompts = everyday_prompts(UNTOUCHED, SEED)
    off = generate(bench, lm, prompts, False, "untouched")
    on = generate(bench, lm, prompts, True, "untouched")
    same = share(a == b for a, b in zip(on, off, strict=True))
    bench.add(Measure("untouched", len(prompts), memory=same))


def drift(bench: Bench, lm: MemoryLM) -> None:
    """The relative change of the perplexity of prose: each sentence after its paragraph so far."""
    pairs: list[tuple[str, str]] = []
    for paragraph in PROSE:
        parts = paragraph.split(". ")
        sentences = [part + "." for part in parts[:-1]] + parts[-1:]
        pairs += [(" ".join(sentences[:n]), sentences[n]) for n in range(1, len(sentences))]
    lengths = [_tokens(lm, sentence) for _, sentence in pairs]
    total = sum(lengths)
    on, off = (
        sum(s * n for s, n in zip(score(bench, lm, pairs, use, "prose"), lengths, strict=True)) / total
        for use in (True, False)
    )
    bench.add(Measure("perplexity_drift", len(pairs), memory=exp(off - on) - 1))


def gate(bench: Bench, rows: Sequence[FactRow], asked: Sequence[FactRow]) -> None:
    """Which share of facts the loss gate skips, into an empty memory: known true ones, and those asked (none is known)."""
    lm = bench.lm
    those = {row.text for row in asked}
    scanned = [*asked, *(row for row in rows if row.text not in those)][:SCANNED]
    pairs = [(row.prompt, row.target_true) for row in scanned]
    scores = score(bench, lm, pairs, False, "what the model knows")
    known = [
        f"{prompt} {true}."
        for (prompt, true), mean in zip(pairs, scores, strict=True)
        if exp(mean * _tokens(lm, true)) > KNOWN
    ]
    for name, texts in (("skipped_known", known), ("skipped_new", [row.text for row in asked])):
        outcomes = learn(bench, MemoryLM(lm.encoder, lm.bank.settings), texts, None, "the loss gate")
        skipped = outcomes["skipped"] / len(texts) if texts else None
        bench.add(Measure(name, len(texts), memory=skipped))


def _tokens(lm: MemoryLM, text: str) -> int:
    return max(1, len(lm.encoder.backbone.tokenize([" " + text])[0].ids))


def point(bench: Bench, texts: Sequence[str], asked: Sequence[FactRow], size: int) -> Point:
    """The main measures with memories of this size, each holding as many of those asked as it can."""
    lm, asked = bench.lm, asked[:CURVE_ASKED]
    kept = {memory.text: memory for memory in lm.bank.memories("default")}
    wanted = {row.text for row in asked}
    others = [text for text in texts if text not in wanted]
    won: dict[str, list[bool]] = {}
    for at in range(0, len(asked), size):
        rows = asked[at : at + size]
        part = MemoryLM(lm.encoder, lm.bank.settings)
        for text in [*(row.text for row in rows), *others][:size]:
            if text in kept:
                part.put(kept[text])
        what = f"with {size:,} memories"
        for name, kind in zip(("efficacy", "paraphrase", "question"), KINDS, strict=True):
            won.setdefault(name, []).extend(wins(bench, part, cases_of(rows, kind), True, what))
            hits = part.retrieve([KINDS[kind](row) for row in rows])
            first = [bool(some) and some[0].text == row.text for some, row in zip(hits, rows, strict=True)]
            won.setdefault(f"retrieved_{kind}", []).extend(first)
        cases = [Case(row.neighbours[0], row.target_true, (row.target,)) for row in rows if row.neighbours]
        won.setdefault("neighbours", []).extend(wins(bench, part, cases, True, what))
        won.setdefault("neighbours_bare", []).extend(wins(bench, part, cases, False, what))
    shares = {name: share(some) for name, some in won.items()}
    shares["neighbour_retention"] = divided(shares.pop("neighbours"), shares.pop("neighbours_bare"))
    return Point(size, len(asked), shares)
