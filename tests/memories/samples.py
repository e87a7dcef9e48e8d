"""A data folder with a few memories of several namespaces, written as a writer writes them."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.history import log as history
from pipeline.memory.bank import memory_id
from pipeline.memory.events import Decision, SourceOffset

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def decision(n: int, outcome: str, namespace: str, text: str | None = None, **fields: Any) -> Decision:
    """The n-th decision, a minute after the one before it."""
    learned: dict[str, Any] = {}
    if text is not None:
        learned = {
            "text": text, "loss_delta": 1.0, "encoder_id": "e", "priors": np.ones(1, np.float32),
            "surprisals": np.ones(1, np.float32), "vectors": np.ones((1, 2), np.uint8),
            "memory_id": memory_id(namespace, text, fields.get("key")),
        }  # fmt: skip
    at = NOW + timedelta(minutes=n)
    cause = SourceOffset("facts", "t", 0, n)
    return Decision(namespace, outcome, cause, at, importance=1.0, observed_at=at, **learned | fields)


def learned(n: int, namespace: str, text: str, **fields: Any) -> Decision:
    return decision(n, "learned", namespace, text, **fields)


def write(data: Path, decisions: Iterable[Decision]) -> Path:
    history.append(data, 0, 0, list(decisions))
    return data
