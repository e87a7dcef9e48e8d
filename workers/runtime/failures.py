"""Failures that end a worker, and how each is logged."""

from pipeline.history.errors import HistoryError
from pipeline.model.errors import ModelError
from workers.kafka.errors import KafkaError, KafkaUnavailable, TopicsMismatch, TopicsMissing
from workers.observe import log


class TopicsReplaced(RuntimeError):
    """The cluster's topics are not those that the worker started with: the offsets it knows have lost their meaning."""


MENDABLE = (KafkaUnavailable, TopicsMissing, TopicsMismatch, TopicsReplaced, HistoryError, ModelError)
"""Errors whose text tells a person what to do."""


def log_failure(error: Exception) -> None:
    """Write one line if the error's text is enough for a person, else its traceback as well."""
    if isinstance(error, OSError) and error.filename is not None:
        what = f"{error.filename}: {error.strerror}; check the space and the permissions there"
        log.line("failed", log.ERROR, reason=what)
    elif isinstance(error, MENDABLE):
        log.line("failed", log.ERROR, reason=str(error))
    else:
        log.line("failed", log.ERROR, error, reason=reason(error))


def reason(error: BaseException) -> str:
    return str(error) if isinstance(error, KafkaError) else f"{type(error).__name__}: {error}"
