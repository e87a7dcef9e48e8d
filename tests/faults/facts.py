"""The facts of a crash run: namespaces, keys, versions, repetitions and forgets, all from a seed."""

import random
from datetime import UTC, datetime, timedelta

from pipeline.memory import bank
from schemas.fact import Fact, FactMessage, Forget, ForgetKey

BEGIN = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
"""When the first fact is published. Kafka deletes what is older than its retention and refuses what is an hour ahead."""
STEP_S = 0.1
"""Seconds between the timestamps of two facts."""
CHUNK = 100
"""Facts in one call of `publish`. Versions of one fact are further apart: a broker that loses its topics keeps no order
within a call."""

_NAMESPACES = [f"space-{n}" for n in range(12)]
_PLACES = ("in the old hall", "by the river", "under glass", "at the north gate", "behind the mill")
Pair = tuple[str, FactMessage]
"""A namespace and what is published to it."""


def make_facts(seed: int, count: int, begin: datetime = BEGIN) -> list[Pair]:
    """New facts, newer and older versions with and without keys, repetitions, the same fact_id again, and forgets.

    An older version was observed at `begin`, before every fact of the run.
    """
    dice, pairs = random.Random(seed), list[Pair]()
    for n in range(count):
        namespace, fact_id = dice.choice(_NAMESPACES), f"fact-{n}"
        kind = dice.choices(
            ("new", "newer", "older", "again", "twice", "forget", "keyed", "forget key"),
            (40, 16, 5, 12, 5, 5, 14, 3),
        )[0]
        key = f"key-{dice.randrange(6)}"
        if kind == "forget key":
            pairs.append(
                (namespace, ForgetKey(forget_key=key, observed_at=begin + timedelta(seconds=n * STEP_S)))
            )
            continue
        if kind == "keyed":
            text, late = f"{_name(dice)} holds the {_name(dice)} {n}.", dice.random() < 0.2
            pairs.append(
                (namespace, Fact(text=text, fact_id=fact_id, key=key, observed_at=begin if late else None))
            )
            continue
        earlier = pairs[dice.randrange(n - CHUNK)] if n > CHUNK else None
        if kind == "new" or earlier is None or not isinstance(earlier[1], Fact) or earlier[1].key:
            text = f"The {_name(dice)} {_name(dice)} of {_name(dice)} stands {dice.choice(_PLACES)} {n}."
            pairs.append((namespace, Fact(text=text, fact_id=fact_id, category=dice.choice("abc"))))
            continue
        namespace, old = earlier[0], earlier[1]
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
