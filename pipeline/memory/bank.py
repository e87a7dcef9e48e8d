"""The memory bank: what becomes of a fact, and the memory as a fold over what was decided.

`decide` is a pure function of the bank and the fact; `apply` changes the bank by a decision and by nothing else. So the
same facts in the same order make the same memory, byte for byte, and so does folding their history.
Knows no model, no files, no Kafka; time is what it is told.
"""

import hashlib
import math
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import TypeVar

import numpy as np
import orjson

from pipeline.config import Settings
from pipeline.decide.dedup import common, same_relation
from pipeline.memory.codec import memory_from_decision
from pipeline.memory.events import Decision, NewFact, SourceOffset, labels_of
from pipeline.memory.namespace import Namespace
from pipeline.memory.postings import Index
from pipeline.memory.record import Memory
from pipeline.text.annotate import AnnotatedText
from pipeline.text.words import begins_with, terms_of

_FEW = 16  # memories that have a fact's first words: all of them are looked at


class Bank:
    """The memories of the namespaces that one partition holds."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self._spaces: dict[str, Namespace] = {}

    # --- looking ---

    @property
    def namespaces(self) -> list[str]:
        return sorted(self._spaces)

    def __len__(self) -> int:
        return sum(space.size for space in self._spaces.values())

    def memories(self, namespace: str) -> Iterator[Memory]:
        """Oldest first; while it goes on none of them may come or leave."""
        space = self._spaces.get(namespace)
        return iter(space) if space else iter(())

    def size(self, namespace: str) -> int:
        space = self._spaces.get(namespace)
        return space.size if space else 0

    def get(self, namespace: str, memory_id: str) -> Memory | None:
        """As it stands: what is decided later makes it another one."""
        space = self._spaces.get(namespace)
        return space.get(memory_id) if space else None

    def at(self, namespace: str, row: int) -> Memory:
        """The memory of a row of the namespace's index."""
        return self._spaces[namespace].at(row)

    def index(self, namespace: str) -> Index | None:
        space = self._spaces.get(namespace)
        return space.index if space else None

    def is_decided(self, namespace: str, cause: SourceOffset) -> bool:
        space = self._spaces.get(namespace)
        return space is not None and space.decided.get(cause.log, -1) >= cause.offset

    def is_counted(self, namespace: str, request_id: str) -> bool:
        """Whether the uses of that request's answer are counted: a request that is answered twice counts once."""
        space = self._spaces.get(namespace)
        return space is not None and request_id in space.request_ids

    def positions(self, namespace: str) -> dict[str, int]:
        """How far the namespace's facts are decided: "topic_id/partition" to offset."""
        space = self._spaces.get(namespace)
        logs = space.decided.items() if space else ()
        return {log.removeprefix("facts/"): offset for log, offset in logs if log.startswith("facts/")}

    # --- deciding ---

    def decide(self, fact: NewFact, now: datetime) -> list[Decision]:
        """The fact's verdict, and then the evictions that it causes. Changes nothing."""
        settings, space, encoding = self.settings, self._spaces.get(fact.namespace), fact.encoding
        threshold = settings.min_loss_delta if fact.min_loss_delta is None else fact.min_loss_delta
        own_id = memory_id(fact.namespace, encoding.text)
        same, older, similarity = self._nearest(fact, own_id) if space else (None, None, 0.0)
        nearest = same or older

        def verdict(outcome: str, memory: Memory | None = None, **more: object) -> Decision:
            row: dict[str, object] = {
                "memory_id": memory.memory_id if memory else None,
                "nearest": nearest.memory_id if nearest else None,
                "similarity": float(np.float32(similarity)) if nearest else None,
            } | more
            return Decision(
                fact.namespace,
                outcome,
                fact.cause,
                now,
                text=encoding.text,
                observed_at=fact.observed_at,
                published_at=fact.published_at,
                base_loss=_stored(encoding.base_loss),
                recall_loss=_stored(encoding.recall_loss),
                loss_delta=_stored(encoding.loss_delta),
                min_loss_delta=threshold,
                encoder_id=encoding.encoder_id,
                **labels_of(fact),
                **row,  # type: ignore[arg-type]
            )

        if space and fact.fact_id is not None and fact.fact_id in space.fact_ids:
            return [verdict("duplicate", same)]
        if same:
            return [
                verdict("reinforced", same, importance=self._raised(same.importance, 1.0, fact.published_at))
            ]
        if older and fact.observed_at < older.observed_at:
            return [verdict("outdated", older)]
        # A known fact that contradicts a memory is never skipped: else the older one would go on answering.
        if not older and threshold > 0 and encoding.loss_delta < threshold:
            return [verdict("skipped")]
        weight = 1.0 + min(max(encoding.loss_delta, 0.0), 8.0)
        made = verdict(
            "superseded" if older else "learned",
            memory_id=own_id,
            importance=self._raised(None, weight, fact.published_at),
            priors=encoding.priors,
            surprisals=encoding.surprisals,
            vectors=encoding.vectors,
        )
        return [made] if older else [made, *self._evictions(fact, made, now)]

    def decide_forget(
        self, namespace: str, memory_id: str, cause: SourceOffset, now: datetime, erase: bool = False
    ) -> list[Decision]:
        """With `erase` the text is not repeated: it is about to leave the history, see pipeline/history/erasure.py."""
        memory = self.get(namespace, memory_id)
        text = memory.text if memory and not erase else None
        outcome = "erased" if erase else "forgotten"
        return [Decision(namespace, outcome, cause, now, memory_id=memory_id, text=text)]

    def decide_use(
        self, namespace: str, memory_id: str, gate: float, request_id: str, cause: SourceOffset, now: datetime
    ) -> list[Decision]:
        """A use counts towards the importance by its gate. One of a memory that has left since is recorded, no more."""
        memory = self.get(namespace, memory_id)
        importance = self._raised(memory.importance, gate, now) if memory else None
        return [
            Decision(
                namespace,
                "used",
                cause,
                now,
                memory_id=memory_id,
                gate=_stored(gate),
                request_id=request_id,
                importance=importance,
            )
        ]

    def _nearest(self, fact: NewFact, own_id: str) -> tuple[Memory | None, Memory | None, float]:
        """The memory that says the same, or else the one on the same subject and relation, and how alike it is."""
        space = self._spaces[fact.namespace]
        if known := space.get(own_id):
            return known, None, 1.0
        text, priors = AnnotatedText(fact.encoding.text, fact.encoding.priors), fact.encoding.priors
        words = text.terms
        first = common(priors)
        best: tuple[float, Memory] | None = None
        for candidate in self._candidates(space, words, first):
            memory = space.at(candidate)
            if not begins_with(memory.text, words[:first]):
                continue
            other = terms_of(memory.text)
            if words == other:
                return memory, None, 1.0
            alike = same_relation(words, priors, text.name_scores.tolist(), other, memory.priors)
            # What several memories share is no subject: "Arena debuted", "The language of … is Thai".
            shared = [form for form in words if form in other]
            if alike and space.index.together(shared, self.settings.candidates) > 1:
                alike = 0.0
            if alike and (best is None or alike > best[0]):
                best = (alike, memory)
        return (None, best[1], best[0]) if best else (None, None, 0.0)

    def _candidates(self, space: Namespace, words: list[str], first: int) -> Iterable[int]:
        """Of the newest memories that share the rarest words those that have the first ones: their rows."""
        most, index = self.settings.candidates, space.index
        counts = {form: index.count(form) for form in words}
        required = sorted(dict.fromkeys(words[:first]), key=counts.__getitem__)
        if not required or not counts[required[0]]:
            return ()
        needed = [index.holding(form) for form in required]
        having: Sequence[int] | None = None
        if counts[required[0]] <= most:  # of a new subject there is none, and no more to be done
            having = [row for row in needed[0] if _all_have(needed[1:], row)]
            if len(having) <= _FEW:
                return reversed(having)
        rarest = sorted((count, form) for form, count in counts.items() if count)
        seen: dict[int, None] = {}
        for _, form in rarest[: max(1, len(rarest) - 1)]:  # the rarest words name the subject
            seen |= dict.fromkeys(islice(index.newest(form), most - len(seen)))
        return [row for row in seen if (_all_have(needed, row) if having is None else row in having)]

    def _evictions(self, fact: NewFact, made: Decision, now: datetime) -> list[Decision]:
        """What has to leave: the least important memory of the category with the most memories."""
        space = self._spaces.get(fact.namespace)
        if space is None or space.size < self.settings.capacity:
            return []
        victim = space.least_of_largest(fact.category)
        return [
            Decision(
                fact.namespace,
                "evicted",
                fact.cause,
                now,
                memory_id=victim.memory_id,
                nearest=made.memory_id,
                text=victim.text,
                category=victim.category,
                importance=victim.importance,
            )
        ]

    def _raised(self, importance: float | None, weight: float, at: datetime) -> float:
        """Importance grown by `weight` at a time. All importances halve at the same rate, so what is stored is
        log2(importance) + time / half-life: its order never changes by waiting, and nothing has to be decayed."""
        when = at.timestamp() / (self.settings.half_life_days * 86_400)
        grown = math.log2(max(weight, 1e-6)) + when
        if importance is not None:
            low, high = sorted((importance, grown))
            grown = high + math.log2(1 + 2.0 ** max(low - high, -60))
        return float(np.float32(grown))

    # --- changing ---

    def apply(self, decision: Decision) -> set[str]:
        """Carries a decision out; the ids of the memories that changed, came or went."""
        space = self._spaces.setdefault(decision.namespace, Namespace())
        cause, d = decision.cause, decision
        space.decided[cause.log] = max(space.decided.get(cause.log, -1), cause.offset)
        for ids, one in ((space.fact_ids, d.fact_id), (space.request_ids, d.request_id)):
            if one is not None:
                ids[one] = None
                if len(ids) > self.settings.remembered_ids:
                    ids.popitem(last=False)
        if d.outcome in ("learned", "superseded"):
            changed = {_present(d.memory_id)}
            if d.outcome == "superseded" and (older := space.get(d.nearest or "")):
                space.remove(older)
                changed.add(older.memory_id)
            if d.text is not None:  # else it was erased since, and what follows in the history removes it
                space.put(memory_from_decision(d))
            return changed
        memory = space.get(d.memory_id or "")
        if memory is None:
            return set()
        if d.outcome in ("evicted", "forgotten", "erased"):
            space.remove(memory)
        elif d.outcome == "reinforced":
            space.change(
                memory.changed(_present(d.importance), observed_at=_present(d.observed_at), reinforced=1)
            )
        elif d.outcome == "used":
            space.change(memory.changed(_present(d.importance), last_used_at=d.decided_at, uses=1))
        else:
            return set()
        return {memory.memory_id}

    def put(self, memory: Memory) -> None:
        """Takes a memory as it stands, as a replica does."""
        self._spaces.setdefault(memory.namespace, Namespace()).put(memory)

    def remove(self, namespace: str, memory_id: str) -> None:
        if memory := self.get(namespace, memory_id):
            self._spaces[namespace].remove(memory)

    def known(self, namespace: str) -> tuple[dict[str, int], list[str], list[str]]:
        """What it keeps of a namespace beside the memories: offsets decided, fact_ids and request_ids, oldest first."""
        space = self._spaces[namespace]
        return dict(space.decided), list(space.fact_ids), list(space.request_ids)

    def know(
        self, namespace: str, decided: dict[str, int], fact_ids: Iterable[str], request_ids: Iterable[str]
    ) -> None:
        """Takes what `known` gave: with the memories put in their order it is the same bank."""
        self._spaces[namespace] = Namespace(
            decided=decided,
            fact_ids=OrderedDict.fromkeys(fact_ids),
            request_ids=OrderedDict.fromkeys(request_ids),
        )

    def digest(self) -> str:
        return digest([self])


def memory_id(namespace: str, text: str) -> str:
    """The same text in the same namespace is the same memory, on every broker."""
    return hashlib.sha256(f"{namespace}\0{text}".encode()).hexdigest()[:32]


def fold(decisions: Iterable[Decision], settings: Settings | None = None) -> Bank:
    """The memory that a history leads to."""
    bank = Bank(settings)
    for decision in decisions:
        bank.apply(decision)
    return bank


def digest(banks: Iterable[Bank]) -> str:
    """SHA-256 of the memories, whatever partitions they are spread over. Leaves out when they were decided."""
    rows = sorted(
        ((n, m.memory_id, bank) for bank in banks for n in bank.namespaces for m in bank.memories(n)),
        key=lambda row: row[:2],
    )
    sha = hashlib.sha256()
    for namespace, one, bank in rows:
        m = _present(bank.get(namespace, one))
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


def _all_have(postings: Iterable[Sequence[int]], row: int) -> bool:
    for rows in postings:
        at = bisect_left(rows, row)
        if at == len(rows) or rows[at] != row:
            return False
    return True


T = TypeVar("T")


def _stored(value: float) -> float:
    """As the history's 32 bits hold it, so that the memory is the same before and after a fold."""
    return float(np.float32(value))


def _present(value: T | None) -> T:
    if value is None:
        raise ValueError("a decision lacks a field that its outcome needs")
    return value
