"""How a command says what went wrong: one clear line on standard error, and exit code 1."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

errors = Console(stderr=True)


@contextmanager
def clear_errors() -> Iterator[None]:
    """What a person can mend is one line and exit code 1, not a traceback."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, _mendable()):
            raise
        errors.print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None


def _mendable() -> tuple[type[Exception], ...]:
    """Imported only where something went wrong: a worker would start later by what it does not need."""
    from kafka.errors import KafkaError

    from pipeline.history.log import HistoryError
    from pipeline.model.errors import ModelError
    from pipeline.query.run import QueryError
    from workers.client.publishing import ClientError
    from workers.kafka.admin import TopicsMismatch, TopicsMissing
    from workers.kafka.clients import KafkaUnavailable
    from workers.runtime.embedded_broker import BrokerError
    from workers.runtime.supervisor import StackError

    return (
        KafkaError, HistoryError, ModelError, QueryError, BrokerError, ClientError, KafkaUnavailable,
        StackError, TopicsMismatch, TopicsMissing, ValueError, OSError,
    )  # fmt: skip
