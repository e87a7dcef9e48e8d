"""Memory bank of one partition: its memories and the offsets decided so far, as a fold over decisions.

The writer changes the bank by `apply` alone. So the same decisions in the same order make the same memory, byte for byte.
How to decide is policy: see pipeline/decide.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import TypeVar

import orjson

from pipeline.config import Settings
from pipeline.memory.codec import memory_from_decision
from pipeline.memory.events import Decision, SourceOffset
from pipeline.memory.namespace import Namespace, Superseded
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
            return self._learn(space, decision)
        if decision.outcome in ("evicted", "forgotten", "erased"):
            return self._forget(space, decision)
        if decision.outcome == "restored":
            return self._bring_back(space, decision)
        memory = space.table.get(decision.memory_id or "")
        if memory is None:  # where its text was erased since, what it replaced stays replaced
            return self._supersede(space, decision) if decision.outcome == "reinforced" else set()
        if decision.outcome == "reinforced":
            observed_at, importance = _present(decision.observed_at), _present(decision.importance)
            if decision.key != memory.key:  # only its key tells when a value was observed
                space.change(memory.changed(importance, reinforced=1))
                return {memory.memory_id}
            if observed_at >= memory.observed_at:
                memory = memory.restated(decision.metadata, decision.valid_until)
            space.change(memory.changed(importance, observed_at=observed_at, reinforced=1))
            return {memory.memory_id} | self._supersede(space, decision)
        if decision.outcome == "used":
            importance = _present(decision.importance)
            space.change(memory.changed(importance, last_used_at=decision.decided_at, uses=1))
            return {memory.memory_id}
        return set()

    def _learn(self, space: Namespace, decision: Decision) -> set[str]:
        changed = {_present(decision.memory_id)} | self._supersede(space, decision)
        if (
            decision.text is not None
        ):  # else the text was erased since, and a later decision removes the memory
            space.put(memory_from_decision(decision))
        return changed

    def _bring_back(self, space: Namespace, decision: Decision) -> set[str]:
        own_id = _present(decision.memory_id)
        entry = space.unkeep(own_id)
        changed = {own_id} | self._supersede(space, decision)
        if entry:  # else the text was erased since
            memory, observed_at = entry.memory, _present(decision.observed_at)
            space.put(memory.changed(memory.importance, observed_at=observed_at))
        return changed

    def _supersede(self, space: Namespace, decision: Decision) -> set[str]:
        """Takes from the memory what a decision's own memory replaces: one memory, and the others of a single-valued key."""
        own_id, replaces = _present(decision.memory_id), decision.outcome in ("superseded", "restored")
        older = [space.table.get(decision.nearest)] if replaces and decision.nearest else []
        older += space.of_key(decision.key) if decision.is_single and decision.key is not None else []
        replaced = {memory.memory_id: memory for memory in older if memory and memory.memory_id != own_id}
        for memory in replaced.values():
            if decision.rule == "key_taken_up":  # the decision's own memory is this one, with its key
                space.remove(memory)
            else:
                space.supersede(memory, own_id, decision.rule, self.settings.remembered_superseded)
        return set(replaced)

    def _forget(self, space: Namespace, decision: Decision) -> set[str]:
        """Removes one memory, or those of a key or of the namespace that were observed until then."""
        until, key = decision.observed_at, decision.key
        if decision.memory_id is not None:
            one = space.table.get(decision.memory_id)
            gone = [one] if one else []
            space.unkeep(decision.memory_id)
        else:
            found = space.table if key is None else space.of_key(key)
            gone = [memory for memory in found if until is None or memory.observed_at <= until]
            kept = (
                [one.memory for one in space.superseded.values()]
                if key is None
                else space.superseded_of_key(key)
            )
            for memory in kept:
                if until is None or memory.observed_at <= until:
                    space.unkeep(memory.memory_id)
        if key is not None and until is not None and (decision.is_single or decision.memory_id is None):
            space.end_key(key, until, self.settings.remembered_ids)
        for memory in gone:
            space.remove(memory)
        return {memory.memory_id for memory in gone}

    def _remember(self, space: Namespace, decision: Decision) -> None:
        """Remembers offsets and ids, so that each fact, and each request's uses, are decided once."""
        cause = decision.cause
        space.decided[cause.log] = max(space.decided.get(cause.log, -1), cause.offset)
        for ids, new in ((space.fact_ids, decision.fact_id), (space.request_ids, decision.request_id)):
            if new is not None:
                ids[new] = None
                if len(ids) > self.settings.remembered_ids:
                    ids.popitem(last=False)
        if decision.outcome == "skipped" and decision.is_single and decision.key is not None:
            # No memory tells when the key was stated last.
            space.end_key(decision.key, _present(decision.observed_at), self.settings.remembered_ids)

    def _namespace(self, name: str) -> Namespace:
        if (space := self._namespaces.get(name)) is None:
            space = self._namespaces[name] = Namespace()
        return space

    def put(self, memory: Memory | Superseded) -> None:
        """Adds a memory of the changelog or of a checkpoint, in place of the one that has its id."""
        if isinstance(memory, Superseded):
            self._namespace(memory.memory.namespace).keep(memory)
        else:
            self._namespace(memory.namespace).put(memory)

    def remove(self, namespace: str, memory_id: str) -> None:
        if memory := self.get(namespace, memory_id):
            self._namespaces[namespace].remove(memory)

    def drop(self, namespace: str) -> None:
        """Frees a namespace. For readers that follow it no longer: a writer decides what it forgets."""
        self._namespaces.pop(namespace, None)

    def expire(self, namespaces: Iterable[str], clock: Callable[[], datetime]) -> None:
        """Removes the memories of some namespaces that are valid no longer. For readers: a writer keeps them.

        The clock is asked only where a memory has an end.
        """
        ending = [space for name in namespaces if (space := self._namespaces.get(name)) and space.has_ends]
        if ending:
            now = clock()
            for space in ending:
                space.expire(now)

    # --- checkpoints ---

    def decided_state(
        self, namespace: str
    ) -> tuple[dict[str, int], list[str], list[str], list[tuple[str, str]]]:
        """A namespace's state besides its memories: offsets decided, fact_ids, request_ids and ended keys, oldest first."""
        space = self._namespaces[namespace]
        ended = [(key, at.isoformat()) for key, at in space.ended_keys.items()]
        return dict(space.decided), list(space.fact_ids), list(space.request_ids), ended

    def superseded(self, namespace: str) -> Iterator[Superseded]:
        """The superseded memories that can be restored, in the order in which they were superseded."""
        space = self._namespaces.get(namespace)
        return iter(space.superseded.values() if space else ())

    def restore(
        self,
        namespace: str,
        decided: dict[str, int],
        fact_ids: Iterable[str],
        request_ids: Iterable[str],
        ended_keys: Iterable[tuple[str, str]],
    ) -> None:
        """Restores the result of `decided_state`. With the memories put in their order it is the same bank."""
        self._namespaces[namespace] = Namespace(decided, fact_ids, request_ids, ended_keys)

    def digest(self) -> str:
        """The `digest` of this bank alone."""
        return digest([self])


def memory_id(namespace: str, text: str, key: str | None = None) -> str:
    """The id of a text's memory, 32 hex digits: the same in every process and on every broker.

    Two keys that state the same text have a memory each, so that one may change and the other stay.
    """
    parts = (namespace, text) if key is None else (namespace, text, key)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


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
                    *_labels(m),
                ]
            )
        )
        for array in (m.priors, m.surprisals, m.vectors):
            sha.update(len(array).to_bytes(8, "little") + array.tobytes())
    return sha.hexdigest()


def _present(value: T | None) -> T:
    if value is None:
        raise ValueError("a decision lacks a field that its outcome needs")
    return value


def _labels(m: Memory) -> list[object]:
    """The labels that came with keys; none where a memory has none, as all had before."""
    labels = (m.key, m.cardinality, m.metadata, m.valid_until and m.valid_until.isoformat())
    return list(labels) if any(labels) else []
