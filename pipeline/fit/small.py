"""Small memories: a few facts of a scenario, with the prompts that they answer, and some that they do not.

A scenario's prompts are asked where many facts compete. A memory of one fact has to be silent on them, too, and to speak on its own.
"""

from random import Random

from pipeline.bench.wild.scenario import LINKS, Scenario, Silent

MOST = 4
"""Facts of a small memory."""
SILENT, FOREIGN = 5, 2
"""Silent prompts that are kept, and asks about the other facts that become silent prompts."""


def small(scenario: Scenario, random: Random) -> Scenario:
    """A memory of 1 to MOST facts that are linked with no other."""
    linked = {name for fact in scenario.facts for name in (fact.id, fact.linked) if fact.link in LINKS}
    free = [fact for fact in scenario.facts if fact.id not in linked] or list(scenario.facts[:1])
    facts = random.sample(free, min(len(free), random.randint(1, MOST)))
    ids = {fact.id for fact in facts}
    other = [ask for ask in scenario.asks if not set(ask.facts) & ids]
    silent = random.sample(scenario.silent, min(SILENT, len(scenario.silent)))
    silent += [
        Silent(text=ask.prompt, why="unknown subject")
        for ask in random.sample(other, min(FOREIGN, len(other)))
    ]
    asks = tuple(ask for ask in scenario.asks if set(ask.facts) <= ids)
    return Scenario(domain=scenario.domain, facts=tuple(facts), asks=asks, silent=tuple(silent))
