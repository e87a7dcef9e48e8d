"""Facts without a model: common words have a low prior, all others a high one."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from pipeline.decide.decide import decide_fact
from pipeline.decide.requests import decide_forget, decide_restore
from pipeline.ingest.encoding import FactEncoding
from pipeline.memory.bank import Bank
from pipeline.memory.events import Decision, ForgetRequest, NewFact, RestoreRequest, SourceOffset
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
        decisions += tell(bank, offset, text, **fields)
    return decisions


def tell(
    bank: Bank, offset: int, text: str, at: float | None = None, loss_delta: float = 4.0, **fields: Any
) -> list[Decision]:
    """Decides and applies one fact, published `offset` hours after START and by default observed then."""
    fact = NewFact(
        "default", encoding(text, loss_delta), START + timedelta(hours=offset if at is None else at),
        START + timedelta(hours=offset), SourceOffset("facts", "t", 0, offset), **fields,
    )  # fmt: skip
    return applied(bank, decide_fact(bank, fact, START))


def forget(
    bank: Bank,
    offset: int,
    memory_id: str | None = None,
    key: str | None = None,
    at: float | None = None,
    erase: bool = False,
) -> list[Decision]:
    """Decides and applies a request to forget, published `offset` hours after START."""
    observed_at = None if at is None else START + timedelta(hours=at)
    published_at, cause = START + timedelta(hours=offset), SourceOffset("facts", "t", 0, offset)
    request = ForgetRequest("default", memory_id, erase, published_at, cause, key, observed_at)
    return applied(bank, decide_forget(bank, request, START))


def restore(bank: Bank, offset: int, memory_id: str) -> list[Decision]:
    """Decides and applies a request to restore, published `offset` hours after START."""
    published_at, cause = START + timedelta(hours=offset), SourceOffset("facts", "t", 0, offset)
    return applied(
        bank, decide_restore(bank, RestoreRequest("default", memory_id, published_at, cause), START)
    )


def applied(bank: Bank, decisions: list[Decision]) -> list[Decision]:
    for decision in decisions:
        bank.apply(decision)
    return decisions
