"""Trace contexts: valid headers are passed on, and invalid ones stop nothing."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.memory.events import SourceOffset
from workers.observe import tracing

ONE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TWO = ONE.replace("4bf9", "ffff")


@pytest.mark.parametrize(
    "value",
    [
        None, b"", b"x", b"\xff" * 55, ONE.upper().encode(), b"ff" + ONE[2:].encode(), ONE.encode() + b"-more",
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01", b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + b"0" * 16 + b"-01",
        ONE.encode() + b"\n", b"a" * 1_000_000,
    ],
)  # fmt: skip
def test_invalid_contexts_are_none(value: bytes | None) -> None:
    assert tracing.of([("other", b"1"), ("traceparent", value)]) is None


def test_context_is_passed_on_when_nothing_is_recorded() -> None:
    assert tracing.of([("traceparent", ONE.encode()), ("traceparent", TWO.encode())]) == ONE
    assert tracing.done("encode", ONE, tracing.now(), {}) == ONE
    assert tracing.done("encode", None, tracing.now(), {}) is None
    assert tracing.header(None) == [] and tracing.headers_of_rows([None, None]) == []


@given(st.lists(st.sampled_from([None, ONE, TWO]), min_size=1, max_size=tracing.MAX_CONTEXTS))
def test_contexts_of_the_facts_of_a_message_keep_their_order(contexts: list[str | None]) -> None:
    assert tracing.of_rows(tracing.headers_of_rows(contexts), len(contexts)) == contexts


@given(st.binary(max_size=200), st.integers(1, 4))
def test_any_header_bytes_give_a_context_or_none_for_each_fact(value: bytes, rows: int) -> None:
    assert tracing.of_rows([("traceparents", value)], rows) == [None] * rows
    wrong = ONE.encode() + b"," + value.replace(b",", b"")
    assert tracing.of_rows([("traceparents", wrong)], 2) == [ONE, None]


def test_contexts_that_do_not_match_the_rows_are_none() -> None:
    headers = tracing.headers_of_rows([ONE, TWO])
    assert tracing.of_rows(headers, 3) == [None] * 3
    assert tracing.of_rows([("traceparents", b"," * 10_000_000)], 2) == [None] * 2


def test_error_names_a_missing_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nonsense")
    with pytest.raises(ValueError, match=r"OTEL_TRACES_EXPORTER: no exporter 'nonsense'.*factstream\[otlp\]"):
        tracing.setup("encoder")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    tracing.setup("encoder")


def test_only_decisions_of_known_records_have_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str | None, object]] = []
    monkeypatch.setattr(tracing, "done", lambda name, parent, since, said: made.append((parent, said)))
    cause = SourceOffset("facts", "t", 1, 7)
    decision = SimpleNamespace(cause=cause, namespace="ada", outcome="learned", loss_delta=2.0, memory_id="m")
    tracing.decided([decision], {}, 0)
    tracing.decided([decision], {cause: ONE}, 0)
    ((parent, said),) = made
    assert parent == ONE and isinstance(said, dict) and said["factstream.outcome"] == "learned"


RECORDS = """
from workers.observe import tracing
tracing.setup("test")
for n in range(10_000):
    tracing.done("encode", None, tracing.now(), {"n": n})
print("done", flush=True)
"""


def test_missing_collector_loses_spans_but_delays_nothing() -> None:
    env = os.environ | {
        "OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", RECORDS], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "done\n"
    assert process.wait(60) == 0
