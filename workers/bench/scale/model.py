"""The model of `bench scale`: every formula, from what one thing costs to what a month costs.

It knows no measurement and no output. A month has 30 days. Facts and answers come evenly over it, and over namespaces of
equal size, which the real partitioner spreads: so the busiest partition is busier than the mean, and is what binds.

Left out: traffic between machines and zones, Kafka's own disks and requests, the machines' price, peaks within a day.
"""

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from pipeline.history.compaction import FAN, LARGE_BYTES
from workers.kafka.partitioner import partition_for

MONTH_S = 30 * 86_400
LINGER_S, APPEND_ROWS = 1.0, 5_000
"""Wait of an append for more rows on an object store, and the rows that end it."""
LISTED = 1_000
"""Objects that one LIST names."""
STEP_VERSIONS = FAN // 2
"""A writer makes one step of compaction after so many appends (workers/write/worker.py)."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What one thing costs on a machine. Speeds are of one process."""

    encode_facts_s: float
    write_facts_s: float  # decided and appended
    put_s: float  # seconds that an append to the store takes
    load_memories_s: float  # taken over from the changelog by a generator
    fold_memories_s: float  # taken over from the history by a writer
    answers_s: float
    model_bytes: float  # resident in a generator without memories
    memory_bytes: float  # resident in a generator or a writer, each memory
    changelog_bytes: float  # each memory's record
    fact_bytes: float  # of a learned fact in the history
    use_bytes: float  # of a memory's use there
    file_bytes: float  # of each file, whatever is in it


@dataclass(frozen=True, slots=True)
class Prices:
    """Dollars. Those of S3 Standard in us-east-1, as its public list had them in 2025; deletions and incoming bytes are free."""

    gb_month: float = 0.023  # the first 50 TB
    put_1000: float = 0.005  # PUT, COPY, POST and LIST
    get_1000: float = 0.0004


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of an installation."""

    memories: int
    partitions: int
    facts_month: float
    answers_month: float
    namespace_memories: int = 10_000
    uses_an_answer: float = 1.0
    reads_month: float = (
        30.0  # how often a partition moves to a machine, or a reader there, that has no copy of its files
    )
    machine_bytes: float = 64e9
    start_s: float = 600.0  # the longest that a start may take

    @property
    def facts_s(self) -> float:
        return self.facts_month / MONTH_S

    @property
    def answers_s(self) -> float:
        return self.answers_month / MONTH_S

    @property
    def rows_s(self) -> float:
        """Decisions: of facts, and of uses by answers."""
        return self.facts_s + self.answers_s * self.uses_an_answer


def busiest_share(load: Load) -> float:
    """The share of everything that the busiest partition has."""
    counts = _spread(_namespaces(load), load.partitions)
    return max(counts.values()) / counts.total()


def used_partitions(load: Load) -> int:
    """The partitions that have a namespace."""
    return len(_spread(_namespaces(load), load.partitions))


def _namespaces(load: Load) -> int:
    return math.ceil(load.memories / load.namespace_memories)


@lru_cache
def _spread(namespaces: int, partitions: int) -> Counter[int]:
    """How many of the namespaces each partition has."""
    return Counter(partition_for(f"namespace-{n}", partitions) for n in range(namespaces))


# --- what binds ---

FULL, PARTITIONED = "full", "partitioned"


def uses(load: Load, costs: Costs, replica: str) -> dict[str, float]:
    """Share that is used of each resource, with a process for each partition. Above 1 it does not work."""
    share = busiest_share(load)
    held = 1.0 if replica == FULL else share  # of the memories, by the fullest generator
    asked = 1 / load.partitions if replica == FULL else share  # of the requests, by the busiest generator
    rows_s = share * load.rows_s
    return {
        "encoding": share * load.facts_s / costs.encode_facts_s,
        "writing": rows_s / costs.write_facts_s + appends_s(rows_s) * costs.put_s,
        "writer's memory": share * load.memories * costs.memory_bytes / load.machine_bytes,
        "writer's start": share * load.memories / costs.fold_memories_s / load.start_s,
        "answering": asked * load.answers_s / costs.answers_s,
        "generator's memory": (costs.model_bytes + held * load.memories * costs.memory_bytes) / load.machine_bytes,
        "generator's start": held * load.memories / costs.load_memories_s / load.start_s,
    }  # fmt: skip


def binds(load: Load, costs: Costs, replica: str) -> tuple[str, float]:
    """The resource of which the largest share is used: it is the first to end as the load grows."""
    found = uses(load, costs, replica)
    first = max(found, key=lambda name: found[name])
    return first, found[first]


def encoders(load: Load, costs: Costs) -> int:
    return math.ceil(load.facts_s / costs.encode_facts_s)


def generators(load: Load, costs: Costs, replica: str) -> int:
    """Enough to answer; with partitioned replicas also enough to hold all memories, and to load them in time."""
    answering = max(1, math.ceil(load.answers_s / costs.answers_s))
    if replica == FULL:
        return answering
    room = load.machine_bytes - costs.model_bytes
    holding = math.ceil(load.memories * costs.memory_bytes / room) if room > 0 else load.partitions
    loading = math.ceil(load.memories / (costs.load_memories_s * load.start_s))
    return max(answering, holding, loading)


def generators_bytes(load: Load, costs: Costs, replica: str) -> float:
    """Memory of all generators together."""
    count, held = generators(load, costs, replica), load.memories * costs.memory_bytes
    return count * costs.model_bytes + (count * held if replica == FULL else held)


def learning_days(load: Load, costs: Costs) -> float:
    """Days until all memories are learned from nothing, with an encoder for each partition."""
    return busiest_share(load) * load.memories / costs.encode_facts_s / 86_400


# --- the history ---


@dataclass(frozen=True, slots=True)
class Files:
    """A partition's history after some appends of equal size."""

    live: int
    merges: int
    bytes: float


def appends_s(rows_s: float) -> float:
    """Appends per second to a partition: the first row opens a batch, which takes what comes in the linger."""
    return max(rows_s / (1 + rows_s * LINGER_S), rows_s / APPEND_ROWS)


def files_after(versions: int, version_rows: float, row_bytes: float, file_bytes: float) -> Files:
    """The live files of pipeline.history.compaction, which merges FAN files of one size, and none above LARGE_BYTES.

    A file of tier k has FAN^k versions. Each step merges the oldest group of the lowest tier that has a group; the last
    version stays by itself.
    """
    tiers, large, merges = [0], 0, 0

    def size(tier: int) -> float:
        return file_bytes + float(FAN**tier) * version_rows * row_bytes

    groups = [_group(size(0))]
    for version in range(0, versions, STEP_VERSIONS):
        tiers[0] += 1 if version == 0 else STEP_VERSIONS  # this version and those since the last step
        for tier, group in enumerate(groups):
            if tiers[tier] - (tier == 0) < group:
                continue
            tiers[tier] -= int(group)
            merges += 1
            if group < FAN or size(tier + 1) >= LARGE_BYTES:
                large += 1
            else:
                if tier + 1 == len(tiers):
                    tiers.append(0)
                    groups.append(_group(size(tier + 1)))
                tiers[tier + 1] += 1
            break
    tiers[0] += max(0, versions - 1) % STEP_VERSIONS
    live = sum(tiers) + large
    return Files(live, merges, live * file_bytes + versions * version_rows * row_bytes)


def _group(size: float) -> float:
    """The files of this size that are merged together."""
    if size >= LARGE_BYTES:
        return math.inf
    return float(FAN) if size * FAN < LARGE_BYTES else max(2.0, math.ceil(LARGE_BYTES / size))


# --- a month in an object store ---


@dataclass(frozen=True, slots=True)
class Month:
    """Objects at its end, requests in it, and dollars for it."""

    objects: float
    gigabytes: float
    appends: float
    merges: float  # a PUT of the merged file, and one of a manifest, each
    moves: float  # the PUT of a manifest, and LISTs, each
    lists: float
    gets: float
    storage_dollars: float
    put_dollars: float
    get_dollars: float

    @property
    def puts(self) -> float:
        return self.appends + 2 * self.merges + self.moves

    @property
    def dollars(self) -> float:
        return self.storage_dollars + self.put_dollars + self.get_dollars


def month(load: Load, costs: Costs, prices: Prices) -> Month:
    """A month that begins with a compacted history of all memories. Every partition that is used has an equal part."""
    parts = used_partitions(load)
    facts, uses = load.facts_month, load.answers_month * load.uses_an_answer
    rows = facts + uses
    row_bytes = (facts * costs.fact_bytes + uses * costs.use_bytes) / rows if rows else 0.0
    versions = int(appends_s(rows / parts / MONTH_S) * MONTH_S)
    version_rows = rows / parts / versions if versions else 0.0
    new = files_after(versions, version_rows, row_bytes, costs.file_bytes)
    old_bytes = load.memories / parts * costs.fact_bytes
    old = math.ceil(old_bytes / LARGE_BYTES)
    files = old + new.live
    manifests = 1
    objects = parts * (files + manifests)
    stored = parts * (old * costs.file_bytes + old_bytes + new.bytes)
    moves = parts * load.reads_month
    lists = moves * math.ceil((files + manifests) / LISTED)
    gets = moves * (files + manifests)
    appends, merges = float(parts * versions), float(parts * new.merges)
    puts = appends + 2 * merges + moves
    return Month(
        objects, stored / 1e9, appends, merges, moves, lists, gets,
        stored / 1e9 * prices.gb_month, (puts + lists) / 1000 * prices.put_1000, gets / 1000 * prices.get_1000,
    )  # fmt: skip
