"""Questions about conversations: whether the evidence is retrieved, and the F1 of the answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from pipeline.bench import prompting
from pipeline.bench.comparison import SCORE_CHUNK, Comparison, always_and_gated, best, continuations
from pipeline.bench.files import Talk, TalkQuestion
from pipeline.bench.harness import clock
from pipeline.bench.prompting import WORDINGS
from pipeline.bench.scores import Measure, f1, mean, share
from pipeline.bench.talk.turns import TurnsResult, learnable

SEED = 20261123
RANKS = (1, 3, 5, 10)
"""Numbers of retrieved memories among which the evidence is searched."""
EVIDENCE_CATEGORIES = (1, 2, 3, 4)
"""Categories whose evidence is searched; questions of category 5 have no answer in the conversation."""
ANSWER_CATEGORIES = {1: "several facts", 4: "one fact"}
"""Categories whose answers are stated in the facts, and so are compared."""
PROMPTED_FACTS = (1, 3)
"""Numbers of facts that prompting puts before the prompt."""


@dataclass(frozen=True, slots=True)
class TalkResult:
    model: str
    conversations: int
    facts: int
    memories: int
    questions: int
    """Questions of categories 1 to 4 with evidence in some fact."""
    evidence: dict[str, float | None]
    """Share of these questions with evidence among so many memories, the best ones, by their number."""
    evidence_by_category: dict[str, dict[str, float | None]]
    measures: list[Measure]
    seconds: float
    turns: TurnsResult | None = None
    """What the turns became, where they were learned instead of a file's own facts."""


@dataclass
class _Answers:
    """The F1 of each answer, by the bare model, with memory and by each way of prompting."""

    questions: list[TalkQuestion]
    bare: list[float]
    memory: list[float]
    prompting: dict[str, list[float]]


def measure(run: Comparison, talks: Sequence[Talk], limit: int | None = None) -> TalkResult:
    """Learns each conversation's facts in a namespace of its own, and answers at most `limit` of its questions.

    If any has turns, all are learned as their turns state them. run.lm: with an empty memory.
    """
    begun, lm, turns = clock(), run.lm, None
    if any(talk.turns for talk in talks):
        talks, turns = learnable(lm.encoder, talks)
    fact_count = sum(len(talk.facts) for talk in talks)
    ranks: dict[int, list[int | None]] = {category: [] for category in EVIDENCE_CATEGORIES}
    answers = _Answers([], [], [], {})
    for number, talk in enumerate(talks):
        namespace = f"talk-{number}"
        for at in range(0, len(talk.facts), SCORE_CHUNK):
            part = [fact.text for fact in talk.facts[at : at + SCORE_CHUNK]]
            lm.learn(part, namespace, min_loss_delta=0.0)
            run.progress("learning", len(part), fact_count)
        questions = [question for question in talk.questions if question.category in EVIDENCE_CATEGORIES]
        if limit is not None and limit < len(questions):
            questions = Random(SEED).sample(questions, limit)
        for question, rank in evidence_ranks(run, talk, questions, namespace):
            ranks[question.category].append(rank)
        _answer(run, [q for q in questions if q.category in ANSWER_CATEGORIES], namespace, answers)
    every = [rank for some in ranks.values() for rank in some]
    return TalkResult(
        lm.encoder.backbone.name,
        len(talks),
        fact_count,
        lm.count(),
        len(every),
        _shares_by_rank(every),
        {str(category): _shares_by_rank(some) for category, some in ranks.items()},
        [_measure(answers, "f1", set(ANSWER_CATEGORIES))]
        + [_measure(answers, f"f1_{what.replace(' ', '_')}", {c}) for c, what in ANSWER_CATEGORIES.items()],
        clock() - begun,
        turns,
    )


def evidence_ranks(
    run: Comparison, talk: Talk, questions: Sequence[TalkQuestion], namespace: str
) -> list[tuple[TalkQuestion, int | None]]:
    """Each question with evidence in some fact, and the rank of the first such memory, from 0; None if not found."""
    turns: dict[str, set[str]] = {}
    for fact in talk.facts:
        turns.setdefault(fact.text, set()).update(fact.evidence)
    covered = set[str]().union(*turns.values())
    ranks: list[tuple[TalkQuestion, int | None]] = []
    for question in questions:
        evidence = covered & set(question.evidence)
        if evidence:
            hits = run.lm.retrieve([question.question], namespace, max(RANKS))[0]
            found = (n for n, hit in enumerate(hits) if turns.get(hit.text, set()) & evidence)
            ranks.append((question, next(found, None)))
        run.progress(f"finding, {namespace}", 1, len(questions))
    return ranks


def _shares_by_rank(ranks: Sequence[int | None]) -> dict[str, float | None]:
    return {str(k): share(rank is not None and rank < k for rank in ranks) for k in RANKS}


def _answer(run: Comparison, questions: Sequence[TalkQuestion], namespace: str, answers: _Answers) -> None:
    """Answers the questions by the bare model, with memory and by each way of prompting. Adds the F1 to `answers`."""
    if not questions:
        return
    lm, prompts = run.lm, [f"Question: {question.question}\nAnswer:" for question in questions]
    done = run.counter(f"answering, {namespace}", 2 * len(prompts))
    bare, memory = (
        _scores(continuations(lm, prompts, use_memory, done, namespace), questions)
        for use_memory in (False, True)
    )
    answers.questions += questions
    answers.bare += bare
    answers.memory += memory
    done = run.counter(f"prompting, {namespace}", len(WORDINGS) * len(PROMPTED_FACTS) * len(prompts))
    for k in PROMPTED_FACTS:
        facts = prompting.found(lm, prompts, namespace, k)
        for wording in WORDINGS:
            scores = _scores(prompting.generate(lm, wording, facts, prompts, done), questions)
            name = f"{wording}, {k} fact{'s' if k > 1 else ''}"
            for way, some in always_and_gated(name, facts, scores, bare).items():
                answers.prompting.setdefault(way, []).extend(some)


def _scores(texts: Sequence[str], questions: Sequence[TalkQuestion]) -> list[float]:
    """The F1 of each text's first line that is not blank."""
    return [
        f1(text.strip().partition("\n")[0], question.answer)
        for text, question in zip(texts, questions, strict=True)
    ]


def _measure(answers: _Answers, name: str, categories: set[int]) -> Measure:
    chosen = [n for n, question in enumerate(answers.questions) if question.category in categories]
    top, by = best({way: mean([some[n] for n in chosen]) for way, some in answers.prompting.items()})
    bare, memory = (mean([some[n] for n in chosen]) for some in (answers.bare, answers.memory))
    return Measure(name, len(chosen), bare, top, memory, len(chosen), by)
