"""Answer span: the words of a memory that answer a prompt, chosen by the frozen model.

A fact with several things that the prompt lacks does not tell which of them is asked for. The model chooses (span_scorer.py)
for a prompt that ends in an empty label ("Question: …\\nAnswer:"), and for one that breaks off within a sentence that no
fact continues. For a question it chooses among the facts with a retrieval score near the best; for a sentence, among all facts on
its subject.

    score = the model's score + inside_span within the alignment's answer span + score_weight · the memory's score
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config import TEXT, Settings
from pipeline.fusion.span import Span
from pipeline.fusion.span_scorer import SpanScorer
from pipeline.retrieve.hit import Hit
from pipeline.text.clauses import begins_sentence, ends_in_label
from pipeline.text.words import matching_before, terms_of


def choose_span(
    scorer: SpanScorer, hits: Sequence[Hit], context: str, informative: float, settings: Settings
) -> Span | None:
    """The span that answers the prompt; None if a sentence may begin, no gate is open, or there is nothing to choose.

    context: the prompt's text; informative: nats, the least unigram_nll of an answer's first and last word.
    """
    asks = ends_in_label(context)
    if not any(hit.gate > 0 for hit in hits) or (not asks and begins_sentence(context)):
        return None
    facts = [_candidates(hit, informative) for hit in hits]
    if asks:
        least = settings.near_score * max(hit.score for hit in hits)
        scored = [n for n, hit in enumerate(hits[: settings.memories]) if hit.score >= least]
        choice = any(hit.gate > 0 and sum(fact.edges) > 1 for hit, fact in zip(hits, facts, strict=True))
    else:
        terms = terms_of(context)[-TEXT.context_words :]
        scored = [n for n, hit in enumerate(hits) if hit.answerable]
        choice = sum(sum(facts[n].edges) for n in scored) > 1
        choice = choice and not any(_continues(hits[n], facts[n], terms) for n in scored)
    if not choice:
        return None
    best: tuple[float, Span] | None = None
    for n in scored:
        hit, fact = hits[n], facts[n]
        retrieval = settings.score_weight * (1.0 if asks else settings.continued_score) * hit.score
        for first, end, score in scorer.score(hit.text, fact.edges, context, settings):
            inside = hit.alignment.span[0] <= first and end <= hit.alignment.span[1]
            score += retrieval + settings.inside_span * inside
            if best is None or score > best[0]:
                best = score, Span(n, first, end, first if asks else fact.entries[first])
    return best[1] if best else None


@dataclass(frozen=True, slots=True)
class _Candidates:
    """For each word of a fact, whether and how an answer may begin or end with it."""

    edges: list[bool]  # whether an answer may begin or end with it
    entries: list[int]  # index of the first of the small words before it that the prompt lacks, else its own
    wording: list[bool]  # whether it is informative and not a name


def _candidates(hit: Hit, informative: float) -> _Candidates:
    """An answer is in the sentence of the alignment's span. It neither begins nor ends with a word of the prompt, or with a
    word within a phrase of the prompt ("city" in "capital city of")."""
    text, matched = hit.text, hit.alignment.matched.tolist()
    places, says = text.places, text.informative(informative)
    here = places[min(hit.alignment.span[0], len(places) - 1)].sentence if places else 0
    edges = [
        not has and asked_for > 0 and informs and place.sentence == here
        for has, asked_for, informs, place in zip(
            matched, hit.alignment.asked_for.tolist(), says, places, strict=True
        )
    ]
    entries: list[int] = []
    for i in range(len(places)):
        small = i > 0 and not matched[i - 1] and not says[i - 1]
        entries.append(entries[i - 1] if small else i)
    wording = [informs and not score for informs, score in zip(says, text.name_scores.tolist(), strict=True)]
    return _Candidates(edges, entries, wording)


def _continues(hit: Hit, fact: _Candidates, context: Sequence[str]) -> bool:
    """Whether an answer in the fact directly continues the prompt. context: the last terms of the prompt.

    Before such an answer the fact has all of the context, or its last words with a telling one among them ("leads", but not
    "Mira Holt is").
    """
    for place in {at for i, may in enumerate(fact.edges) if may for at in (i, fact.entries[i])}:
        count = matching_before(hit.text.words, place, context)
        if count == len(context) or any(fact.wording[place - count : place]):
            return True
    return False
