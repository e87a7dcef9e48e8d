"""Side effects of a memory: on neighbours of its facts, everyday prompts, prose and known facts."""

from collections.abc import Sequence
from math import exp

from pipeline.bench.comparison import Case, Comparison, compare, generate, learn, score, wins
from pipeline.bench.files import FactRow
from pipeline.bench.scores import Measure, divided, share
from pipeline.bench.synthetic.texts import PROSE, everyday_prompts
from pipeline.memory_lm import MemoryLM

SEED = 20261123
EVERYDAY_PROMPTS = 200
"""Prompts that no memory concerns."""
MAX_SCANNED = 2000
"""Rows that are searched for facts that the model knows."""
KNOWN = 0.5
"""The model knows a fact if it gives the true answer more than this probability."""


def neighbours(run: Comparison, lm: MemoryLM, sample: Sequence[FactRow]) -> None:
    """Measures how often the true answer of a row's first neighbour stays the likelier, and how often a gate opens.

    Retention is the first share, divided by the bare model's.
    """
    cases = neighbour_cases(sample)
    if not cases:
        return
    compare(run, lm, "neighbours_true", cases)
    true = run.measures[-1]
    few = share(wins(run, lm, cases[: true.prompting_asked], False, "neighbours true"))
    run.add(
        Measure(
            "neighbour_retention", true.asked, divided(true.bare, true.bare), divided(true.prompting, few),
            divided(true.memory, true.bare), true.prompting_asked, true.prompting_by,
            divided(true.memory_there, few),
        )
    )  # fmt: skip
    opened = [any(hit.gate > 0 for hit in hits) for hits in lm.retrieve([case.prompt for case in cases])]
    run.add(Measure("neighbours_gate_open", len(cases), memory=share(opened)))


def neighbour_cases(rows: Sequence[FactRow]) -> list[Case]:
    """The true answer against the fact's target, after a prompt about another subject."""
    return [Case(row.neighbours[0], row.target_true, (row.target,)) for row in rows if row.neighbours]


def untouched(run: Comparison, lm: MemoryLM) -> None:
    """Measures how often the greedy text after an everyday prompt is the same with and without memory."""
    prompts = everyday_prompts(EVERYDAY_PROMPTS, SEED)
    off = generate(run, lm, prompts, False, "untouched")
    on = generate(run, lm, prompts, True, "untouched")
    same = [a == b for a, b in zip(on, off, strict=True)]
    run.add(Measure("untouched", len(prompts), memory=share(same)))


def perplexity_drift(run: Comparison, lm: MemoryLM) -> None:
    """Measures the relative change of the perplexity of prose, each sentence after its paragraph so far."""
    pairs: list[tuple[str, str]] = []
    for paragraph in PROSE:
        parts = paragraph.split(". ")
        sentences = [part + "." for part in parts[:-1]] + parts[-1:]
        pairs += [(" ".join(sentences[:n]), sentences[n]) for n in range(1, len(sentences))]
    lengths = [_token_count(lm, sentence) for _, sentence in pairs]
    total = sum(lengths)
    on, off = (
        sum(s * n for s, n in zip(score(run, lm, pairs, use, "prose"), lengths, strict=True)) / total
        for use in (True, False)
    )
    run.add(Measure("perplexity_drift", len(pairs), memory=exp(off - on) - 1))


def loss_gate(run: Comparison, rows: Sequence[FactRow], sample: Sequence[FactRow]) -> None:
    """Measures the share of facts that the loss gate skips: of known true ones, and of the sample's.

    The sample's facts are false, so the model knows none of them. Each set is learned into an empty memory.
    """
    lm = run.lm
    sampled = {row.text for row in sample}
    scanned = [*sample, *(row for row in rows if row.text not in sampled)][:MAX_SCANNED]
    pairs = [(row.prompt, row.target_true) for row in scanned]
    scores = score(run, lm, pairs, False, "what the model knows")
    known = [
        f"{prompt} {true}."
        for (prompt, true), mean in zip(pairs, scores, strict=True)
        if exp(mean * _token_count(lm, true)) > KNOWN
    ]
    for name, texts in (("skipped_known", known), ("skipped_new", [row.text for row in sample])):
        outcomes = learn(run, MemoryLM(lm.encoder, lm.bank.settings), texts, None, "the loss gate")
        skipped = outcomes["skipped"] / len(texts) if texts else None
        run.add(Measure(name, len(texts), memory=skipped))


def _token_count(lm: MemoryLM, text: str) -> int:
    return max(1, len(lm.encoder.backbone.tokenize([" " + text])[0].ids))
