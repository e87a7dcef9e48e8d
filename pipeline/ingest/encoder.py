"""Encoder: turns a fact's text into its loss delta and per-word states, and a prompt into word states.

The encoding of a fact is a pure function of model and text: it is always computed in the same shape, on one core, whatever
else is in the batch. Prompts are stored nowhere, so they are computed in the least time instead.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import TEXT, Settings
from pipeline.ingest.encoding import Asked, Encoding, Stopped, TooLong
from pipeline.ingest.quantize import pack
from pipeline.model.backbone import Backbone, Tokens
from pipeline.model.batching import Batch, close_batches, fixed_batches, run_each
from pipeline.model.calibration import Calibration, calibration_of
from pipeline.model.errors import Progress, silent
from pipeline.text.clauses import prompt_labels
from pipeline.text.frequencies import Frequencies
from pipeline.text.names import name_scores
from pipeline.text.words import Word, split

VERSION = "2"  # of what is measured; a part of the encoder id
AT_ONCE = 1024  # texts whose states are held at a time
TOGETHER = 256  # tokens that a CPU computes together, padding included; the more, the emptier the last batch of facts
CARD_TOGETHER = 8192  # the same for a card, which needs more at a time to be busy


class Encoder:
    def __init__(
        self, backbone: Backbone, settings: Settings | None = None, calibration: Calibration | None = None
    ) -> None:
        self.backbone = backbone
        self.settings = settings or Settings()
        self.calibration = calibration or calibration_of(backbone)
        self.frequencies = Frequencies(
            backbone.tokenizer.get_vocab(), lambda text: backbone.tokenize([text])[0].ids
        )
        mark = f"{VERSION}:{backbone.hash}:{backbone.dtype}:{self.calibration.sha256}"
        self.encoder_id = hashlib.sha256(mark.encode()).hexdigest()[:32]

    @property
    def informative(self) -> float:
        """Nats: what a word must say at least, to be an answer or a part of it."""
        return self.settings.informative * self.frequencies.max_nll

    @classmethod
    def load(
        cls, model: str = "default", device: str = "auto", dtype: str = "auto", progress: Progress = silent
    ) -> Self:
        backbone = Backbone.load(model, device, dtype, progress)
        return cls(backbone, calibration=calibration_of(backbone, progress))

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """The encoding of each text, in order. Raises TooLong."""
        encodings = []
        for encoding in self.encode_each(texts):
            if isinstance(encoding, TooLong):
                raise encoding
            encodings.append(encoding)
        return encodings

    def encode_each(
        self, texts: Sequence[str], stop: Callable[[], bool] = lambda: False
    ) -> list[Encoding | TooLong]:
        """The encoding of each text, in order, or the error for a text that is too long.

        Raises Stopped between two of the model's batches once `stop` returns True.
        """
        encodings: list[Encoding | TooLong] = []
        for at in range(0, len(texts), AT_ONCE):
            encodings += self._encode(texts[at : at + AT_ONCE], stop)
        return encodings

    def _encode(self, texts: Sequence[str], stop: Callable[[], bool]) -> list[Encoding | TooLong]:
        tokens = self.backbone.tokenize(texts)
        rows, limit = [self.backbone.lead + t.ids for t in tokens], self.backbone.max_positions
        measured = iter(self._forward([row for row in rows if len(row) <= limit], fixed=True, stop=stop))
        return [
            self._measure(text, t.offsets, *next(measured))
            if len(row) <= limit
            else TooLong(f"the text has {len(row)} tokens; the model takes {limit}")
            for text, t, row in zip(texts, tokens, rows, strict=True)
        ]

    def ask(self, prompts: Sequence[str]) -> list[Asked]:
        """The last words of each prompt, as retrieval takes them. A prompt's form of question and answer is left out."""
        tokens = self.backbone.tokenize(prompts)
        lead = self.backbone.lead
        room = min(self.settings.prompt_tokens, self.backbone.max_positions - len(lead))
        tokens = [Tokens(t.ids[-room:], t.offsets[-room:]) for t in tokens]
        measured = self._forward([lead + t.ids for t in tokens], fixed=False)
        return [
            self._words_of(prompt, t.offsets, losses, states)
            for prompt, t, (losses, states) in zip(prompts, tokens, measured, strict=True)
        ]

    def _forward(
        self, rows: Sequence[list[int]], fixed: bool, stop: Callable[[], bool] = lambda: False
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """For each row, -log p of each token behind the lead, nats, and those tokens' whitened states [tokens, d].

        fixed: a row's numbers do not depend, not even in their last bits, on what is beside it, nor on how many cores a CPU
        has. Else all cores compute one batch, and nothing more than there is: the least time for a few rows.
        """
        begin, on_cpu = len(self.backbone.lead), self.backbone.device.type == "cpu"
        together, apart = TOGETHER if on_cpu else CARD_TOGETHER, fixed and on_cpu
        batches = (fixed_batches if fixed else close_batches)([len(row) for row in rows], together)
        order = [i for batch in batches for i in batch.indices]
        read = [some for part in run_each(partial(self._read, rows, stop), batches, apart) for some in part]
        if not read:
            return []
        # The head is the widest part of a small model: it reads no padding, but what is left of all rows in one piece.
        given = torch.cat([one for one, _ in read])
        wanted = [token for i in order for token in rows[i][begin:]]
        pieces = [slice(at, at + together) for at in range(0, len(wanted), together)]
        padded = together if fixed else 1
        losses = run_each(
            lambda piece: self.backbone.hidden.losses(given[piece], wanted[piece], padded), pieces, apart
        )
        by_row = torch.cat(losses).cpu().numpy() if losses else np.zeros(0, np.float32)
        ends = np.cumsum([len(rows[i]) - begin for i in order])
        found = {
            i: (own, states)
            for i, own, (_, states) in zip(order, np.split(by_row, ends[:-1]), read, strict=True)
        }
        return [found[i] for i in range(len(rows))]

    @torch.inference_mode()
    def _read(
        self, rows: Sequence[list[int]], stop: Callable[[], bool], batch: Batch
    ) -> list[tuple[Tensor, NDArray[np.float32]]]:
        """For each row of the batch what the head is given [tokens, d], and the whitened states [tokens, d]."""
        if stop():
            raise Stopped
        backbone, begin = self.backbone, len(self.backbone.lead)
        length = min(batch.length, backbone.max_positions)
        padded, _ = backbone.pad([rows[i] for i in batch.indices], batch.rows, length)
        before_head, states = backbone.hidden.read(padded, self.calibration.layer)
        white = self.calibration.whiten(states.flatten(0, 1)).view(states.shape).cpu().numpy()
        return [
            (before_head[r, begin - 1 : len(rows[i]) - 1], white[r, begin : len(rows[i])])
            for r, i in enumerate(batch.indices)
        ]

    def _words_of(
        self,
        text: str,
        offsets: list[tuple[int, int]],
        losses: NDArray[np.float32],
        states: NDArray[np.float32],
    ) -> Asked:
        words, labels = split(text), prompt_labels(text)
        owner = owners(offsets, words)
        kept = [w for w in range(len(words)) if w not in labels and (owner == w).any()][
            -self.settings.prompt_words :
        ]
        priors = np.array(
            [self.frequencies.unigram_nll(text[words[w].start : words[w].end]) for w in kept], np.float32
        )
        return Asked(
            [words[w].term for w in kept],
            priors,
            np.array([losses[owner == w].sum() for w in kept], np.float32),
            self._marks(text, [words[w] for w in kept], priors),
            np.array([states[owner == w][-1] for w in kept], np.float32).reshape(len(kept), states.shape[1]),
            self.informative,
        )

    def _marks(self, text: str, words: list[Word], priors: NDArray[np.float32]) -> list[float]:
        """How much each word of a prompt looks like a name. "Tell", with which it begins, does not."""
        marks = name_scores(text, words, [float(p) / self.frequencies.max_nll for p in priors])
        return [
            0.0
            if mark == TEXT.sentence_start_score
            and self.frequencies.is_commoner_lowercase(text[word.start : word.end])
            else mark
            for word, mark in zip(words, marks, strict=True)
        ]

    def _measure(
        self,
        text: str,
        offsets: list[tuple[int, int]],
        losses: NDArray[np.float32],
        states: NDArray[np.float32],
    ) -> Encoding:
        words = split(text)
        priors = np.array([self.frequencies.unigram_nll(text[w.start : w.end]) for w in words], np.float32)
        owner = owners(offsets, words)
        surprisals = np.array([losses[owner == w].sum() for w in range(len(words))], np.float32)
        last = [int(np.flatnonzero(owner == w)[-1]) if (owner == w).any() else -1 for w in range(len(words))]
        vectors = np.array([states[t] if t >= 0 else np.zeros(states.shape[1]) for t in last], np.float32)
        asked = _answer(priors, self.informative)
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
            pack(vectors.reshape(len(words), states.shape[1])),
        )


def owners(offsets: Sequence[tuple[int, int]], words: Sequence[Word]) -> NDArray[np.int64]:
    """For each token the index of the word that it is a part of, -1 for none."""
    owner, w = np.full(len(offsets), -1), 0
    for t, (start, end) in enumerate(offsets):
        while w < len(words) and words[w].end <= start:
            w += 1
        if w < len(words) and words[w].start < end and start < words[w].end:
            owner[t] = w
    return owner


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
