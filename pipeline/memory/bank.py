"""Memory bank of one partition: its memories and the offsets decided so far, as a fold over decisions.

The writer changes the bank by `apply` alone. So the same decisions in the same order make the same memory, byte for byte.
How to decide is policy: see pipeline/decide.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import TypeVar

import orjson

from pipeline.config import Settings
from pipeline.memory.codec import memory_from_decision
from pipeline.memory.events import Decision, SourceOffset
from pipeline.memory.namespace import Namespace
from pipeline.memory.record import Memory

T = TypeVar("T")


class Bank:
    """The memories of the namespaces that one partition holds."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._namespaces: dict[str, Namespace] = {}

    # --- reading ---

    @property
    def namespaces(self) -> list[str]:
        return sorted(self._namespaces)

    def __len__(self) -> int:
        return sum(space.size for space in self._namespaces.values())

    def namespace(self, name: str) -> Namespace | None:
        """The memories of a namespace and their indexes, for retrieval and for decisions."""
        return self._namespaces.get(name)

    def size(self, namespace: str) -> int:
        """The number of memories of a namespace."""
        space = self._namespaces.get(namespace)
        return space.size if space else 0

    def get(self, namespace: str, memory_id: str) -> Memory | None:
        """A memory as it is now; None if there is none of this id."""
        space = self._namespaces.get(namespace)
        return space.table.get(memory_id) if space else None

    def memories(self, namespace: str) -> Iterator[Memory]:
        """Oldest first. No memory may be added or removed meanwhile."""
        space = self._namespaces.get(namespace)
        return iter(space.table if space else ())

    def is_decided(self, namespace: str, cause: SourceOffset) -> bool:
        """Whether this record, or a later one of its log, was decided."""
        space = self._namespaces.get(namespace)
        return space is not None and space.decided.get(cause.log, -1) >= cause.offset

    def is_counted(self, namespace: str, request_id: str) -> bool:
        """Whether the uses by that request's answer are counted. A request that is answered twice counts once."""
        space = self._namespaces.get(namespace)
        return space is not None and request_id in space.request_ids

    def positions(self, namespace: str) -> dict[str, int]:
        """How far the namespace's facts are decided: "topic_id/partition" to offset."""
        space = self._namespaces.get(namespace)
        logs = space.decided.items() if space else ()
        return {log.removeprefix("facts/"): offset for log, offset in logs if log.startswith("facts/")}

    # --- changing ---

    def apply(self, decision: Decision) -> set[str]:
        """Carries out a decision, and returns the ids of the memories that it added, changed or removed.

        Raises ValueError for a decision that lacks a field.
        """
        space = self._namespace(decision.namespace)
        self._remember(space, decision)
        if decision.outcome in ("learned", "superseded"):
            return _learn(space, decision)
        memory = space.table.get(decision.memory_id or "")
        if memory is None:
            return set()
        importance = decision.importance
        if decision.outcome in ("evicted", "forgotten", "erased"):
            space.remove(memory)
        elif decision.outcome == "reinforced":
            observed_at = _present(decision.observed_at)
            space.change(memory.changed(_present(importance), observed_at=observed_at, reinforced=1))
        elif decision.outcome == "used":
            space.change(memory.changed(_present(importance), last_used_at=decision.decided_at, uses=1))
        else:
            return set()
        return {memory.memory_id}

    def _remember(self, space: Namespace, decision: Decision) -> None:
        """Remembers offsets and ids, so that each fact, and each request's uses, are decided once."""
        cause = decision.cause
        space.decided[cause.log] = max(space.decided.get(cause.log, -1), cause.offset)
        for ids, new in ((space.fact_ids, decision.fact_id), (space.request_ids, decision.request_id)):
            if new is not None:
                ids[new] = None
                if len(ids) > self.settings.remembered_ids:
                    ids.popitem(last=False)

    def _namespace(self, name: str) -> Namespace:
        if (space := self._namespaces.get(name)) is None:
            space = self._namespaces[name] = Namespace()
        return space

    def put(self, memory: Memory) -> None:
        """Adds a memory of the changelog, in place of the one that has its id."""
        self._namespace(memory.namespace).put(memory)

    def remove(self, namespace: str, memory_id: str) -> None:
        if memory := self.get(namespace, memory_id):
            self._namespaces[namespace].remove(memory)

    # --- checkpoints ---

    def decided_state(self, namespace: str) -> tuple[dict[str, int], list[str], list[str]]:
        """A namespace's state besides its memories: offsets decided, fact_ids and request_ids, oldest first."""
        space = self._namespaces[namespace]
        return dict(space.decided), list(space.fact_ids), list(space.request_ids)

    def restore(
        self, namespace: str, decided: dict[str, int], fact_ids: Iterable[str], request_ids: Iterable[str]
    ) -> None:
        """Restores the result of `decided_state`. With the memories put in their order it is the same bank."""
        self._namespaces[namespace] = Namespace(decided, fact_ids, request_ids)

    def digest(self) -> str:
        """The `digest` of this bank alone."""
        return digest([self])


def memory_id(namespace: str, text: str) -> str:
    """The id of a text's memory, 32 hex digits: the same in every process and on every broker."""
    return hashlib.sha256(f"{namespace}\0{text}".encode()).hexdigest()[:32]


def fold(decisions: Iterable[Decision], settings: Settings | None = None) -> Bank:
    """The memory that a history leads to."""
    bank = Bank(settings)
    for decision in decisions:
        bank.apply(decision)
    return bank


def digest(banks: Iterable[Bank]) -> str:
    """SHA-256 of all memories, in hex, however they are spread over partitions, without the times of decisions."""
    rows = sorted(
        (
            (name, m.memory_id, bank)
            for bank in banks
            for name in bank.namespaces
            for m in bank.memories(name)
        ),
        key=lambda row: row[:2],
    )
    sha = hashlib.sha256()
    for name, own_id, bank in rows:
        m = _present(bank.get(name, own_id))
        sha.update(
            orjson.dumps(
                [
                    m.namespace,
                    m.memory_id,
                    m.text,
                    m.category,
                    m.source,
                    m.fact_id,
                    m.observed_at.isoformat(),
                    m.importance,
                    m.uses,
                    m.reinforced,
                    m.loss_delta,
                    m.encoder_id,
                ]
            )
        )
        for array in (m.priors, m.surprisals, m.vectors):
            sha.update(len(array).to_bytes(8, "little") + array.tobytes())
    return sha.hexdigest()


def _learn(space: Namespace, decision: Decision) -> set[str]:
    changed = {_present(decision.memory_id)}
    if decision.outcome == "superseded" and (older := space.table.get(decision.nearest or "")):
        space.remove(older)
        changed.add(older.memory_id)
    if decision.text is not None:  # else the text was erased since, and a later decision removes the memory
        space.put(memory_from_decision(decision))
    return changed


def _present(value: T | None) -> T:
    if value is None:
        raise ValueError("a decision lacks a field that its outcome needs")
    return value
