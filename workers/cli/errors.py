"""Error reports of commands: one clear line on standard error, and exit code 1."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

stderr = Console(stderr=True)


@contextmanager
def report_errors() -> Iterator[None]:
    """Turns errors that the user can mend into one line and exit code 1; others keep their traceback."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, _mendable()):
            raise
        stderr.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


def _mendable() -> tuple[type[Exception], ...]:
    """Imported only after an error: a command starts sooner without the modules that it does not use."""
    from pipeline.history.errors import HistoryError
    from pipeline.model.errors import ModelError
    from pipeline.query.run import QueryError
    from workers.client import ClientError
    from workers.kafka.errors import KafkaError, KafkaUnavailable, TopicsMismatch, TopicsMissing
    from workers.runtime.embedded_broker import BrokerError
    from workers.runtime.stack.local_stack import StackError

    return (
        KafkaError, HistoryError, ModelError, QueryError, BrokerError, ClientError, KafkaUnavailable,
        StackError, TopicsMismatch, TopicsMissing, ValueError, OSError,
    )  # fmt: skip
