"""A running stack as its operator sees it: metrics, health, and the traces of a fact and of a request.

The workers are real processes, and send their spans to a small OTLP collector of the test.
"""

import http.client
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
from kafka import TopicPartition
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.query import run as query
from schemas import topics
from schemas.common import encode
from schemas.fact import Fact
from tests.conftest import wait_until
from workers.kafka.config import KafkaSettings
from workers.runtime.embedded_broker import free_port

FACTS = ["The Harlow desk lamp is made of walnut.", "Milo Kassab works as a glaciologist."]
UPSTREAM = "4bf92f3577b34da6a3ce929d0e0e4736"  # of a trace that began in another system


class Collector:
    """Takes spans as an OpenTelemetry collector does, and keeps them."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, request: ExportTraceServiceRequest) -> None:
        for group in request.resource_spans:
            service = next(a.value.string_value for a in group.resource.attributes if a.key == "service.name")
            for span in (span for scope in group.scope_spans for span in scope.spans):
                said = {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
                self.spans.append({
                    "name": span.name, "service": service, "trace": span.trace_id.hex(), "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(), "failed": span.status.code == 2, "said": said,
                    "begun": span.start_time_unix_nano, "ended": span.end_time_unix_nano,
                })  # fmt: skip

    def trace(self, trace: str) -> list[dict[str, Any]]:
        return sorted((s for s in self.spans if s["trace"] == trace), key=lambda s: int(s["begun"]))


@dataclass
class Stack:
    settings: KafkaSettings
    data: Path
    ports: dict[str, int]
    collector: Collector
    env: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str, text: str = "") -> str:
        command = [sys.executable, "-m", "workers.cli", *arguments]
        done = subprocess.run(command, input=text, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, worker: str, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[worker], timeout=10)
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return response.status, body

    def metrics(self, worker: str) -> dict[tuple[str, str], float]:
        """Samples by (name, labels)."""
        families = text_string_to_metric_families(self.get(worker, "/metrics")[1])
        return {
            (s.name, ",".join(f"{k}={v}" for k, v in sorted(s.labels.items()))): s.value
            for family in families
            for s in family.samples
        }


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    data, collector = tmp_path_factory.mktemp("data"), Collector()
    first = free_port(row=4)  # the metrics of three workers, then the broker
    settings = KafkaSettings(f"127.0.0.1:{first + 3}")
    ports = {name: first + n for n, name in enumerate(("encoder", "writer", "generator"))}
    env = os.environ | {
        "FACTSTREAM_DATA": str(data), "FACTSTREAM_BOOTSTRAP": settings.bootstrap, "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }  # fmt: skip
    command = [sys.executable, "-m", "workers.cli", "up", "--port", settings.bootstrap.split(":")[1]]
    env_of_up = {k: v for k, v in env.items() if k != "FACTSTREAM_BOOTSTRAP"}
    command += ["--metrics-port", str(first)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env_of_up)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready")
    yield Stack(settings, data, ports, collector, env)
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 0
    collector.server.shutdown()


@pytest.fixture(scope="module")
def used(stack: Stack) -> Stack:
    """After facts, one of them known, one no fact at all, and answers."""
    stack.command("publish", "-", "--wait", text="\n".join([*FACTS, "Paris is the capital of France."]))
    producer = stack.settings.producer()
    producer.send(topics.FACTS, b'{"text": ', b"default")
    producer.flush_or_raise()
    producer.close()
    stack.command("ask", "The Harlow desk lamp is made of")
    stack.command("ask", "The Harlow desk lamp is made of", "--no-memory")
    wait_until(lambda: query.run(stack.data, "from dead_letters").num_rows == 1)
    wait_until(lambda: query.run(stack.data, "from history where outcome = 'used'").num_rows == 1)
    return stack


def test_trace_of_a_fact_leads_from_publication_to_decision(used: Stack) -> None:
    spans = used.collector.spans
    wait_until(lambda: len([s for s in spans if s["name"] == "publish"]) == 3)
    published = [s for s in spans if s["name"] == "publish"]
    assert len({s["trace"] for s in published}) == len(published) == 3  # a trace a fact, though sent together
    for root in published:
        wait_until(lambda root=root: len(used.collector.trace(root["trace"])) == 3)  # type: ignore[misc]
        publish, encode_, decide = used.collector.trace(root["trace"])
        assert [s["name"] for s in (publish, encode_, decide)] == ["publish", "encode", "decide"]
        assert [s["service"] for s in (publish, encode_, decide)] == [
            "factstream-client", "factstream-encoder", "factstream-writer"
        ]  # fmt: skip
        assert (publish["parent"], encode_["parent"], decide["parent"]) == ("", publish["id"], encode_["id"])
        assert all(s["ended"] >= s["begun"] for s in (publish, encode_, decide))
        assert (decide["said"]["messaging.kafka.offset"], decide["said"]["factstream.namespace"]) == (
            encode_["said"]["messaging.kafka.offset"], "default"
        )  # fmt: skip
    outcomes = [s["said"]["factstream.outcome"] for s in spans if s["name"] == "decide"]
    assert outcomes.count("learned") == 2 and "skipped" in outcomes
    assert not [s for s in spans if "walnut" in str(s) or "Milo" in str(s)]  # no text is in a span


def test_trace_of_a_request_leads_to_its_response_and_to_the_hit(used: Stack) -> None:
    wait_until(lambda: [s for s in used.collector.spans if s["name"] == "request"])
    request = next(s for s in used.collector.spans if s["name"] == "request")
    wait_until(lambda: len(used.collector.trace(request["trace"])) == 3)
    spans = {s["name"]: s for s in used.collector.trace(request["trace"])}
    generate, decide = spans["generate"], spans["decide"]
    assert (generate["parent"], decide["parent"]) == (request["id"], generate["id"])
    assert generate["service"] == "factstream-generator" and request["service"] == "factstream-client"
    assert generate["said"]["factstream.request_id"] == request["said"]["factstream.request_id"]
    assert request["begun"] < generate["begun"] < generate["ended"] < request["ended"]
    assert generate["said"]["factstream.memories"] == 1 and decide["said"]["factstream.outcome"] == "used"


def test_trace_of_another_system_is_continued_and_returned(stack: Stack) -> None:
    context = f"00-{UPSTREAM}-00f067aa0ba902b7-01".encode()
    producer = stack.settings.producer()
    fact = encode(Fact(text="Ines Okafor keeps the password rota."))
    producer.send(topics.FACTS, fact, b"default", headers=[("traceparent", context)])
    body = b'{"prompt": "Ines Okafor keeps", "max_new_tokens": 2}'
    producer.send(topics.GENERATION_REQUESTS, body, b"traced-1", headers=[("traceparent", context)])
    bad = [("traceparent", context), ("traceparent", b"x")]
    producer.send(topics.FACTS, b'{"text": ', b"traced-bad", headers=bad)
    producer.flush_or_raise()
    producer.close()
    wait_until(
        lambda: {"encode", "decide", "generate"} <= {s["name"] for s in stack.collector.trace(UPSTREAM)}
    )
    wait_until(lambda: [s for s in stack.collector.trace(UPSTREAM) if s["failed"]])
    consumer = stack.settings.consumer()
    seen: dict[bytes, list[bytes]] = {}

    def poll() -> bool:
        for records in consumer.poll(timeout_ms=200).values():
            for record in records:
                seen[record.key] = [value for name, value in record.headers if name == "traceparent"]
        return {b"traced-1", b"traced-bad"} <= set(seen)

    consumer.assign([
        TopicPartition(topic, p) for topic in (topics.GENERATION_RESPONSES, topics.DEAD_LETTERS) for p in range(4)
    ])  # fmt: skip
    consumer.seek_to_beginning()
    wait_until(poll)
    consumer.close()
    generate = next(s for s in stack.collector.trace(UPSTREAM) if s["name"] == "generate")
    assert seen[b"traced-1"] == [f"00-{UPSTREAM}-{generate['id']}-01".encode()]
    assert seen[b"traced-bad"] == [context, b"x"], "a dead letter has the headers of its record"


def test_every_metric_of_a_worker_is_recorded(used: Stack) -> None:
    wait_until(lambda: used.metrics("writer").get(("factstream_decisions_total", "outcome=used")), 10)
    encoder, writer, generator = map(used.metrics, ("encoder", "writer", "generator"))
    for name, samples in (("encoder", encoder), ("writer", writer), ("generator", generator)):
        worker = f"worker={name}"
        assert samples["factstream_batch_records_count", worker] > 0
        assert samples["factstream_batch_seconds_sum", worker] > 0
        lags = {labels for sample, labels in samples if sample == "factstream_lag_records"}
        consumed = {"encoder": 1, "writer": 4, "generator": 2}[name]  # topics
        assert len(lags) == consumed * 4 and all(worker in labels for labels in lags)
    assert encoder["factstream_encoded_facts_total", ""] >= 3
    assert encoder["factstream_dead_letters_total", "reason=invalid-json,worker=encoder"] >= 1
    assert writer["factstream_decisions_total", "outcome=learned"] >= 2
    assert writer["factstream_decisions_total", "outcome=skipped"] >= 1
    assert writer["factstream_decision_seconds_count", ""] >= 3
    assert writer["factstream_loss_delta_nats_count", ""] >= 3
    wait_until(lambda: used.metrics("writer")["factstream_memories", "worker=writer"] >= 2, 10)
    wait_until(lambda: used.metrics("generator")["factstream_memories", "worker=generator"] >= 2, 10)
    assert generator["factstream_tokens_total", "kind=completion"] > 0
    assert generator["factstream_tokens_total", "kind=prompt"] > 0
    assert sum(v for (n, _), v in generator.items() if n == "factstream_answers_total") >= 2
    assert generator["factstream_gate_count", ""] > generator["factstream_gate_bucket", "le=0.0"]
    assert generator["factstream_queued_seconds_count", ""] >= 2
    assert generator["factstream_generate_seconds_sum", ""] > 0


def test_health_and_readiness(used: Stack) -> None:
    for worker in used.ports:
        assert used.get(worker, "/healthz") == (200, "ok\n")
        assert used.get(worker, "/readyz") == (200, "ready\n")
        assert used.get(worker, "/etc/passwd")[0] == 404
    page = used.get("writer", "/metrics")[1]
    assert not re.search("walnut|Harlow|Milo", page)
    assert orjson.loads(used.command("query", "from memories", "--format", "json"))  # and there they are


def test_watch_prints_lag_rates_decisions_and_answers(stack: Stack) -> None:
    command = [sys.executable, "-m", "workers.cli", "watch", "--json", "--interval", "0.5"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=stack.env
    )
    assert process.stdout is not None and process.stderr is not None
    ticks = [orjson.loads(process.stdout.readline())]
    assert {topic: len(of) for topic, of in ticks[0]["lag"].items()} == dict.fromkeys(
        ["facts", "generation-requests", "fact-encodings", "memory-hits", "dead-letters"], 4
    )
    stack.command("publish", "-", "--wait", text="The Tallow conference takes place in Ljubljana.")
    stack.command("ask", "The Tallow conference takes place in", "--max-new-tokens", "8")
    while not ticks[-1]["answers"]:
        ticks.append(orjson.loads(process.stdout.readline()))
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0 and process.stderr.read() == ""
    (decision,) = [one for tick in ticks for one in tick["decisions"]]
    assert decision["outcome"] == "learned" and decision["loss_delta"] > 0
    assert decision["text"] == "The Tallow conference takes place in Ljubljana."
    assert sum(tick["outcomes"].get("learned", 0) for tick in ticks) == 1
    assert max(tick["published_per_s"] for tick in ticks) > 0 < max(tick["decided_per_s"] for tick in ticks)
    (answer,) = ticks[-1]["answers"]
    assert answer["prompt"] == "The Tallow conference takes place in" and "Ljubljana" in answer["text"]
    assert answer["memories"][0]["gate"] > 0 and answer["error"] is None


def test_watch_restores_the_terminal_at_its_end(used: Stack) -> None:
    ours, theirs = pty.openpty()
    env = used.env | {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    command = [sys.executable, "-m", "workers.cli", "watch", "--interval", "0.3"]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
    )
    os.close(theirs)
    shown = b""

    def reads(what: bytes) -> bool:
        nonlocal shown
        with suppress(OSError):  # the other end is closed
            shown += os.read(ours, 65536)
        return what in shown

    wait_until(lambda: reads(b"facts/s decided") and reads(b"fact-encodings"))
    process.send_signal(signal.SIGINT)
    wait_until(lambda: reads(b"\x1b[?1049l"))  # the screen that was there before
    assert process.wait(20) == 0
    assert b"\x1b[?25h" in shown and b"Traceback" not in shown  # the cursor
    os.close(ours)
