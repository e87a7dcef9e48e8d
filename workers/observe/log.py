"""The log of a worker: one line for each event on stderr, as text or as JSON."""

import logging
import sys
import time
from datetime import UTC, datetime
from typing import Literal, TextIO

import orjson

LogFormat = Literal["text", "json"]

REPEAT_S = 30.0
"""Seconds in which a library's message is logged once: while a broker is away there would be hundreds a minute."""
MAX_VALUE_CHARS = 2000
"""Longest text of a field: error messages quote records of any size."""

WARNING, ERROR = logging.WARNING, logging.ERROR

_log = logging.getLogger("factstream")


def line(
    event: str, level: int = logging.INFO, error: BaseException | None = None, /, **fields: object
) -> None:
    """Write one line: the event, then its fields in the order given, then the traceback of `error`."""
    _log.log(level, event, extra={"fields": fields}, exc_info=error)


def setup(worker: str, log_format: LogFormat = "text", stream: TextIO | None = None) -> None:
    """Send this process's log lines to `stream` (stderr), each with the worker's name."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json(worker) if log_format == "json" else _Text(worker))
    _log.handlers = [handler]
    _log.setLevel(logging.INFO)
    _log.propagate = False
    for name in ("kafka", "opentelemetry", "mcp"):
        library = logging.getLogger(name)
        library.handlers = [handler]
        library.setLevel(logging.ERROR)
        library.propagate = False
    handler.addFilter(_OncePerPlace())


class _OncePerPlace(logging.Filter):
    """Passes our own lines, and one line per `REPEAT_S` from each place in a library's source.

    Not what the Kafka client says of requests that it gives up because it is closed: that is not a failure.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, int], float] = {}  # by logger and source line, so it is bounded

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == _log.name:
            return True
        if isinstance(record.args, tuple) and any(type(one).__name__ == "Cancelled" for one in record.args):
            return False
        place, now = (record.name, record.lineno), time.monotonic()
        if now - self._last.get(place, -REPEAT_S) < REPEAT_S:
            return False
        self._last[place] = now
        return True


class _Text(logging.Formatter):
    """`2026-03-01T12:00:00.123Z encoder batch facts=12 ms=34`; values with spaces or control characters are quoted."""

    def __init__(self, worker: str) -> None:
        super().__init__()
        self.worker = worker

    def format(self, record: logging.LogRecord) -> str:
        words = [_time(record), self.worker]
        if record.levelno > logging.INFO:
            words.append(record.levelname)
        words.append(_cut(record.getMessage()) if record.name == _log.name else _plain(record.getMessage()))
        words += [f"{name}={_plain(value)}" for name, value in getattr(record, "fields", {}).items()]
        text = " ".join(words)
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _Json(logging.Formatter):
    def __init__(self, worker: str) -> None:
        super().__init__()
        self.worker = worker

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "worker": self.worker,
            "event": _cut(record.getMessage()),
        }
        for name, value in getattr(record, "fields", {}).items():
            entry[name] = (
                value if isinstance(value, int | float | bool) or value is None else _cut(str(value))
            )
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(entry, option=orjson.OPT_NON_STR_KEYS).decode()


def _time(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def _cut(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate would break the stream
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "…"


def _plain(value: object) -> str:
    """A value as one word, so that no message can forge a line."""
    text = f"{value:.4g}" if isinstance(value, float) else _cut(str(value))
    return text if text.isprintable() and " " not in text and text else orjson.dumps(text).decode()
