"""Every query, command and program of docs/analytics.md, on a history whose answers are known."""

import math
import os
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.history import layout, tables
from pipeline.history import log as history
from pipeline.memory.bank import fold
from pipeline.memory.events import Decision, SourceOffset
from pipeline.query import run as query
from pipeline.query.views import HALF_LIFE_S

PAGE = (Path(__file__).parent.parent.parent / "docs" / "analytics.md").read_text(encoding="utf-8")
QUERIES = dict(re.findall(r"### ([^\n]+)\n[^#]*?```sql\n(.*?)```", PAGE, re.DOTALL))
GATE, GATE_NOW, LAMP, LAKE, KETTLE, MILO = ("a1", "a2", "b0", "c0", "d0", "e0")
TEXTS = {
    GATE: "Flight KX 418 departs from gate B27.",
    GATE_NOW: "Flight KX 418 departs from gate C11.",
    LAMP: "The Harlow desk lamp is made of walnut.",
    LAKE: "Lake Vorren was named after a carpenter.",
    KETTLE: "The Zephyr kettle ships from Gdansk.",
    MILO: "Milo Kassab works as a glaciologist.",
}


def at(hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 3, 2, hour, minute, tzinfo=UTC)


def identity(name: str | None) -> str | None:
    return None if name is None else name.rjust(32, "0")


def decided(
    when: datetime, outcome: str, name: str | None = None, nearest: str | None = None, text: str | None = None,
    delta: float | None = None, **more: Any,
) -> Decision:  # fmt: skip
    text = TEXTS.get(name or "") if text is None and outcome != "used" else text
    if outcome in ("learned", "superseded"):
        four = np.ones(4, np.float32)
        more |= {"priors": four, "surprisals": four, "vectors": np.ones((4, 2), np.uint8)}
    published = when - timedelta(seconds=2) if delta is not None else None
    topic = "memory-hits" if outcome == "used" else "facts"
    cause = SourceOffset(topic, "t", 1, when.hour * 60 + when.minute)
    value = more.pop("importance", None if delta is None else 1.0 + delta)
    fact: dict[str, Any] = {
        "observed_at": published, "published_at": published, "loss_delta": delta,
        "importance": None if value is None else math.log2(value) + when.timestamp() / HALF_LIFE_S,
        "min_loss_delta": None if delta is None else 0.5, "encoder_id": "e",
    }  # fmt: skip
    return Decision(
        "acme", outcome, cause, when, identity(name), identity(nearest), text=text, **(fact | more)
    )


OPS: dict[str, Any]
PIM: dict[str, Any]
WIKI: dict[str, Any]
OPS, PIM, WIKI = (
    {"category": "travel", "source": "ops"},
    {"category": "catalogue", "source": "pim"},
    {"category": "geography", "source": "wiki"},
)
STAFF: dict[str, Any] = {"category": "staff", "source": "hr"}
PARIS = "Paris is the capital city of France."
ROWS = [
    decided(at(8, 5), "learned", GATE, delta=3.0, fact_id="f1", **OPS),
    decided(at(8, 10), "learned", LAMP, delta=2.0, **PIM),
    decided(at(8, 20), "skipped", text=PARIS, delta=0.25, **WIKI),
    decided(at(8, 30), "reinforced", LAMP, LAMP, delta=2.0, importance=4.0, **(PIM | {"source": "crm"})),
    decided(at(9, 5), "superseded", GATE_NOW, GATE, delta=4.0, **OPS),
    decided(at(9, 6), "outdated", GATE_NOW, GATE_NOW, "Flight KX 418 departs from gate A03.", delta=3.5, **OPS),
    decided(at(9, 10), "duplicate", None, None, TEXTS[GATE], delta=3.0, fact_id="f1", **OPS),
    decided(at(9, 20), "used", GATE_NOW, gate=0.875, request_id="r1", importance=5.875),
    decided(at(9, 21), "used", GATE_NOW, gate=0.5, request_id="r2", importance=6.375),
    decided(at(10), "learned", LAKE, delta=5.25, **WIKI),
    decided(at(10, 30), "learned", KETTLE, delta=1.0, **PIM),
    decided(at(11), "learned", MILO, delta=6.0, **STAFF),
    decided(at(11), "evicted", KETTLE, MILO, **PIM),
    decided(at(11, 30), "forgotten", LAKE),
]  # fmt: skip
EXPECTED: dict[str, list[tuple[Any, ...]]] = {
    "Learned, per category and hour": [
        ("catalogue", at(8), 1), ("travel", at(8), 1), ("travel", at(9), 1), ("catalogue", at(10), 1),
        ("geography", at(10), 1), ("staff", at(11), 1),
    ],
    "What was not learned, and why": [
        (PARIS, "wiki", "the model knows it: loss delta 0.25, wanted 0.50"),
        (TEXTS[LAMP], "crm", f"known already: {TEXTS[LAMP]}"),
        ("Flight KX 418 departs from gate A03.", "ops", f"older than: {TEXTS[GATE_NOW]}"),
        (TEXTS[GATE], "ops", "its fact_id was decided before"),
    ],
    "Loss delta by source": [
        ("hr", 1, 6.0, 0), ("ops", 4, 3.25, 0), ("wiki", 2, 2.75, 1), ("crm", 1, 2.0, 0), ("pim", 2, 1.5, 0)
    ],
    "Superseded facts, both versions": [
        (
            TEXTS[GATE], TEXTS[GATE_NOW], at(8, 5) - timedelta(seconds=2), at(9, 5) - timedelta(seconds=2),
            "ops",
        )
    ],
    "What was known at a time, and what has changed since": [
        (TEXTS[GATE], "gone"), (TEXTS[GATE_NOW], "new"), (TEXTS[MILO], "new")
    ],
    "Memories that answered most": [(TEXTS[GATE_NOW], 2, 0.69, at(9, 21))],
    "Memories that matter most": [
        (TEXTS[MILO], 6.99, 0, 0), (TEXTS[GATE_NOW], 6.36, 2, 0), (TEXTS[LAMP], 3.99, 0, 1)
    ],
    "Memories that never answered": [
        ("catalogue", TEXTS[LAMP], at(8, 10)), ("staff", TEXTS[MILO], at(11))
    ],
    "Forgetting": [
        ("a newer one came", "travel", TEXTS[GATE], 1.0),
        ("no room", "catalogue", TEXTS[KETTLE], 0.5),
        ("forgotten on request", "geography", TEXTS[LAKE], 1.5),
    ],
    "From publication to decision": [
        (at(8), 4, 2.0, 2.0), (at(9), 3, 2.0, 2.0), (at(10), 2, 2.0, 2.0), (at(11), 1, 2.0, 2.0)
    ],
    "Answers, with and without a memory": [("not asked", 1, 8, 100.0), ("spoke", 2, 8, 200.0)],
    "The answers of one memory": [
        (at(9, 20), "Flight KX 418 departs from gate", "C11.", 0.875),
        (at(9, 21), "Where does KX 418 leave?", "C11.", 0.5),
    ],
    "Dead letters, and what they were": [
        ("facts", "invalid-json", 2, at(8, 41), '{"text": '), ("facts", "invalid-utf8", 1, at(8, 42), None)
    ],
}  # fmt: skip


def answer(n: int, prompt: str, gates: dict[str, float], **more: Any) -> dict[str, Any]:
    return {
        "request_id": f"r{n}", "namespaces": ["acme"], "prompt": prompt, "text": "C11.", "use_memory": True,
        "memory_ids": [identity(name) for name in gates], "gates": list(gates.values()),
        "finish_reason": "stop", "prompt_tokens": 6, "completion_tokens": 4, "queued_ms": 5.0,
        "generate_ms": 200.0, "answered_at": at(9, 19 + n), "partition": 0, "offset": n,
    } | more  # fmt: skip


def letter(n: int, reason: str, value: bytes) -> dict[str, Any]:
    return {
        "topic": "facts", "partition": 0, "offset": n, "reason": reason, "error": "no fact", "worker": "encoder",
        "time": at(8, 40 + n), "value": value,
    }  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for version, begin in enumerate(range(0, len(ROWS), 4)):
        history.append(folder, 1, version, ROWS[begin : begin + 4])
    inside = folder / layout.HISTORY_FOLDER / "partition=1"
    pq.write_table(pa.table({"memory_id": ["no decision"]}), inside / "snapshot-x.parquet")
    (inside / ".0000000009.x.tmp").write_bytes(b"half")
    answers = [
        answer(1, "Flight KX 418 departs from gate", {GATE_NOW: 0.875}),
        answer(2, "Where does KX 418 leave?", {GATE_NOW: 0.5, LAMP: 0.0}),
        answer(3, "Flight KX 418 departs from gate", {}, use_memory=False, generate_ms=100.0, completion_tokens=8),
    ]  # fmt: skip
    tables.append_generations(folder, answers, "answers")
    letters = [
        letter(0, "invalid-json", b'{"text": '), letter(1, "invalid-json", b'{"text": '),
        letter(2, "invalid-utf8", b'{"text": "\xff"}'),
    ]  # fmt: skip
    tables.append_dead_letters(folder, letters, "letters")
    return folder


def test_every_query_of_the_page_has_a_known_answer() -> None:
    assert set(QUERIES) == set(EXPECTED)
    assert PAGE.count("```sql") == len(QUERIES)


@pytest.mark.parametrize("title", EXPECTED)
def test_a_query_of_the_page_gives_the_known_answer(data: Path, title: str) -> None:
    rows = query.run(data, QUERIES[title]).to_pylist()
    assert [tuple(row.values()) for row in rows] == EXPECTED[title]


@pytest.mark.parametrize("line", re.findall(r"^    factstream (query .+)$", PAGE, re.MULTILINE))
def test_a_command_of_the_page_runs(data: Path, line: str) -> None:
    command = [sys.executable, "-m", "workers.cli", *shlex.split(line), "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and len(done.stdout.splitlines()) >= 1, done.stderr


def test_memories_at_a_time_are_the_fold_of_earlier_decisions(data: Path) -> None:
    for when in (at(7), *(row.decided_at for row in ROWS)):
        bank = fold([row for row in ROWS if row.decided_at <= when])
        expected = [memory for namespace in bank.namespaces for memory in bank.memories(namespace)]
        rows = query.run(data, f"from memories_at('{when.isoformat()}')").to_pylist()
        assert {(m["memory_id"], m["text"], m["uses"], m["reinforced"]) for m in rows} == {
            (m.memory_id, m.text, m.uses, m.reinforced) for m in expected
        }
    now, then = (
        query.run(data, f"from {view} order by memory_id").to_pylist()
        for view in ("memories", "memories_at(now())")
    )
    assert len(now) == 3
    for memory, same in zip(now, then, strict=True):  # read a moment later
        assert memory.pop("importance") == pytest.approx(same.pop("importance"), rel=1e-4)
        assert memory == same
    assert (
        query.run(data, "from memories_at(timestamptz '2026-03-02 13:00+01' + interval 1 hour)").num_rows == 3
    )


def test_memories_at_shows_the_older_fact_before_an_update(data: Path) -> None:
    sql = "select text from memories_at('{}') where text like 'Flight%'"
    assert query.run(data, sql.format("2026-03-02 09:04:59")).to_pylist() == [{"text": TEXTS[GATE]}]
    assert query.run(data, sql.format("2026-03-02 09:05")).to_pylist() == [{"text": TEXTS[GATE_NOW]}]


@pytest.mark.parametrize("kind, code", re.findall(r"<!-- run -->\n```(\w+)\n(.*?)```", PAGE, re.DOTALL))
def test_a_program_of_the_page_reads_the_plain_files(data: Path, kind: str, code: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # pip has put duckdb there
    command = ["sh", "-c", code] if kind == "sh" else [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=data, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for outcome in {row.outcome for row in ROWS}:
        assert outcome in done.stdout
    if kind == "sh":
        assert done.stdout.splitlines()[1] == "learned,5"


@pytest.mark.parametrize("view", ["history", "memories", "generations", "dead_letters"])
def test_every_column_is_described_in_the_page(data: Path, view: str) -> None:
    section = PAGE.split(f"\n### {view}\n")[1].split("\n### ")[0]
    rows = [
        name for row in re.findall(r"^\| ([a-z_, ]+) \|", section, re.MULTILINE) for name in row.split(", ")
    ]
    actual = query.run(data, f"describe {view}").column("column_name").to_pylist()
    assert set(rows) - {"column"} == set(actual)
    at_a_time = query.run(data, "describe from memories_at(now())").column("column_name").to_pylist()
    assert view != "memories" or at_a_time == actual
