"""The prompt's words laid over a fact's words: what is asked, what is answered, and does the one belong to the other.

Knows words: what they say among the facts (information), how they surprised the model where they stand (surprisal),
how much they look like names (marks), and how alike their states are. Knows neither models nor memories. Masses are
squares of nats, so that a name outweighs the wording around it.

    prompt   Torben Betts is originally from
    fact     Torben Betts was originally from Munich.
             covered covered  covered         the answer span

The gate is the covered share of what is at stake. A word that is missing weighs by the lesser of its information and
its surprisal ("located" surprises nobody behind "Where is Oslo"), a name by its information; a missing word that is no
name weighs little, for wording differs; a missing name beside a covered one weighs most: "Nissan Skyline" is not
"Nissan Skyline GT-R", and "Perry Benson" is not "Perry Barr". A date is not missed by a fact that does not say when. At
stake are the words of the clause that the answer stands in, so that of a long text no more than what is asked about is
weighed.

Many pairs of a prompt and a fact are aligned together, a row of an array each, for a step of numpy costs almost the same
for one. Shapes are told as [pairs, p, f]: prompts of up to p words, facts of up to f. What pads a row says nothing, and
is like no word.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Settings
from pipeline.text.names import in_dates, is_year
from pipeline.text.words import STEM, term_similarity

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

ONE_WORD = 20.0  # nats squared, less than a word says: no more than that is no sign of what is asked for
NAMED = 0.3  # what a word that is a part of a name tells of what is asked for
ANOTHER_CLAUSE = 0.5  # what it tells of the words of another clause of the same sentence
WHOLE = 0.99  # of what the prompt's names say: less, and one of them is missing
DETAIL = 0.5  # what a name counts that such a fact has besides, to one of another subject
REACH = 4.0  # words, over which a matching word tells less and less of what is asked for
PART = 0.6  # of the most that a word of the fact says: less is a small word

_AT_ONCE = 1 << 18  # numbers in an array: two megabytes, so that they stay in the processor's cache
_EIGHT = 8  # numpy adds eight at a time: rows of a multiple have the same sum, whatever they are padded to


class Words(NamedTuple):
    """One side of an alignment."""

    forms: Sequence[str]
    information: Floats  # [words] nats, among the facts of the bank
    surprisals: Floats  # [words] nats, where they stand
    marks: Floats  # [words] 0 to 1, how much each looks like a name
    parts: Ints  # [words, 2] the numbers of each one's sentence and clause


class Alignment(NamedTuple):
    covered: Floats  # [fact's words] how well the prompt has it by its form: 0 to 1
    span: tuple[int, int]  # the answer: the heaviest run that the prompt lacks; (0, 0) when it lacks none
    share: float  # 0 to 1, how much of what is at stake matches
    opening: float  # the same, but for a date that the fact does not miss: the gate opens by it
    asked: (
        Floats  # [fact's words] how much each is asked for, 0 to 1; 0 is wording within what the prompt says
    )


class _Side(NamedTuple):
    """Prompts, or facts: a row each."""

    forms: Ints  # [pairs, words] each form's number; below 0 is what pads
    information: Floats  # as in Words, and so on
    surprisals: Floats
    marks: Floats
    sentences: Ints
    clauses: Ints


def align(pairs: Sequence[tuple[Words, Words]], settings: Settings) -> list[Alignment]:
    """Each prompt laid over its fact. What is beside a pair does not change its alignment."""
    found: list[Alignment | None] = [None] * len(pairs)
    for those in _of_like_lengths(pairs):
        for i, alignment in zip(those, _align([pairs[i] for i in those], settings), strict=True):
            found[i] = alignment
    return [alignment for alignment in found if alignment]


def gate(opening: float, settings: Settings) -> float:
    """0: the memory keeps silent; 1: it speaks with all its weight."""
    if opening < settings.gate_open:
        return 0.0
    return min(1.0, 0.5 + 0.5 * (opening - settings.gate_open) / (settings.gate_full - settings.gate_open))


def _of_like_lengths(pairs: Sequence[tuple[Words, Words]]) -> Iterator[list[int]]:
    """The pairs' numbers in groups that fit: one long text does not make the rows of all as long as itself."""
    lengths = [(_padded(len(fact.forms)), _padded(len(prompt.forms))) for prompt, fact in pairs]
    group: list[int] = []
    p = 0
    for i in sorted(range(len(pairs)), key=lengths.__getitem__):
        f, p = lengths[i][0], max(p, lengths[i][1])
        if group and (len(group) + 1) * f * max(f, p) > _AT_ONCE:
            yield group
            group, p = [], lengths[i][1]
        group.append(i)
    if group:
        yield group


def _padded(length: int) -> int:
    return max(_EIGHT, -(-length // _EIGHT) * _EIGHT)


def _align(pairs: Sequence[tuple[Words, Words]], settings: Settings) -> list[Alignment]:
    numbers: dict[str, int] = {}
    asked = {id(prompt): prompt for prompt, _ in pairs}  # one prompt has many facts
    row = {of: i for i, of in enumerate(asked)}
    prompts = _side(list(asked.values()), numbers, -1)
    rows = [row[id(prompt)] for prompt, _ in pairs]
    prompts = _Side._make(array[rows] for array in prompts)
    facts = _side([fact for _, fact in pairs], numbers, -2)

    equal = prompts.forms[:, :, None] == facts.forms[:, None, :]
    same = _likenesses(prompts, facts, equal, list(numbers))
    has, covered = same.max(2), same.max(1)
    asked_of = _asked_of(prompts, facts, equal, same)
    spans = heaviest_lacks(covered, facts.information**2 * asked_of**2, _breaks(facts))
    at_stake = _at_stake(facts, covered, spans)
    places = np.arange(covered.shape[1])
    beside = at_stake & ((places < spans[:, :1]) | (places >= spans[:, 1:]))
    masses = prompts.information**2 * has
    have = masses.sum(1)
    # Other wording is forgiven around a name that matches, not where wording is all that does.
    names = np.minimum(1.0, 2 * _ratio((masses * prompts.marks).sum(1), have))
    wording = 1.0 - names * (1.0 - settings.wording_weight)
    # Where the fact has all of the prompt's names, one that it has besides is a detail, and no other subject.
    asked_by_name = prompts.information**2 * prompts.marks
    whole = _ratio((asked_by_name * has).sum(1), asked_by_name.sum(1)) > WHOLE
    details = np.where(whole[:, None] & (facts.marks > 0), DETAIL, 1.0)
    rest = settings.rest_weight * _missing(prompts, has, wording)
    lack = (_missing(facts, covered, wording) * details * beside).sum(1)
    torn = settings.torn_weight * (_torn(prompts, has).sum(1) + (_torn(facts, covered) * at_stake).sum(1))
    torn += have * _in_its_place(pairs, prompts, facts, equal, covered)
    against = have + lack + torn
    shares = _ratio(have, against + rest.sum(1))
    openings = _ratio(have, against + (rest * ~_undated(pairs, prompts, has)).sum(1))
    return [
        Alignment(
            over[: len(fact.forms)].copy(), (first, behind), share, opening, asks[: len(fact.forms)].copy()
        )
        for (_, fact), over, (first, behind), share, opening, asks in zip(
            pairs, covered, spans.tolist(), shares.tolist(), openings.tolist(), asked_of, strict=True
        )
    ]


def _side(texts: Sequence[Words], numbers: dict[str, int], pad: int) -> _Side:
    """The texts' words, padded. A form that has no number yet gets one."""
    lengths = np.array([len(text.forms) for text in texts])
    words = np.arange(_padded(int(lengths.max()))) < lengths[:, None]

    def padded(values: NDArray[Any], by: float = 0.0) -> NDArray[Any]:
        rows = np.full(words.shape, by, values.dtype)
        rows[words] = values
        return rows

    forms = [numbers.setdefault(form, len(numbers)) for text in texts for form in text.forms]
    information, surprisals, marks, parts = map(np.concatenate, list(zip(*texts, strict=True))[1:])
    return _Side(
        padded(np.array(forms, np.int64), pad),
        *map(padded, (information, surprisals, marks)),
        *(padded(part, -1) for part in parts.T),
    )


def _likenesses(prompts: _Side, facts: _Side, equal: Bools, forms: Sequence[str]) -> Floats:
    """[pairs, p, f] how alike two words' forms are: words.term_similarity, which is asked only where they begin alike."""
    numbers: dict[str, int] = {}
    begin = [numbers.setdefault(form[:STEM], len(numbers)) for form in forms]
    beginnings = np.array([*begin, -2, -1])  # those of what pads, found from the end
    alike = beginnings[prompts.forms][:, :, None] == beginnings[facts.forms][:, None, :]
    same = equal.astype(np.float64)
    at, p, f = np.nonzero(alike & ~equal)
    ones, others = prompts.forms[at, p].tolist(), facts.forms[at, f].tolist()
    same[at, p, f] = [term_similarity(forms[a], forms[b]) for a, b in zip(ones, others, strict=True)]
    return same


def _ratio(part: Floats, whole: Floats) -> Floats:
    """0 where there is nothing."""
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole != 0)


def _wording(side: _Side) -> Floats:
    """How much each word is wording and no name."""
    return np.asarray(1.0 - np.minimum(1.0, 2 * side.marks))


def _weights(side: _Side) -> Floats:
    """What a missing word weighs: a name all that it says, however well it fits ("The capital of" Spain, or France)."""
    return np.minimum(side.information, np.maximum(side.surprisals, side.marks * side.information))


def _missing(side: _Side, has: Floats, wording: Floats) -> Floats:
    """[pairs, words] the mass of each that the other side lacks; `wording` is the weight of those that are no names."""
    named = 1.0 - (1.0 - wording)[:, None] * _wording(side)
    return np.asarray(_weights(side) ** 2 * (1 - has) * named)


def _torn(side: _Side, has: Floats) -> Floats:
    """[pairs, words] the mass of each name that is missing right beside a name that is not: parts of one, torn apart."""
    named = side.marks * (has >= 0.5) * side.information
    joined = side.clauses[:, 1:] == side.clauses[:, :-1]
    beside = np.zeros_like(named)
    beside[:, :-1] = named[:, 1:] * joined
    beside[:, 1:] = np.maximum(beside[:, 1:], named[:, :-1] * joined)
    return np.asarray(side.marks * (has < 0.5) * _weights(side) * beside)


def _undated(pairs: Sequence[tuple[Words, Words]], prompts: _Side, has: Floats) -> Bools:
    """[pairs, p] the words of the prompt's dates, where the fact has its other names, and no year: it does not say when,
    and so does not say another time."""
    found = np.zeros(has.shape, bool)
    dates = {id(prompt): in_dates(prompt.forms, prompt.marks.tolist()) for prompt, _ in pairs}
    for i, (prompt, fact) in enumerate(pairs):
        if any(those := dates[id(prompt)]) and not any(map(is_year, fact.forms)):
            found[i, : len(those)] = those
    says = prompts.information >= PART * prompts.information.max(1, keepdims=True)
    names = prompts.information**2 * prompts.marks * (says & ~found)  # a capital alone ("The") is no name
    return found & (_ratio((names * has).sum(1), names.sum(1)) > WHOLE)[:, None]


def _in_its_place(
    pairs: Sequence[tuple[Words, Words]], prompts: _Side, facts: _Side, equal: Bools, covered: Floats
) -> Bools:
    """[pairs] whether the fact says of another name what the prompt says of its last one: "Jan Peel manages" is not
    answered by "Mira Holt manages Jan Peel." The words behind that name, to the prompt's end, stand in the fact behind a
    name that the prompt lacks, and say more than "is" does."""
    named, p = prompts.marks > 0, np.arange(prompts.marks.shape[1])
    behind = len(p) - named[:, ::-1].argmax(1)
    says = (prompts.information * (p >= behind[:, None])).max(1)
    # Behind a prompt's last word is what pads, which is like no word of the fact.
    follows = equal[np.arange(len(equal)), np.minimum(behind, len(p) - 1)]
    another = (facts.marks > 0) & (covered <= 0.5)
    begins = follows[:, 1:] & another[:, :-1] & (facts.clauses[:, 1:] == facts.clauses[:, :-1])
    begins &= (named.any(1) & (behind < len(p)) & (says >= PART * facts.information.max(1)))[:, None]
    found = np.zeros(len(pairs), bool)
    for i, before in np.argwhere(begins).tolist():
        rest, words = pairs[i][0].forms[behind[i] :], pairs[i][1].forms
        found[i] |= list(words[before + 1 : before + 1 + len(rest)]) == list(rest)
    return found


def _asked_of(prompts: _Side, facts: _Side, equal: Bools, same: Floats) -> Floats:
    """[pairs, f] how much each of the fact's words is asked for, 0 to 1. Names say whom the whole fact is about; the other
    words that match say which of its clauses is meant, and which word of it: one near to them."""
    wording = np.minimum(_wording(prompts)[:, :, None], _wording(facts)[:, None, :])
    told = (same * wording).max(1) * facts.information**2
    # "Zephyr kettle": beside a name, in both, it is a part of it.
    named = facts.marks > 0
    beside = (equal[:, :-1, :-1] & equal[:, 1:, 1:]).any(1) & (named[:, 1:] != named[:, :-1])
    told[:, :-1][beside & named[:, 1:]] *= NAMED
    told[:, 1:][beside & named[:, :-1]] *= NAMED
    asked = _told_around(facts, told) + ONE_WORD
    asked[_within(facts, equal, same.max(1) > 0.5)] = 0.0
    return np.asarray(asked / asked.max(1, initial=ONE_WORD, keepdims=True))


def _told_around(facts: _Side, told: Floats) -> Floats:
    """[pairs, f] what the words around each tell: the less, the further away."""
    pairs, f = told.shape
    around, places = np.empty_like(told), np.arange(f)
    rows = max(1, _AT_ONCE // (pairs * f))  # a long text's words a few at a time
    for start in range(0, f, rows):
        some = slice(start, start + rows)
        near = np.exp(-np.abs(places[some, None] - places) / REACH)
        weights = np.where(facts.clauses[:, some, None] == facts.clauses[:, None, :], 1.0, ANOTHER_CLAUSE)
        weights *= facts.sentences[:, some, None] == facts.sentences[:, None, :]
        weights *= near
        weights *= told[:, None, :]
        around[:, some] = weights.sum(2)
    return around


def _within(facts: _Side, equal: Bools, matched: Bools) -> tuple[Ints, Ints]:
    """Pairs and words that stand within what the prompt says in one go: "capital city of", where it says "capital of".
    What is between is wording, and nobody asks for it."""
    f = np.arange(matched.shape[1])
    before = np.maximum.accumulate(np.where(matched, f, -1), axis=1)
    behind = np.minimum.accumulate(np.where(matched, f, len(f))[:, ::-1], axis=1)[:, ::-1]
    at, word = np.nonzero(~matched & (before >= 0) & (behind < len(f)))
    first, last = before[at, word], behind[at, word]
    together = (equal[at, :-1, first] & equal[at, 1:, last]).any(1)
    names = np.cumsum(facts.marks > 0, axis=1)
    together &= names[at, last - 1] == names[at, first]
    return at[together], word[together]


def _breaks(facts: _Side) -> Bools:
    """[pairs, f] before which words an answer ends at the latest: at a new clause, and at two small words, but for those
    in a name."""
    breaks = np.ones(facts.forms.shape, bool)
    breaks[:, 1:] = facts.clauses[:, 1:] != facts.clauses[:, :-1]
    small = facts.information < PART * facts.information.max(1, keepdims=True)
    named, words = facts.marks > 0, facts.forms >= 0
    in_name = named[:, :-3] & named[:, 3:]
    breaks[:, 1:-2] |= small[:, 1:-2] & small[:, 2:-1] & ~in_name & words[:, 3:]
    return breaks


def _at_stake(facts: _Side, covered: Floats, spans: Ints) -> Bools:
    """[pairs, f] the words of the answer's clause, and the names of its sentence that match, whole. Where none of it
    matches, the text's first name: what it is about. All words where there is no answer."""
    row, first = np.arange(len(spans)), spans[:, 0]
    stake = facts.clauses == facts.clauses[row, first][:, None]
    sentence = facts.sentences == facts.sentences[row, first][:, None]
    named = facts.marks > 0
    begins = named.copy()
    begins[:, 1:] &= ~named[:, :-1] | (facts.clauses[:, 1:] != facts.clauses[:, :-1])
    names = np.cumsum(begins, axis=1) * named  # the number of each word's name, from 1, and 0 for none
    matched = np.zeros((len(spans), covered.shape[1] + 1), bool)
    at, word = np.nonzero(named & sentence & (covered > 0.5))
    matched[at, names[at, word]] = True
    matched[:, 1] |= ~matched.any(1)
    stake |= matched[row[:, None], names]
    stake[spans[:, 1] == 0] = True
    return np.asarray(stake)


def heaviest_lacks(covered: Floats, mass: Floats, breaks: Bools) -> Ints:
    """[pairs, 2] first word and the one behind the last: of each row the heaviest contiguous run of lacking words, and of
    runs that weigh the same the first; words without mass inside of one do not break it. 0, 0 where none lacks."""
    pairs, f = mass.shape
    lacks = (covered <= 0.5) & (mass > 0)
    runs = np.cumsum(breaks | ((covered > 0.5) & (mass > 0)), axis=1)  # the number of each word's run
    at = runs + np.arange(pairs)[:, None] * (f + 1)
    weights = np.bincount(at.ravel(), (mass * lacks).ravel(), pairs * (f + 1)).reshape(pairs, f + 1)
    best = lacks & (runs == weights.argmax(1)[:, None])
    spans = np.stack([best.argmax(1), f - best[:, ::-1].argmax(1)], axis=1)
    spans[~best.any(1)] = 0
    return spans
