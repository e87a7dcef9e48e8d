"""How fast memories are retrieved, how many of the right ones, and what each takes: beside scoring every one of them.

The bank is made by bench_bank.py from facts that the model encodes here; the prompts are encoded too, one in three each
a fact's own beginning, a paraphrase and a question. Encoding a prompt is not counted: that is the model's work. Exhaustive
is the same score for every memory, the best of them aligned as retrieval does. A memory that is found with the score of
the last of the exhaustive best is as right as that one (as in ANN-Benchmarks, Aumüller et al. 2020): of a large bank's many match a
prompt equally well. Time and the process's size are told.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

import numpy as np

from pipeline.bench.scores import percentile
from pipeline.bench.synthetic.banks import variants
from pipeline.bench.synthetic.texts import asked_of, made_up_facts
from pipeline.ingest.encoder import Encoder
from pipeline.ingest.encoding import Asked
from pipeline.memory.bank import Bank
from pipeline.memory.lookup import Lookup
from pipeline.retrieve.hit import Hit
from pipeline.retrieve.idf import prompt_idf
from pipeline.retrieve.retriever import best_hits, retrieve, retrieve_all
from pipeline.retrieve.scoring import scores_of

SEED = 20261125
ENCODED = 1200  # facts
PROMPTS = 102  # thirds of them ask in one way
TIMED = 3  # of them exhaustively, by themselves
TOGETHER = 64
BEST = 3
ALIKE = 1e-6  # of a score: sums in another order differ by less
CHUNK = 4_000  # memories that are scored at once
SIZES = (1_000, 10_000, 100_000)  # at which the cost is measured too
SMALL = 100_000  # memories, up to which the first of two limits holds
BANK = "bench"

Progress = Callable[[str, int, int], None]  # what, how much more of it is done, of how many


@dataclass(frozen=True, slots=True)
class Limited:
    """A measure beside its limit."""

    name: str
    value: float
    limit: float
    at_least: bool  # else at most

    @property
    def kept(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@dataclass(frozen=True, slots=True)
class At:
    """The cost of a prompt at one size."""

    memories: int
    median_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Retrieval:
    model: str
    memories: int
    words: float  # a memory, in the mean
    encoded: int
    prompts: int
    measures: list[Limited]
    exhaustive_ms: float  # a prompt, median
    first_ms: float  # the very first prompt, which makes the pooled states
    curve: list[At]
    seconds: float


def measure(
    encoder: Encoder,
    memories: int,
    clock: Callable[[], float],
    resident: Callable[[], int],
    progress: Progress,
) -> Retrieval:
    """memories: at least 1,000. resident() is how many bytes the process holds."""
    begun = clock()
    texts, dice = made_up_facts(min(ENCODED, memories), SEED), Random(SEED)
    encodings = []
    for start in range(0, len(texts), 64):
        encodings += encoder.encode(texts[start : start + 64])
        progress("encoding facts", len(texts[start : start + 64]), len(texts))
    rows = dice.sample(texts, PROMPTS)
    asked = encoder.ask([asked_of(text)[i % 3] for i, text in enumerate(rows)])
    progress("encoding prompts", PROMPTS, PROMPTS)

    bank, made = Bank(), variants(encodings, BANK, SEED)
    held, words, first, curve = resident(), 0, 0.0, []
    for size in sorted({*(s for s in SIZES if s < memories), memories}):
        for memory in islice(made, size - bank.size(BANK)):
            bank.put(memory)
            words += len(memory.priors)
            if not bank.size(BANK) % 1000:
                progress("making memories", 1000, memories)
        before = clock()
        retrieve(bank, [BANK], asked[0], BEST)
        first = clock() - before
        grown = resident() - held
        times, found = one_by_one(bank, asked, clock)
        curve.append(At(size, 1000 * percentile(times, 0.5), 1000 * percentile(times, 0.99)))

    alone, together = side_by_side(bank, asked, clock)
    true = []
    for hits, best in zip(found, exhaustive(bank, asked, progress), strict=True):
        least = best[-1].score * (1 - ALIKE)
        true += [hit.score >= least for hit in hits] + [False] * (len(best) - len(hits))
    slow = []
    for one in asked[:TIMED]:
        before = clock()
        exhaustive(bank, [one], progress)
        slow.append(clock() - before)
    ms, few = 1000 * percentile(slow, 0.5), memories <= SMALL
    return Retrieval(
        encoder.backbone.name, memories, words / memories, len(encodings), PROMPTS,
        [
            Limited("recall of the exhaustive best 3", float(np.mean(true)), 0.99 if few else 0.98, True),
            Limited("times as fast as exhaustive", ms / curve[-1].median_ms, 10, True),
            Limited("p99, ms a prompt", curve[-1].p99_ms, 20 if few else 50, False),
            Limited(f"{TOGETHER} together, times as fast", alone / together, 4, True),
            Limited("resident bytes a memory", grown / memories, 1536, False),
        ],
        ms, 1000 * first, curve, clock() - begun,
    )  # fmt: skip


def one_by_one(
    bank: Bank, asked: Sequence[Asked], clock: Callable[[], float]
) -> tuple[list[float], list[list[Hit]]]:
    """The seconds that each prompt took, and what it found."""
    times, found = [], []
    for one in asked:
        before = clock()
        found.append(retrieve(bank, [BANK], one, BEST))
        times.append(clock() - before)
    return times, found


def side_by_side(bank: Bank, asked: Sequence[Asked], clock: Callable[[], float]) -> tuple[float, float]:
    """The seconds that so many prompts took one after another, and together: medians of rounds that take turns."""
    some, alone, together = asked[:TOGETHER], [], []
    for _ in range(5):
        alone.append(sum(one_by_one(bank, some, clock)[0]))
        before = clock()
        retrieve_all(bank, [[BANK]] * len(some), some, BEST)
        together.append(clock() - before)
    return percentile(alone, 0.5), percentile(together, 0.5)


def exhaustive(bank: Bank, asked: Sequence[Asked], progress: Progress) -> list[list[Hit]]:
    """For each prompt the best memories; each of the bank was scored."""
    index, size, settings = bank.index(BANK), bank.size(BANK), bank.settings
    assert index is not None
    said, lookup = prompt_idf(index, size, asked, settings), Lookup(index)
    kept: list[list[tuple[float, str]]] = [[] for _ in asked]
    for start in range(0, size, CHUNK):
        rows = np.arange(start, min(start + CHUNK, size))
        memories = [m for row in rows.tolist() if (m := bank.get(BANK, index.memory_id(row)))]
        for best, scores in zip(
            kept, scores_of(lookup, size, asked, said, rows, memories, settings), strict=True
        ):
            top = np.argsort(-scores, kind="stable")[: 2 * settings.aligned]
            best += [(float(scores[i]), memories[i].memory_id) for i in top]
            best.sort(key=lambda one: (-one[0], one[1]))
            del best[2 * settings.aligned :]
        progress("scoring every memory", len(rows), size)
    best_memories = [[m for _, memory_id in best if (m := bank.get(BANK, memory_id))] for best in kept]
    best_scores = [np.array([score for score, _ in best]) for best in kept]
    return best_hits(index, size, asked, said, best_memories, best_scores, settings, BEST)
