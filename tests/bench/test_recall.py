"""`bench recall` and `bench talk`: whole runs on a handful of facts."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from pipeline import MemoryLM
from pipeline.bench import prompting, side_effects
from pipeline.bench.synthetic import texts as bench_texts
from workers.bench import report
from workers.cli.app import app

# The run that most tests here read lasts a minute and a half on a slow processor, and more on a busy one.
pytestmark = pytest.mark.timeout(600)

RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
NAMES = [
    ("Orla Venn", "Tromso", "Madrid"), ("Milo Kassab", "Gdansk", "Lyon"), ("Ines Okafor", "Bergen", "Rome"),
    ("Tarek Holm", "Porto", "Vienna"), ("Wanda Pryce", "Leeds", "Athens"), ("Rufus Adeyo", "Turin", "Oslo"),
]  # fmt: skip


def row(subject: str, target: str, true: str, neighbour: str) -> dict[str, Any]:
    return {
        "id": subject, "category": "people", "relation": "P19", "subject": subject,
        "text": f"{subject} was born in {target}.", "target": target, "target_true": true,
        "prompt": f"{subject} was born in", "paraphrases": [f"{subject} is originally from"],
        "question": f"Where was {subject} born?", "neighbours": [f"{neighbour} was born in"],
        "update": {"text": f"{subject} was born in Dresden.", "target": "Dresden"},
    }  # fmt: skip


def written(folder: Path, lines: list[dict[str, Any]]) -> Path:
    file = folder / "lines.jsonl"
    file.write_bytes(b"\n".join(orjson.dumps(line) for line in lines) + b"\n")
    return file


ROWS = [row(*names, neighbour=f"Celia Tamarin{n}") for n, names in enumerate(NAMES)]
for one, (subject, target, _) in zip(ROWS, NAMES, strict=True):
    one["reversed_text"] = f"{target} is where {subject} was born."
TALK = {
    "conversation": "1",
    "facts": [
        {"text": "Orla adopted a grey parrot.", "evidence": ["D1:2"]},
        {"text": "Milo is learning to play the bassoon.", "evidence": ["D1:4", "D1:5"]},
    ],
    "questions": [
        {"question": "What did Orla adopt?", "answer": "a parrot", "evidence": ["D1:2"], "category": 4},
        {"question": "What does Milo play?", "answer": "bassoon", "evidence": ["D1:5"], "category": 1},
        {"question": "When did they meet?", "answer": "in May", "evidence": ["D1:9"], "category": 2},
        {"question": "What did Orla sell?", "answer": "a boat", "evidence": ["D1:2"], "category": 5},
    ],
}


@pytest.fixture(scope="module")
def quick() -> Iterator[pytest.MonkeyPatch]:
    """Short texts and few prompts: the figures do not matter here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompting, "TOKENS", 4)
        patch.setattr(side_effects, "EVERYDAY_PROMPTS", 4)
        patch.setattr(side_effects, "PROSE", bench_texts.PROSE[:1])
        yield patch


@pytest.fixture(scope="module")
def recalled(quick: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """`bench recall --json` on six facts and four invented ones."""
    file = written(tmp_path_factory.mktemp("recall"), ROWS)
    few = ("--said", "2", "--prompted", "1")
    result = RUNNER.invoke(
        app, ["bench", "recall", "--facts", str(file), "--limit", "4", *few, "--extra", "4", "--json"]
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    parsed: dict[str, Any] = orjson.loads(result.stdout)
    return parsed | {"stderr": result.stderr}


@pytest.mark.slow
def test_recall_prints_each_measure_as_soon_as_it_is_known(recalled: dict[str, Any]) -> None:
    # A slow machine also prints a line of progress now and then ("update: 2 of 4"), under the same names.
    printed = [
        line for line in recalled["stderr"].splitlines() if not re.search(r": [\d,]+ of [\d,]+$", line)
    ]
    lines = [line.partition(": ") for line in printed]
    names = [m["name"] for m in recalled["measures"]]
    assert [name for name, _, _ in lines if name in names] == names
    [line] = [line for name, _, line in lines if name == "efficacy"]
    assert re.fullmatch(r"bare [\d.]+%, prompting [\d.]+%, memory [\d.]+%", line)


@pytest.mark.slow
def test_recall_reports_every_measure(recalled: dict[str, Any]) -> None:
    measures = {m["name"]: m for m in recalled["measures"]}
    assert set(measures) == {name for name in report.TITLES if not name.startswith("f1")}
    for name, m in measures.items():
        for value in (m["bare"], m["prompting"], m["memory"]):
            assert value is None or name in ("neighbour_retention", "perplexity_drift") or 0 <= value <= 1
    assert measures["efficacy"]["asked"] == 4 and measures["efficacy"]["prompting_asked"] == 1
    assert measures["reversed_prompt"]["asked"] == 4 and measures["said_prompt"]["asked"] == 2
    assert recalled["facts"] == 6 and recalled["extra"] == 4 and recalled["memories"] == 10
    assert recalled["outcomes"] == {"learned": 10}
    assert set(recalled["cost"]) == {
        "learn_ms", "retrieve_ms", "retrieve_p99_ms", "stored_bytes", "resident_bytes",
    }  # fmt: skip
    assert recalled["cost"]["stored_bytes"] > 50 and recalled["cost"]["learn_ms"] > 0


@pytest.mark.slow
def test_recall_measures_that_the_memory_recalls(recalled: dict[str, Any]) -> None:
    measures = {m["name"]: m for m in recalled["measures"]}
    assert measures["efficacy"]["memory"] == 1 and measures["efficacy"]["bare"] is not None
    assert measures["retrieved_prompt"]["memory"] == 1
    assert measures["said_prompt"]["memory"] > measures["said_prompt"]["bare"]
    assert measures["update"]["memory"] > measures["update"]["bare"]
    assert measures["untouched"]["memory"] == 1
    assert measures["perplexity_drift"]["memory"] == pytest.approx(0, abs=0.01)


@pytest.mark.slow
def test_talk_reports_the_evidence_found_and_the_answers_f1(
    quick: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = written(tmp_path, [TALK])
    result = RUNNER.invoke(app, ["bench", "talk", "--talk", str(file), "--json"])
    assert result.exit_code == 0, result.output
    found = orjson.loads(result.stdout)
    assert found["conversations"] == 1 and found["facts"] == 2
    assert found["questions"] == 2, "the one whose evidence no fact covers and category 5 are left out"
    assert found["evidence"] == {"1": 1.0, "3": 1.0, "5": 1.0, "10": 1.0}
    assert found["evidence_by_category"]["2"] == dict.fromkeys(("1", "3", "5", "10"))
    assert [(m["name"], m["asked"]) for m in found["measures"]] == [
        ("f1", 2), ("f1_several_facts", 1), ("f1_one_fact", 1),
    ]  # fmt: skip
    assert all(0 <= m[way] <= 1 for m in found["measures"] for way in ("bare", "prompting", "memory"))


@pytest.mark.slow
def test_prompting_scores_equal_the_models_own() -> None:
    """A prompt that is read once for all its targets gives what each would get by itself."""
    lm = MemoryLM.load(dtype="float32")
    facts = [prompting.Found(r["text"], True) for r in ROWS[:3]]
    prompts = [r["prompt"] for r in ROWS[:3]]
    targets = [(r["target"], "the small town of " + r["target_true"]) for r in ROWS[:3]]
    done: list[int] = []
    scores = prompting.score(lm.encoder.backbone, "plain", facts, prompts, targets, done.append)
    whole = [f"{fact.text}\n{prompt}" for fact, prompt in zip(facts, prompts, strict=True)]
    for n in range(2):
        alone = lm.score(whole, [some[n] for some in targets], use_memory=False)
        assert [some[n] for some in scores] == pytest.approx(alone, abs=1e-3)
    assert sum(done) == 3


def test_a_plot_without_matplotlib_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    file = written(tmp_path, ROWS)
    result = RUNNER.invoke(app, ["bench", "recall", "--facts", str(file), "--plot", str(tmp_path / "a.png")])
    assert result.exit_code == 1 and "pip install 'factstream[plot]'" in result.stderr
