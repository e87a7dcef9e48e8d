"""Changes: records that are sent together, and how far the newest of them are."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from anyio import to_thread

from schemas.fact import FactMessage
from workers.client import Busy, ClientError, LoopClient, positions
from workers.kafka.errors import KafkaError, KafkaUnavailable, TopicsMismatch, TopicsMissing
from workers.observe import log

WAIT_S = 20.0
"""How long a change waits for its decision; it goes on after that."""
MAX_KEPT = 1_000
"""Most changes whose state is kept; that of earlier ones is in the history."""

Status = Literal["PENDING", "SUCCEEDED", "FAILED"]
Records = Sequence[tuple[str, FactMessage]]
"""Pairs of a namespace and a record, one at least."""


@dataclass(slots=True)
class Change:
    """Records that are sent together, and how far they are."""

    id: str
    namespace: str  # of its first record
    status: Status = "PENDING"
    error: str | None = None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    completed_at: datetime | None = None
    refused: int = 0
    """Records of the change that went to the dead letters."""

    def end(self, error: str | None = None) -> None:
        self.status, self.error = ("FAILED", error) if error else ("SUCCEEDED", None)
        self.completed_at = datetime.now(UTC)


class Changes:
    """Sends records, and keeps the newest changes."""

    def __init__(self, client: LoopClient, data: Path) -> None:
        self._client, self._data = client, data
        self._kept: OrderedDict[str, Change] = OrderedDict()
        self._sending: set[asyncio.Task[None]] = set()

    async def send(self, id: str, records: Records) -> Change:
        """Publishes records, and returns when they are decided, or after `WAIT_S` with the status PENDING. Raises Busy."""
        change = Change(id, records[0][0])
        task = asyncio.create_task(self._publish(change, records))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        self._kept[id] = change
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        await asyncio.wait([task], timeout=WAIT_S)
        if task.done():
            task.result()  # raises Busy
        return change

    def get(self, id: str) -> Change | None:
        return self._kept.get(id)

    def newest(self) -> list[Change]:
        """The changes that are kept, the newest first."""
        return list(reversed(self._kept.values()))

    async def _publish(self, change: Change, records: Records) -> None:
        try:
            published = await self._client.publish(records, wait=True)
            change.refused = published.outcomes["dead-lettered"]
            await to_thread.run_sync(positions.remember, self._data, published.after)
        except Busy:
            self._kept.pop(change.id, None)
            raise
        except (KafkaUnavailable, ClientError, TopicsMissing, TopicsMismatch) as error:
            change.end(str(error)[:500])
        except KafkaError as error:
            change.end(f"the broker refused: {str(error)[:400]}")
        except Exception as error:  # a bug must not leave anybody waiting for ever
            log.line("change failed", log.WARNING, error=f"{type(error).__name__}: {error}"[:300])
            change.end("something went wrong here; the server's log has the error")
        else:
            change.end()
