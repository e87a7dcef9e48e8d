"""Rows on which a prefix is tuned: facts, a prompt, and what the model says after both.

An answered row has the facts that answer the prompt, often among others, oldest first; so the newer of two values is the later one.
An unanswered row has facts that the memory finds for the prompt, and that do not answer it.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from pipeline.bench.wild.scenario import (
    Scenario,
    WildAsk,
    WildFact,
    replaced,
    stating,
)
from pipeline.text.words import terms_of

OTHERS = 0.45
"""Share of the answered rows that have one or two other facts, too."""
REPLACED = 0.6
"""Share of the rows with a fact that replaces another that have the older one, too."""
ONE_WORDING = 0.5
"""Share of the rows whose fact was stated in several wordings that have only one of them."""
UNANSWERED = 0.35
"""Share of the asks that also become an unanswered row."""
RAW, CHAT = 0.08, 0.08
"""Shares of the questions that have no label, or the model's chat template."""
COUNTS = (1, 1, 1, 2, 3)
"""Numbers of facts of an unanswered row, equally likely."""
MOST_VALUES = 3
"""Values that the answer to a list names."""
LONGEST_LIST = 90
"""Characters of a list that is taken from a fact as it stands there."""
Chat = Callable[[str], str]
"""The text of a conversation with one message, up to its answer."""
Find = Callable[[Sequence[str]], Sequence[Sequence[str]]]
"""The texts of the facts that the memory finds for each prompt, best first."""


class TuneRow(NamedTuple):
    """Facts, a prompt and the answer; None where the facts do not answer it."""

    facts: tuple[str, ...]
    prompt: str
    answer: str | None


def rows_of(scenario: Scenario, find: Find, chat: Chat, random: Random) -> list[TuneRow]:
    """The scenario's rows, drawn anew at each call."""
    rows = [_answered(scenario, ask, chat, random) for ask in scenario.asks]
    asked = [ask for ask in scenario.asks if random.random() < UNANSWERED]
    silent = scenario.silent
    texts = [ask.text for ask in asked] + [one.text for one in silent]
    labelled = [ask.prompt for ask in asked] + [one.prompt for one in silent]
    right = [_related(scenario, ask) for ask in asked] + [frozenset[str]() for _ in silent]
    for text, prompt, own, found in zip(texts, labelled, right, find(labelled), strict=True):
        wrong = [fact for fact in found if fact not in own]
        if wrong:
            facts = _some(wrong, random.choice(COUNTS), random)
            rows.append(TuneRow(facts, _worded(text, prompt, chat, random), None))
    return rows


def _answered(scenario: Scenario, ask: WildAsk, chat: Chat, random: Random) -> TuneRow:
    named = set(ask.facts)
    right = [fact for fact in scenario.learned if fact.id in named]
    answer = answer_of(ask, [_line(fact) for fact in right])
    repeated = [fact for fact in right if fact.same_as in named]
    if repeated and random.random() < ONE_WORDING:
        right.remove(random.choice(repeated))
    chosen, related = list(right), _related(scenario, ask)
    older = replaced(scenario, ask.facts)
    if older and random.random() < REPLACED:
        chosen.append(random.choice(older))
    if random.random() < OTHERS:
        words = set(terms_of(ask.text))
        others = [fact for fact in scenario.facts if fact.text not in related]
        others.sort(key=lambda fact: 1.5 * random.random() - len(words & set(terms_of(fact.text))))
        chosen += others[: random.choice((1, 1, 2))]
    order = {fact.id: n for n, fact in enumerate(scenario.learned)}
    chosen.sort(key=lambda fact: order[fact.id])
    return TuneRow(tuple(map(_line, chosen)), _worded(ask.text, ask.prompt, chat, random), answer)


def answer_of(ask: WildAsk, facts: Sequence[str]) -> str:
    """The answer in the words of the facts; for a list all values; the first accepted one if no fact has any."""
    spans = [
        (fact, answer, span) for fact in facts for answer in ask.answers if (span := _find(fact, answer))
    ]
    if not spans:
        return ask.answers[0]
    if ask.kind == "list" and len(facts) == 1:
        begin, end = min(span[0] for *_, span in spans), max(span[1] for *_, span in spans)
        if end - begin <= LONGEST_LIST:
            return facts[0][begin:end]
    if ask.kind in ("list", "beside"):
        values = dict[str, str]()  # of each fact the first that is accepted
        for fact, _, (begin, end) in spans:
            values.setdefault(fact, fact[begin:end])
        return ", ".join(list(dict.fromkeys(values.values()))[:MOST_VALUES])
    fact, _, (begin, end) = min(spans, key=lambda one: ask.answers.index(one[1]))
    return fact[begin:end]


def _related(scenario: Scenario, ask: WildAsk) -> frozenset[str]:
    """The texts of all facts that answer the ask, answered it earlier, or may do so."""
    ids = set(ask.facts)
    later = {fact.id for fact in scenario.facts if fact.replaces in ids}
    facts = stating(scenario, ids | later) + replaced(scenario, ask.facts)
    return frozenset(fact.text for fact in facts)


def _some(found: Sequence[str], count: int, random: Random) -> tuple[str, ...]:
    """Some of the facts; the better found ones more often."""
    left = list(found)
    chosen = list[str]()
    while left and len(chosen) < count:
        [one] = random.choices(left, [1 / n for n in range(1, len(left) + 1)])
        left.remove(one)
        chosen.append(" ".join(one.split()))
    return tuple(chosen)


def _worded(text: str, prompt: str, chat: Chat, random: Random) -> str:
    if prompt == text:
        return prompt
    drawn = random.random()
    return text if drawn < RAW else chat(text) if drawn < RAW + CHAT else prompt


def _find(fact: str, answer: str) -> tuple[int, int] | None:
    at = fact.lower().find(answer.lower())
    return (at, at + len(answer)) if at >= 0 else None


def _line(fact: WildFact) -> str:
    return " ".join(fact.text.split())
