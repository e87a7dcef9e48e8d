"""The commands without a broker: facts of a file, one-line errors, and what works offline."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from typer.testing import CliRunner

from pipeline.decide.decide import decide_fact
from pipeline.history import log as history
from pipeline.ingest.encoding import FactEncoding
from pipeline.memory.bank import Bank
from pipeline.memory.events import NewFact, SourceOffset
from pipeline.text.words import split
from schemas.common import BadMessage
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseDelta, ResponseError, UsedMemory
from workers import client
from workers.cli.app import app
from workers.cli.publish import fact_of
from workers.kafka.config import KafkaSettings

RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
NOWHERE = ("--bootstrap", "127.0.0.1:1")  # a port at which nothing listens


@pytest.fixture(autouse=True)
def no_waiting_for_a_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is away is given up at once."""
    from_env = KafkaSettings.from_env
    monkeypatch.setattr(KafkaSettings, "from_env", lambda **given: from_env(connect_timeout_s=0.2, **given))


@pytest.fixture
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTSTREAM_DATA", str(tmp_path))


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The facts that `publish` hands to the client."""
    found: list[dict[str, Any]] = []

    def publish(settings: KafkaSettings, facts: Any, *_: Any, **__: Any) -> client.Published:
        for namespace, fact in facts:
            found.append({"key": namespace} | fact.model_dump(exclude_none=True))
        done = client.Published(sent=len(found))
        done.outcomes.update("dead-lettered" for fact in found if "dead" in fact.get("text", ""))
        done.outcomes.update("restored" for fact in found if fact.get("restore") == "a" * 32)
        return done

    monkeypatch.setattr(client, "publish", publish)
    return found


def test_publish_sends_known_fields_and_lists_the_others(
    tmp_path: Path, published: list[dict[str, Any]]
) -> None:
    lines = [{"text": "A lamp.", "namespace": "shop", "price": 3}, {"text": "A desk.", "source": None}]
    file = tmp_path / "facts.jsonl"
    file.write_bytes(b"\n".join(orjson.dumps(line) for line in lines) + b"\n\nplain text\n")
    result = RUNNER.invoke(app, ["publish", str(file), "--namespace", "other", "--category", "c", "--json"])
    assert result.exit_code == 0, result.output
    assert [(f["key"], f["text"], f["category"]) for f in published] == [
        ("shop", "A lamp.", "c"), ("other", "A desk.", "c"), ("other", "plain text", "c"),
    ]  # fmt: skip
    assert json.loads(result.stdout)["left_out"] == ["price"]


def test_a_line_with_messages_is_a_conversation(published: list[dict[str, Any]]) -> None:
    line = {"messages": [{"role": "user", "content": "I moved.", "id": 7}], "price": 3}
    result = RUNNER.invoke(
        app, ["publish", "-", "--namespace", "ana", "--source", "s", "--json"], input=orjson.dumps(line)
    )
    assert result.exit_code == 0, result.output
    assert published == [
        {
            "key": "ana",
            "namespace": "ana",
            "source": "s",
            "messages": [{"role": "user", "content": "I moved."}],
        }
    ]
    assert json.loads(result.stdout)["left_out"] == ["price", "messages.id"]
    assert RUNNER.invoke(app, ["publish", "-"], input=b'{"forget_all": true}').exit_code == 1
    assert len(published) == 1, "a request is no line of a file of facts"


def test_publish_reports_refused_lines_and_sends_the_others(
    published: list[dict[str, Any]],
) -> None:
    result = RUNNER.invoke(app, ["publish", "-"], input=b'good\n{"text": \n\xff\n{"text": "  "}\nalso good\n')
    assert result.exit_code == 1
    assert [fact["text"] for fact in published] == ["good", "also good"]
    assert [line.split(":")[0] for line in result.stderr.splitlines() if line.startswith("line")] == [
        "line 2", "line 3", "line 4",
    ]  # fmt: skip


def test_publish_fails_when_a_fact_becomes_a_dead_letter(published: list[dict[str, Any]]) -> None:
    result = RUNNER.invoke(app, ["publish", "-", "--wait"], input=b"dead\n")
    assert result.exit_code == 1 and "1 facts are in the dead letters" in result.stderr


def test_a_json_line_without_text_is_refused() -> None:
    with pytest.raises(BadMessage):
        fact_of(b'{"colour": "red"}', {})


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["publish", "no-such-file"], "no-such-file"),
        (["query", "drop table history"], "error"),
        (["query", "select * from nothing"], "nothing"),
        (["memories", "show", "not'an id"], "forget"),
        (["ask", "Hello", *NOWHERE], "127.0.0.1:1"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setenv("FACTSTREAM_DATA", str(tmp_path))
    result = RUNNER.invoke(app, arguments)
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments", [["worker", "cook"], ["ask"], ["ask", "a", "--max-new-tokens", "0"], ["publish", "-", "--limit", "0"]]
)  # fmt: skip
def test_wrong_arguments_exit_with_code_2(arguments: list[str]) -> None:
    assert RUNNER.invoke(app, arguments).exit_code == 2


@pytest.mark.usefixtures("own_data")
@pytest.mark.parametrize(
    "arguments, request_sent",
    [
        (["forget", "a" * 32], {"key": "default", "forget": "a" * 32}),
        (["forget", "--key", "k", "--namespace", "Acme/x"], {"key": "Acme/x", "forget_key": "k"}),
        (
            ["forget", "--all", "--namespace", "Acme/x", "--yes", "--erase"],
            {"key": "Acme/x", "forget_all": True},
        ),
        (["restore", "a" * 32], {"key": "default", "restore": "a" * 32}),
    ],
)
def test_memories_sends_requests(
    published: list[dict[str, Any]], arguments: list[str], request_sent: dict[str, Any]
) -> None:
    result = RUNNER.invoke(app, ["memories", *arguments])
    assert result.exit_code == 0, result.output
    [sent] = published
    erase = sent.pop("erase", None)
    assert sent == request_sent | {"namespace": request_sent["key"]}
    assert erase is (None if "restore" in sent else "--erase" in arguments)


@pytest.mark.usefixtures("own_data")
@pytest.mark.parametrize(("answer", "sent"), [("y\n", 1), ("n\n", 0), ("", 0)])
def test_forget_all_asks_before_it_does(published: list[dict[str, Any]], answer: str, sent: int) -> None:
    result = RUNNER.invoke(app, ["memories", "forget", "--all", "--namespace", "ada"], input=answer)
    assert "all memories of the namespace 'ada'?" in result.output
    assert len(published) == sent and result.exit_code == (0 if sent else 1)


@pytest.mark.usefixtures("published", "own_data")
def test_restore_fails_for_what_is_not_superseded() -> None:
    result = RUNNER.invoke(app, ["memories", "restore", "b" * 32])
    assert result.exit_code == 1 and "is not superseded" in result.stderr


@pytest.mark.parametrize(
    "arguments", [[], ["a" * 32, "--key", "k"], ["--all"], ["--all", "--key", "k", "--namespace", "n"]]
)
def test_forget_needs_one_thing_to_forget(arguments: list[str]) -> None:
    assert RUNNER.invoke(app, ["memories", "forget", *arguments]).exit_code == 2


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_ask_fails_when_the_answer_is_an_error(monkeypatch: pytest.MonkeyPatch, option: list[str]) -> None:
    error = ResponseError(reason="behind", message="not yet")
    answer = GenerationResponse(request_id="r", finish_reason="error", error=error)
    monkeypatch.setattr(client, "ask", lambda *_: iter([answer]))
    result = RUNNER.invoke(app, ["ask", "Hello", *option])
    assert result.exit_code == 1 and "behind" in result.output


def test_ask_goes_on_past_the_answer_and_names_replaced_memories(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[GenerationRequest] = []
    memories = [
        UsedMemory(memory_id=letter * 32, namespace="n", text=letter, score=1.0, gate=gate, doubted_by=newer)
        for letter, gate, newer in (("a", 0.9, None), ("b", 0.0, "a" * 32), ("c", 0.0, None))
    ]
    answer = GenerationResponse(request_id="r", finish_reason="stop", memories=memories)

    def ask(_: Any, request: GenerationRequest, __: Any) -> Any:
        asked.append(request)
        return iter([answer])

    monkeypatch.setattr(client, "ask", ask)
    result = RUNNER.invoke(app, ["ask", "Made of"])
    shown = " ".join(result.output.split())  # a narrow terminal wraps the lines
    assert f"memory {'a' * 32} gate 0.90: a" in shown
    assert f"memory {'b' * 32} doubted by {'a' * 32}: b" in shown and "c" * 32 not in shown
    assert RUNNER.invoke(app, ["ask", "Made of", "--past-answer"]).exit_code == 0
    assert [request.stop_at_answer for request in asked] == [True, False]


def test_ask_waits_for_the_positions_that_publish_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: list[dict[str, Any]]
) -> None:
    monkeypatch.setenv("FACTSTREAM_DATA", str(tmp_path))
    given: list[Any] = []
    answer = GenerationResponse(request_id="r", finish_reason="stop")

    def ask(_: Any, __: Any, recent: Any) -> Any:
        given.append(recent)
        return iter([answer])

    monkeypatch.setattr(client, "ask", ask)
    publish, reached = client.publish, {"default": {"id/3": 7}, "elsewhere": {"id/1": 9}}

    def decided(*arguments: Any) -> client.Published:
        done = publish(*arguments)
        done.after = reached
        return done

    monkeypatch.setattr(client, "publish", decided)
    result = RUNNER.invoke(app, ["publish", "-", "--wait"], input=b"A lamp.\n")
    assert "position of default: id/3 7" in result.stdout
    reached = {"default": {"id/3": 5, "id/2": 1}}  # an earlier call that ends later takes nothing back
    RUNNER.invoke(app, ["publish", "-", "--wait"], input=b"A lamp.\n")
    for options in ((), ("--namespace", "other"), ("--no-memory",)):
        assert RUNNER.invoke(app, ["ask", "Made of", *options]).exit_code == 0
    assert given == [{"default": {"id/3": 7, "id/2": 1}}, {}, None]


def test_ask_prints_the_text_as_it_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = [ResponseDelta(request_id="r", index=n, delta=text) for n, text in enumerate([" wal", "nut"])]
    answer = GenerationResponse(request_id="r", text=" walnut", finish_reason="stop")
    monkeypatch.setattr(client, "ask", lambda *_: iter([*pieces, answer]))
    assert RUNNER.invoke(app, ["ask", "Made of"]).stdout == " walnut\n"


def test_digest_and_memories_need_no_broker(tmp_path: Path) -> None:
    data = ("--data", str(tmp_path))
    empty = RUNNER.invoke(app, ["digest", *data]).stdout
    assert len(empty.strip()) == 64
    now = datetime(2026, 3, 1, tzinfo=UTC)
    ones = np.ones(len(split("A lamp.")), np.float32)
    encoding = FactEncoding("A lamp.", "model", 5.0, 1.0, 4.0, ones, ones, np.zeros((len(ones), 0), np.uint8))
    fact = NewFact("default", encoding, now, now, SourceOffset("facts", "id", 0, 0))
    history.append(tmp_path, 0, 0, decide_fact(Bank(), fact, now))
    assert RUNNER.invoke(app, ["digest", *data]).stdout != empty
    counted = RUNNER.invoke(app, ["query", "select outcome from history", "--format", "json", *data])
    assert json.loads(counted.stdout) == [{"outcome": "learned"}]
    for words, found in (("it's the lamp's", ["A lamp."]), ("lamp 'or 1=1", ["A lamp."]), ("kettle", [])):
        result = RUNNER.invoke(app, ["memories", "search", words, "--format", "json", *data])
        assert [row["text"] for row in json.loads(result.stdout)] == found


def test_doctor_names_what_is_wrong_and_creates_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    result = RUNNER.invoke(app, ["doctor", "--json", "--data", str(folder), *NOWHERE])
    report = json.loads(result.stdout)
    assert result.exit_code == 1 and "broker" in report["wrong"][0] and "torch" in report
    assert not folder.exists()


def test_doctor_says_what_a_model_folder_lacks(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["doctor", "--model", str(tmp_path), *NOWHERE])
    assert result.exit_code == 1 and "config.json" in result.stderr
