"""Small banks, facts and prompts whose numbers need no model."""

from datetime import UTC, datetime, timedelta

import numpy as np

from pipeline.bench.synthetic.texts import made_up_facts, prompts_for
from pipeline.ingest.encoding import FactEncoding, PromptEncoding
from pipeline.ingest.quantize import pack, unit
from pipeline.memory.bank import Bank, memory_id
from pipeline.memory.record import Memory
from pipeline.text.words import split

D = 40
AT = datetime(2026, 1, 1, tzinfo=UTC)


def state(term: str) -> np.ndarray:
    seed = int.from_bytes(term.encode()[:8].ljust(8), "little")
    return np.asarray(unit(np.random.default_rng(seed).normal(size=(1, D)).astype(np.float32))[0])


def measured(text: str) -> tuple[np.ndarray, np.ndarray]:
    words = split(text)
    nll = np.array([12.0 if text[w.start].isupper() else 4.0 for w in words], np.float32)
    return nll, np.array([state(w.term) for w in words], np.float32).reshape(len(words), D)


def encoding(text: str) -> FactEncoding:
    nll, states = measured(text)
    return FactEncoding(text, "e", 5.0, 0.5, 4.5, nll, nll, pack(states))


def memory(text: str, category: str | None = None, day: int = 0) -> Memory:
    """day: on which it was observed."""
    e = encoding(text)
    return Memory(
        memory_id=memory_id("n", text), namespace="n", text=text, observed_at=AT + timedelta(day), learned_at=AT,
        importance=0.0,
        loss_delta=e.loss_delta, encoder_id=e.encoder_id, priors=e.priors, surprisals=e.surprisals, vectors=e.vectors,
        category=category,
    )  # fmt: skip


def prompt_encoding(text: str) -> PromptEncoding:
    nll, states = measured(text)
    words = split(text)
    return PromptEncoding([w.term for w in words], nll, nll, [float(s > 10) for s in nll], states, 8.0)


def bank_of(texts: list[str]) -> Bank:
    bank = Bank()
    for text in texts:
        bank.put(memory(text))
    return bank


FACTS = made_up_facts(300, 1)
PROMPTS = [prompt_encoding(prompts_for(fact)[0]) for fact in FACTS[:40]]
