"""Complement reading: what the fact says and the prompt does not, said at the right moment (the gated fusion).

At every token the answer comes either from the model or from a memory that is being read:

    p = (1 - r) p_model + sum over runs r_i [token is the run's next]

A run is a stretch of a fact's words that the prompt lacks, with or without the small words before it ("of relativity");
where a sentence may begin, it is the fact's whole sentence. Where to enter is weighed by what the words say, how much
they surprised the model in the fact, whether the words before them were just said, and whether the model could say them
now. After each token Bayes says how likely each run is being read; a run that is said is over, and a memory that has
spoken falls (almost) silent. On the final hidden state this is the change that raises those tokens' logits and no
others: where no gate is open, nothing changes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.config import TEXT, Settings
from pipeline.retrieve.hit import Hit
from pipeline.text.clauses import begins_sentence, ends_in_label
from pipeline.text.words import Word, blank_before, matching_before, terms_of

SETTLED = 400  # characters of an answer that may still be changed


@dataclass(slots=True)
class _Run:
    memory: int
    tokens: tuple[int, ...]
    at: int  # the next token to be said
    weight: float  # the probability that this is being read
    answers: bool  # it is the answer, or has it: when it is said, the memory has spoken


@dataclass(frozen=True, slots=True)
class _Entry:
    """A run that could be entered."""

    tokens: tuple[int, ...]
    bias: float  # log-odds, less what the model thinks of its first token
    answers: bool
    direct: int | None = None  # among the entries, the same run without the small words before it


@dataclass(frozen=True, slots=True)
class _Fact:
    """A memory's text as it can be read."""

    text: str
    words: list[Word]
    says: list[bool]  # of each word, whether it says enough to be an answer
    lacks: list[bool]  # whether the prompt lacks it
    goes_on: list[bool]  # whether it goes on with the word before it, where that one says enough
    biases: list[float]  # log-odds of entering at it
    span: tuple[int, int]  # the answer's words
    sentence: tuple[int, int]  # the words of the sentence that the answer stands in
    tokens: dict[tuple[int, int, bool], tuple[int, ...]] = field(
        default_factory=dict
    )  # of its runs, as they come up


class Reading:
    """The memories of one prompt while its answer is made."""

    def __init__(
        self,
        found: Sequence[Hit],
        tokenize: Callable[[str], list[int]],
        informative: float,
        settings: Settings,
        context: str,
        whole: bool = False,
    ) -> None:
        """informative: nats that a word says at least, to be said; context: the prompt's text, by whose end the first word is
        given a blank before it or not; whole: what a memory says is the whole answer."""
        self._found = [hit for hit in found if hit.gate > 0]
        self._tokenize, self._settings = tokenize, settings
        self._facts = [_fact(hit, informative, settings) for hit in self._found]
        best = max((hit.score for hit in self._found), default=0.0) or 1.0
        heat = settings.attention_temperature
        shares = [math.exp((hit.score / abs(best) - 1.0) / heat) for hit in self._found]
        self._attention = [share / sum(shares) for share in shares]
        self._spoken = [False] * len(self._found)
        self._runs: list[_Run] = []
        self._offer: list[_Run] = []
        self._context, self._said = context, ""
        self._settled: tuple[set[str], int] = (
            set(),
            0,
        )  # words of the answer, and up to which place they stand
        self._labelled, self._whole = ends_in_label(context), whole
        self._blank = tuple(tokenize(" "))

    @property
    def silent(self) -> bool:
        return not self._found

    @property
    def over(self) -> int | None:
        """Where the answer ends: behind an empty label ("Answer:") it is one line, once a memory has given it."""
        if not (self._labelled and any(self._spoken)):
            return None
        if self._whole:
            return len(self._said)
        begin = len(self._said) - len(self._said.lstrip())
        end = self._said.find("\n", begin)
        return end if end > begin else None

    def predict(self, logits: Tensor) -> None:
        """Fuses the memories into the logits [V], float32, in place."""
        going = [run for run in self._runs if run.at < len(run.tokens)]
        self._offer, self._mass = [], dict[int, float]()
        if not going and all(self._spoken):
            return
        reading = sum(run.weight for run in going)
        self._logits, self._total, self._own = logits, float(logits.logsumexp(-1)), dict[int, float]()
        self._offer = going + self._starts(1.0 - reading)
        for run in self._offer:
            token = run.tokens[run.at]
            self._mass[token] = self._mass.get(token, 0.0) + run.weight
        self._rest = max(1e-6, 1.0 - sum(self._mass.values()))
        if self._mass:
            tokens = torch.tensor(list(self._mass), device=logits.device)
            own = logits[tokens] - self._total
            self._own = dict(zip(self._mass, own.tolist(), strict=True))
            weights = torch.tensor(list(self._mass.values()), device=logits.device)
            logits[tokens] += torch.log1p(weights / self._rest * torch.exp(-own).clamp(max=1e30))

    def raised(self, token: int) -> float:
        """How far the memories raise the token's probability at this place."""
        if not self._mass:
            return 0.0
        p = self._p_model(token)
        return self._rest * p + self._mass.get(token, 0.0) - p

    def _p_model(self, token: int) -> float:
        own = self._own.get(token)
        return math.exp(float(self._logits[token]) - self._total if own is None else own)

    def advance(self, token: int, said: str) -> None:
        """The token that was chosen, and the text of the answer so far."""
        self._said = said
        matching = [run for run in self._offer if run.tokens[run.at] == token]
        self._runs = []
        if not matching:
            return
        p = self._rest * self._p_model(token) + sum(run.weight for run in matching)
        for run in matching:
            weight = run.weight / p
            if weight < self._settings.least_path:
                continue
            if run.at + 1 == len(run.tokens):
                self._spoken[run.memory] |= run.answers and weight > self._settings.said_from
            else:
                self._runs.append(_Run(run.memory, run.tokens, run.at + 1, weight, run.answers))

    def _starts(self, free: float) -> list[_Run]:
        """Runs that could be entered now, sharing out what is not being read already."""
        if free < self._settings.least_path:
            return []
        runs: list[_Run] = []
        said, before = self._forms_said(), (self._context + self._said)[-self._settings.context_characters :]
        for m, (hit, fact) in enumerate(zip(self._found, self._facts, strict=True)):
            entries = [] if self._spoken[m] else self._entries(fact, said, before)
            if not entries:
                continue
            possible = self._possible(entries)
            logits = [
                entry.bias + self._settings.own_power * own
                for entry, own in zip(entries, possible, strict=True)
            ]
            top = max(logits)
            shares = [math.exp(logit - top) for logit in logits]
            for led, one in enumerate(
                entries
            ):  # the small words before a run take no more than half of its weight
                if one.direct is not None and shares[led] > shares[one.direct]:
                    shares[led] = shares[one.direct] = (shares[led] + shares[one.direct]) / 2
            weight = free * self._attention[m] * hit.gate * self._settings.trust / sum(shares)
            runs += [
                _Run(m, entry.tokens, 0, weight * share, entry.answers)
                for entry, share in zip(entries, shares, strict=True)
            ]
        return [run for run in runs if run.weight > self._settings.least_weight]

    def _forms_said(self) -> set[str]:
        """The words of the answer so far. Those that are long said are not looked at again."""
        forms, upto = self._settled
        if len(self._said) - upto > SETTLED and (end := self._said.rfind(" ", upto, -SETTLED // 2)) > 0:
            forms |= set(terms_of(self._said[upto:end]))
            self._settled = forms, end
        return forms | set(terms_of(self._said[self._settled[1] :]))

    def _possible(self, entries: Sequence[_Entry]) -> list[float]:
        """log p of each run's first token, where it tells something: a blank alone (before a number, for some tokenizers)
        does not, nor does a word of the fact's wording, which may come anywhere."""
        first = self._logits[torch.tensor([e.tokens[0] for e in entries], device=self._logits.device)]
        return [
            min(own, self._settings.any_word) if not entry.answers or entry.tokens[:1] == self._blank else own
            for entry, own in zip(entries, (first - self._total).tolist(), strict=True)
        ]

    def _entries(self, fact: _Fact, said: set[str], before: str) -> list[_Entry]:
        """Each run of words that neither the prompt nor the answer so far has."""
        words, (first, last) = fact.words, fact.span
        lacks = [lacking and word.term not in said for word, lacking in zip(words, fact.lacks, strict=True)]
        if not any(lacking and says for lacking, says in zip(lacks, fact.says, strict=True)):
            return []
        entries: list[_Entry] = []
        if begins_sentence(before):
            tokens = self._tokens(fact, *fact.sentence, before)
            entries.append(_Entry(tokens, max(fact.biases) + self._settings.statement, True))
        just_said = terms_of(before)[-TEXT.context_words :]
        places = 0  # of the answer, where one may enter
        for i in range(len(words)):
            if not lacks[i] or not fact.says[i] or (fact.goes_on[i] and lacks[i - 1]):
                continue
            end, bias, answers = i + 1, fact.biases[i], first <= i < last
            if answers:
                end, bias, places = last, bias - self._settings.later * places, places + 1
            else:
                while end < len(words) and lacks[end] and fact.says[end]:
                    end += 1
            follows = self._follows(fact, i, just_said)
            entries.append(_Entry(self._tokens(fact, i, end, before), bias + follows, answers))
            start = i
            while start and fact.lacks[start - 1] and not fact.says[start - 1]:
                start -= 1
            if start < i and (follows := self._follows(fact, start, just_said)):
                tokens = self._tokens(fact, start, end, before)
                entries.append(_Entry(tokens, bias + follows, answers, len(entries) - 1))
        return entries

    def _tokens(self, fact: _Fact, first: int, behind: int, before: str) -> tuple[int, ...]:
        """Of these words of the fact, with a blank before them where one belongs."""
        start, end = fact.words[first].start, fact.words[behind - 1].end
        blank = bool(blank_before(fact.text, start) and before and not before[-1].isspace())
        known = (first, behind, blank)
        if known not in fact.tokens:
            text = (" " if blank else "") + fact.text[start:end]
            fact.tokens[known] = tuple(self._tokenize(text))
        return fact.tokens[known]

    def _follows(self, fact: _Fact, at: int, just_said: list[str]) -> float:
        """Nats for an entry whose words before it are the last that were said."""
        return self._settings.follows * min(
            matching_before(fact.words, at, just_said), self._settings.most_followed
        )


def _fact(hit: Hit, informative: float, settings: Settings) -> _Fact:
    memory, (first, last) = hit.memory, hit.alignment.span
    text = hit.text
    words, places = text.words, text.places
    named = [
        score > 0 and not term.isdigit()
        for score, term in zip(text.name_scores.tolist(), text.terms, strict=True)
    ]
    here = places[min(first, len(words) - 1)]
    says = text.informative(informative)
    return _Fact(
        memory.text,
        words,
        says,
        [not has for has in hit.alignment.matched.tolist()],
        [on and says[i - 1] for i, on in enumerate(text.continues)],
        [
            settings.idf_power * math.log(max(float(information), settings.least_nats))
            + math.log(max(float(surprisal), settings.least_nats))
            - settings.outside_span * (not first <= i < last)
            - settings.beside_a_name * (first <= i < last and not named[i] and any(named[first:last]))
            - settings.outside_span * (place.clause != here.clause)
            for i, (information, surprisal, place) in enumerate(
                zip(hit.idf, memory.surprisals, places, strict=True)
            )
        ],
        (first, last),
        (
            next(i for i, place in enumerate(places) if place.sentence == here.sentence),
            sum(place.sentence <= here.sentence for place in places),
        ),
    )
