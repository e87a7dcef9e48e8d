"""Errors of the APIs: every failure as a status, a stable code and a sentence."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.history.errors import HistoryError
from pipeline.query.run import QueryError
from schemas.common import BadMessage
from schemas.response import ResponseError
from workers.client import Busy, ClientError
from workers.kafka.errors import KafkaError, KafkaUnavailable, TopicsMismatch, TopicsMissing
from workers.observe import log

MAX_CHARS = 500


@dataclass
class ApiError(Exception):
    """The request is refused or failed. `param`: the field that is wrong, if one is."""

    status: int
    code: str
    message: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


_STATUS = {"too-large": 413, "behind": 503, "deadline": 503, "failed": 500}
"""HTTP status by the reason of a response that is an error, or of a message; 400 for others."""


def of_response(error: ResponseError) -> ApiError:
    return ApiError(_STATUS.get(error.reason, 400), error.reason, error.message[:MAX_CHARS])


def as_api_error(error: Exception) -> ApiError:
    """Any exception of a handler. One that nobody expects is logged, and tells its sender nothing."""
    text = str(error)[:MAX_CHARS]
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BadMessage):
        name, colon, _ = text.partition(":")
        return ApiError(
            _STATUS.get(error.reason, 400), error.reason, text, name if colon and " " not in name else None
        )
    if isinstance(error, Busy):
        return ApiError(429, "busy", text, headers={"retry-after": "1"})
    if isinstance(error, TimeoutError):
        return ApiError(503, "timeout", "the request took too long")
    if isinstance(error, (ClientError, KafkaUnavailable, TopicsMismatch, TopicsMissing)):
        return ApiError(503, "unavailable", text)
    if isinstance(error, KafkaError):
        return ApiError(503, "broker", f"the broker refused: {text}")
    if isinstance(error, (QueryError, HistoryError)):
        return ApiError(500, "data-folder", text)
    log.line("request failed", log.WARNING, error=f"{type(error).__name__}: {text}"[:300])
    return ApiError(500, "internal", "something went wrong here; the server's log has the error")
