"""The request to stop: a flag that signal handlers set without a lock, and that loops poll.

A handler runs on the main thread, between any two instructions of it. If the flag were a `threading.Event`, its `set`
would wait for ever for the lock that the interrupted `wait` or `set` of the same thread holds.
"""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POLL_S = 0.05


class Stop:
    """Whether this process should end. Takes no lock, so any thread and any signal handler may set it at any moment."""

    def __init__(self) -> None:
        self._requests: deque[None] = deque(maxlen=2)  # appending is one atomic step

    def set(self) -> None:
        self._requests.append(None)

    def is_set(self) -> bool:
        return len(self._requests) > 0

    def is_urgent(self) -> bool:
        """Whether it was requested more than once: the process then waits for nothing that takes long."""
        return len(self._requests) > 1

    def wait(self, seconds: float) -> bool:
        """Sleep until it is set, or for `seconds`. Returns whether it is set."""
        end = time.monotonic() + seconds
        while not self.is_set() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, POLL_S))
        return self.is_set()


class Interrupted(BaseException):
    """A signal has ended what the main thread was doing."""


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[None]:
    """A block in which SIGINT and SIGTERM set `stop`. Only the main thread can have handlers: elsewhere nothing changes."""
    with _handled(lambda *_: stop.set()):
        yield


@contextmanager
def interrupted_by_signals(stop: Stop) -> Iterator[None]:
    """A block in which the first SIGINT or SIGTERM also raises Interrupted, for work that has nothing to finish.

    Not the default of SIGTERM: the first process of a container would ignore it, and no other would clean up.
    """

    def handle(*_: object) -> None:
        first = not stop.is_set()
        stop.set()
        if first:
            raise Interrupted

    with _handled(handle):
        yield


@contextmanager
def _handled(handle: Callable[..., object]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
