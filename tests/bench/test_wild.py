"""`bench wild`: what counts as said and right, the matrix of decisions, file errors, and a whole run."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from typer.testing import CliRunner

from pipeline.bench.files import BenchFileError
from pipeline.bench.prompting import after
from pipeline.bench.scores import says
from pipeline.bench.wild.answers import WAYS, judged, shares
from pipeline.bench.wild.measure import _samples
from pipeline.bench.wild.scenario import Scenario, WildFact, as_prompt, read_scenarios, replaced, stating
from pipeline.bench.wild.verdicts import START, confusion, verdicts
from pipeline.memory.bank import memory_id
from pipeline.memory.events import Decision, SourceOffset
from pipeline.retrieve.hit import Hit
from tests.bench.test_recall import written
from tests.memory.samples import memory
from workers.cli.app import app

RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
DOMAIN: dict[str, Any] = {
    "domain": "a kiln",
    "facts": [
        {"id": "f1", "day": 2, "category": "rules", "text": "The north kiln is fired by Orla Venn."},
        {"id": "f2", "day": 1, "category": "rules", "text": "glaze 7 dries for 9 hours"},
        {"id": "f3", "day": 5, "text": "Milo Kassab fires the north kiln now, not Orla.", "replaces": "f1"},
        {"id": "f4", "day": 6, "text": "the one who fires the north kiln: Milo Kassab", "same_as": "f3"},
        {"id": "f5", "day": 7, "text": "Orla is back at the north kiln, Milo has left.", "replaces": "f4"},
        {"id": "f6", "day": 7, "text": "The south kiln is fired by Ines.", "beside": "f1"},
    ],
    "asks": [
        {"text": "who fires the north kiln", "facts": ["f5"], "form": "chat", "kind": "update", "answers": ["Orla"]},
        {"text": "Glaze 7 dries for", "facts": ["f2"], "form": "continuation", "kind": "number", "answers": ["9 hours"]},
    ],
    "silent": [{"text": "Who fires the east kiln?", "why": "near name"}],
}  # fmt: skip
SCENARIO = Scenario.model_validate(DOMAIN)
FEW = {
    "domain": "a clinic",
    "facts": [
        {"id": "f1", "day": 1, "text": "Nurse Ysolde Marrin wears a purple badge."},
        {"id": "f2", "day": 2, "text": "The autoclave beeps at 07:40."},
        {"id": "f3", "day": 3, "text": "Nurse Ysolde Marrin wears an orange badge.", "replaces": "f1"},
    ],
    "asks": [
        {"text": "What colour is the badge of Ysolde Marrin?", "facts": ["f3"], "form": "question", "kind": "update",
         "answers": ["orange"]},
        {"text": "The autoclave beeps at", "facts": ["f2"], "form": "continuation", "kind": "date or time",
         "answers": ["07:40", "7:40"]},
    ],
    "silent": [{"text": "The boiling point of water is", "why": "unrelated"}],
}  # fmt: skip


@pytest.mark.parametrize(
    "text, answer",
    [
        (" 21:40.\nThe bay opens at 6.", "21:40"),
        ("\n\n  It is MEI selenko, I think", "Mei Selenko"),
        ("Blood group B.", "b"),
        ("host kv-3318b, plate KV-3318", "KV-3318"),
        ("at 118 °C for an hour", "118 °C"),
        ("the hall\u2019s   door", "hall's door"),
        ("她在七个小时后到", "七个小时"),
        ("共9个", "9"),
        ("los días sin conexión", "sin conexión"),
        ("4.5 %", "4.5 %"),
        ("version ２.1", "2.1"),
    ],
)
def test_an_answer_in_the_first_line_is_said(text: str, answer: str) -> None:
    assert says(text, answer)


@pytest.mark.parametrize(
    "text, answer",
    [
        ("6\nNo: 21:40", "21:40"),
        ("Blue", "b"),
        ("118", "18"),
        ("max_retries", "max"),
        ("día 280", "día 28"),
        ("七", "七个小时"),
        ("", "7"),
        ("7", " "),
    ],
)
def test_a_part_of_a_word_or_a_later_line_is_not_said(text: str, answer: str) -> None:
    assert not says(text, answer)


def test_questions_and_chat_are_asked_as_questions() -> None:
    assert [ask.prompt for ask in SCENARIO.asks] == [
        "Question: who fires the north kiln\nAnswer:", "Glaze 7 dries for",
    ]  # fmt: skip
    assert as_prompt("几点？ ") == "Question: 几点？ \nAnswer:"
    assert SCENARIO.silent[0].prompt == "Question: Who fires the east kiln?\nAnswer:"


def test_domains_of_one_length_are_not_asked_at_the_same_places() -> None:
    first, second = _samples([range(12), range(12)], 4)
    assert len(set(first)) == len(set(second)) == 4 and first != second
    assert _samples([[1, 2]], 4) == _samples([[1, 2]], None) == [[1, 2]]


def test_prompting_puts_examples_and_facts_before_the_prompt() -> None:
    assert after("The kiln is", []) == "The kiln is"
    assert after("The kiln is", ["It is hot.", "It is red."]).endswith(
        "\n\nIt is hot.\nIt is red.\nThe kiln is"
    )


def test_facts_are_learned_by_day_and_repetitions_count_as_the_fact() -> None:
    assert [fact.id for fact in SCENARIO.learned] == ["f2", "f1", "f3", "f4", "f5", "f6"]
    assert [fact.id for fact in stating(SCENARIO, ["f4"])] == ["f3", "f4"]
    assert [fact.id for fact in replaced(SCENARIO, ["f5"])] == ["f3", "f4", "f1"]
    assert not replaced(SCENARIO, ["f2", "f6"])


def fact(number: str) -> WildFact:
    return next(fact for fact in SCENARIO.facts if fact.id == number)


def hit(number: str, gate: float) -> Hit:
    return Hit(memory(0, fact(number).text), 1.0, np.zeros(1), fact(number).text, gate=gate)


def test_an_ask_is_judged_by_its_texts_and_the_gates_of_its_facts() -> None:
    ask = SCENARIO.asks[0]
    texts = {"bare": " a potter", "prompted": "\nOrla\n", "prompted_right": " orla.", "memory": " Milo"}
    read_old = judged(SCENARIO, ask, texts, [hit("f4", 0.9), hit("f5", 0.0)])
    assert read_old.said == {"bare": False, "prompted": True, "prompted_right": True, "memory": False}
    assert (read_old.first, read_old.among, read_old.spoke, read_old.spoke_right) == (
        False,
        True,
        True,
        False,
    )
    assert read_old.updated and read_old.old_read
    right = judged(SCENARIO, ask, texts | {"memory": " Orla"}, [hit("f5", 0.9), hit("f4", 0.0)])
    assert right.first and right.spoke_right and not right.old_read
    silent = judged(SCENARIO, SCENARIO.asks[1], texts, [])
    assert not silent.spoke and not silent.updated
    both = shares([read_old, right])
    assert (both.asked, both.bare, both.memory, both.first, both.spoke) == (2, 0.0, 0.5, 0.5, 1.0)
    assert shares([]).memory is None


def decision(outcome: str, nearest: str | None = None) -> Decision:
    known = None if nearest is None else memory_id("wild", fact(nearest).text)
    return Decision("wild", outcome, SourceOffset("facts", "t", 0, 0), START, nearest=known)


def test_the_matrix_counts_outcomes_by_link_and_those_on_the_linked_fact() -> None:
    made = {
        "f1": decision("learned"), "f2": decision("superseded", "f1"), "f3": decision("superseded", "f1"),
        "f4": decision("reinforced", "f2"), "f5": decision("superseded", "f3"), "f6": decision("learned"),
    }  # fmt: skip
    found = verdicts(SCENARIO, "wild", [fact(number) for number in made], list(made.values()))
    assert [(one.fact, one.acted_on) for one in found if one.acted_on] == [
        ("f2", "f1"), ("f3", "f1"), ("f4", "f2"), ("f5", "f3"),
    ]  # fmt: skip
    matrix = confusion(found)
    assert matrix.facts == {
        "new": {"learned": 1, "superseded": 1, "reinforced": 0},
        "replaces": {"learned": 0, "superseded": 2, "reinforced": 0},
        "same_as": {"learned": 0, "superseded": 0, "reinforced": 1},
        "beside": {"learned": 1, "superseded": 0, "reinforced": 0},
    }
    assert matrix.on_linked["replaces"]["superseded"] == 2, "f5 replaces f4, whose memory has the text of f3"
    assert matrix.on_linked["same_as"]["reinforced"] == 0
    assert list(matrix.on_linked) == ["replaces", "same_as", "beside"]


def changed(field: str, n: int, **values: Any) -> dict[str, Any]:
    """DOMAIN with other values in one of its facts, asks or silent prompts."""
    items = [dict(item) for item in DOMAIN[field]]
    items[n] |= values
    return DOMAIN | {field: items}


@pytest.mark.parametrize(
    "line, wrong",
    [
        ({"domain": "a", "asks": []}, "line 2: facts: "),
        (changed("facts", 1, day="soon"), "line 2: facts.1.day: "),
        (changed("facts", 1, text=""), "line 2: facts.1.text: "),
        (changed("facts", 1, id="f1"), "line 2: facts.1.id: 'f1' is the id of another fact, too"),
        (changed("facts", 1, same_as="f1"), "line 2: facts.1.same_as: 'f1' is not the id of an earlier fact"),
        (
            changed("facts", 2, replaces="f9"),
            "line 2: facts.2.replaces: 'f9' is not the id of an earlier fact",
        ),
        (
            changed("facts", 2, replaces="f3"),
            "line 2: facts.2.replaces: 'f3' is not the id of an earlier fact",
        ),
        (changed("asks", 0, facts=["f5", "f9"]), "line 2: asks.0.facts.1: 'f9' is not the id of a fact"),
        (changed("asks", 1, answers=[]), "line 2: asks.1.answers: "),
        (changed("asks", 1, form="song"), "line 2: asks.1.form: "),
        (changed("silent", 0, why=None), "line 2: silent.0.why: "),
    ],
)
def test_the_error_names_file_line_and_field(tmp_path: Path, line: dict[str, Any], wrong: str) -> None:
    good, file = tmp_path / "good.jsonl", written(tmp_path, [DOMAIN, line])
    good.write_bytes(orjson.dumps(DOMAIN))
    with pytest.raises(BenchFileError) as error:
        read_scenarios([good, file])
    assert str(error.value).startswith(f"{file}, {wrong}")
    result = RUNNER.invoke(app, ["bench", "wild", str(good), str(file)])
    assert result.exit_code == 1 and not result.stdout
    assert wrong in result.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wild_reports_answers_silence_decisions_and_speed(tmp_path: Path) -> None:
    file = written(tmp_path, [FEW])
    result = RUNNER.invoke(app, ["bench", "wild", str(file), "--json"])
    assert result.exit_code == 0, result.output
    found = orjson.loads(result.stdout)
    assert (found["domains"], found["facts"]) == (1, 3)
    assert found["all"]["asked"] == 2 and found["all"]["among"] == 1.0
    assert list(found["by_form"]) == ["question", "continuation"] and list(found["by_domain"]) == ["a clinic"]
    assert found["updates"]["asked"] == 1 and set(found["updates"]["said"]) == set(WAYS)
    assert found["silent"] == {"asked": 1, "same": 1.0, "spoke": 0.0}
    assert sum(found["decided"]["facts"]["new"].values()) == 2
    replaced = found["decided"]["on_linked"]["replaces"].get("superseded", 0)
    assert found["memories"] == 3 - replaced
    assert [one["fact"] for one in found["verdicts"]] == ["f1", "f2", "f3"]
    assert [set(one["texts"]) for one in found["answers"]] == [set(WAYS)] * 2
    speed = found["speed"]
    assert speed["prompts"] == 2 and all(value > 0 for name, value in speed.items() if name != "open_gates")


def test_decide_counts_both_ways_and_keys_find_every_update(tmp_path: Path) -> None:
    file = written(tmp_path, [DOMAIN])
    result = RUNNER.invoke(app, ["bench", "decide", "--scenarios", str(file), "--json"])
    assert result.exit_code == 0, result.output
    found = orjson.loads(result.stdout)
    assert found["with_keys"]["right"] == found["facts"] == len(DOMAIN["facts"])
    assert found["with_keys"]["wrong_replacements"] == found["without_keys"]["wrong_replacements"] == 0
    shown = RUNNER.invoke(app, ["bench", "decide", "--scenarios", str(file)])
    assert "with keys" in shown.output and "0 wrong replacements" in shown.output
