"""`factstream chat`: a conversation in a terminal with an assistant that remembers it."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from workers.cli.errors import report_errors, stderr
from workers.cli.options import Bootstrap, Data, Json, Model, Prefix

if TYPE_CHECKING:
    from workers.kafka.config import KafkaSettings


def chat(
    data: Data,
    namespace: Annotated[str, typer.Option(help="The namespace that is learned and asked.")] = "me",
    name: Annotated[
        str | None,
        typer.Option(help="Your name, for the facts about you; without it they speak of `the user`."),
    ] = None,
    no_learning: Annotated[bool, typer.Option("--no-learning", help="Only ask; learn nothing.")] = False,
    model: Model = "default",
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    as_json: Json = False,
) -> None:
    """Talk with a model that remembers what you say. Ctrl-C stops an answer, and at the prompt ends the chat, as Ctrl-D does.

    Without --bootstrap it uses the broker at 127.0.0.1:9092 if one runs there, else it starts a stack of its own, as
    `factstream up` would, and stops it at the end. What it learned stays in the data folder. /help lists the commands.

    Without a terminal it reads a message a line; --json prints a line of JSON for each event: ready, learned, delta, answer, error.

    Example: echo "Where does Ana live?" | factstream chat --namespace me --json
    """
    from schemas.common import validate
    from schemas.fact import Conversation
    from workers.assistant.session import Session
    from workers.cli.chat.screen import Json as JsonScreen
    from workers.cli.chat.screen import Terminal

    screen = JsonScreen() if as_json else Terminal()
    with report_errors(), ExitStack() as stack:
        turn = {"role": "user", "content": "", "name": name}
        validate(Conversation, {"messages": [turn], "namespace": namespace})
        stack.enter_context(_ended_by_sigterm())
        settings = stack.enter_context(_cluster(data.absolute(), bootstrap, topic_prefix, model))
        session = stack.enter_context(
            Session(
                settings,
                data.absolute(),
                namespace,
                name,
                not no_learning,
                lambda: datetime.now().astimezone(),
            )
        )
        screen.ready(settings.bootstrap, namespace)
        failed = False
        for line in _lines(sys.stdin.isatty() and not as_json):
            try:
                failed |= not session.take(line, screen)
            except KeyboardInterrupt:
                screen.stopped()
            if session.over:
                break
    if failed and not sys.stdin.isatty():
        raise typer.Exit(1)


@contextmanager
def _cluster(
    data: Path, bootstrap: str | None, topic_prefix: str | None, model: str
) -> "Iterator[KafkaSettings]":
    """The settings of a cluster that runs, or of a stack that runs as long as the block."""
    from pipeline.store.place import place_of
    from workers.kafka.config import KafkaSettings
    from workers.runtime import supervisor

    settings = KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix)
    if bootstrap or os.environ.get("FACTSTREAM_BOOTSTRAP") or supervisor.answers(settings):
        yield settings
        return
    with ExitStack() as stack:
        with stderr.status("starting a broker and three workers (the first start also fetches the model) …"):
            log = data / "logs" / "chat.log"
            started, _ = stack.enter_context(supervisor.running(data, model, log=log))
        try:
            yield started
        finally:
            with stderr.status(f"stopping; what was learned stays in {place_of(data)} …"):
                stack.close()


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-D does, whatever it waits for."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _lines(prompt: bool) -> Iterator[str]:
    """What the user writes, a message a line, until Ctrl-D or Ctrl-C."""
    if prompt:
        with suppress(ImportError):
            import readline  # noqa: F401  # editing and the history of the prompt
    while True:
        try:
            line = input("› ") if prompt else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            print() if prompt else None
            return
        if not prompt and not line:
            return
        if line.strip():
            yield line.strip()
