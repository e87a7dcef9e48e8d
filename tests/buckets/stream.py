"""The stream of a crash run on a store: encoded facts, requests to forget and to erase, and answers.

All from a seed. Each fact has a mark, a word that no other has, so that it can be told which texts are left where.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.memory.bank import memory_id
from tests.write.local_writer import HOME, NOW, message, row

MARK = re.compile(r"Zq[0-9]{5}")
NAMESPACE = "default"
MOST = 30
"""Facts that stand at a time."""
_PLACES = ("in the old hall", "by the river", "under glass", "at the north gate", "behind the mill")


@dataclass
class Stream:
    """The messages on `fact-encodings`, and the answers that a generator keeps before some of them."""

    messages: list[bytes]
    answers: dict[int, dict[str, Any]]


def make_stream(seed: int, count: int) -> Stream:
    """`count` messages of one row each. The first n of a longer stream are those of a shorter one."""
    dice, rows, answers = random.Random(seed), list[dict[str, Any]](), dict[int, dict[str, Any]]()
    standing: list[tuple[str, str | None]] = []  # facts that nobody has erased, with their keys
    quoted: list[tuple[str, str | None]] = []  # by the last answers
    for n in range(count):
        kind = dice.choices(
            ("new", "keyed", "again", "forget", "erase", "erase_key", "restore"), (46, 18, 12, 6, 10, 4, 4)
        )[0]
        if len(standing) > MOST:  # a memory that grew would be too large for a checkpoint every few decisions
            kind = dice.choice(("forget", "forget", "erase"))
        text, key = f"The Zq{n:05d} of {dice.randrange(10**6)} stands {dice.choice(_PLACES)}.", None
        earlier = dice.choice(standing) if standing else None
        if earlier and n % 10 == 0:
            answers[n] = _answer(n, earlier[0])
            quoted = [*quoted[-3:], earlier]
        if kind in ("new", "keyed") or earlier is None:
            key = f"key-{dice.randrange(8)}" if kind == "keyed" else None
            standing.append((text, key))
            rows.append(row(n, text, key=key, fact_id=f"fact-{n}"))
        elif kind == "again":
            rows.append(row(n, earlier[0], key=earlier[1], fact_id=f"fact-{n}"))
        elif kind == "erase_key":
            key = earlier[1] or "key-0"
            standing = [fact for fact in standing if fact[1] != key]
            rows.append(row(n, "", kind=kind, key=key, observed_at=None))
        else:
            if kind == "erase":
                earlier = next((fact for fact in quoted if fact in standing), earlier)
            if kind == "erase" or len(standing) > MOST:
                standing.remove(earlier)
            rows.append(row(n, "", kind=kind, forget=memory_id(NAMESPACE, *earlier)))
    return Stream([message(one) for one in rows], answers)


def _answer(n: int, quoted: str) -> dict[str, Any]:
    return {
        "request_id": f"request-{n}", "namespaces": [NAMESPACE], "prompt": f"{quoted} Really?", "text": "Yes.",
        "use_memory": True, "memory_ids": [], "gates": [], "finish_reason": "stop", "answered_at": NOW,
        "partition": HOME, "offset": n,
    }  # fmt: skip


def erasures(messages: Sequence[bytes]) -> int:
    """How many messages ask to erase."""
    return sum(b"erase" in one for one in messages)
