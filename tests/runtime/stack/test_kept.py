"""Facts that the embedded broker acknowledged: in the memory once, whichever process dies.

The writer is the real one; the encoder is, too, but for the numbers of its model.
"""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.history import layout
from pipeline.history import log as history
from pipeline.memory.events import Decision
from schemas.topics import FACT_ENCODINGS, FACTS
from tests.conftest import wait_until
from tests.runtime.stack.local_up import STAND_IN, WAITS, Up
from workers.kafka.config import KafkaSettings
from workers.runtime.stack import unread

WRITER = (
    STAND_IN
    + """
from workers.kafka.config import KafkaSettings
from workers.runtime import loop
from workers.write.worker import WriterWorker
settings, data = KafkaSettings.from_env(), Path(os.environ["FACTSTREAM_DATA"])
sys.exit(loop.run(WriterWorker(settings, data), settings, data, poll_ms=50, max_records=10))
"""
)
ENCODER = "import runpy; runpy.run_module('tests.runtime.stack.without_model', run_name='__main__')"
WORKERS = {"encoder": ENCODER, "writer": WRITER}


def decisions(data: Path) -> list[Decision]:
    return [
        decision
        for number in layout.partitions(data)
        for _, some in history.read(data, number)
        for decision in some
    ]


def send(settings: KafkaSettings, numbers: range, pause_s: float = 0.0) -> None:
    """Publishes facts without a fact_id, which only their offsets tell apart, to four namespaces."""
    producer = settings.producer()
    for number in numbers:
        text = b'{"text": "The lamp of hall %d is blue."}' % number
        producer.send(FACTS, text, b"space-%d" % (number % 4))
        producer.flush_or_raise()
        time.sleep(pause_s)
    producer.close()


def check(data: Path, count: int) -> None:
    """Each fact was decided once: a second time it would be a duplicate of itself."""
    found = decisions(data)
    assert Counter(decision.outcome for decision in found) == {"learned": count}
    assert len({decision.text for decision in found}) == count


@pytest.mark.slow
def test_six_kills_in_a_row_lose_nothing_and_up_goes_on(up: Callable[..., Up]) -> None:
    running = up(WORKERS, restart_delay=lambda deaths: 0.05)
    running.until_ready()
    publisher = threading.Thread(target=send, args=(running.settings, range(300), 0.01))
    publisher.start()
    for name in ("writer", "encoder") * 3:
        pid = running.starts(name)[-1]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda name=name, pid=pid: running.starts(name)[-1] != pid)  # type: ignore[misc]
        time.sleep(0.5)
    publisher.join()
    wait_until(lambda: len(decisions(running.data)) >= 300, 60)
    assert running.thread.is_alive()
    running.end()
    assert running.error is None and unread.files(running.data) == []
    check(running.data, 300)


@pytest.mark.parametrize("dead", ["encoder", "writer"])
def test_facts_that_one_worker_has_not_read_are_learned_at_the_next_start(
    up: Callable[..., Up], dead: str
) -> None:
    first = up({**WORKERS, dead: WAITS}, drain_s=0.1)
    first.until_ready()
    send(first.settings, range(40))
    if dead == "writer":  # all are encoded, and none is decided
        wait_until(lambda: b"facts=" in (first.data / "logs" / "encoder.log").read_bytes())
        time.sleep(1)
    first.end()
    assert decisions(first.data) == []
    topic = {"encoder": FACTS, "writer": FACT_ENCODINGS}[dead]
    assert f"{topic}{unread.SUFFIX}" in {path.name for path in unread.files(first.data)}
    second = up(WORKERS)
    second.until_ready()
    send(second.settings, range(40, 50))
    second.end()  # drains
    check(second.data, 50)
    assert unread.files(second.data) == []


@pytest.mark.slow
def test_facts_that_are_published_again_after_their_decision_count_once(up: Callable[..., Up]) -> None:
    """As after a crash between the publication and the removal of the file, and after one before a commit."""
    first = up({"encoder": WAITS, "writer": WAITS}, drain_s=0.1)
    first.until_ready()
    send(first.settings, range(20))
    first.end()
    (path,) = unread.files(first.data)
    content = path.read_bytes()
    for start in range(3):
        path.write_bytes(content)
        running = up(WORKERS)
        running.until_ready()
        send(running.settings, range(20 + start, 21 + start))
        running.end()
    check(first.data, 23)
