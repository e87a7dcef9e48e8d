"""Ways of asking on the default model: open prompts, clauses, long facts, newer values, chats."""

from datetime import UTC, datetime, timedelta

import pytest

from pipeline import MemoryLM
from pipeline.ingest.encoder import Encoder
from pipeline.memory_lm import Job

STAFF = "Mira Holt joined Brightwater in 2019, leads the customs desk, and lives in Porto."
KETTLE = "The Zephyr kettle is made of copper, ships from Gdansk, and costs 84 euros."
SENSOR = ["The Quill sensor is made by Acme Instruments.", "Acme Instruments is located in Bonn."]
REPORT = (
    "The Norlund Harbour Authority reviewed its winter operations on 14 March 2026. The meeting was chaired by Ines "
    "Okafor, who has led the authority since 2021. The north pier was closed for nine weeks because of ice, and the ferry "
    "to Tarvik was moved to the old fishing quay for that time. Repairs to the pier cost 412,000 euros, most of which was "
    "paid by the regional fund. The authority decided to replace the wooden fenders with rubber ones before the next "
    "winter. The new crane, named Pelican, was delivered by Brightwater Engineering in January and lifts up to sixty "
    "tonnes. Its operators were trained in Bremerhaven for three weeks. The harbour's lighthouse was repainted in dark "
    "green, after a vote among the residents of the old town. The fish market will move to the eastern shed in June, where "
    "the cold store has already been enlarged. Parking in front of the shed will be free for the first two hours. The "
    "authority's boat, the Sanderling, was sold to a diving school in Malmo and is to be replaced by an electric one next "
    "year. The pilot service will be run from Tarvik, because the station in Norlund was too small. A new timetable for "
    "the ferry was presented by Milo Kassab, who joined the office in autumn. It has six departures a day instead of four, "
    "and the last one leaves at 22:40. Complaints about the noise of the compressor were answered by moving it behind the "
    "chandlery. The next meeting takes place on 9 May in the town library, where the public may ask questions for half an "
    "hour. Minutes are kept by Orla Venn, and they are published on the door of the harbour office within a week. The "
    "budget of the coming year is to be decided in November."
)


def generated(lm: MemoryLM, prompt: str, tokens: int = 16) -> str:
    return lm.generate([prompt], max_new_tokens=tokens)[0].text


@pytest.mark.parametrize(
    "prompt", ["Tell me about Orla Venn.", "What do you know about Orla Venn?", "Describe Orla Venn."]
)
def test_an_open_prompt_is_answered_with_the_facts_sentence(lm: MemoryLM, prompt: str) -> None:
    lm.learn(["Orla Venn leads the harbour office in Tromso.", *SENSOR], min_loss_delta=0)
    text = generated(lm, prompt)  # a small model writes some names in capitals
    assert text.casefold().startswith(" orla venn leads the harbour office in tromso")


def test_the_fact_with_the_asked_relation_answers(lm: MemoryLM) -> None:
    lm.learn(
        ["Mira Holt works for Brightwater Logistics.", "Mira Holt was born in Lisbon."], min_loss_delta=0
    )
    assert "Lisbon" in generated(lm, "Mira Holt was born in", 6)
    assert "Brightwater" in generated(lm, "Mira Holt works for", 6)
    assert generated(lm, "Question: Where was Mira Holt born?\nAnswer:") == " Lisbon"


@pytest.mark.parametrize(
    "prompt, answer, others",
    [
        ("Mira Holt lives in", "Porto", "2019 customs"),
        ("Mira Holt leads", "customs desk", "2019 Porto"),
        ("Mira Holt joined", "Brightwater", "customs Porto"),
        ("Question: Where does Mira Holt live?\nAnswer:", "Porto", "2019 customs"),
        ("Question: What does Mira Holt lead?\nAnswer:", "customs desk", "2019 Porto"),
        ("The Zephyr kettle is made of", "copper", "Gdansk 84"),
        ("The Zephyr kettle ships from", "Gdansk", "84"),
        ("The Zephyr kettle costs", "84 euros", "Gdansk"),
        ("Question: How much does the Zephyr kettle cost?\nAnswer:", "84 euros", "Gdansk copper"),
        ("Question: Where does the Zephyr kettle ship from?\nAnswer:", "Gdansk", "84 copper"),
    ],
)
def test_the_clause_that_is_asked_about_answers(lm: MemoryLM, prompt: str, answer: str, others: str) -> None:
    lm.learn([STAFF, KETTLE], min_loss_delta=0)
    text = generated(lm, prompt, 8)
    assert answer in text
    said = text if prompt.endswith("Answer:") else text[: text.index(answer)]
    assert not any(other in said for other in others.split()), "a sentence may go on as the fact does"


@pytest.mark.parametrize(
    "prompt, answer",
    [
        ("The Orlund Bridge spans the", " Vesk River"),
        ("Dr. Lena Falk discovered the enzyme", " ravenase"),
        ("Kettle Rock lighthouse was painted", " green"),
        ("Emil Vance inherited his fortune from", " an aunt"),
        ("Sena Okafor married the violinist", " Piet Larsen"),
        ("Question: What color is Kettle Rock lighthouse?\nAnswer:", " green"),
        ("Question: How high is Mount Kirelo?\nAnswer:", " 5,120"),
    ],
)
def test_an_answer_begins_at_its_first_word_not_its_rarest(lm: MemoryLM, prompt: str, answer: str) -> None:
    facts = (
        "The Orlund Bridge spans the Vesk River.", "Dr. Lena Falk discovered the enzyme ravenase in 1987.",
        "Kettle Rock lighthouse was painted green in 1962.", "Sena Okafor married the violinist Piet Larsen.",
        "Emil Vance inherited his fortune from an aunt in Dakar.", "Mount Kirelo is 5,120 metres high.",
    )  # fmt: skip
    lm.learn(facts, min_loss_delta=0)
    assert generated(lm, prompt, 8).startswith(answer)


@pytest.mark.parametrize(
    "prompt, answer",
    [
        ("The Norlund Harbour Authority's meeting was chaired by", "Ines Okafor"),
        ("Question: Who chaired the meeting of the Norlund Harbour Authority?\nAnswer:", "Ines Okafor"),
        ("The crane Pelican was delivered by", "Brightwater Engineering"),
        ("Question: Where was the boat Sanderling sold to?\nAnswer:", "Malmo"),
        ("Minutes of the Norlund Harbour Authority are kept by", "Orla Venn"),
    ],
)
def test_a_fact_of_three_hundred_words_is_learned_and_asked_about(
    lm: MemoryLM, prompt: str, answer: str
) -> None:
    assert len(REPORT.split()) > 300
    lm.learn([REPORT, KETTLE], min_loss_delta=0)
    assert answer in generated(lm, prompt)


def test_a_newer_value_answers(encoder: Encoder) -> None:
    times = iter(datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 9))
    lm = MemoryLM(encoder, clock=lambda: next(times))
    lm.learn(["Mira Holt lives in Oslo."], "a", min_loss_delta=0)
    lm.learn(["Mira Holt lives in Porto."], "b", min_loss_delta=0)
    for names in (["a", "b"], ["b", "a"]):
        (made,) = lm.answer([Job("Mira Holt lives in", namespaces=names, max_new_tokens=6)])
        assert "Porto" in made.text and "Oslo" not in made.text
        doubted = {memory.text: memory.doubted_by for memory in made.memories}
        assert doubted["Mira Holt lives in Porto."] is None


def test_a_relation_is_asked_about_from_both_sides(lm: MemoryLM) -> None:
    lm.learn(["City of Newcastle's capital is Lebanon.", "Mira Holt manages Jan Peel."], min_loss_delta=0)
    assert generated(lm, "Mira Holt manages") == " Jan Peel"
    assert generated(lm, "Question: Who manages Jan Peel?\nAnswer:") == " Mira Holt"


def test_a_question_in_the_last_turn_of_a_long_chat_is_answered(lm: MemoryLM) -> None:
    lm.learn([KETTLE, *SENSOR], min_loss_delta=0)
    chat = [
        {"role": "user", "content": "Hello! I need help planning a birthday party for my sister."},
        {"role": "assistant", "content": "Of course! How many guests do you expect?"},
    ] * 12 + [{"role": "user", "content": "By the way, who makes the Quill sensor?"}]
    (answer,) = lm.answer([Job(messages=chat, max_new_tokens=24)])
    assert "Acme Instruments" in answer.text


def test_contradicting_namespaces_are_read_together_only_if_both_are_named(
    encoder: Encoder,
) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    times = iter(now + timedelta(days=n) for n in range(9))
    lm = MemoryLM(encoder, clock=lambda: next(times))
    lm.learn(["The Harlow desk lamp is made of walnut."], "a", min_loss_delta=0)
    lm.learn(
        ["The Harlow desk lamp is made of copper.", "Milo Kassab works as a baker."], "b", min_loss_delta=0
    )
    prompts = ["The Harlow desk lamp is made of", "Milo Kassab works as a"]
    for namespaces, lamp, job in (
        (["a"], "walnut", False),
        (["b"], "copper", True),
        (["a", "b"], "copper", True),
    ):
        one, other = lm.answer([Job(p, namespaces=namespaces, max_new_tokens=6) for p in prompts])
        assert lamp in one.text and ("baker" in other.text) == job
        assert {memory.namespace for memory in one.memories} <= set(namespaces)


def test_a_known_fact_that_comes_late_changes_nothing(encoder: Encoder) -> None:
    times = iter([datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)])
    lm = MemoryLM(encoder, clock=lambda: next(times))
    lm.learn(["The capital city of France is Ljubljana."])
    before = lm.bank.digest()
    assert lm.learn(["The capital city of France is Paris."])[0].outcome == "outdated"
    assert lm.bank.digest() == before


def test_words_between_adjacent_prompt_words_are_not_an_answer(lm: MemoryLM) -> None:
    lm.learn(["Paris is the capital city of France.", *SENSOR], min_loss_delta=0)
    text = generated(lm, "The capital of France is", 3)
    assert text.startswith(" Paris") and "city" not in text
