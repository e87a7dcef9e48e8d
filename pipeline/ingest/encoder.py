"""Encoder: turns a fact's text into its loss delta and per-word states, and a prompt into word states.

The encoding of a fact is a pure function of model and text: it is always computed in the same shape, on one core, whatever
else is in the batch. Prompts are not stored, so they are computed in the least time instead.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from threading import Lock
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.config import DECISIONS, TEXT, Settings
from pipeline.ingest.encoding import FactEncoding, PromptEncoding, TooLong
from pipeline.ingest.loss_delta import losses_of_answer
from pipeline.ingest.packing import Packing, packing_of
from pipeline.ingest.quantize import pack
from pipeline.ingest.token_states import token_states
from pipeline.model.backbone import Backbone, Tokens
from pipeline.model.calibration import Calibration, calibration_of
from pipeline.model.contexts import Contexts
from pipeline.model.errors import Progress, silent
from pipeline.model.reading import EXAMPLES
from pipeline.model.weights import Weights, weights_of
from pipeline.text.clauses import prompt_labels
from pipeline.text.frequencies import Frequencies
from pipeline.text.names import name_scores
from pipeline.text.words import Word, split

VERSION = "4"  # of the encodings, and part of the encoder id: raise it whenever they change
TEXTS_AT_ONCE = 1024  # a bound of the states in memory
PROMPTS_KEPT = 256  # the last used ones: a fact that answers is encoded as a prompt, too, to find what it needs beside it


class Encoder:
    """The backbone, its calibration and its word frequencies: all that encodings depend on."""

    def __init__(
        self,
        backbone: Backbone,
        settings: Settings | None = None,
        calibration: Calibration | None = None,
        weights: Weights | None = None,
    ) -> None:
        self.backbone = backbone
        self.settings = settings or Settings()
        self.calibration = calibration or calibration_of(backbone)
        self.frequencies = Frequencies(
            backbone.tokenizer.get_vocab(), lambda text: backbone.tokenize([text])[0].ids
        )
        self.weights = weights or weights_of(backbone)
        prefix = self.weights.prefix_for(backbone.hash)
        self.contexts = Contexts(backbone, tuned={} if prefix is None else {(EXAMPLES,): prefix})
        identity = (
            f"{VERSION}:{backbone.hash}:{backbone.dtype}:{self.calibration.sha256}:{self.weights.sha256}"
        )
        self._prompts: OrderedDict[str, PromptEncoding] = OrderedDict()  # the last used ones last
        self._lock = Lock()
        self.encoder_id = hashlib.sha256(identity.encode()).hexdigest()[:32]

    @classmethod
    def load(
        cls, model: str = "default", device: str = "auto", dtype: str = "auto", progress: Progress = silent
    ) -> Self:
        """An encoder of the model (see Backbone.load). Raises ModelError."""
        backbone = Backbone.load(model, device, dtype, progress)
        return cls(backbone, calibration=calibration_of(backbone, progress))

    @cached_property
    def _packing(self) -> Packing | None:
        return packing_of(self.backbone)

    @property
    def informative(self) -> float:
        """Nats: the least unigram_nll of a word that may be an answer, or part of one."""
        return self.settings.informative * self.frequencies.max_nll

    def encode(self, texts: Sequence[str]) -> list[FactEncoding]:
        """The encoding of each fact's text, in order. Raises TooLong."""
        encodings = []
        for encoding in self.encode_each(texts):
            if isinstance(encoding, TooLong):
                raise encoding
            encodings.append(encoding)
        return encodings

    def encode_each(
        self, texts: Sequence[str], stop: Callable[[], bool] = lambda: False
    ) -> list[FactEncoding | TooLong]:
        """The encoding of each fact's text, in order, or the error for a text that is too long.

        Raises Stopped between two of the model's batches once `stop` returns True.
        """
        encodings: list[FactEncoding | TooLong] = []
        for at in range(0, len(texts), TEXTS_AT_ONCE):
            encodings += self._encode_some(texts[at : at + TEXTS_AT_ONCE], stop)
        return encodings

    def encode_prompts(self, prompts: Sequence[str]) -> list[PromptEncoding]:
        """The last words of each prompt, for retrieval; its labels ("Question:", "Answer:") are left out.

        The last `PROMPTS_KEPT` are not computed again.
        """
        with self._lock:
            found = {prompt: self._prompts[prompt] for prompt in prompts if prompt in self._prompts}
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in found]
        found |= zip(new, self._encode_prompts(new), strict=True)
        with self._lock:
            for prompt, encoding in found.items():
                self._prompts[prompt] = encoding
                self._prompts.move_to_end(prompt)
            while len(self._prompts) > PROMPTS_KEPT:
                self._prompts.popitem(last=False)
        return [found[prompt] for prompt in prompts]

    def _encode_prompts(self, prompts: Sequence[str]) -> list[PromptEncoding]:
        lead = self.backbone.lead
        room = min(self.settings.prompt_tokens, self.backbone.max_positions - len(lead))
        tokens = [Tokens(t.ids[-room:], t.offsets[-room:]) for t in self.backbone.tokenize(prompts)]
        rows = [lead + t.ids for t in tokens]
        measured = token_states(self.backbone, self.calibration, rows, fixed=False)
        return [
            self._prompt_encoding(prompt, t.offsets, losses, states)
            for prompt, t, (losses, states) in zip(prompts, tokens, measured, strict=True)
        ]

    def _encode_some(self, texts: Sequence[str], stop: Callable[[], bool]) -> list[FactEncoding | TooLong]:
        tokens = self.backbone.tokenize(texts)
        rows, limit = [self.backbone.lead + t.ids for t in tokens], self.backbone.max_positions
        fitting = [row for row in rows if len(row) <= limit]
        measured = iter(
            token_states(
                self.backbone, self.calibration, fitting, fixed=True, stop=stop, packing=self._packing
            )
        )
        return [
            self._fact_encoding(text, t.offsets, *next(measured))
            if len(row) <= limit
            else TooLong(f"the text has {len(row)} tokens; the model takes {limit}")
            for text, t, row in zip(texts, tokens, rows, strict=True)
        ]

    def _fact_encoding(
        self,
        text: str,
        offsets: list[tuple[int, int]],
        losses: NDArray[np.float32],
        states: NDArray[np.float32],
    ) -> FactEncoding:
        words = split(text)
        unigram_nll = self._unigram_nll(text, words)
        word_of = words_of_tokens(offsets, words)
        surprisals = np.array([losses[word_of == w].sum() for w in range(len(words))], np.float32)
        # A word's state is that of its last token, which has read all of it; a word without a token has zeros.
        last = [
            int(np.flatnonzero(word_of == w)[-1]) if (word_of == w).any() else -1 for w in range(len(words))
        ]
        vectors = np.array([states[t] if t >= 0 else np.zeros(states.shape[1]) for t in last], np.float32)
        base, recall, delta = losses_of_answer(
            losses, word_of, unigram_nll, self.informative, DECISIONS.recalled
        )
        return FactEncoding(
            text, self.encoder_id, base, recall, delta, unigram_nll, surprisals,
            pack(vectors.reshape(len(words), states.shape[1])),
        )  # fmt: skip

    def _prompt_encoding(
        self,
        text: str,
        offsets: list[tuple[int, int]],
        losses: NDArray[np.float32],
        states: NDArray[np.float32],
    ) -> PromptEncoding:
        words = split(text)
        labels = prompt_labels(text, words)
        word_of = words_of_tokens(offsets, words)
        kept = [w for w in range(len(words)) if w not in labels and (word_of == w).any()]
        kept = kept[-self.settings.prompt_words :]
        kept_words = [words[w] for w in kept]
        unigram_nll = self._unigram_nll(text, kept_words)
        return PromptEncoding(
            [word.term for word in kept_words],
            unigram_nll,
            np.array([losses[word_of == w].sum() for w in kept], np.float32),
            self._name_scores(text, kept_words, unigram_nll),
            np.array([states[word_of == w][-1] for w in kept], np.float32).reshape(
                len(kept), states.shape[1]
            ),
            self.informative,
        )

    def priors(self, text: str) -> NDArray[np.float32]:
        """[words] the unigram_nll of a fact's words, nats: what is told without running the model."""
        return self._unigram_nll(text, split(text))

    def _unigram_nll(self, text: str, words: Sequence[Word]) -> NDArray[np.float32]:
        return np.array([self.frequencies.unigram_nll(text[w.start : w.end]) for w in words], np.float32)

    def _name_scores(self, text: str, words: list[Word], unigram_nll: NDArray[np.float32]) -> list[float]:
        """How much each word of a prompt looks like a name. A common word that begins a sentence ("Tell") does not."""
        scores = name_scores(text, words, [float(nll) / self.frequencies.max_nll for nll in unigram_nll])
        return [
            0.0
            if score == TEXT.sentence_start_score
            and self.frequencies.is_commoner_lowercase(text[word.start : word.end])
            else score
            for word, score in zip(words, scores, strict=True)
        ]


def words_of_tokens(offsets: Sequence[tuple[int, int]], words: Sequence[Word]) -> NDArray[np.int64]:
    """[tokens] the index of the word that each token is part of, -1 for none."""
    word_of, w = np.full(len(offsets), -1), 0
    for t, (start, end) in enumerate(offsets):
        while w < len(words) and words[w].end <= start:
            w += 1
        if w < len(words) and words[w].start < end and start < words[w].end:
            word_of[t] = w
    return word_of
