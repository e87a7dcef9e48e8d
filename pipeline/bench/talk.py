"""How well the memory answers about conversations: is what a question rests on found, and is the answer right?

Knows MemoryLM's public face; the time is told to it. Prints nothing and knows no file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random

from pipeline.bench import prompting
from pipeline.bench.asking import CHUNK, SCORED, Bench, best
from pipeline.bench.files import Talk, TalkQuestion
from pipeline.bench.prompting import GATINGS, WORDINGS
from pipeline.bench.scores import Measure, f1, mean, share

SEED = 20261123
TOKENS = 24  # of every answer
FIRST = (1, 3, 5, 10)  # of the facts found
ANSWERED = (1, 2, 3, 4)  # categories whose evidence is looked for; 5 has no answer in the conversation
TOLD = {1: "several facts", 4: "one fact"}  # categories whose answers stand in the facts
PROMPTED = (1, 3)  # facts before the prompt


@dataclass(frozen=True, slots=True)
class TalkResult:
    model: str
    conversations: int
    facts: int
    memories: int
    questions: int
    """Of categories 1 to 4, whose evidence some fact rests on."""
    evidence: dict[str, float | None]
    """The share of them for which one of the first so many memories rests on a turn of the evidence."""
    evidence_by_category: dict[str, dict[str, float | None]]
    measures: list[Measure]
    seconds: float


@dataclass
class _Answers:
    """By each way of asking: how far each answer overlaps with the right one."""

    questions: list[TalkQuestion]
    bare: list[float]
    memory: list[float]
    prompting: dict[str, list[float]]


def measure(bench: Bench, talks: Sequence[Talk], limit: int | None = None) -> TalkResult:
    """bench.lm is an empty memory; `limit` asks only so many questions of a conversation."""
    begun, lm = bench.clock(), bench.lm
    ranks: dict[int, list[int | None]] = {category: [] for category in ANSWERED}
    answers = _Answers([], [], [], {})
    for number, talk in enumerate(talks):
        name = f"talk-{number}"
        for at in range(0, len(talk.facts), SCORED):
            part = [fact.text for fact in talk.facts[at : at + SCORED]]
            lm.learn(part, name, min_loss_delta=0.0)
            bench.progress("learning", len(part), sum(len(t.facts) for t in talks))
        asked = [question for question in talk.questions if question.category in ANSWERED]
        if limit is not None and limit < len(asked):
            asked = Random(SEED).sample(asked, limit)
        for question, rank in evidence_ranks(bench, talk, asked, name):
            ranks[question.category].append(rank)
        _answer(bench, [q for q in asked if q.category in TOLD], name, answers)
    every = [rank for some in ranks.values() for rank in some]
    return TalkResult(
        lm.encoder.backbone.name,
        len(talks),
        sum(len(talk.facts) for talk in talks),
        lm.count(),
        len(every),
        _found_by(every),
        {str(category): _found_by(some) for category, some in ranks.items()},
        [_measure(answers, "f1", set(TOLD))]
        + [_measure(answers, f"f1_{what.replace(' ', '_')}", {c}) for c, what in TOLD.items()],
        bench.clock() - begun,
    )


def evidence_ranks(
    bench: Bench, talk: Talk, questions: Sequence[TalkQuestion], namespace: str
) -> list[tuple[TalkQuestion, int | None]]:
    """For each question whose evidence some fact rests on: the place of the first such memory, from 0."""
    turns: dict[str, set[str]] = {}
    for fact in talk.facts:
        turns.setdefault(fact.text, set()).update(fact.evidence)
    covered = set().union(*turns.values())
    ranks: list[tuple[TalkQuestion, int | None]] = []
    for question in questions:
        evidence = covered & set(question.evidence)
        if evidence:
            hits = bench.lm.retrieve([question.question], namespace, max(FIRST))[0]
            places = (n for n, hit in enumerate(hits) if turns.get(hit.text, set()) & evidence)
            ranks.append((question, next(places, None)))
        bench.progress(f"finding, {namespace}", 1, len(questions))
    return ranks


def _found_by(ranks: Sequence[int | None]) -> dict[str, float | None]:
    return {str(k): share(rank is not None and rank < k for rank in ranks) for k in FIRST}


def _answer(bench: Bench, questions: Sequence[TalkQuestion], namespace: str, answers: _Answers) -> None:
    """Asks the bare model, the memory and each way of prompting."""
    if not questions:
        return
    lm, prompts = bench.lm, [f"Question: {question.question}\nAnswer:" for question in questions]
    bare, memory = (
        [f1(_line(text), q.answer) for text, q in zip(texts, questions, strict=True)]
        for texts in (_generate(bench, prompts, namespace, use) for use in (False, True))
    )
    answers.questions += questions
    answers.bare += bare
    answers.memory += memory
    for k in PROMPTED:
        facts = prompting.found(lm, prompts, namespace, k)
        for wording in WORDINGS:
            total = len(WORDINGS) * len(PROMPTED) * len(prompts)
            tell = partial(_tell, bench, f"prompting, {namespace}", total)
            texts = prompting.generate(lm, wording, facts, prompts, TOKENS, tell)
            told = [f1(_line(text), q.answer) for text, q in zip(texts, questions, strict=True)]
            gated = [t if fact.open else b for t, fact, b in zip(told, facts, bare, strict=True)]
            for gating, some in zip(GATINGS, (told, gated), strict=True):
                way = f"{wording}, {k} fact{'s' if k > 1 else ''}{gating}"
                answers.prompting.setdefault(way, []).extend(some)


def _generate(bench: Bench, prompts: Sequence[str], namespace: str, use_memory: bool) -> list[str]:
    texts: list[str] = []
    for at in range(0, len(prompts), CHUNK // 2):
        part = prompts[at : at + CHUNK // 2]
        texts += [g.text for g in bench.lm.generate(part, namespace, use_memory, TOKENS)]
        bench.progress(f"answering, {namespace}", len(part), 2 * len(prompts))
    return texts


def _tell(bench: Bench, what: str, total: int, more: int) -> None:
    bench.progress(what, more, total)


def _line(text: str) -> str:
    """The answer is the first line that says something."""
    return text.strip().partition("\n")[0]


def _measure(answers: _Answers, name: str, categories: set[int]) -> Measure:
    chosen = [n for n, question in enumerate(answers.questions) if question.category in categories]
    top, by = best({way: mean([some[n] for n in chosen]) for way, some in answers.prompting.items()})
    bare, memory = (mean([some[n] for n in chosen]) for some in (answers.bare, answers.memory))
    return Measure(name, len(chosen), bare, top, memory, len(chosen), by)
