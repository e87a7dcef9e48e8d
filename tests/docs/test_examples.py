"""The example facts: made by their script, valid, with updates and duplicates as in a real stream."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import orjson
import pytest

from schemas.fact import Fact, decode_fact

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(scope="module")
def facts() -> list[Fact]:
    decoded = [decode_fact(None, line)[1] for line in (EXAMPLES / "facts.jsonl").read_bytes().splitlines()]
    return [fact for fact in decoded if isinstance(fact, Fact)]


def test_the_script_makes_the_committed_files(tmp_path: Path) -> None:
    subprocess.run([sys.executable, EXAMPLES / "make_facts.py", "--out", tmp_path], check=True)
    for name in ("facts.jsonl", "questions.jsonl"):
        assert (tmp_path / name).read_bytes() == (EXAMPLES / name).read_bytes()


def test_examples_are_a_thousand_facts_with_duplicates_and_late_ones(facts: list[Fact]) -> None:
    assert len(facts) == 1000
    assert len({fact.source for fact in facts}) == 4
    assert sum(count - 1 for count in Counter(fact.text for fact in facts).values()) >= 25
    times = [fact.observed_at for fact in facts if fact.observed_at]
    assert len(times) == 1000
    newest, late = times[0], 0
    for time in times:
        late += (newest - time).days >= 1
        newest = max(newest, time)
    assert late >= 10


def test_every_question_is_about_a_fact_that_has_its_answer(facts: list[Fact]) -> None:
    questions = [orjson.loads(line) for line in (EXAMPLES / "questions.jsonl").read_bytes().splitlines()]
    assert len(questions) == 10
    by_id = {fact.fact_id: fact.text for fact in facts}
    for question in questions:
        assert question["answer"] in by_id[question["fact_id"]]
        assert question["answer"] not in question["prompt"]
