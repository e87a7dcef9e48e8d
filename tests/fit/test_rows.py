"""Rows of a prefix's tuning: answers in the facts' words, and rows without an answer."""

import re
from collections.abc import Sequence
from random import Random

import pytest

from pipeline.bench.wild.scenario import Scenario, WildAsk, WildFact
from pipeline.fit.augment import MOST_FACTS, NEAR_NAME, augmented, near_name, small, spelled_alike
from pipeline.fit.rows import TuneRow, answer_of, rows_of
from tests.bench.test_wild import FEW, SCENARIO


def ask(*answers: str, kind: str = "name") -> WildAsk:
    return WildAsk(text="Who?", facts=("f1",), form="question", kind=kind, answers=answers)


@pytest.mark.parametrize(
    "asked, facts, answer",
    [
        (ask("Mei Selenko", "Selenko"), ["call MEI selenko, please"], "MEI selenko"),
        (ask("eight", "8"), ["the bay opens at 8"], "8"),
        (ask("no"), ["Nobody may enter."], "No"),
        (ask("nein"), ["Not today."], "nein"),
        (ask("Oslo", "Rome"), ["Ana: Rome", "Ben: Oslo"], "Oslo"),
        (ask("candles", "confetti", kind="list"), ["no candles, no confetti, music off at 1"], "candles, no confetti"),
        (ask("Rome", "Oslo", kind="list"), ["Ana: Rome", "Ben: Oslo", "Rome it is"], "Rome, Oslo"),
    ],
)  # fmt: skip
def test_an_answer_is_worded_as_its_facts(asked: WildAsk, facts: list[str], answer: str) -> None:
    assert answer_of(asked, facts) == answer


def drawn(scenario: Scenario, seed: int) -> list[TuneRow]:
    def find(prompts: Sequence[str]) -> list[list[str]]:
        return [[fact.text for fact in scenario.facts]] * len(prompts)

    return rows_of(scenario, find, lambda text: f"<user>{text}<answer>", Random(seed))


def test_answered_rows_end_with_the_newest_of_the_facts() -> None:
    text = {fact.id: fact.text for fact in SCENARIO.facts}
    rows = [row for seed in range(40) for row in drawn(SCENARIO, seed) if row.answer == "Orla"]
    assert all(text["f5"] in row.facts for row in rows)
    with_older = [row.facts for row in rows if text["f3"] in row.facts or text["f1"] in row.facts]
    assert with_older and all(facts[-1] == text["f5"] or facts[-1] == text["f6"] for facts in with_older)
    assert any(len(row.facts) == 1 for row in rows)


def test_unanswered_rows_have_no_fact_that_answers_or_once_did() -> None:
    text = {fact.id: fact.text for fact in SCENARIO.facts}
    rows = [row for seed in range(40) for row in drawn(SCENARIO, seed) if row.answer is None]
    of_update = [row for row in rows if "who fires the north kiln" in row.prompt]
    assert of_update and all(set(row.facts) <= {text["f2"], text["f6"]} for row in of_update)
    silent = [row for row in rows if "east kiln" in row.prompt]
    assert silent and all(row.facts for row in silent)


def test_questions_come_with_a_label_without_one_and_in_a_chat() -> None:
    prompts = {row.prompt for seed in range(200) for row in drawn(SCENARIO, seed) if "north" in row.prompt}
    assert prompts == {
        "Question: who fires the north kiln\nAnswer:", "who fires the north kiln", "<user>who fires the north kiln<answer>"
    }  # fmt: skip


def test_rows_depend_on_the_seed_alone() -> None:
    assert drawn(SCENARIO, 7) == drawn(SCENARIO, 7) != drawn(SCENARIO, 8)


def test_a_small_memory_keeps_the_asks_that_its_facts_answer() -> None:
    for seed in range(20):
        one = small(SCENARIO, Random(seed))
        ids = {fact.id for fact in one.facts}
        assert ids == {"f2"} and len(one.facts) <= MOST_FACTS, "the others are linked"
        assert [a.text for a in one.asks] == ["Glaze 7 dries for"]
        assert {"Who fires the east kiln?", "Question: who fires the north kiln\nAnswer:"} == {
            s.text for s in one.silent
        }


def test_a_near_name_exchanges_a_name_or_a_digit_of_the_facts() -> None:
    clinic = Scenario.model_validate(FEW)
    badge, autoclave = clinic.asks
    found = {near_name(clinic, badge, Random(seed)) for seed in range(20)}
    assert found == {None}, "no other name is known"
    more = clinic.model_copy(
        update={
            "facts": (
                *clinic.facts,
                WildFact(id="f9", day=4, text="Call Tamar Quill about room 12."),
            )
        }
    )
    found = {near_name(more, badge, Random(seed)) for seed in range(40)}
    assert "Question: What colour is the badge of Tamar Marrin?\nAnswer:" in found
    assert all("Ysolde Marrin" not in (text or "") for text in found)
    room = autoclave.model_copy(update={"text": "Room 12 is called by", "facts": ("f9",)})
    numbers = {near_name(more, room, Random(seed)) for seed in range(40)}
    assert numbers and all(re.fullmatch(r"Room \d\d is called by", text or "") for text in numbers)
    assert "Room 12 is called by" not in numbers
    assert near_name(more, autoclave.model_copy(update={"text": "it beeps at"}), Random(0)) is None


def test_some_near_names_are_spelled_as_no_name_of_the_scenario() -> None:
    clinic = Scenario.model_validate(FEW)
    badge = clinic.asks[0]
    facts = (*clinic.facts, WildFact(id="f9", day=4, text="Call Tamar Quill about room 12."))
    more = clinic.model_copy(update={"facts": facts})
    found = {near_name(more, badge, Random(seed)) for seed in range(60)} - {None}
    known = {word for fact in facts for word in re.findall(r"\w+", fact.text)}
    spelled = [text for text in found if text and not set(re.findall(r"[A-Z]\w+", text)[2:-1]) <= known]
    assert spelled and len(spelled) < len(found)
    assert not any("Ysolde Marrin" in text for text in spelled)


def test_a_word_spelled_alike_keeps_a_beginning_or_differs_in_a_letter() -> None:
    made = {spelled_alike("Lindqvist", "Bramwell", Random(seed)) for seed in range(200)}
    assert "Lindqwell" in made or "Lindqvell" in made
    edited = [word for word in made if not word.startswith("Lind")]
    assert edited and all(abs(len(word) - len("Lindqvist")) <= 1 for word in edited)
    assert spelled_alike("Li", "B", Random(1)).istitle()


def test_an_augmented_scenario_has_more_silent_prompts_and_open_ones() -> None:
    more = augmented(SCENARIO, ["In the morning the", "There was once a"], Random(3))
    added = more.silent[len(SCENARIO.silent) :]
    assert {"ordinary", NEAR_NAME} >= {one.why for one in added} and any(
        one.why == "ordinary" for one in added
    )
    opened = more.asks[len(SCENARIO.asks) :]
    text = {fact.id: fact.text for fact in SCENARIO.facts}
    assert opened and all(a.kind == "open" and a.answers == (text[a.facts[0]],) for a in opened)
    assert augmented(SCENARIO, ["In the morning the"], Random(3)) == augmented(
        SCENARIO, ["In the morning the"], Random(3)
    )
