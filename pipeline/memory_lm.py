"""MemoryLM: a frozen language model with a memory. The library's face; usable with no Kafka.

lm = MemoryLM.load()
lm.learn(["Torben Betts was originally from Munich."])
lm.generate(["Torben Betts is originally from"])[0].text
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from pipeline.config import Settings
from pipeline.decide.decide import decide_fact
from pipeline.fusion.answer_span import Run, answer_of, speaking
from pipeline.fusion.engine import Batch, Row, generate, pieces
from pipeline.fusion.fusion import Reading
from pipeline.ingest.encoder import Encoder
from pipeline.memory.bank import Bank
from pipeline.memory.codec import memory_from_record, memory_to_record
from pipeline.memory.events import Decision, NewFact, SourceOffset
from pipeline.memory.record import Memory
from pipeline.model.batching import fixed_batches
from pipeline.retrieve.hit import Hit
from pipeline.retrieve.retriever import retrieve_all
from schemas.changelog import MAX_CHANGELOG_BYTES, MemoryRecord
from schemas.common import decode, encode
from schemas.response import Token

MEMORIES = "memories.jsonl"


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
    tokens: list[Token] | None = None  # where asked for


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
    tokens: bool = False

    def asked(self) -> str:
        """The text by which memories are looked for: the prompt, or the chat's last turn."""
        return (
            self.prompt or ""
            if self.messages is None
            else (self.messages[-1]["content"] if self.messages else "")
        )


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
                namespace, encoding, now, now, SourceOffset("facts", "library", 0, self._learned),
                category=category, min_loss_delta=min_loss_delta,
            )  # fmt: skip
            self._learned += 1
            rows = decide_fact(self.bank, fact, now)
            for row in rows:
                self.bank.apply(row)
            decisions.append(rows[0])
        return decisions

    def put(self, memory: Memory) -> None:
        """Takes a memory of the changelog. Raises ValueError for one that another model encoded, or that cannot be compared."""
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
        self.bank.remove(namespace, memory_id)

    def count(self) -> int:
        return len(self.bank)

    # --- asking ---

    def retrieve(
        self, prompts: Sequence[str], namespace: str | Sequence[str] = "default", k: int = Settings.memories
    ) -> list[list[Retrieved]]:
        """The k best memories for each prompt, best first."""
        hits = self._hits(prompts, [_several(namespace)] * len(prompts), k)
        return [[_shown(hit) for hit in one] for one in hits]

    @torch.inference_mode()
    def score(
        self,
        prompts: Sequence[str],
        targets: Sequence[str],
        namespace: str | Sequence[str] = "default",
        use_memory: bool = True,
    ) -> list[float]:
        """Mean log-probability per target token, nats; the target follows the prompt after one blank."""
        backbone, asked = self.encoder.backbone, [prompt.rstrip(" ") for prompt in prompts]
        wanted = [
            self._tokenize((" " if prompt else "") + t.strip())
            for prompt, t in zip(asked, targets, strict=True)
        ]
        jobs = [
            Job(prompt, namespaces=_several(namespace), use_memory=use_memory, max_new_tokens=len(ids))
            for prompt, ids in zip(asked, wanted, strict=True)
        ]
        rows = [row for row, _ in self.prepare(jobs)]
        whole = [row.ids + ids for row, ids in zip(rows, wanted, strict=True)]
        scores = [0.0] * len(rows)
        for batch in fixed_batches([len(ids) for ids in whole]):
            padded, _ = backbone.pad(
                [whole[i] for i in batch.indices], batch.rows, min(batch.length, backbone.max_positions)
            )
            logits = backbone.model(input_ids=padded, use_cache=False).logits
            for r, i in enumerate(batch.indices):
                begin = len(rows[i].ids) - 1
                scores[i] = self._of_target(
                    rows[i], wanted[i], logits[r, begin : begin + len(wanted[i])].float()
                )
        return scores

    def _of_target(self, row: Row, wanted: list[int], logits: Tensor) -> float:
        """logits: [tokens, V], those that predict each token of the target."""
        total = 0.0
        for n, token in enumerate(wanted):
            if not row.reading.silent:
                row.reading.predict(logits[n])
            total += float(torch.log_softmax(logits[n], -1)[token])
            if not row.reading.silent:
                row.reading.advance(token, self.encoder.backbone.decode(wanted[: n + 1]))
        return total / max(1, len(wanted))

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
        made = self.prepare(jobs)
        for i, (row, _) in enumerate(made):
            row.send = partial(on_token, i) if on_token else None
        generate(self.encoder.backbone, [row for row, _ in made])
        return [self.made(row, hits) for row, hits in made]

    def batch(self) -> Batch:
        """A batch that rows of `prepare` can join and leave at any time: what `answer` does for all at once."""
        return Batch(self.encoder.backbone)

    def prepare(self, jobs: Sequence[Job]) -> list[tuple[Row, list[Hit]]]:
        """Each job's row, for a batch, and the memories that were found for it."""
        names = [job.namespaces if job.use_memory else () for job in jobs]
        settings = self.bank.settings
        hits = self._hits([job.asked() for job in jobs], names, settings.memories, settings.other_memories)
        runs: dict[tuple[str, ...], Run | None] = {}
        return [self._row(job, found, runs) for job, found in zip(jobs, hits, strict=True)]

    def made(self, row: Row, hits: Sequence[Hit]) -> Generation:
        """What became of a row that has ended."""
        shown = [_shown(hit) for hit in hits]
        return Generation(row.text, row.finish_reason, shown, len(row.ids), len(row.tokens), pieces(row))

    # --- inside ---

    def _hits(
        self, texts: Sequence[str], namespaces: Sequence[Sequence[str]], k: int, others: int = 0
    ) -> list[list[Hit]]:
        """For each text its memories. What is asked twice is looked for once, and nothing where there are no memories."""
        asked = [(text, *names) for text, names in zip(texts, namespaces, strict=True)]
        full = [one for one in dict.fromkeys(asked) if any(self.bank.size(name) for name in one[1:])]
        found = retrieve_all(
            self.bank,
            [names for _, *names in full],
            self.encoder.encode_prompts([text for text, *_ in full]),
            k,
            others,
        )
        hits = dict(zip(full, found, strict=True))
        return [hits.get(one, []) for one in asked]

    def _row(
        self, job: Job, hits: list[Hit], runs: dict[tuple[str, ...], Run | None]
    ) -> tuple[Row, list[Hit]]:
        """runs: the answers that were looked for already, by context and the memories' ids."""
        backbone = self.encoder.backbone
        if job.messages is not None:
            context = backbone.chat(job.messages)
            ids = backbone.tokenize_prompt(context)
        else:
            context = job.prompt or ""
            begin = backbone.lead if backbone.lead == [backbone.tokenizer.bos_token_id] else []
            ids = begin + self._tokenize(context)
        room = min(job.max_new_tokens, max(1, backbone.max_positions // 2))
        informative, settings = self.encoder.informative, self.bank.settings
        asked = (context, *(hit.memory.memory_id for hit in hits))
        if asked not in runs:
            runs[asked] = answer_of(backbone, hits, context, settings.memories, informative, settings)
        run = runs[asked]
        if run:
            hits = speaking(hits, run)
        hits = [hit for n, hit in enumerate(hits) if n < settings.memories or (run and n == run.found)]
        row = Row(
            backbone.clip(ids or backbone.lead, room),
            Reading(hits, self._tokenize, informative, settings, context, whole=run is not None),
            room, job.temperature, job.top_p, job.seed, job.stop, moved=[] if job.tokens else None,
        )  # fmt: skip
        return row, hits

    def _tokenize(self, text: str) -> list[int]:
        return self.encoder.backbone.tokenize([text])[0].ids


def _several(namespace: str | Sequence[str]) -> list[str]:
    return [namespace] if isinstance(namespace, str) else list(namespace)


def _shown(hit: Hit) -> Retrieved:
    m = hit.memory
    return Retrieved(m.memory_id, m.namespace, m.text, m.category, hit.score, hit.gate)
