"""Facts without a model: common words have a low prior, all others a high one."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from pipeline.decide.decide import decide_fact
from pipeline.ingest.encoding import FactEncoding
from pipeline.memory.bank import Bank
from pipeline.memory.events import Decision, NewFact, SourceOffset
from pipeline.text.words import split

START = datetime(2026, 1, 1, tzinfo=UTC)
COMMON = {"is", "was", "in", "the", "of", "a", "from"}


def encoding(text: str, loss_delta: float = 4.0) -> FactEncoding:
    words = split(text)
    priors = np.array([2.0 if w.term in COMMON else 12.0 for w in words], np.float32)
    vectors = np.zeros((len(words), 0), np.uint8)
    return FactEncoding(
        text, "e", loss_delta + 0.125, 0.125, loss_delta, priors, (priors / 4).astype(np.float32), vectors
    )


def feed(bank: Bank, *facts: tuple[str, dict[str, Any]]) -> list[Decision]:
    """Decides and applies facts of the namespace "default": text, and fields; "at": hours after START; "loss_delta"."""
    decisions = []
    for offset, (text, fields) in enumerate(facts):
        fields = dict(fields)
        at = fields.pop("at", offset)
        loss_delta = fields.pop("loss_delta", 4.0)
        fact = NewFact(
            "default", encoding(text, loss_delta), START + timedelta(hours=at), START + timedelta(hours=offset),
            SourceOffset("facts", "t", 0, offset), **fields,
        )  # fmt: skip
        for decision in decide_fact(bank, fact, START):
            bank.apply(decision)
            decisions.append(decision)
    return decisions
