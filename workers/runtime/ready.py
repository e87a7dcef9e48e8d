"""The ready line: how a supervised worker tells the supervisor, over a pipe, that it is ready.

The worker finds the pipe's file descriptor in its environment; the line is `ready {json}`.
"""

import json
import os
from contextlib import suppress

from workers.observe import log

READY_FD = "FACTSTREAM_READY_FD"
"""The environment variable with the pipe's file descriptor."""
ALONE = "FACTSTREAM_ALONE"
"""Set to 1 for a worker that is alone in its group: it takes all partitions without joining."""

ReadyState = dict[str, str | int]
"""What a worker reports when it is ready: its model, or its number of memories."""


def tell_ready(state: ReadyState) -> None:
    """Log that this worker is ready, and tell the supervisor if there is one."""
    number = os.environ.pop(READY_FD, "")
    log.line("ready", **state)
    if number.isdecimal():
        with os.fdopen(int(number), "w") as pipe:
            pipe.write(f"ready {json.dumps(state)}\n")


def read_ready(pipe: int) -> ReadyState | None:
    """The state, or None if the line has not come yet. It is one short write, so it is never split."""
    with suppress(BlockingIOError, ValueError):
        word, _, text = os.read(pipe, 4096).decode().partition(" ")
        if word == "ready":
            state: ReadyState = json.loads(text)
            return state
    return None
