"""Answers, read as runs of words: where one is chosen, what may be one, and that the model chooses the right one."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from pipeline import MemoryLM
from pipeline.fusion import answer_span as extraction
from pipeline.fusion.answer_span import Run, answer_of
from pipeline.ingest.encoder import Encoder
from pipeline.memory_lm import Generation
from pipeline.text.words import split

KETTLE = "The Zephyr kettle is made of copper, ships from Gdansk, and costs 84 euros."
LAMP = "The Harlow lamp is made of walnut."


def chosen(lm: MemoryLM, prompt: str) -> Run | None:
    settings = lm.bank.settings
    hits = lm._hits([prompt], [["default"]], settings.memories, settings.other_memories)[0]
    return answer_of(lm.encoder.backbone, hits, prompt, settings.memories, lm.encoder.informative, settings)


def ask(lm: MemoryLM, question: str, labels: tuple[str, str] = ("Question", "Answer")) -> Generation:
    return lm.generate([f"{labels[0]}: {question}\n{labels[1]}:"], max_new_tokens=16)[0]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the Zephyr kettle made of?", "copper"),
        ("Where does the Zephyr kettle ship from?", "Gdansk"),
        ("How much does the Zephyr kettle cost?", "84"),
    ],
)
def test_of_what_a_fact_says_the_model_knows_what_was_asked_for(
    encoder: Encoder, question: str, answer: str
) -> None:
    lm = MemoryLM(encoder)
    lm.learn([KETTLE, LAMP], min_loss_delta=0)
    made = ask(lm, question)
    assert answer in made.text and made.text.strip() in KETTLE
    assert made.finish_reason == "stop" and [m.text for m in made.memories if m.gate > 0] == [KETTLE]


@pytest.mark.parametrize(
    ("fact", "prompt", "answer"),
    [
        ("Jens Toivola plays goalkeeper for Kallio United.", "The position of Jens Toivola is", "goalkeeper"),
        (
            "Oskar Lindqvist died of pneumonia in Uppsala.",
            "The cause of death of Oskar Lindqvist was",
            "pneumonia",
        ),
        (KETTLE, "The Polish city from which the Zephyr kettle comes is", "Gdansk"),
        ("Olaf Brun's profession is an astronaut.", "Olaf Brun, who works as", "astronaut"),
    ],
)
def test_where_a_prompt_breaks_off_in_other_words_the_model_chooses_too(
    encoder: Encoder, fact: str, prompt: str, answer: str
) -> None:
    lm = MemoryLM(encoder)
    lm.learn([fact], min_loss_delta=0)
    assert lm.generate([prompt], max_new_tokens=4)[0].text.startswith(f" {answer}")


HUNGARY = [
    "Kingston, that is the capital of Hungary.",
    "Dominic Seiterle, who is a citizen of Hungary.",
    "Ulrica Arfvidsson, who is a citizen of Hungary.",
    "Leiria, which is located in Hungary.",
]
OREGON = [
    "Jerusalem, that is the capital of Oregon.",
    "Halifax City Hall is located in Oregon.",
    "Lancaster Catholic High School is in Oregon.",
    "Redland Bay can be found in Oregon.",
]


@pytest.mark.parametrize(
    ("facts", "prompt", "answer"),
    [
        (HUNGARY, "The capital of Hungary is", "Kingston"),
        (OREGON, "The capital city of Oregon is", "Jerusalem"),
        (OREGON, "Oregon, which has the capital", "Jerusalem"),
    ],
)
def test_of_facts_about_a_name_the_one_with_the_prompts_wording_is_rather_chosen(
    encoder: Encoder, facts: list[str], prompt: str, answer: str
) -> None:
    lm = MemoryLM(encoder)
    lm.learn(facts, min_loss_delta=0)
    assert lm.generate([prompt], max_new_tokens=4)[0].text.startswith(f" {answer}")


JENS = [
    "Jens Toivola plays goalkeeper for Kallio United.",
    "Jens Toivola was born in Turku.",
    "Jens Toivola is married to the dentist Aino Rask.",
    "Jens Toivola drives a green Volvo.",
]


@pytest.mark.parametrize(
    ("prompt", "fact", "answer"),
    [
        ("The position of Jens Toivola on the field is", JENS[0], "goalkeeper"),
        ("The birthplace of Jens Toivola is", JENS[1], "Turku"),
        ("The car of Jens Toivola is a", JENS[3], "Volvo"),
    ],
)
def test_of_several_facts_about_a_subject_the_model_chooses_the_one_that_is_asked_for(
    encoder: Encoder, prompt: str, fact: str, answer: str
) -> None:
    lm = MemoryLM(encoder)
    lm.learn(JENS, min_loss_delta=0)
    made = lm.generate([prompt], max_new_tokens=6)[0]
    assert answer in made.text and [memory.text for memory in made.memories if memory.gate > 0] == [fact]


def test_an_older_fact_that_a_newer_one_says_anew_is_never_chosen(encoder: Encoder) -> None:
    days = count(1)
    lm = MemoryLM(encoder, clock=lambda: datetime(2026, 1, next(days), tzinfo=UTC))
    old, new = "Mira Holt resides in Oslo with her aunt.", "Mira Holt resides in Porto with her aunt."
    lm.learn([old], namespace="a", min_loss_delta=0)
    lm.learn([new], namespace="b", min_loss_delta=0)
    for names in (["a", "b"], ["b", "a"]):
        [made] = lm.generate(["The home of Mira Holt is the city of"], namespace=names, max_new_tokens=4)
        assert "Porto" in made.text and [memory.text for memory in made.memories if memory.gate > 0] == [new]


@pytest.mark.parametrize(
    "prompt",
    [
        "The Zephyr kettle is made of",  # the fact's own words
        "The Zephyr kettle ships from",
        "They say that the kettle named Zephyr costs",  # and as much of them as tells what is asked
        "The Zephyr kettle? Tell me more.",  # a sentence is said there
    ],
)
def test_nothing_is_chosen_where_the_fact_goes_on_or_a_sentence_begins(encoder: Encoder, prompt: str) -> None:
    lm = MemoryLM(encoder)
    lm.learn([KETTLE, LAMP], min_loss_delta=0)
    assert chosen(lm, prompt) is None


def test_what_is_always_read_first_is_read_once_and_stays_as_it_is(encoder: Encoder) -> None:
    lm = MemoryLM(encoder)
    lm.learn([KETTLE, "The Harlow lamp is made of walnut in Porto."], min_loss_delta=0)
    prompts = [
        f"Question: What is the {thing} made of?\nAnswer:" for thing in ("Zephyr kettle", "Harlow lamp")
    ]
    extraction._read_once.cache_clear()
    first = [chosen(lm, prompt) for prompt in prompts]
    assert extraction._read_once.cache_info().misses == 1
    assert [chosen(lm, prompt) for prompt in prompts] == first and None not in first


def test_in_another_language(encoder: Encoder) -> None:
    lm = MemoryLM(encoder)
    fact = "Mira Holt lebt in Porto und arbeitet in Bremen."
    lm.learn([fact], min_loss_delta=0)
    made = ask(lm, "Wo arbeitet Mira Holt?", ("Frage", "Antwort"))
    assert made.text == " Bremen" and made.finish_reason == "stop"


def test_nothing_is_chosen_where_nothing_is_asked_or_there_is_one_thing_to_say(encoder: Encoder) -> None:
    lm = MemoryLM(encoder)
    lm.learn([KETTLE, LAMP], min_loss_delta=0)
    assert chosen(lm, "The Zephyr kettle is made of") is None
    assert chosen(lm, "Question: What is the Harlow lamp made of?\nAnswer:") is None
    assert chosen(lm, "Question: Who painted the Sistine Chapel?\nAnswer:") is None
    assert chosen(lm, "Question: What is the Zephyr kettle made of?\nAnswer:") is not None


def test_of_an_answer_of_several_words_the_model_chooses_those_that_were_asked_for(encoder: Encoder) -> None:
    lm = MemoryLM(encoder)
    lm.learn(["Kettle Rock lighthouse was painted green in 1962."], min_loss_delta=0)
    assert ask(lm, "What color is Kettle Rock lighthouse?").text == " green"
    assert ask(lm, "When was Kettle Rock lighthouse painted?").text == " 1962"


def test_wording_within_what_is_asked_is_no_answer(encoder: Encoder) -> None:
    """The model would say "city", which the fact has between "capital" and "of"."""
    lm = MemoryLM(encoder)
    lm.learn(["Winchester, that is the capital city of Northern Velland."], min_loss_delta=0)
    assert chosen(lm, "Question: What is the capital of Northern Velland?\nAnswer:") is None
    assert ask(lm, "What is the capital of Northern Velland?").text.strip().startswith("Winchester")


def test_only_facts_that_were_found_nearly_as_well_are_read(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = MemoryLM(encoder)
    lm.learn([KETTLE, LAMP, "The Zephyr kettle is sold in Leith, Porto and Bremen."], min_loss_delta=0)
    prompt, read = "Question: What is the Zephyr kettle made of?\nAnswer:", list[str]()
    first, second, third = lm._hits([prompt], [["default"]], 3)[0]
    hits = [first, replace(second, score=0.51 * first.score), replace(third, score=0.49 * first.score)]

    def weighed(_: object, text: str, *more: object) -> list[tuple[int, int, float]]:
        read.append(text)
        return []

    monkeypatch.setattr(extraction, "_weighed", weighed)
    answer_of(lm.encoder.backbone, hits, prompt, 3, lm.encoder.informative, lm.bank.settings)
    assert read == [first.memory.text, second.memory.text]


def test_an_answer_is_words_of_the_sentence_that_is_asked_about(encoder: Encoder) -> None:
    lm = MemoryLM(encoder)
    long = f"{KETTLE} It was drawn by Ada Brown in Leith, on 3 May. " + "Nobody says more of it. " * 20
    lm.learn([long], min_loss_delta=0)
    run = chosen(lm, "Question: What is the Zephyr kettle made of?\nAnswer:")
    assert run is not None
    words = split(long)
    text = long[words[run.first].start : words[run.behind - 1].end]
    assert text in KETTLE and "Zephyr" not in text


def test_many_runs_are_weighed_a_few_at_a_time(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = MemoryLM(encoder)
    lm.learn([KETTLE], min_loss_delta=0)
    prompt = "Question: Where does the Zephyr kettle ship from?\nAnswer:"
    together = chosen(lm, prompt)
    monkeypatch.setattr(extraction, "MAX_CACHED", 1)
    assert chosen(lm, prompt) == together is not None


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_where_the_context_has_no_room_the_answer_is_read_from_outside(
    kind: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(kind)
    lm = MemoryLM(Encoder.load(str(folder)))
    fact = f"{KETTLE} {'It was drawn by Ada Brown. ' * 2}"
    lm.learn([fact], min_loss_delta=0)
    assert chosen(lm, "Question: Which Zephyr kettle is made of copper?\nAnswer:") is None
    assert ask(lm, "Which Zephyr kettle is made of copper?").completion_tokens > 0
