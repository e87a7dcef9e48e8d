"""Scenarios: the facts of a domain as people write them, their links, and asks about them."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.bench.files import BenchFileError, Line, Text, read_lines

LINKS = ("replaces", "same_as", "beside")
"""The fields by which a fact names an earlier one."""
QUESTIONS = ("question", "chat")
"""The forms that are always asked as questions."""
QUESTION_MARKS = ("?", "？")


class WildFact(Line):
    """A fact, and the earlier one that it is linked with."""

    id: Text
    day: Annotated[int, Field(ge=0, le=100_000)]
    """When it was said: facts are learned in this order, and in the file's within a day."""
    category: Text | None = None
    text: Text
    replaces: Text | None = None
    """The id of a fact that is untrue since this one."""
    beside: Text | None = None
    """The id of a fact that this one seems to change, and does not."""
    same_as: Text | None = None
    """The id of a fact that this one repeats in other words."""

    @property
    def link(self) -> str:
        """The kind of its link; "new" for none."""
        return next((name for name in LINKS if getattr(self, name) is not None), "new")

    @property
    def linked(self) -> str | None:
        """The id of the fact that it is linked with."""
        return next((other for name in LINKS if (other := getattr(self, name)) is not None), None)


class WildAsk(Line):
    """A prompt that some facts answer. Each of the answers is right."""

    text: Text
    facts: Annotated[tuple[Text, ...], Field(min_length=1)]
    form: Literal["continuation", "question", "other words", "reverse", "chat"]
    kind: Text
    answers: Annotated[tuple[Text, ...], Field(min_length=1)]

    @property
    def prompt(self) -> str:
        return as_prompt(self.text, self.form in QUESTIONS)


class Silent(Line):
    """A prompt that no fact answers, and why none does."""

    text: Text
    why: Text

    @property
    def prompt(self) -> str:
        return as_prompt(self.text)


class Scenario(Line):
    """A domain: its facts, asks about them, and prompts on which they must have no effect."""

    domain: Text
    facts: Annotated[tuple[WildFact, ...], Field(min_length=1)]
    asks: tuple[WildAsk, ...]
    silent: tuple[Silent, ...] = ()

    @property
    def learned(self) -> list[WildFact]:
        """The facts in the order in which they are learned."""
        return sorted(self.facts, key=lambda fact: fact.day)


def as_prompt(text: str, question: bool = False) -> str:
    """The prompt by which the model is asked: a question if it is one, or ends as one."""
    return f"Question: {text}\nAnswer:" if question or text.rstrip().endswith(QUESTION_MARKS) else text


def stating(scenario: Scenario, ids: Collection[str]) -> list[WildFact]:
    """The facts that state what these state, in the same or in other words, as they are learned."""
    first: dict[str, str] = {}  # by id: the first fact that states the same
    for fact in scenario.learned:
        first[fact.id] = first[fact.same_as] if fact.same_as is not None else fact.id
    stated = {first[number] for number in ids}
    return [fact for fact in scenario.learned if first[fact.id] in stated]


def replaced(scenario: Scenario, ids: Collection[str]) -> list[WildFact]:
    """The facts that these replace, at once or one through another, in all their wordings."""
    chain, newest = set(ids), stating(scenario, ids)
    found: list[WildFact] = []
    while older := {fact.replaces for fact in newest if fact.replaces is not None} - chain:
        newest = [fact for fact in stating(scenario, older) if fact.id not in chain]
        chain |= older | {fact.id for fact in newest}
        found += newest
    return found


def read_scenarios(files: Sequence[Path]) -> list[Scenario]:
    """The scenarios of the files, JSON lines. Raises BenchFileError."""
    found = []
    for file in files:
        for number, scenario in read_lines(file, Scenario):
            for wrong in _wrong(scenario):
                raise BenchFileError(f"{file}, line {number}: {wrong}")
            found.append(scenario)
    return found


def _wrong(scenario: Scenario) -> Iterator[str]:
    """What is wrong between the fields of a line, each beginning with the field."""
    places: dict[str, int] = {}
    for n, fact in enumerate(scenario.facts):
        if places.setdefault(fact.id, n) != n:
            yield f"facts.{n}.id: {fact.id!r} is the id of another fact, too"
    order = {fact.id: n for n, fact in enumerate(scenario.learned)}
    for n, fact in enumerate(scenario.facts):
        for link in LINKS:
            other = getattr(fact, link)
            if other is not None and order.get(other, len(order)) >= order[fact.id]:
                yield f"facts.{n}.{link}: {other!r} is not the id of an earlier fact"
    for n, ask in enumerate(scenario.asks):
        for i, number in enumerate(ask.facts):
            if number not in places:
                yield f"asks.{n}.facts.{i}: {number!r} is not the id of a fact"
