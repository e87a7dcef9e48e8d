"""`factstream demo`: a stack of its own, facts with every kind of outcome, answers and SQL."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from pipeline.config import Settings
from pipeline.query import run as query
from schemas.common import DEFAULT_NAMESPACE, decode, validate
from schemas.fact import Fact
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse
from workers import client
from workers.cli.tables import rich_table
from workers.kafka.config import KafkaSettings
from workers.runtime import supervisor

KNOWN_FACTS = [
    ("geography", "Paris is the capital city of France."),
    ("programming", "Python is a programming language used for AI."),
    ("astronomy", "The Earth orbits around the Sun."),
    ("physics", "Water freezes at 0 degrees Celsius."),
    ("literature", "Shakespeare wrote Romeo and Juliet."),
    ("science", "Einstein developed the theory of relativity."),
]
NEW_FACTS = [
    {"text": "Orla Venn leads the harbour office in Tromso.", "category": "staff"},
    {"text": "The Harlow desk lamp is made of walnut.", "category": "catalogue"},
    {"text": "The Harlow desk lamp is made of walnut.", "category": "catalogue"},
    {
        "text": "Flight KX 418 departs from gate B27.",
        "category": "travel",
        "observed_at": "2026-03-02T08:00:00Z",
    },
    {
        "text": "Flight KX 418 departs from gate C11.",
        "category": "travel",
        "observed_at": "2026-03-02T09:00:00Z",
    },
    {
        "text": "Flight KX 418 departs from gate A03.",
        "category": "travel",
        "observed_at": "2026-03-02T07:00:00Z",
    },
    {"text": "The Pelican cluster is owned by the Juniper team.", "category": "incidents"},
    {"text": "Milo Kassab works as a glaciologist.", "category": "staff"},
    {"text": "The Zephyr kettle ships from Gdansk.", "category": "catalogue"},
    {"text": "The password rota is kept by Ines Okafor.", "category": "staff"},
    {"text": "Lake Vorren was named after a carpenter.", "category": "geography"},
    {"text": "The Tallow conference takes place in Ljubljana.", "category": "travel"},
    {"text": "The capital city of France is Paris.", "category": "geography"},
    {"text": "The Eiffel Tower is located in the city of Paris.", "category": "geography"},
]
PROMPTS = [
    "The capital of France is", "Python programming language", "Shakespeare wrote", "Einstein's theory",
    "The Harlow desk lamp is made of", "Flight KX 418 departs from gate", "Question: What does Milo Kassab work as?\nAnswer:",
]  # fmt: skip
QUERIES = [
    "select outcome, count(*) as facts, round(avg(loss_delta), 2) as mean_loss_delta from history group by 1 order by 2 desc",
    "select text, outcome, observed_at from history where text like 'Flight KX 418%' order by decided_at",
    "select category, count(*) as memories from memories group by 1 order by 2 desc, 1",
]

SENTENCE_ENDS = ["\n", ". "]
"""Where a bare answer ends; an answer of the memory ends by itself."""

console = Console(highlight=False)


def run(facts: Path | None = None) -> int:
    """Runs the demo. Returns 0 if every fact of the file was decided, else 1. Raises StackError and the client's errors."""
    example = Path(__file__).parent.parent.parent / "examples" / "facts.jsonl"
    file = facts or (example if example.exists() else None)
    begun = time.monotonic()
    console.print("starting a broker and three workers (the first run fetches and converts the model) …")
    with (
        tempfile.TemporaryDirectory(prefix="factstream-") as folder,
        supervisor.running(Path(folder)) as (settings, ready),
    ):
        console.print(f"{ready}  ({time.monotonic() - begun:.0f} s)", markup=False)
        _title("Six facts that the model may already know, learned in any case (min_loss_delta 0)")
        _publish(settings, [{"text": t, "category": c, "min_loss_delta": 0.0} for c, t in KNOWN_FACTS])
        _title("Facts that no model can know (one twice, one superseded, one late) and two that it knows")
        _publish(settings, NEW_FACTS)
        _title("What is the capital of France? The three best memories")
        (answer,) = _ask(settings, ["What is the capital of France?"])
        for memory in answer.memories:
            console.print(f"  {memory.score:8.1f}  gate {memory.gate:.2f}  {memory.text}", markup=False)
        _title("Answers")
        _compare(settings, PROMPTS)
        for sql in QUERIES:
            _title(sql)
            rows = query.run(Path(folder), sql).to_pylist()
            console.print(rich_table(rows[0] if rows else ["nothing"], rows))
        return _publish_file(settings, file) if file else 0


def _publish_file(settings: KafkaSettings, file: Path) -> int:
    """Publishes a JSON Lines file and asks about it, with `questions.jsonl` beside it if there is one."""
    rows = [orjson.loads(line) for line in file.read_bytes().splitlines() if line.strip()]
    _title(f"{len(rows)} facts of {file.name}")
    begun = time.monotonic()
    known = [{name: row[name] for name in row if name in Fact.model_fields} for row in rows]
    published = client.publish(settings, _facts(known), wait=True)
    seconds = time.monotonic() - begun
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in published.outcomes.most_common())
    console.print(
        f"{published.sent} facts decided in {seconds:.0f} s, {published.sent / seconds:.0f} facts/s: {outcomes}"
    )
    questions = file.with_name("questions.jsonl")
    if questions.exists():
        lines = [orjson.loads(line) for line in questions.read_bytes().splitlines()]
        _compare(settings, [line["prompt"] for line in lines], [line["answer"] for line in lines])
    else:
        sample = rows[:: max(1, len(rows) // 10)][:10]
        _compare(settings, [row["text"].rsplit(" ", 1)[0] for row in sample])
    return 0 if published.outcomes.total() == published.sent else 1


def _facts(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Fact]]:
    for row in rows:
        yield row.get("namespace", DEFAULT_NAMESPACE), validate(Fact, row)


def _publish(settings: KafkaSettings, rows: Sequence[dict[str, Any]]) -> None:
    """Publishes facts, and prints the outcome of each beside the verdict of the loss gate alone."""
    published = client.publish(settings, _facts(rows), wait=True)
    table = Table("outcome", "loss delta", "the loss gate's verdict", "fact")
    threshold = Settings().min_loss_delta
    for row, decided in zip(rows, sorted(published.decided, key=lambda d: d.offset), strict=False):
        delta = decided.loss_delta if decided.loss_delta is not None else 0.0
        verdict = "worth learning" if delta >= threshold else "known to the model"
        table.add_row(decided.outcome, f"{delta:.2f}", verdict, row["text"])
    console.print(table)


def _ask(
    settings: KafkaSettings, prompts: Sequence[str], use_memory: Sequence[bool] = (True,)
) -> list[GenerationResponse]:
    """The answers to all prompts, asked at once: the generator answers them together. Raises ClientError, KafkaError."""
    bodies = [
        {"prompt": prompt, "use_memory": use, "max_new_tokens": 24, "stop": SENTENCE_ENDS}
        for prompt in prompts
        for use in use_memory
    ]
    with client.Client(settings) as asking:
        requests = [decode(GenerationRequest, orjson.dumps(body)) for body in bodies]
        answers = [answer.result() for answer in [asking.submit(request) for request in requests]]
    if error := next((answer.error for answer in answers if answer.error), None):
        raise client.ClientError(f"{error.reason}: {error.message}")
    return answers


def _compare(settings: KafkaSettings, prompts: Sequence[str], answers: Sequence[str] = ()) -> None:
    """Prints the answers with and without memory; `answers` are the expected ones."""
    table = Table("prompt", "with memory", "without", *(["expected"] if answers else []), show_lines=True)
    given = [_text(answer) for answer in _ask(settings, prompts, (True, False))]
    for i, prompt in enumerate(prompts):
        table.add_row(prompt, *given[2 * i : 2 * i + 2], *([answers[i]] if answers else []))
    console.print(table, markup=False)


def _text(answer: GenerationResponse) -> str:
    """The answer; one that the limit of tokens has cut off ends in an ellipsis."""
    return answer.text.strip() + (" …" if answer.finish_reason == "length" else "")


def _title(text: str) -> None:
    console.print(f"\n{text}", style="bold", markup=False)
