"""Invented facts as an encoder would send them, without a model, for measuring storage and retrieval.

Words and their frequencies are those of invented sentences: a few words occur in half of the facts, and most
in one or two. A word's idf follows from its frequency. Vectors are noise of the default model's width. The
same seed gives the same facts.
"""

import math
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random

import numpy as np

from pipeline.bench.synthetic.texts import made_up_facts
from pipeline.ingest.encoding import FactEncoding
from pipeline.memory.events import NewFact, SourceOffset
from pipeline.text.words import split

DIMENSIONS = 576
"""The width of the default model's states."""
MAX_IDF = 13.0
"""Nats."""
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_LEADS = (
    "According to the {} issue of the {} Gazette, {}", "As the {} report of the {} office says, {}", "{1}, {0}: {2}",
    "In {} the people of {} were told that {}",
)  # fmt: skip
_MONTHS = "January February March April May June July August September October November December".split()


def made_up_stream(count: int, seed: int, namespace: str = "default") -> Iterator[NewFact]:
    """Yields `count` facts of seven to twenty words. Of ten, eight are new, one updates another and one repeats it."""
    noise, texts = np.random.default_rng(seed), _texts(count, Random(seed), seed)
    dice = Random(seed)
    counts = Counter(word.term for text in texts for word in split(text))
    total = counts.total()
    for n, text in enumerate(texts):
        terms = [word.term for word in split(text)]
        priors = np.array([min(MAX_IDF, math.log(total / counts[term])) for term in terms], np.float32)
        encoding = FactEncoding(
            text, "made-up", 5.0, 1.0, 4.0, priors, priors * np.float32(0.5),
            noise.integers(0, 256, (len(terms), DIMENSIONS // 4), np.uint8),
        )  # fmt: skip
        at = BEGIN + timedelta(seconds=n)
        category = f"category-{int(dice.paretovariate(1.0)) % 50}"
        cause = SourceOffset("facts", "bench", 0, n)
        yield NewFact(
            namespace, encoding, at, at, cause, category=category, source="bench", fact_id=f"{namespace}-{n}"
        )


def _texts(count: int, dice: Random, seed: int) -> list[str]:
    new = made_up_facts(count, seed)
    texts: list[str] = []
    for n, text in enumerate(new):
        kind = dice.random()
        if n and kind < 0.1:
            texts.append(f"{dice.choice(texts).rpartition(' ')[0]} {_name(new[n - 1])}.")
        elif n and kind < 0.2:
            texts.append(dice.choice(texts))
        elif kind < 0.6:
            texts.append(dice.choice(_LEADS).format(dice.choice(_MONTHS), _name(new[n - 1]), text))
        else:
            texts.append(text)
    return texts


def _name(text: str) -> str:
    return max((word for word in text.rstrip(".").split() if word[0].isupper()), key=len)
