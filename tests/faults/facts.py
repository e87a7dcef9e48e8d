"""The facts of a crash run: several namespaces, versions, repetitions and forgets, all from a seed."""

import random
from datetime import UTC, datetime, timedelta

from pipeline.memory import bank
from schemas.fact import Fact, Forget

BEGIN = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
"""When the first fact is published. Kafka deletes what is older than its retention and refuses what is an hour ahead."""
STEP_S = 0.1
"""Seconds between the timestamps of two facts."""
CHUNK = 100
"""Facts in one call of `publish`. Versions of one fact are further apart: a broker that loses its topics keeps no order
within a call."""

_NAMESPACES = [f"space-{n}" for n in range(12)]
_PLACES = ("in the old hall", "by the river", "under glass", "at the north gate", "behind the mill")
Pair = tuple[str, Fact | Forget]
"""A namespace and what is published to it."""


def make_facts(seed: int, count: int, begin: datetime = BEGIN) -> list[Pair]:
    """New facts, newer and older versions, repetitions, the same fact_id again, and forgets.

    An older version was observed at `begin`, before every fact of the run.
    """
    dice, pairs = random.Random(seed), list[Pair]()
    for n in range(count):
        namespace, fact_id = dice.choice(_NAMESPACES), f"fact-{n}"
        kind = dice.choices(("new", "newer", "older", "again", "twice", "forget"), (50, 20, 5, 15, 5, 5))[0]
        earlier = pairs[dice.randrange(n - CHUNK)] if n > CHUNK else None
        if kind == "new" or earlier is None or isinstance(earlier[1], Forget):
            text = f"The {_name(dice)} {_name(dice)} of {_name(dice)} stands {dice.choice(_PLACES)} {n}."
            pairs.append((namespace, Fact(text=text, fact_id=fact_id, category=dice.choice("abc"))))
            continue
        namespace, old = earlier
        assert isinstance(old, Fact)
        if kind == "forget":
            pairs.append((namespace, Forget(forget=bank.memory_id(namespace, old.text))))
        elif kind == "twice":
            pairs.append((namespace, old))
        elif kind == "again":
            pairs.append((namespace, old.model_copy(update={"fact_id": fact_id})))
        else:
            text = f"{old.text.split(' stands ')[0]} stands {dice.choice(_PLACES)} {n}."
            observed_at = begin if kind == "older" else None
            pairs.append((namespace, Fact(text=text, fact_id=fact_id, observed_at=observed_at)))
    return pairs


def _name(dice: random.Random) -> str:
    return "".join(dice.choice("bdfgklmnprstvz") + dice.choice("aeiou") for _ in range(3)).title()
