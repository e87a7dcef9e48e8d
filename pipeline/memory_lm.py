"""MemoryLM: a frozen language model with a memory. The library's face; usable with no Kafka.

lm = MemoryLM.load()
lm.learn(["Torben Betts was originally from Munich."])
lm.generate(["Torben Betts is originally from"])[0].text
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import torch

from pipeline.bank import Bank
from pipeline.decision import Cause, Decision, Memory, NewFact
from pipeline.encoder import Encoder
from pipeline.generation import Row, generate
from pipeline.reading import Reading
from pipeline.records import from_record, to_record
from pipeline.retrieval import Retrieved as Hit
from pipeline.retrieval import retrieve
from pipeline.settings import Settings
from schemas.changelog import MAX_CHANGELOG_BYTES, MemoryRecord
from schemas.common import decode, encode

MEMORIES = "memories.jsonl"
K = 3  # memories that may take part in an answer


@dataclass(frozen=True, slots=True)
class Retrieved:
    memory_id: str
    namespace: str
    text: str
    category: str | None
    score: float
    gate: float


@dataclass(frozen=True, slots=True)
class Generation:
    text: str
    finish_reason: str  # "stop" or "length"
    memories: list[Retrieved]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt, or one chat ({role, content} each), to be answered."""

    prompt: str | None = None
    messages: Sequence[Mapping[str, str]] | None = None
    namespaces: Sequence[str] = ("default",)
    use_memory: bool = True
    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: Sequence[str] = field(default_factory=tuple)

    def asked(self) -> str:
        """The text by which memories are looked for: the prompt, or the chat's last turn."""
        return self.prompt or "" if self.messages is None else self.messages[-1]["content"]


class MemoryLM:
    def __init__(
        self,
        encoder: Encoder,
        settings: Settings | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.encoder = encoder
        self.bank = Bank(settings or encoder.settings)
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
    ) -> Self:
        """model: "default", a hub id, a folder or a .gguf file; memory: a folder that `save` wrote. Raises ModelError."""
        lm = cls(Encoder.load(model, device, dtype), settings, clock)
        if memory is not None:
            with (Path(memory) / MEMORIES).open("rb") as lines:
                for line in lines:
                    lm.put(from_record(decode(MemoryRecord, line, MAX_CHANGELOG_BYTES)))
        return lm

    def save(self, path: Path | str) -> None:
        """Writes the memories, one JSON line each, into the folder `path`."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        records = (to_record(m) for n in self.bank.namespaces for m in self.bank.memories(n))
        (folder / MEMORIES).write_bytes(b"".join(encode(record) + b"\n" for record in records))

    @property
    def encoder_id(self) -> str:
        return self.encoder.encoder_id

    # --- the memory ---

    def learn(
        self,
        texts: Sequence[str],
        namespace: str = "default",
        categories: Sequence[str | None] | None = None,
        min_loss_delta: float | None = None,
    ) -> list[Decision]:
        """What became of each text, in order (schemas.changelog.Outcome)."""
        decisions = []
        given = categories or [None] * len(texts)
        for encoding, category in zip(self.encoder.encode(texts), given, strict=True):
            now = self._clock()
            fact = NewFact(
                namespace, encoding, now, now, Cause("facts", "library", 0, self._learned), category,
                min_loss_delta=min_loss_delta,
            )  # fmt: skip
            self._learned += 1
            rows = self.bank.decide(fact, now)
            for row in rows:
                self.bank.apply(row)
            decisions.append(rows[0])
        return decisions

    def put(self, memory: Memory) -> None:
        """Takes a memory of the changelog. Raises ValueError for one that another model encoded."""
        if memory.encoder_id != self.encoder_id:
            raise ValueError(
                f"memory {memory.memory_id} was encoded by {memory.encoder_id}, not {self.encoder_id}"
            )
        self.bank.put(memory)

    def remove(self, namespace: str, memory_id: str) -> None:
        self.bank.remove(namespace, memory_id)

    def count(self) -> int:
        return len(self.bank)

    # --- asking ---

    def retrieve(
        self, prompts: Sequence[str], namespace: str | Sequence[str] = "default", k: int = K
    ) -> list[list[Retrieved]]:
        """The k best memories for each prompt, best first."""
        return [[_shown(hit) for hit in self._hits(prompt, _several(namespace), k)] for prompt in prompts]

    @torch.inference_mode()
    def score(
        self,
        prompts: Sequence[str],
        targets: Sequence[str],
        namespace: str | Sequence[str] = "default",
        use_memory: bool = True,
    ) -> list[float]:
        """Mean log-probability per target token, nats; the target follows the prompt after one blank."""
        scores = []
        for prompt, target in zip(prompts, targets, strict=True):
            job = Job(prompt, namespaces=_several(namespace), use_memory=use_memory)
            row, _ = self._row(job)
            wanted = self._tokenize(" " + target.strip())
            ids, mask = self.encoder.backbone.pad([row.ids + wanted])
            logits = self.encoder.backbone.model(input_ids=ids, attention_mask=mask).logits[0].float()
            total = 0.0
            for n, token in enumerate(wanted):
                now = logits[len(row.ids) + n - 1]
                fused = now if row.reading.silent else row.reading.predict(now)
                total += float(torch.log_softmax(fused, -1)[token])
                if not row.reading.silent:
                    row.reading.advance(token, self.encoder.backbone.decode(wanted[: n + 1]))
            scores.append(total / len(wanted))
        return scores

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
        return self.answer(
            [
                Job(p, None, _several(namespace), use_memory, max_new_tokens, temperature, top_p, seed)
                for p in prompts
            ]
        )

    def answer(
        self, jobs: Sequence[Job], on_token: Callable[[int, str], bool] | None = None
    ) -> list[Generation]:
        """Answers all jobs as one batch. on_token(job's index, piece of text) may return False to end that job."""
        made = [self._row(job) for job in jobs]
        rows = [row for row, _ in made]
        generate(self.encoder.backbone, rows, on_token)
        return [
            Generation(
                row.text, row.finish_reason, [_shown(hit) for hit in hits], len(row.ids), len(row.tokens)
            )
            for row, hits in made
        ]

    # --- inside ---

    def _hits(self, text: str, namespaces: Sequence[str], k: int) -> list[Hit]:
        return retrieve(self.bank, namespaces, text, self.encoder.frequencies.information, k)

    def _row(self, job: Job) -> tuple[Row, list[Hit]]:
        backbone = self.encoder.backbone
        hits = self._hits(job.asked(), job.namespaces, K) if job.use_memory else []
        if job.messages is not None:
            context = backbone.chat(job.messages)
            ids = backbone.tokenize_prompt(context)
        else:
            context = job.prompt or ""
            begin = backbone.lead if backbone.lead == [backbone.tokenizer.bos_token_id] else []
            ids = begin + self._tokenize(context)
        room = max(1, backbone.max_positions // 2)
        row = Row(
            backbone.clip(ids, min(job.max_new_tokens, room)),
            Reading(hits, self._tokenize, self.bank.settings, context),
            min(job.max_new_tokens, room), job.temperature, job.top_p, job.seed, job.stop,
        )  # fmt: skip
        return row, hits

    def _tokenize(self, text: str) -> list[int]:
        return self.encoder.backbone.tokenize([text])[0].ids


def _several(namespace: str | Sequence[str]) -> list[str]:
    return [namespace] if isinstance(namespace, str) else list(namespace)


def _shown(hit: Hit) -> Retrieved:
    m = hit.memory
    return Retrieved(m.memory_id, m.namespace, m.text, m.category, hit.score, hit.gate)
