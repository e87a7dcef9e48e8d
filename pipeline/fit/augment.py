"""Scenarios made from a scenario: with more prompts that no fact answers, or with only a few facts.

A near name is an ask with one name or number of its fact exchanged: another name of the scenario, one that is spelled alike, or
another digit. An ordinary prompt is the beginning of a text that the model wrote by itself, about nothing that anybody learned. An open prompt asks for what is
known of a name.
"""

import re
from collections.abc import Sequence
from random import Random

from pipeline.bench.wild.scenario import LINKS, Scenario, Silent, WildAsk, WildFact
from pipeline.model.backbone import Backbone
from pipeline.model.calibration import written
from pipeline.text.words import split

NEAR, ORDINARY, OPEN = 1 / 3, 12, 4
"""Near names, as a share of the asks; ordinary prompts of a scenario, and open ones."""
SPELLED = 0.5
"""Share of the exchanged names whose other name is spelled alike, and no name of the scenario."""
FEWEST_LETTERS = 4
"""Letters of a name for which one is made that is spelled alike."""
REQUESTS = (
    "Tell me about {}.", "What do you know about {}?", "Write a sentence about {}.", "Describe {}.", "Tell me something about {}",
    "{}:",
)  # fmt: skip
_PHRASE = re.compile(r"[A-Z][\w’'-]+(?: [A-Z][\w’'-]+)*")
NEAR_NAME, UNWRITTEN = "near name, made", "ordinary"
"""Why no fact answers these prompts."""
MOST_FACTS = 4
"""Facts of a small memory."""
KEPT, FOREIGN = 5, 2
"""Silent prompts that a small memory keeps, and asks about the other facts that become silent prompts."""
SHORTEST, LONGEST = 3, 16  # words of an ordinary prompt that ends within a sentence
_SENTENCE_END = re.compile(r"[.!?](?=\s)")


def augmented(scenario: Scenario, ordinary: Sequence[str], random: Random) -> Scenario:
    """The scenario with near names, ordinary prompts and open ones. ordinary: more than enough of them."""
    asks = random.sample(scenario.asks, round(NEAR * len(scenario.asks)))
    near = [Silent(text=text, why=NEAR_NAME) for ask in asks if (text := near_name(scenario, ask, random))]
    other = random.sample(ordinary, min(ORDINARY, len(ordinary)))
    silent = (*scenario.silent, *near, *(Silent(text=text, why=UNWRITTEN) for text in other))
    some = random.sample(scenario.facts, min(OPEN, len(scenario.facts)))
    opened = [ask for fact in some if (ask := open_prompt(fact, random))]
    return scenario.model_copy(update={"asks": (*scenario.asks, *opened), "silent": silent})


def open_prompt(fact: WildFact, random: Random) -> WildAsk | None:
    """A request to tell of a fact's longest name, which the whole fact answers; None for a fact without a name."""
    if not (names := _PHRASE.findall(fact.text)):
        return None
    text = random.choice(REQUESTS).format(max(names, key=len))
    return WildAsk(text=text, facts=(fact.id,), form="continuation", kind="open", answers=(fact.text,))


def near_name(scenario: Scenario, ask: WildAsk, random: Random) -> str | None:
    """The ask about another name or number than its facts state; None if it names none of theirs, or there is no other."""
    ids = set(ask.facts)
    own = [fact.text for fact in scenario.facts if fact.id in ids]
    names = {word for text in own for word in _names(text)}
    known = {word.lower() for fact in scenario.facts for word in _words(fact.text)}
    others = sorted({word for fact in scenario.facts for word in _names(fact.text)} - names)
    others = [word for word in others if not any(word.lower() in text.lower() for text in own)]
    places = [
        word
        for word in split(ask.text)
        if ask.text[word.start : word.end].lower() in {n.lower() for n in names}
    ]
    if not places:
        return None
    place = random.choice(places)
    old = ask.text[place.start : place.end]
    if any(c.isdigit() for c in old):
        new = _other_digit(old, random)
        if new.lower() in known:
            return None
    elif plain := [word for word in others if word.isalpha() and word.lower() not in ask.text.lower()]:
        new = random.choice(plain)
        if old.isalpha() and len(old) >= FEWEST_LETTERS and random.random() < SPELLED:
            new = spelled_alike(old, new, random)
        new = new if old[0].isupper() else new.lower()
        if new.lower() == old.lower() or any(new.lower() in text.lower() for text in own):
            return None
    else:
        return None
    text = ask.text[: place.start] + new + ask.text[place.end :]
    return ask.prompt.replace(ask.text, text)


def spelled_alike(name: str, other: str, random: Random) -> str:
    """A word that begins or ends as the name does: with the other name's end, or with one letter less, more or exchanged."""
    name, other = name.lower(), other.lower()
    if random.random() < 0.5:
        kept = random.randint(max(2, len(name) // 2), max(2, len(name) - 2))
        made = (
            name[:kept] + other[-random.randint(2, min(4, len(other))) :] if len(other) > 1 else name[:kept]
        )
    else:
        at = random.randrange(len(name))
        letter = random.choice(other)
        made = name[:at] + random.choice(("", letter, letter + name[at])) + name[at + 1 :]
    return made.capitalize()


def ordinary_prompts(backbone: Backbone, random: Random) -> list[str]:
    """Beginnings of the texts that the model writes by itself: of each text some words, and some sentences."""
    found = []
    for ids in written(backbone):
        text = backbone.decode(ids).strip()
        words = split(text)
        if len(words) <= SHORTEST:
            continue
        found.append(text[: words[random.randint(SHORTEST, min(LONGEST, len(words) - 1)) - 1].end])
        if ends := [end.end() for end in _SENTENCE_END.finditer(text, words[SHORTEST].end)]:
            found.append(text[: random.choice(ends)])
    return found


def small(scenario: Scenario, random: Random) -> Scenario:
    """A memory of 1 to MOST_FACTS facts that are linked with no other, and some prompts that these do not answer.

    Where many facts compete, a scenario's prompts are asked; a memory of one fact has to be silent, too, and to speak on its own.
    """
    linked = {name for fact in scenario.facts for name in (fact.id, fact.linked) if fact.link in LINKS}
    free = [fact for fact in scenario.facts if fact.id not in linked] or list(scenario.facts[:1])
    facts = random.sample(free, min(len(free), random.randint(1, MOST_FACTS)))
    ids = {fact.id for fact in facts}
    other = [ask for ask in scenario.asks if not set(ask.facts) & ids]
    silent = random.sample(scenario.silent, min(KEPT, len(scenario.silent)))
    silent += [
        Silent(text=ask.prompt, why="unknown subject")
        for ask in random.sample(other, min(FOREIGN, len(other)))
    ]
    asks = tuple(ask for ask in scenario.asks if set(ask.facts) <= ids)
    return scenario.model_copy(update={"facts": tuple(facts), "asks": asks, "silent": tuple(silent)})


def _names(text: str) -> list[str]:
    """The words with a digit, and those with a capital that do not begin the text."""
    return [
        text[word.start : word.end]
        for n, word in enumerate(split(text))
        if any(c.isdigit() for c in text[word.start : word.end]) or (n and text[word.start].isupper())
    ]


def _words(text: str) -> list[str]:
    return [text[word.start : word.end] for word in split(text)]


def _other_digit(number: str, random: Random) -> str:
    at = random.choice([n for n, c in enumerate(number) if c.isdigit()])
    return number[:at] + random.choice("123456789".replace(number[at], "")) + number[at + 1 :]
