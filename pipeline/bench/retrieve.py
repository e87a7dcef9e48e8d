"""Speed, recall and memory use of retrieval, compared with scoring every memory.

The bank consists of facts that the model encodes here and of variants of them (synthetic/banks.py). A third
of the prompts are a fact's own beginning, a third paraphrases, a third questions. The time of encoding them is
not counted. Exhaustive retrieval computes the same score for every memory, and aligns the best as retrieval
does. A retrieved memory is right if its score is at least that of the last of the exhaustive best (as in
ANN-Benchmarks, Aumüller et al. 2020), since in a large bank many memories match a prompt equally well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

import numpy as np

from pipeline.bench.harness import Progress, clock, percentile, resident_bytes
from pipeline.bench.synthetic.banks import variants
from pipeline.bench.synthetic.texts import made_up_facts, prompts_for
from pipeline.ingest.encoder import Encoder
from pipeline.ingest.encoding import FactEncoding, PromptEncoding
from pipeline.memory.bank import Bank
from pipeline.memory.lookup import Lookup
from pipeline.memory.record import Memory
from pipeline.retrieve.hit import Hit
from pipeline.retrieve.idf import prompt_idf
from pipeline.retrieve.retriever import best_hits, retrieve, retrieve_all
from pipeline.retrieve.scoring import scores_of

SEED = 20261125
ENCODED = 1200
"""Facts that the model encodes."""
PROMPTS = 102
EXHAUSTIVE_TIMED = 3
"""Prompts whose exhaustive retrieval is timed, one at a time."""
TOGETHER = 64
"""Prompts that are retrieved together."""
BEST = 3
TOLERANCE = 1e-6
"""Relative tolerance of scores: sums in another order differ by less."""
CHUNK = 4_000
"""Memories that are scored at once."""
SIZES = (1_000, 10_000, 100_000)
"""Sizes at which the cost is measured, besides the full one."""
SMALL = 100_000
"""Memories up to which the stricter limits hold."""
NAMESPACE = "bench"


@dataclass(frozen=True, slots=True)
class Limited:
    """A measure and its limit."""

    name: str
    value: float
    limit: float
    at_least: bool  # otherwise at most

    @property
    def kept(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True, slots=True)
class At:
    """The cost of a prompt at one size of memory."""

    memories: int
    median_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The measurement's result."""

    model: str
    memories: int
    words: float  # mean per memory
    encoded: int
    prompts: int
    measures: list[Limited]
    exhaustive_ms: float  # per prompt, median
    first_ms: float  # the very first prompt, which builds the index of pooled states
    curve: list[At]
    seconds: float


def measure(encoder: Encoder, memories: int, progress: Progress) -> Retrieval:
    """Grows a bank to `memories` (at least 1,000) and measures at several sizes, recall only at the last."""
    begun = clock()
    texts, dice = made_up_facts(min(ENCODED, memories), SEED), Random(SEED)
    encodings = _encoded(encoder, texts, progress)
    sample = dice.sample(texts, PROMPTS)
    prompts = encoder.encode_prompts([prompts_for(text)[i % 3] for i, text in enumerate(sample)])
    progress("encoding prompts", PROMPTS, PROMPTS)

    bank, source = Bank(), variants(encodings, NAMESPACE, SEED)
    bytes_before, words, first, curve = resident_bytes(), 0, 0.0, []
    for size in sorted({*(s for s in SIZES if s < memories), memories}):
        words += _fill(bank, source, size, memories, progress)
        before = clock()
        retrieve(bank, [NAMESPACE], prompts[0], BEST)
        first = clock() - before
        grown = resident_bytes() - bytes_before
        times, found = one_by_one(bank, prompts)
        curve.append(At(size, 1000 * percentile(times, 0.5), 1000 * percentile(times, 0.99)))

    alone, together = alone_and_together(bank, prompts)
    right = _right(found, exhaustive(bank, prompts, progress))
    exhaustive_ms = 1000 * percentile(_exhaustive_times(bank, prompts, progress), 0.5)
    few = memories <= SMALL
    return Retrieval(
        encoder.backbone.name, memories, words / memories, len(encodings), PROMPTS,
        [
            Limited("recall of the exhaustive best 3", float(np.mean(right)), 0.99 if few else 0.98, True),
            Limited("times as fast as exhaustive", exhaustive_ms / curve[-1].median_ms, 10, True),
            Limited("p99, ms a prompt", curve[-1].p99_ms, 20 if few else 50, False),
            Limited(f"{TOGETHER} together, times as fast", alone / together, 4, True),
            Limited("resident bytes a memory", grown / memories, 1536, False),
        ],
        exhaustive_ms, 1000 * first, curve, clock() - begun,
    )  # fmt: skip


def _encoded(encoder: Encoder, texts: Sequence[str], progress: Progress) -> list[FactEncoding]:
    encodings: list[FactEncoding] = []
    for start in range(0, len(texts), 64):
        part = texts[start : start + 64]
        encodings += encoder.encode(part)
        progress("encoding facts", len(part), len(texts))
    return encodings


def _fill(bank: Bank, source: Iterator[Memory], size: int, total: int, progress: Progress) -> int:
    """Puts memories into the bank until it has `size`. Returns the number of their words."""
    words = 0
    for memory in islice(source, size - bank.size(NAMESPACE)):
        bank.put(memory)
        words += len(memory.priors)
        if not bank.size(NAMESPACE) % 1000:
            progress("making memories", 1000, total)
    return words


def _right(found: Sequence[Sequence[Hit]], best: Sequence[Sequence[Hit]]) -> list[bool]:
    """Whether one as good was found, for each of the best memories of each prompt."""
    right: list[bool] = []
    for hits, wanted in zip(found, best, strict=True):
        least = wanted[-1].score * (1 - TOLERANCE)
        right += [hit.score >= least for hit in hits] + [False] * (len(wanted) - len(hits))
    return right


def _exhaustive_times(bank: Bank, prompts: Sequence[PromptEncoding], progress: Progress) -> list[float]:
    times = []
    for prompt in prompts[:EXHAUSTIVE_TIMED]:
        before = clock()
        exhaustive(bank, [prompt], progress)
        times.append(clock() - before)
    return times


def one_by_one(bank: Bank, prompts: Sequence[PromptEncoding]) -> tuple[list[float], list[list[Hit]]]:
    """The seconds and the hits of each prompt, one at a time."""
    times, found = [], []
    for prompt in prompts:
        before = clock()
        found.append(retrieve(bank, [NAMESPACE], prompt, BEST))
        times.append(clock() - before)
    return times, found


def alone_and_together(bank: Bank, prompts: Sequence[PromptEncoding]) -> tuple[float, float]:
    """The seconds of `TOGETHER` prompts one after another, and of all together: medians of rounds in turns."""
    some, alone, together = prompts[:TOGETHER], [], []
    for _ in range(5):
        alone.append(sum(one_by_one(bank, some)[0]))
        before = clock()
        retrieve_all(bank, [[NAMESPACE]] * len(some), some, BEST)
        together.append(clock() - before)
    return percentile(alone, 0.5), percentile(together, 0.5)


def exhaustive(bank: Bank, prompts: Sequence[PromptEncoding], progress: Progress) -> list[list[Hit]]:
    """The best memories of each prompt, after scoring every memory of the bank."""
    space, settings = bank.namespace(NAMESPACE), bank.settings
    assert space is not None
    idf, lookup, size = prompt_idf(space, prompts, settings), Lookup(space), space.size
    kept: list[list[tuple[float, str]]] = [[] for _ in prompts]
    for start in range(0, size, CHUNK):
        rows = np.arange(start, min(start + CHUNK, size))
        memories = [space.table.at(row) for row in rows.tolist()]
        for best, scores in zip(
            kept, scores_of(lookup, size, prompts, idf, rows, memories, settings), strict=True
        ):
            top = np.argsort(-scores, kind="stable")[: 2 * settings.aligned]
            best += [(float(scores[i]), memories[i].memory_id) for i in top]
            best.sort(key=lambda one: (-one[0], one[1]))
            del best[2 * settings.aligned :]
        progress("scoring every memory", len(rows), size)
    best_memories = [[m for _, memory_id in best if (m := bank.get(NAMESPACE, memory_id))] for best in kept]
    best_scores = [np.array([score for score, _ in best]) for best in kept]
    return best_hits(space, prompts, idf, best_memories, best_scores, settings, BEST)
