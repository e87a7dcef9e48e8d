"""Memories for other programs: found, listed, added, changed and forgotten, as a client of the topics.

Changes are records on `facts`, and return when they are decided. Searches are requests on `generation-requests`. The rest is read
from the data folder. The functions belong on an event loop, and never block it.
"""

import uuid
from asyncio import gather
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from anyio import CapacityLimiter, to_thread

from schemas.common import BadMessage, validate
from schemas.fact import Fact, FactMessage, Forget, ForgetAll
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, UsedMemory
from workers.client import ClientError, LoopClient, positions
from workers.memories import reading
from workers.memories.changes import WAIT_S, Change, Changes, Records, Status
from workers.memories.errors import NotFound
from workers.memories.filters import Where
from workers.memories.reading import Remembered

MAX_QUERIES = 2
"""Most queries at the same time: each may use all the memory that DuckDB is allowed."""
MAX_FOUND = 100
"""Most memories of a search: the limit of a request."""
MAX_SPACES = 16
"""Namespaces of one search: the limit of a request."""
EVENT = "mem0:"
"""How the fact_ids of a change begin, before its id."""

Event = Literal["ADD", "UPDATE", "DELETE", "NONE"]
_EVENTS: dict[str, Event] = {"learned": "ADD", "superseded": "UPDATE", "restored": "ADD"}

T = TypeVar("T")
KEEP: Any = object()
"""Value of a field that a change leaves as it is."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What became of one fact: a memory was added or replaces another, or nothing, because it is known or of no use."""

    event: Event
    outcome: str
    id: str | None
    memory: str | None
    before: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far an addition is, and what became of its facts."""

    status: Status
    effects: list[Effect]
    error: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """A memory that a search found, its score in nats, and how likely it answers; 0 where it is not likely enough."""

    memory: Remembered
    score: float
    gate: float


class Memories:
    """The memories of one data folder and of the cluster that the client is connected to."""

    def __init__(self, client: LoopClient, data: Path) -> None:
        self._client, self._data = client, data
        self._changes = Changes(client, data)
        self._queries = CapacityLimiter(MAX_QUERIES)

    # --- reading ---

    async def page(self, where: Where, number: int, size: int) -> tuple[list[Remembered], int]:
        return await self._read(reading.page, where, number, size)

    async def namespaces(self, where: Where) -> list[str]:
        return await self._read(reading.namespaces, where)

    async def every_namespace(self) -> list[dict[str, Any]]:
        return await self._read(reading.every_namespace)

    async def get(self, id: str, namespace: str | None = None) -> Remembered:
        """Raises NotFound."""
        return (await self._find([id], namespace))[id][0]

    async def check(self, ids: Sequence[str]) -> None:
        """Raises NotFound for the first id that no memory has."""
        await self._find(ids, None)

    async def history(self, id: str, namespace: str | None = None) -> list[dict[str, Any]]:
        """Raises NotFound."""
        if events := await self._read(reading.history, id, namespace):
            return events
        raise NotFound(f"no memory has or had the id {id!r}"[:120])

    async def _find(self, ids: Sequence[str], namespace: str | None) -> dict[str, list[Remembered]]:
        """The memories of every id. Raises NotFound for the first that has none."""
        found = await self._read(reading.find, ids, namespace)
        for id in ids:
            if id not in found:
                newer = await self._read(reading.successor, id, namespace)
                hint = f"; {newer} replaced it" if newer else ""
                raise NotFound(f"no memory has the id {id!r}"[:120] + hint)
        return found

    async def _read(self, query: Callable[..., T], *arguments: Any) -> T:
        return await to_thread.run_sync(query, self._data, *arguments, limiter=self._queries)

    # --- asking ---

    async def search(self, query: str, where: Where, limit: int) -> list[Found]:
        """The memories that a prompt is likeliest about, best first, of the best `MAX_FOUND` those that fulfil the condition.

        Where generators hold partitions, each namespace is asked for by itself, since it may be another generator's.
        """
        spaces = await self._read(reading.namespaces, where, MAX_SPACES)
        if not spaces:
            return []
        groups = [[space] for space in spaces] if self._client.partitioned else [spaces]
        common = {"task": "retrieve", "prompt": query, "limit": MAX_FOUND}
        requests = [validate(GenerationRequest, common | {"namespace": group}) for group in groups]
        hits = [hit for answer in await gather(*map(self.ask, requests)) for hit in answer.memories]
        if (
            len(groups) > 1
        ):  # an answer has those that were read first, by their gates, and the others by their scores
            hits = sorted(hits, key=lambda hit: (hit.gate, hit.score), reverse=True)[:MAX_FOUND]
        return (await self.found(hits, where))[:limit]

    async def found(self, hits: Sequence[UsedMemory], where: Where) -> list[Found]:
        """The memories of a response that fulfil the condition, in its order."""
        if not hits:
            return []
        where.also(f"list_contains({where.bind([hit.memory_id for hit in hits])}, memory_id)")
        rows, _ = await self.page(where, 1, len(hits))
        known = {(row.namespace, row.memory_id): row for row in rows}
        keyed = [(hit, known.get((hit.namespace, hit.memory_id))) for hit in hits]
        return [Found(memory, hit.score, hit.gate) for hit, memory in keyed if memory]

    async def ask(self, request: GenerationRequest) -> GenerationResponse:
        """The response to a request, from a memory that has what was published here, if it has that in time.

        Raises ClientError, and what a client of the topics raises.
        """
        recent = await to_thread.run_sync(positions.recall, self._data, request.namespaces)
        answer = await self._client.ask(request, recent)
        if answer.error:
            raise ClientError(f"{answer.error.message} ({answer.error.reason})")
        return answer

    # --- changing ---

    async def add(self, namespace: str, records: Sequence[FactMessage]) -> Change:
        """Publishes facts and conversations, and waits up to `WAIT_S` for their decisions. Raises Busy."""
        id = str(uuid.uuid4())
        named = [
            one.model_copy(update={"fact_id": f"{EVENT}{id}/{n}"})
            if "fact_id" in type(one).model_fields
            else one
            for n, one in enumerate(records)
        ]
        return await self._changes.send(id, [(namespace, one) for one in named])

    async def effects(self, change_id: str, namespace: str | None = None) -> list[Effect]:
        """What became of the facts of a change, as far as they are decided."""
        return [_effect(row) for row in await self._read(reading.decided, f"{EVENT}{change_id}/", namespace)]

    async def outcome(self, change: Change) -> Outcome:
        """One of whose records none was decided, since all were refused, has failed."""
        status, error = change.status, change.error  # before the effects, which may be decided meanwhile
        effects = await self.effects(change.id, change.namespace)
        if change.refused and not effects and (refusal := await self.refusal(change.id)):
            return Outcome("FAILED", effects, refusal)
        return Outcome(status, effects, error)

    async def refusal(self, change_id: str) -> str | None:
        """Why a record of the change was refused; None if none was."""
        return await self._read(reading.refused, f"{EVENT}{change_id}/")

    def change(self, id: str) -> Change | None:
        """A change that was made here not long ago."""
        return self._changes.get(id)

    def changes(self) -> list[Change]:
        """The newest changes, the newest first."""
        return self._changes.newest()

    async def update(
        self,
        id: str,
        text: str | None = None,
        metadata: dict[str, Any] | None = KEEP,
        valid_until: datetime | None = KEEP,
        observed_at: datetime | None = None,
        namespace: str | None = None,
    ) -> Remembered:
        """Changes a memory; fields that are not given stay. Raises NotFound, BadMessage, ClientError.

        The id stays, except of a memory whose key is of another system: the new text then belongs to that key.
        """
        one, *others = (await self._find([id], namespace))[id]
        text = one.memory if text is None else text
        now = datetime.now(UTC)
        body: dict[str, Any] = {
            "category": one.category, "source": one.source, "key": one.key, "min_loss_delta": 0.0,
            "cardinality": one.cardinality, "metadata": one.metadata if metadata is KEEP else metadata,
            "valid_until": one.valid_until if valid_until is KEEP else valid_until,
            "observed_at": observed_at or max(now, one.observed_at),
        }  # fmt: skip
        before: list[Fact] = []
        if text != one.memory and one.key is None:  # the same text with the key gives the memory that key
            body["key"] = reading.KEY + one.memory_id
            before = [validate(Fact, body | {"text": one.memory})]
        gone = [other.memory_id for other in others]
        if text != one.memory and one.cardinality == "many":  # of which the new text is another value
            gone.append(one.memory_id)
        forget = [validate(Forget, {"forget": memory_id}) for memory_id in gone]
        records: list[FactMessage] = [*before, validate(Fact, body | {"text": text}), *forget]
        change = _in_time(await self.add(one.namespace, records))
        effects = await self.effects(change.id, one.namespace)
        if not effects or effects[-1].outcome == "outdated":
            reason = (
                await self.refusal(change.id) or "it is older than what is remembered: give a later timestamp"
            )
            raise BadMessage("outdated", f"{id} was not changed: {reason}")
        return await self.get(effects[-1].id or id, one.namespace)

    async def forget(self, ids: Sequence[str], linked: bool = False, namespace: str | None = None) -> None:
        """Forgets memories; with `linked` also those that they replaced. Raises NotFound, ClientError."""
        found = await self._find(ids, namespace)
        records: list[tuple[str, FactMessage]] = []
        for one in dict.fromkeys((one.namespace, one.memory_id) for id in ids for one in found[id]):
            older = await self._read(reading.replaced_by, *one) if linked else []
            records += [(one[0], validate(Forget, {"forget": memory_id})) for memory_id in (one[1], *older)]
        await self._decided(records)

    async def forget_all(self, namespaces: Sequence[str]) -> None:
        """Forgets every memory of these namespaces. Raises ClientError."""
        await self._decided([(space, ForgetAll(forget_all=True)) for space in namespaces])

    async def _decided(self, records: Records) -> None:
        if records:
            _in_time(await self._changes.send(str(uuid.uuid4()), records))


def end_of(day: date) -> datetime:
    """The time from which a memory with this expiration date does not speak. Raises BadMessage."""
    try:
        return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
    except OverflowError:
        raise BadMessage(
            "invalid-field", "expiration_date is out of range: leave it out for no end"
        ) from None


def _in_time(change: Change) -> Change:
    if change.status == "FAILED":
        raise ClientError(change.error or "failed")
    if change.status != "SUCCEEDED":
        raise ClientError(
            f"sent, and not decided within {WAIT_S:.0f} s: it will be. Are an encoder and a writer running?"
        )
    return change


def _effect(row: dict[str, Any]) -> Effect:
    event = _EVENTS.get(row["outcome"], "NONE")
    return Effect(event, row["outcome"], row["id"], row["text"], row["before"] if event == "UPDATE" else None)
