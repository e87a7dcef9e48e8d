"""MemoryLM: a frozen language model with a memory, as a library that needs no Kafka.

lm = MemoryLM.load()
lm.learn(["Torben Betts was originally from Munich."])
lm.generate(["Torben Betts is originally from"])[0].text
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import Settings
from pipeline.decide.decide import decide_fact
from pipeline.fusion.engine import Engine
from pipeline.fusion.prepare import Preparer
from pipeline.fusion.row import Job, Prompt, Row
from pipeline.ingest.encoder import Encoder
from pipeline.memory.bank import Bank
from pipeline.memory.codec import memory_from_record, memory_to_record
from pipeline.memory.events import Decision, NewFact, SourceOffset, labels_of
from pipeline.memory.pooled import pool
from pipeline.memory.record import Memory
from pipeline.model import contexts
from pipeline.model.batching import close_batches
from pipeline.model.errors import Progress, silent
from pipeline.retrieve.hit import Hit
from schemas.changelog import MAX_CHANGELOG_BYTES, MemoryRecord
from schemas.common import decode, encode
from schemas.fact import Fact
from schemas.response import Token

__all__ = ["MEMORIES", "Generation", "Job", "MemoryLM", "Retrieved"]

MEMORIES = "memories.jsonl"
SCORE_TOKENS = 256  # of prompts and targets that are scored in one pass


@dataclass(frozen=True, slots=True)
class Retrieved:
    """A memory that was retrieved for a prompt; with a gate of 0 it takes no part in the answer."""

    memory_id: str
    namespace: str
    text: str
    category: str | None
    score: float
    gate: float
    doubted_by: str | None = None  # the id of a newer memory that answers the same
    metadata: str | None = None  # a JSON object


@dataclass(frozen=True, slots=True)
class Generation:
    """An answer, and the memories that were retrieved for it, best first."""

    text: str
    finish_reason: str  # "stop" or "length"
    memories: list[Retrieved]
    prompt_tokens: int
    completion_tokens: int
    tokens: list[Token] | None = None  # None unless the job wants them


class MemoryLM:
    """A frozen model, its encoder and a bank of memories. Build it with `load`."""

    def __init__(
        self,
        encoder: Encoder,
        settings: Settings | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.encoder = encoder
        self.bank = Bank(settings or encoder.settings)
        self._preparer = Preparer(encoder, self.bank)
        self._clock = clock
        self._learned = 0

    @classmethod
    def load(
        cls,
        model: str = "default",
        device: str = "auto",
        dtype: str = "auto",
        memory: Path | str | None = None,
        settings: Settings | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        progress: Progress = silent,
    ) -> Self:
        """model: "default", a hub id, a folder or a .gguf file; memory: a folder that `save` wrote. Raises ModelError."""
        lm = cls(Encoder.load(model, device, dtype, progress), settings, clock)
        if memory is not None:
            with (Path(memory) / MEMORIES).open("rb") as lines:
                for line in lines:
                    lm.put(memory_from_record(decode(MemoryRecord, line, MAX_CHANGELOG_BYTES)))
        return lm

    def save(self, path: Path | str) -> None:
        """Writes the memories, one JSON line each, into the folder `path`."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        records = (memory_to_record(m) for n in self.bank.namespaces for m in self.bank.memories(n))
        (folder / MEMORIES).write_bytes(b"".join(encode(record) + b"\n" for record in records))

    @property
    def encoder_id(self) -> str:
        return self.encoder.encoder_id

    # --- the memory ---

    def learn(
        self,
        texts: Sequence[str | Fact],
        namespace: str = "default",
        categories: Sequence[str | None] | None = None,
        min_loss_delta: float | None = None,
    ) -> list[Decision]:
        """Encodes the texts, decides each in order, and returns the decisions (outcomes: schemas.changelog.Outcome).

        A schemas.fact.Fact has fields besides its text, such as a key. categories: one for each text. min_loss_delta: nats
        per token, instead of the settings'. Both are for facts without their own. Raises TooLong.
        """
        decisions = []
        categories = categories or [None] * len(texts)
        facts = [text if isinstance(text, Fact) else Fact.model_construct(text=text) for text in texts]
        encodings = self.encoder.encode([fact.text for fact in facts])
        for fact, encoding, category in zip(facts, encodings, categories, strict=True):
            now = self._clock()
            labels = labels_of(fact)
            new = NewFact(
                fact.namespace or namespace, encoding, fact.observed_at or now, now,
                SourceOffset("facts", "library", 0, self._learned),
                min_loss_delta if fact.min_loss_delta is None else fact.min_loss_delta,
                **labels | {"category": labels["category"] or category},
            )  # fmt: skip
            self._learned += 1
            rows = decide_fact(self.bank, new, now)
            for row in rows:
                self.bank.apply(row)
            decisions.append(rows[0])
        return decisions

    def put(self, memory: Memory) -> None:
        """Adds a memory of the changelog. Raises ValueError if another model encoded it, or its states have another width."""
        if memory.encoder_id != self.encoder_id:
            raise ValueError(
                f"memory {memory.memory_id} was encoded by {memory.encoder_id}, not {self.encoder_id}"
            )
        width = -(-len(self.encoder.calibration.mean) // 4)
        if (size := len(memory.states)) not in (0, memory.words * width):
            raise ValueError(
                f"memory {memory.memory_id} has {size} bytes of states for {memory.words} words, not {width} a word"
            )
        self.bank.put(memory)

    def remove(self, namespace: str, memory_id: str) -> None:
        """Removes a memory, if it is there."""
        self.bank.remove(namespace, memory_id)

    def count(self) -> int:
        """The number of memories in all namespaces."""
        return len(self.bank)

    def read_ahead(self, texts: Sequence[str]) -> None:
        """Lets the model read memories with these texts before a prompt asks for them."""
        self._preparer.read_ahead(texts)

    # --- answers ---

    def retrieve(
        self, prompts: Sequence[str], namespace: str | Sequence[str] = "default", k: int = Settings.memories
    ) -> list[list[Retrieved]]:
        """The k best memories for each prompt, best first."""
        self.bank.expire(_as_list(namespace), self._clock)
        found = self._preparer.retrieve(prompts, [_as_list(namespace)] * len(prompts), k)
        return [[_retrieved(hit) for hit in hits] for hits in found]

    def token_count(self, texts: Sequence[str]) -> int:
        """Tokens of all texts together."""
        return sum(len(tokens.ids) for tokens in self.encoder.backbone.tokenize(texts))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[texts, d] the pooled state of each text's last words, of unit length; zeros for a text without words."""
        return np.stack([pool(p.vectors, p.unigram_nll) for p in self.encoder.encode_prompts(texts)])

    @torch.inference_mode()
    def score(
        self,
        prompts: Sequence[str],
        targets: Sequence[str],
        namespace: str | Sequence[str] = "default",
        use_memory: bool = True,
    ) -> list[float]:
        """Mean log-probability per target token, nats; the target follows the prompt after one blank."""
        backbone, texts = self.encoder.backbone, [prompt.rstrip(" ") for prompt in prompts]
        target_ids = [
            backbone.tokenize([(" " if text else "") + target.strip()])[0].ids
            for text, target in zip(texts, targets, strict=True)
        ]
        jobs = [
            Job(text, namespaces=_as_list(namespace), use_memory=use_memory, max_new_tokens=len(ids))
            for text, ids in zip(texts, target_ids, strict=True)
        ]
        prepared = self._prompts(jobs)
        rows = [prompt.ids + ids for prompt, ids in zip(prepared, target_ids, strict=True)]
        scores = [0.0] * len(rows)
        for batch in close_batches([len(row) for row in rows], SCORE_TOKENS):
            count = max(len(target_ids[i]) for i in batch.indices) + 1
            fused = [i for i in batch.indices if prepared[i].reading]
            bare = self.encoder.contexts.log_p([contexts.Prompt((), rows[i]) for i in batch.indices], count)
            read = dict(zip(fused, self._read(prepared, rows, fused, count), strict=True))
            for log_p, i in zip(bare, batch.indices, strict=True):
                target, fusion = target_ids[i], prepared[i].fusion
                begin = count - len(target) - 1
                total = 0.0
                for n, token in enumerate(target, begin):
                    # From the end: the rows after facts may be shorter than the bare ones.
                    own = fusion.fuse(log_p[n], read[i][n - count]).log_softmax(-1) if fusion else log_p[n]
                    total += float(own[token])
                    if fusion:
                        fusion.advance(token)
                scores[i] = total / max(1, len(target))
        return scores

    def _read(
        self, prepared: Sequence[Prompt], rows: Sequence[list[int]], fused: Sequence[int], count: int
    ) -> Sequence[Tensor]:
        """[count, V] of each of these rows the log-probabilities after its last tokens, read after its facts."""
        readings = [prepared[i].reading for i in fused]
        prompts = [r._replace(ids=rows[i]) for i, r in zip(fused, readings, strict=True) if r is not None]
        return list(self.encoder.contexts.log_p(prompts, count)) if prompts else []

    def generate(
        self,
        prompts: Sequence[str],
        namespace: str | Sequence[str] = "default",
        use_memory: bool = True,
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[Generation]:
        """Continues each prompt; temperature 0 is greedy."""
        options = (_as_list(namespace), use_memory, max_new_tokens, temperature, top_p, seed)
        return self.answer([Job(prompt, None, *options) for prompt in prompts])

    def answer(
        self, jobs: Sequence[Job], on_token: Callable[[int, str], bool] | None = None
    ) -> list[Generation]:
        """Answers all jobs as one batch. on_token(job's index, piece of text) may return False to end that job.

        Raises the error of the first job that failed.
        """
        engine = self.engine()
        rows = engine.submit(jobs)
        index = {row: i for i, row in enumerate(rows)}
        while engine.busy:
            for row, text, _ in engine.step():
                if text and on_token and not on_token(index[row], text):
                    engine.cancel(row)
        for row in rows:
            if row.error:
                raise row.error
        return [self.generation(row) for row in rows]

    def engine(self) -> Engine:
        """An engine, to which jobs can be submitted at any time. `answer` uses one for jobs that are known at once."""
        return Engine(self.encoder.backbone, self.encoder.contexts, self._prompts)

    def _prompts(self, jobs: Sequence[Job]) -> list[Prompt]:
        """The jobs as the engine takes them; what is valid no longer does not speak."""
        self.bank.expire(dict.fromkeys(name for job in jobs for name in job.namespaces), self._clock)
        return self._preparer.prompts(jobs)

    def generation(self, row: Row) -> Generation:
        """The answer of a finished row of `engine`."""
        memories = [_retrieved(hit) for hit in row.prompt.hits]
        tokens = row.pieces() if row.job.tokens or row.job.logprobs is not None else None
        return Generation(row.text, row.finish_reason, memories, len(row.prompt.ids), len(row.tokens), tokens)


def _as_list(namespace: str | Sequence[str]) -> list[str]:
    return [namespace] if isinstance(namespace, str) else list(namespace)


def _retrieved(hit: Hit) -> Retrieved:
    m = hit.memory
    return Retrieved(
        m.memory_id, m.namespace, m.text, m.category, hit.score, hit.gate, hit.doubted_by, m.metadata
    )
