"""A Kafka record of a source, mapped: decoded, read as a change of a row, made into messages."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from schemas.common import BadMessage
from workers.kafka.consumer import check_readable
from workers.source import change as changes
from workers.source.change import Change
from workers.source.cloudevents import of_event
from workers.source.config import Config, Source
from workers.source.decoding.decoder import Decoder
from workers.source.mapping import Mapped, map_change

MAX_RECORD_ID = 180
"""Characters of a record's id: a statement's name follows in the fact_id, which has at most 256."""


@dataclass(frozen=True)
class Result:
    """What a record became: a verdict for each statement, or none, and the error if it belongs into the dead letters."""

    mapped: list[Mapped] = field(default_factory=list)
    error: BadMessage | None = None
    deletes: bool = False
    """Whether an envelope said that the row is deleted; Debezium sends a tombstone after it."""


class Mapper:
    """Maps records. `close` ends the connection to the registry."""

    def __init__(self, config: Config) -> None:
        """Raises ValueError if a library is missing that the configuration needs."""
        self._sources = {source.topic: source for source in config.sources}
        self._decoder = Decoder(config.registry)
        self.close = self._decoder.close

    def map(self, record: Any, echo: bool = False) -> Result:
        """The result of a record of one of the topics. Raises RegistryDown.

        With `echo` the record, if it is a tombstone, only follows the deletion before it. It has no other time than the
        connector's clock, which could be later than that of a row that was inserted again meanwhile.
        """
        source = self._sources[record.topic]
        try:
            check_readable(record)
            change = self._change(source, record)
            if change is None or (change.tombstone and echo and source.format == "debezium"):
                return Result()
            mapped = map_change(source, change, record_id(record))
        except BadMessage as error:
            return Result(error=error)
        except RecursionError:
            return Result(error=BadMessage("invalid-value", "the record is nested too deeply"))
        refused = next((one.error for one in mapped if one.error), None)
        return Result(mapped, refused, change.after is None and not change.tombstone)

    def _change(self, source: Source, record: Any) -> Change | None:
        headers, time = record.headers, _time(record.timestamp)
        key = self._decoder.key(record.key, headers)
        if source.format == "cloudevents":
            return of_event(
                record.topic,
                key,
                record.value,
                headers,
                time,
                lambda data: self._decoder.value(data, headers),
            )
        value = None if record.value is None else self._decoder.value(record.value, headers)
        if source.format == "debezium":
            return changes.of_debezium(record.topic, key, value, time)
        return changes.of_row(record.topic, key, value, time)


def record_id(record: Any) -> str:
    """The same text for every delivery of a record, and another one when its topic was deleted and made again."""
    text = f"{record.topic}/{record.partition}/{record.offset}/{record.timestamp}"
    return text if len(text) <= MAX_RECORD_ID else sha256(text.encode()).hexdigest()


def _time(timestamp_ms: int) -> datetime | None:
    """A record's Kafka timestamp; None if its producer gave it none, or one that is not a time."""
    try:
        return datetime.fromtimestamp(timestamp_ms / 1000, UTC) if timestamp_ms > 0 else None
    except (ValueError, OverflowError, OSError):
        return None
