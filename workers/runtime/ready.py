"""The ready line: how a supervised worker tells the supervisor, over a pipe, that it is ready.

The supervisor hands the pipe on by the environment; the line is `ready {json}`.
"""

import json
import os
from contextlib import suppress

from workers.observe import log

READY_FD = "FACTSTREAM_READY_FD"
"""Names the pipe's file descriptor."""
ALONE = "FACTSTREAM_ALONE"
"""Set to 1 for a worker that is alone in its group: it may join before it can work."""

Facts = dict[str, str | int]


def tell_ready(facts: Facts) -> None:
    """Log that this worker is ready, and tell the supervisor if there is one."""
    number = os.environ.pop(READY_FD, "")
    log.line("ready", **facts)
    if number.isdecimal():
        with os.fdopen(int(number), "w") as pipe:
            pipe.write(f"ready {json.dumps(facts)}\n")


def read_ready(pipe: int) -> Facts | None:
    """The facts, if the line has come. It is one short write, so it comes whole. The pipe does not block."""
    with suppress(BlockingIOError, ValueError):
        word, _, text = os.read(pipe, 4096).decode().partition(" ")
        if word == "ready":
            facts: Facts = json.loads(text)
            return facts
    return None
