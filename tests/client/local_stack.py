"""A stack in this process: a writer's decisions and its history, with made-up encodings."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Settings
from pipeline.decide.decide import decide_fact
from pipeline.decide.requests import decide_forget, decide_restore
from pipeline.history import log as history
from pipeline.ingest.encoding import FactEncoding
from pipeline.memory.bank import Bank
from pipeline.memory.events import ForgetRequest, NewFact, RestoreRequest, SourceOffset, labels_of
from pipeline.text.words import split
from schemas.changelog import Decided
from schemas.fact import Fact, FactMessage, Forget, ForgetAll, ForgetKey, Restore
from workers.client import Published

BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
_COMMON = frozenset("was is of the in a has".split())


def tells_names(term: str) -> float:
    """The information of a word in a model that tells names from wording, as real ones do."""
    return 2.0 if term in _COMMON else 12.0


def tells_places(term: str) -> float:
    """The same in a model that finds no subject in these texts, only the answers: it sees no contradiction without a key."""
    return 12.0 if term in ("munich", "perth", "oslo") else 0.5


class LocalStack:
    """`publish` has the form of the client's, so that it can stand in its place."""

    def __init__(
        self,
        data: Path,
        prior: Callable[[str], float] = tells_names,
        encoder_id: str = "model",
        begin: datetime = BEGIN,
        settings: Settings | None = None,
    ) -> None:
        self.data, self.bank = data, Bank(settings)
        self._prior, self._encoder_id, self._begin = prior, encoder_id, begin
        self._offsets, self._versions = count(), count()

    def publish(
        self,
        settings: Any,
        facts: Iterable[tuple[str, FactMessage]],
        wait: bool = True,
        progress: Callable[[int, int], object] = lambda sent, decided: None,
    ) -> Published:
        published, all_rows = Published(), []
        for namespace, message in facts:
            offset = next(self._offsets)
            cause, now = SourceOffset("facts", "t", 0, offset), self._begin + timedelta(seconds=offset)
            rows = self._decided(namespace, message, cause, now)
            for row in rows:
                self.bank.apply(row)
            all_rows += rows
            verdict = Decided(
                topic_id="t", partition=0, offset=offset, outcome=rows[0].outcome, memory_id=rows[0].memory_id
            )  # fmt: skip
            published.sent += 1
            published.outcomes[verdict.outcome] += 1
            published.decided.append(verdict)
            if isinstance(message, Fact) and message.fact_id:
                published.verdicts[namespace, message.fact_id] = verdict
            progress(published.sent, published.sent)
        if all_rows:
            history.append(self.data, 0, next(self._versions), all_rows)
        return published

    def _decided(self, namespace: str, message: FactMessage, cause: SourceOffset, now: datetime) -> Any:
        match message:
            case Fact():
                words = [word.term for word in split(message.text)]
                priors = np.array([self._prior(term) for term in words], np.float32)
                vectors = np.ones((len(words), 4), np.uint8)
                encoding = FactEncoding(
                    message.text, self._encoder_id, 5.0, 1.0, 4.0, priors, priors, vectors
                )
                fact = NewFact(
                    namespace, encoding, message.observed_at or now, now, cause, message.min_loss_delta,
                    **labels_of(message),
                )  # fmt: skip
                return decide_fact(self.bank, fact, now)
            case Restore():
                return decide_restore(self.bank, RestoreRequest(namespace, message.restore, now, cause), now)
            case Forget():
                request = ForgetRequest(namespace, message.forget, False, now, cause)
            case ForgetKey():
                request = ForgetRequest(namespace, None, False, now, cause, message.forget_key)
            case ForgetAll():
                request = ForgetRequest(namespace, None, False, now, cause)
        return decide_forget(self.bank, request, now)
