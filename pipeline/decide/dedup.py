"""Deduplication without a key: the memory with a fact's text, or of its subject and relation.

Acme is based in Bonn.    same text
Acme is based in Kiel.    same subject and relation, another answer: one supersedes the other
Acme is led by Ann.       neither

Likeness alone never replaces a memory. An update in other words is learned beside the old fact, since no rule without a
model tells it from a second value; a key does (keys.py).
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DECISIONS
from pipeline.decide.verdict import Verdict, newer_or_outdated
from pipeline.memory.bank import memory_id
from pipeline.memory.events import NewFact
from pipeline.memory.namespace import Namespace
from pipeline.memory.postings import Postings
from pipeline.memory.record import Memory
from pipeline.text.annotate import AnnotatedText
from pipeline.text.names import has_digit
from pipeline.text.words import begins_with, terms_of

_FEW = 16  # memories with the fact's first words: up to so many are all compared

ADDS = frozenset("also another too additional besides".split())
"""Words of a text that adds a value to others."""
SEVERAL = frozenset(
    """
    speaks speak spoke knows know learned likes like liked loves love loved enjoys enjoy hates hate dislikes
    plays play played owns own owned has have had sells sell sold offers offer supports support visits visited
    includes include contains contain teaches teach taught wrote written writes met helps helped won borders
    allergic member members friend friends brother sister son daughter child children cousin fan
    """.split()
)
"""Last words of relations that may have several values at a time, unless these are numbers. A missed one lets a newer value
replace another, so the list is of common words; what it spares wrongly costs little, since the newer of two values is read."""
_SMALL = frozenset("a an the of in on at to with by for from as is are was were be".split())
_LABEL = re.compile(r"[^\W\d][^:=;|/]*[:=]")
"""The name of a field, within what should be its value."""

Floats = NDArray[np.float32]


def by_text(space: Namespace, fact: NewFact, bound: int) -> Verdict:
    """The verdict on a fact without a key: the memory that it repeats, else the most similar one of its subject and relation.

    bound: how many of the newest memories with the rarest words are compared.
    """
    if known := space.table.get(memory_id(fact.namespace, fact.encoding.text)):
        return Verdict("reinforced", "same_text", known, 1.0)
    text = AnnotatedText(fact.encoding.text, fact.encoding.priors)
    terms = text.terms
    prefix = terms[: required_prefix(text.unigram_nll)]
    best: tuple[float, Memory] | None = None
    for row in candidates(space.postings, terms, prefix, bound):
        memory = space.table.at(row)
        if not begins_with(memory.text, prefix):
            continue
        memory_terms = terms_of(memory.text)
        if terms == memory_terms:
            return Verdict("reinforced", "same_text", memory, 1.0)
        if memory.key is not None:
            continue  # only its key may replace it
        similarity = same_relation(text, memory_terms, memory.priors)
        if similarity and (best is None or similarity > best[0]):
            # Words of several memories are not a subject: "Arena debuted", "The language of … is Thai".
            shared = [term for term in terms if term in memory_terms]
            if not _are_in_several(space.postings, shared, bound):
                best = similarity, memory
    if best is None:
        return Verdict("learned", "new")
    similarity, memory = best
    if may_have_several(text, AnnotatedText(memory.text, memory.priors)):
        return Verdict("learned", "many_valued", memory, similarity)
    return newer_or_outdated(fact.observed_at >= memory.observed_at, "same_relation", memory, similarity)


def may_have_several(a: AnnotatedText, b: AnnotatedText) -> bool:
    """Whether two texts of one subject and relation may both hold: where the relation's words say so, or each names its own.

    Ann speaks Dutch. Ann speaks Frisian.                both hold
    kettle; price: 34.90 EUR    kettle; capacity: 1.7 l  two relations
    """
    head = _common_length(a.terms, b.terms)
    plain = [a.text[word.start : word.end] for word in a.words]  # a name in capitals is none of these words
    relation = next((word for word in reversed(plain[:head]) if word not in _SMALL), "")
    is_number = all(any(map(has_digit, text.terms[head:])) for text in (a, b))
    if not ADDS.isdisjoint(plain) or (relation in SEVERAL and not is_number):
        return True
    return any(
        _LABEL.search(text.text[text.words[head].start :]) for text in (a, b) if head < len(text.words)
    )


def same_relation(a: AnnotatedText, terms: Sequence[str], unigram_nll: Floats) -> float:
    """The similarity, 0 to 1, of two texts that differ in their answer only; 0 for all others.

    terms, unigram_nll: of the other text. The two begin alike and then give different answers ("Acme is based in Bonn.",
    "Acme is based in Kiel."). After the answers they share only wording, and the words before them outweigh them. Texts that
    part within a name ("Acme, the maker of the Honda Jazz", "… of the Honda Civic") are two facts. In doubt it is 0: a wrong
    match loses a memory, a missed one costs nothing, since of two memories with the same relation the newer one answers.
    """
    head = _common_length(a.terms, terms)
    tail = _common_length(a.terms[head:][::-1], terms[head:][::-1])
    if 0 < head < len(a.terms) and _is_name(a.terms[head - 1]) and all(a.name_scores[head - 1 : head + 1]):
        return 0.0
    end, other_end = len(a.terms) - tail, len(terms) - tail
    answer, other_answer = a.terms[head:end], terms[head:other_end]
    if not answer or not other_answer or set(answer) & set(other_answer):
        return 0.0
    least = DECISIONS.wording_below * max(float(a.unigram_nll.max()), float(unigram_nll.max()))

    def weight(nll: Floats) -> float:
        return float((np.where(nll >= least, nll, 0.0).astype(np.float64) ** 2).sum())

    shared, after = weight(a.unigram_nll[:head]), weight(a.unigram_nll[end:])
    answers = max(weight(a.unigram_nll[head:end]), weight(unigram_nll[head:other_end]))
    if after > 0 or shared < DECISIONS.outweighs * answers:
        return 0.0
    return shared / (shared + answers) if shared else 0.0


def required_prefix(unigram_nll: Floats) -> int:
    """How many of a fact's first words another one must begin with, to have the same text, or subject and relation.

    These are the words up to the first informative one: facts that share no such word share nothing that outweighs their
    answers. All words, if none is informative.
    """
    counting = unigram_nll >= DECISIONS.wording_below * float(unigram_nll.max(initial=0.0))
    return int(counting.argmax()) + 1 if counting.any() else len(unigram_nll)


def candidates(postings: Postings, terms: list[str], prefix: list[str], bound: int) -> Iterable[int]:
    """The rows, newest first, that contain the prefix's terms; only the newest `bound` with the rarest terms are tried."""
    counts = {term: postings.count(term) for term in terms}
    required = sorted(dict.fromkeys(prefix), key=counts.__getitem__)
    if not required or not counts[required[0]]:
        return ()
    needed = [postings.raw(term) for term in required]
    complete: Sequence[int] | None = None
    if counts[required[0]] <= bound:  # a new subject has no such row: then the search ends here
        complete = [row for row in needed[0] if _all_contain(needed[1:], row)]
        if len(complete) <= _FEW:
            return reversed(complete)
    rarest = sorted((count, term) for term, count in counts.items() if count)
    seen: dict[int, None] = {}
    for _, term in rarest[: max(1, len(rarest) - 1)]:  # the rarest words name the subject
        seen |= dict.fromkeys(islice(postings.newest(term), bound - len(seen)))
    return [row for row in seen if (_all_contain(needed, row) if complete is None else row in complete)]


def _are_in_several(postings: Postings, terms: Sequence[str], bound: int) -> bool:
    """Whether more than one memory contains all terms; True without a look if each is in more than `bound`."""
    rarest = min(map(postings.count, terms), default=0)
    return rarest > bound or (rarest > 1 and len(postings.rows_with_all(terms, bound)) > 1)


def _all_contain(postings: Iterable[Sequence[int]], row: int) -> bool:
    for rows in postings:
        place = bisect_left(rows, row)
        if place == len(rows) or rows[place] != row:
            return False
    return True


def _common_length(a: Sequence[str], b: Sequence[str]) -> int:
    """How many leading terms are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _is_name(term: str) -> bool:
    """Whether a shared term may be part of a name. A number or a letter is not: gate B 12, gate B 14."""
    return len(term) > 1 and not any(c.isdigit() for c in term)
