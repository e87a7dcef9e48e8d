"""`factstream map`: what records of a file become, for a person and for a program, and its exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.source.records import TOPIC, envelope
from workers.cli.app import app
from workers.source import sample

RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
CONFIG = f"""
sources:
  - topic: {TOPIC}
    format: debezium
    statements: {{material: "The {{{{ row.name }}}} is made of {{{{ row.material }}}}."}}
"""
EVENTS = (
    "  - {topic: events, format: cloudevents, statements: {a: {text: 'Event {{ event.id }}.', key: a}}}\n"
)
LAMP = {"id": 7, "name": "Lamp", "material": "oak"}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "sources.yaml"
    file.write_text(CONFIG)
    return file


def run(config: Path, data: bytes, *options: str) -> Any:
    return RUNNER.invoke(app, ["map", "--config", str(config), "--sample", "-", *options], input=data)


def test_a_value_is_shown_as_the_facts_that_it_becomes(config: Path) -> None:
    value = json.dumps(envelope("c", None, LAMP), indent=2).encode()
    shown = run(config, value, "--key", '{"id": 7}')
    assert shown.exit_code == 0
    first, second = shown.stdout.splitlines()
    assert first == "material: states" and json.loads(second)["text"] == "The Lamp is made of oak."
    found = json.loads(run(config, value, "--key", '{"id": 7}', "--json").stdout)
    assert found["statements"] == [{"statement": "material", "verdict": "states", "reason": ""}]
    assert (
        found["messages"] == [{"key": "default", "value": json.loads(second)}]
        and found["dead_letter"] is None
    )


def test_lines_of_kcat_are_records_with_their_keys_headers_and_topics(config: Path) -> None:
    config.write_text(CONFIG + EVENTS)
    ce = ["ce_specversion", "1.0", "ce_id", "e-1", "ce_source", "s", "ce_type", "t"]
    lines: list[dict[str, Any]] = [
        {"topic": TOPIC, "partition": 3, "offset": 9, "ts": 1000, "key": '{"id": 7}', "payload": json.dumps(envelope("c", None, LAMP))},
        {"topic": TOPIC, "partition": 3, "offset": 10, "ts": 2000, "key": '{"id": 7}', "payload": None},
        {"topic": "events", "partition": 0, "offset": 1, "headers": ce, "payload": "{}"},
    ]  # fmt: skip
    shown = run(config, "\n".join(map(json.dumps, lines)).encode(), "--json")
    assert shown.exit_code == 0
    fact, forget, event = (json.loads(line)["messages"][0]["value"] for line in shown.stdout.splitlines())
    assert fact["fact_id"].startswith(f"{TOPIC}/3/9/1000/material/") and event["text"] == "Event e-1."
    assert (forget["forget_key"], forget["observed_at"]) == (fact["key"], "1970-01-01T00:00:02+00:00")


def test_a_dead_letter_is_told_with_its_reason_and_exit_code_1(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "avro"
    file.write_bytes(b"\0\0\0\0\x07\x02\x0e")
    shown = RUNNER.invoke(app, ["map", "--config", str(config), "--sample", str(file)])
    assert shown.exit_code == 1
    assert shown.stdout == "dead letter, no-registry: Confluent framing, schema id 7; configure a registry\n"
    found = json.loads(run(config, b"{", "--json").stdout)
    assert found["dead_letter"]["reason"] == "invalid-json" and found["messages"] == []


def test_a_record_about_no_row_is_passed_over(config: Path) -> None:
    shown = run(config, b'{"op": "m", "source": {}}')
    assert (shown.exit_code, shown.stdout) == (0, "passed over: the record is about no row\n")


def test_headers_and_the_topic_are_options(config: Path) -> None:
    config.write_text(CONFIG + EVENTS)
    headers = [f"--header=ce_{name}={value}" for name, value in {"specversion": "1.0", "id": "a=b", "source": "s", "type": "t"}.items()]  # fmt: skip
    shown = run(config, b"{}", "--topic", "events", *headers)
    assert shown.exit_code == 0 and "Event a=b." in shown.stdout


@pytest.mark.parametrize(
    "change, options, words",
    [
        (EVENTS, [], "--topic must say which source it is of: there are shop.public.product, events"),
        ("", ["--topic", "other"], "the source other is not configured: there are shop.public.product"),
        ("", ["--header", "x"], "a header is NAME=VALUE, not 'x'"),
        ("colour: red", [], "colour: unknown key"),
        ("registry: {url: 'http://127.0.0.1:1'}", [], "the registry http://127.0.0.1:1 does not answer"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(
    config: Path, change: str, options: list[str], words: str
) -> None:
    config.write_text(CONFIG + change)
    shown = run(config, b"\0\0\0\0\x07", *options)
    assert shown.exit_code == 1 and words in shown.stderr and "Traceback" not in shown.stderr
    assert shown.stderr.startswith("error: ")


def test_the_worker_needs_a_file_and_up_reads_it_before_anything_starts(config: Path, tmp_path: Path) -> None:
    shown = RUNNER.invoke(app, ["worker", "source", "--data", str(tmp_path)])
    assert shown.exit_code == 1 and "--config FILE" in shown.stderr
    config.write_text(CONFIG.replace(TOPIC, "facts"))
    shown = RUNNER.invoke(app, ["up", "--data", str(tmp_path / "d"), "--source-config", str(config)])
    assert shown.exit_code == 1 and "facts is a topic of factstream itself" in shown.stderr
    assert not (tmp_path / "d").exists()


def test_a_row_with_columns_like_those_of_kcat_is_a_row() -> None:
    for more in ({"partition": None}, {"partition": "p-1"}, {"partition": 0, "headers": {"a": 1}}):
        row = json.dumps({"topic": "t", "payload": "x", **more}).encode()
        (found,) = sample.read(row, TOPIC, None, [])
        assert (found.topic, found.value) == (TOPIC, row)
