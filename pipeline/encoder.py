"""What the encoder measures of a fact: how much each word says and surprises, and what storing the fact would buy.

A pure function of model and text, whatever else is encoded beside it: a text is always computed in the same shape.
Knows the backbone; knows nothing of memories, time or Kafka.
"""

import hashlib
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.backbone import Backbone, fixed_batches
from pipeline.encoding import Encoding
from pipeline.settings import Settings
from pipeline.words import Frequencies, split

VERSION = "1"  # of what is measured; a part of the encoder id


class TooLong(ValueError):
    """The text has more tokens than the model's context."""


class Encoder:
    def __init__(self, backbone: Backbone, settings: Settings | None = None) -> None:
        self.backbone = backbone
        self.settings = settings or Settings()
        self.frequencies = Frequencies(
            backbone.tokenizer.get_vocab(), lambda text: backbone.tokenize([text])[0].ids
        )
        mark = f"{VERSION}:{backbone.hash}:{backbone.dtype}"
        self.encoder_id = hashlib.sha256(mark.encode()).hexdigest()[:32]

    @classmethod
    def load(cls, model: str = "default", device: str = "auto", dtype: str = "auto") -> Self:
        return cls(Backbone.load(model, device, dtype))

    def fits(self, text: str) -> bool:
        """Whether the text, with its lead, is within the model's context."""
        return (
            len(self.backbone.tokenize([text])[0].ids) + len(self.backbone.lead)
            <= self.backbone.max_positions
        )

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """One encoding a text, in order. Raises TooLong."""
        tokens = self.backbone.tokenize(texts)
        lead = self.backbone.lead
        rows = [lead + t.ids for t in tokens]
        for text, row in zip(texts, rows, strict=True):
            if len(row) > self.backbone.max_positions:
                raise TooLong(
                    f"{len(row)} tokens; the model takes {self.backbone.max_positions}: {text[:60]!r}"
                )
        done: list[Encoding | None] = [None] * len(texts)
        for batch in fixed_batches([len(row) for row in rows]):
            losses = self._losses([rows[i] for i in batch.indices], batch.rows, batch.length)
            for i, loss in zip(batch.indices, losses, strict=True):
                done[i] = self._measure(texts[i], tokens[i].offsets, loss[len(lead) - 1 :])
        return [encoding for encoding in done if encoding is not None]

    @torch.inference_mode()
    def _losses(self, ids: Sequence[list[int]], rows: int, length: int) -> list[NDArray[np.float32]]:
        """-log p of each token but the first, nats: [len - 1] a row."""
        padded, mask = self.backbone.pad(ids, rows, min(length, self.backbone.max_positions))
        logits = self.backbone.model(input_ids=padded, attention_mask=mask, use_cache=False).logits[:, :-1]
        chosen = logits.gather(-1, padded[:, 1:, None])[..., 0].float()
        losses = (logits.float().logsumexp(-1) - chosen).cpu().numpy()
        return [row[: len(one) - 1] for row, one in zip(losses, ids, strict=False)]

    def _measure(self, text: str, offsets: list[tuple[int, int]], losses: NDArray[np.float32]) -> Encoding:
        words = split(text)
        priors = np.array([self.frequencies.information(text[w.start : w.end]) for w in words], np.float32)
        surprisals = np.zeros(len(words), np.float32)
        owner = np.full(len(offsets), -1)
        for t, (start, end) in enumerate(offsets):
            for w, word in enumerate(words):
                if start < word.end and word.start < end:
                    surprisals[w] += losses[t]
                    owner[t] = w
                    break
        asked = _answer(priors, self.settings.informative)
        answer = losses[np.isin(owner, asked)] if len(asked) else losses
        if not len(answer):
            answer = losses
        base = float(answer.mean()) if len(answer) else 0.0
        trust = self.settings.trust
        recall = float(-np.log(trust + (1 - trust) * np.exp(-answer)).mean()) if len(answer) else 0.0
        # Rounded, so that what is stored in 32 bits is what was decided by.
        base, recall = float(np.float32(base)), float(np.float32(recall))
        return Encoding(
            text,
            self.encoder_id,
            base,
            recall,
            float(np.float32(base - recall)),
            priors,
            surprisals,
            np.zeros((len(words), 0), np.int8),
        )


def _answer(priors: NDArray[np.float32], informative: float) -> list[int]:
    """The words that a fact ends in: its last run of words that say something. There the new thing stands."""
    last = next((i for i in range(len(priors) - 1, -1, -1) if priors[i] >= informative), None)
    if last is None:
        return []
    first = last
    while first > 0 and priors[first - 1] >= informative:
        first -= 1
    # A fact that is one such run ("Shakespeare wrote Hamlet") is about its first word, and answers with its last.
    return list(range(first, last + 1)) if first > 0 else [last]
