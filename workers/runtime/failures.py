"""Failures that end a worker, and how each is logged."""

from pipeline.history.errors import HistoryError
from pipeline.model.errors import ModelError
from workers.kafka.errors import (
    FencedInstanceIdError,
    KafkaError,
    KafkaUnavailable,
    TopicsMismatch,
    TopicsMissing,
)
from workers.observe import log


class TopicsReplaced(RuntimeError):
    """The topics were created again since the worker started: the offsets that it knows are meaningless now."""


MENDABLE = (KafkaUnavailable, TopicsMissing, TopicsMismatch, TopicsReplaced, HistoryError, ModelError)
"""Errors whose text says what to do."""


def log_failure(error: Exception) -> None:
    """Log one line, with a traceback only if the error's text does not say what to do."""
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}; check the space and the permissions there"
        log.line("failed", log.ERROR, reason=text)
    elif isinstance(error, FencedInstanceIdError):
        text = "another process has this worker's place in its group: give each its own FACTSTREAM_INSTANCE"
        log.line("failed", log.ERROR, reason=text)
    elif isinstance(error, MENDABLE):
        log.line("failed", log.ERROR, reason=str(error))
    else:
        log.line("failed", log.ERROR, error, reason=reason(error))


def reason(error: BaseException) -> str:
    """The error's text, with its type if the text does not have it."""
    return str(error) if isinstance(error, KafkaError) else f"{type(error).__name__}: {error}"
