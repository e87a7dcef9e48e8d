"""Connections: one that is closed while it is read ends quietly, and a client that fails leaves none."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from kafka.net.transport import KafkaTCPTransport

from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaUnavailable
from workers.runtime.embedded_broker import free_port


def test_client_closed_while_its_thread_reads_logs_no_traceback(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ensure_topics(settings)
    client = settings.admin()
    reading, read = threading.Event(), KafkaTCPTransport._sock_recv

    def read_late(transport: KafkaTCPTransport) -> Any:
        """Reads half a second after the socket had data, or as soon as the socket is gone."""
        if threading.current_thread() is client._net._io_thread:
            reading.set()
            until = time.monotonic() + 0.5
            while transport._sock is not None and time.monotonic() < until:
                time.sleep(0.01)
        return read(transport)

    monkeypatch.setattr(KafkaTCPTransport, "_sock_recv", read_late)
    with caplog.at_level(logging.ERROR, "kafka"):
        client._client.cluster.request_update()  # its answer is what is read
        assert reading.wait(10)
        client.close()
    assert not [record.getMessage() for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("open_client", [KafkaSettings.admin, KafkaSettings.consumer, KafkaSettings.producer])
def test_client_that_cannot_connect_leaves_no_thread(open_client: Callable[[KafkaSettings], object]) -> None:
    nobody = KafkaSettings(f"127.0.0.1:{free_port()}", connect_timeout_s=0.2)
    before = threading.enumerate()
    with pytest.raises(KafkaUnavailable):
        open_client(nobody)
    assert not set(threading.enumerate()) - set(before)
