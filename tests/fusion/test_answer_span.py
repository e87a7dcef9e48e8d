"""The answer span: when one is chosen, which words it may have, and that the model chooses well."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest

from pipeline import MemoryLM
from pipeline.fusion import span_scorer
from pipeline.fusion.answer_span import choose_span
from pipeline.fusion.span import Span
from pipeline.fusion.span_scorer import ScoredSpan, SpanScorer
from pipeline.ingest.encoder import Encoder
from pipeline.memory_lm import Generation
from pipeline.retrieve.hit import Hit
from pipeline.text.annotate import AnnotatedText
from pipeline.text.words import split

KETTLE = "The Zephyr kettle is made of copper, ships from Gdansk, and costs 84 euros."
LAMP = "The Harlow lamp is made of walnut."


def retrieved(lm: MemoryLM, prompt: str) -> list[Hit]:
    settings = lm.bank.settings
    return lm._preparer.retrieve([prompt], [["default"]], settings.memories, settings.other_memories)[0]


def chosen(lm: MemoryLM, prompt: str, scorer: SpanScorer | None = None) -> Span | None:
    scorer = scorer or SpanScorer(lm.encoder.backbone)
    return choose_span(scorer, retrieved(lm, prompt), prompt, lm.encoder.informative, lm.bank.settings)


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
def test_the_model_chooses_the_span_that_a_question_asks_for(
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
def test_the_model_chooses_where_a_sentence_breaks_off_in_other_words(
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
def test_a_fact_with_the_prompts_wording_is_preferred(
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
def test_the_model_chooses_among_several_facts_about_a_subject(
    encoder: Encoder, prompt: str, fact: str, answer: str
) -> None:
    lm = MemoryLM(encoder)
    lm.learn(JENS, min_loss_delta=0)
    made = lm.generate([prompt], max_new_tokens=6)[0]
    assert answer in made.text and [memory.text for memory in made.memories if memory.gate > 0] == [fact]


def test_an_outdated_fact_is_never_chosen(encoder: Encoder) -> None:
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
def test_nothing_is_chosen_where_the_fact_continues_or_a_sentence_begins(
    encoder: Encoder, prompt: str
) -> None:
    lm = MemoryLM(encoder)
    lm.learn([KETTLE, LAMP], min_loss_delta=0)
    assert chosen(lm, prompt) is None


def test_the_examples_are_read_once_and_their_cache_stays_as_it_is(encoder: Encoder) -> None:
    lm = MemoryLM(encoder)
    lm.learn([KETTLE, "The Harlow lamp is made of walnut in Porto."], min_loss_delta=0)
    prompts = [
        f"Question: What is the {thing} made of?\nAnswer:" for thing in ("Zephyr kettle", "Harlow lamp")
    ]
    scorer = SpanScorer(encoder.backbone)
    first = [chosen(lm, prompt, scorer) for prompt in prompts]
    ((ids, cache),) = scorer._examples.values()
    assert [chosen(lm, prompt, scorer) for prompt in prompts] == first and None not in first
    assert scorer._examples == {span_scorer.QUESTION_EXAMPLES: (ids, cache)}
    assert cache.get_seq_length() == len(ids)


def test_an_answer_span_does_not_change_the_hits(encoder: Encoder) -> None:
    lm = MemoryLM(encoder)
    lm.learn([KETTLE, LAMP], min_loss_delta=0)
    prompt = "Question: Where does the Zephyr kettle ship from?\nAnswer:"
    hits = retrieved(lm, prompt)
    before = [(hit.gate, hit.alignment.span, hit.alignment.matched.tolist()) for hit in hits]
    scorer = SpanScorer(encoder.backbone)
    span = choose_span(scorer, hits, prompt, encoder.informative, lm.bank.settings)
    words = split(KETTLE)
    assert span and KETTLE[words[span.first].start : words[span.end - 1].end] == "Gdansk"
    assert [(hit.gate, hit.alignment.span, hit.alignment.matched.tolist()) for hit in hits] == before


def test_a_question_in_another_language_is_answered(encoder: Encoder) -> None:
    lm = MemoryLM(encoder)
    fact = "Mira Holt lebt in Porto und arbeitet in Bremen."
    lm.learn([fact], min_loss_delta=0)
    made = ask(lm, "Wo arbeitet Mira Holt?", ("Frage", "Antwort"))
    assert made.text == " Bremen" and made.finish_reason == "stop"


def test_nothing_is_chosen_without_a_question_or_a_choice(encoder: Encoder) -> None:
    lm = MemoryLM(encoder)
    lm.learn([KETTLE, LAMP], min_loss_delta=0)
    assert chosen(lm, "The Zephyr kettle is made of") is None
    assert chosen(lm, "Question: What is the Harlow lamp made of?\nAnswer:") is None
    assert chosen(lm, "Question: Who painted the Sistine Chapel?\nAnswer:") is None
    assert chosen(lm, "Question: What is the Zephyr kettle made of?\nAnswer:") is not None


def test_the_model_chooses_words_within_an_answer(encoder: Encoder) -> None:
    lm = MemoryLM(encoder)
    lm.learn(["Kettle Rock lighthouse was painted green in 1962."], min_loss_delta=0)
    assert ask(lm, "What color is Kettle Rock lighthouse?").text == " green"
    assert ask(lm, "When was Kettle Rock lighthouse painted?").text == " 1962"


def test_wording_within_the_question_is_not_an_answer(encoder: Encoder) -> None:
    """The model would say "city", which the fact has between "capital" and "of"."""
    lm = MemoryLM(encoder)
    lm.learn(["Winchester, that is the capital city of Northern Velland."], min_loss_delta=0)
    assert chosen(lm, "Question: What is the capital of Northern Velland?\nAnswer:") is None
    assert ask(lm, "What is the capital of Northern Velland?").text.strip().startswith("Winchester")


def test_only_facts_with_a_score_near_the_best_are_read(encoder: Encoder) -> None:
    lm = MemoryLM(encoder)
    lm.learn([KETTLE, LAMP, "The Zephyr kettle is sold in Leith, Porto and Bremen."], min_loss_delta=0)
    prompt, read = "Question: What is the Zephyr kettle made of?\nAnswer:", list[str]()
    first, second, third = retrieved(lm, prompt)
    hits = [first, replace(second, score=0.51 * first.score), replace(third, score=0.49 * first.score)]

    class Recording(SpanScorer):
        def score(self, fact: AnnotatedText, *more: object) -> list[ScoredSpan]:
            read.append(fact.text)
            return []

    choose_span(Recording(encoder.backbone), hits, prompt, encoder.informative, lm.bank.settings)
    assert read == [first.memory.text, second.memory.text]


def test_a_span_is_in_the_sentence_that_is_asked_about(encoder: Encoder) -> None:
    lm = MemoryLM(encoder)
    long = f"{KETTLE} It was drawn by Ada Brown in Leith, on 3 May. " + "Nobody says more of it. " * 20
    lm.learn([long], min_loss_delta=0)
    span = chosen(lm, "Question: What is the Zephyr kettle made of?\nAnswer:")
    assert span is not None
    words = split(long)
    text = long[words[span.first].start : words[span.end - 1].end]
    assert text in KETTLE and "Zephyr" not in text


def test_spans_scored_a_few_at_a_time_have_the_same_scores(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = MemoryLM(encoder)
    lm.learn([KETTLE], min_loss_delta=0)
    prompt = "Question: Where does the Zephyr kettle ship from?\nAnswer:"
    together = chosen(lm, prompt)
    monkeypatch.setattr(span_scorer, "MAX_CACHED", 1)
    assert chosen(lm, prompt) == together is not None


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_nothing_is_chosen_where_the_context_is_too_short(kind: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(kind)
    lm = MemoryLM(Encoder.load(str(folder)))
    fact = f"{KETTLE} {'It was drawn by Ada Brown. ' * 2}"
    lm.learn([fact], min_loss_delta=0)
    assert chosen(lm, "Question: Which Zephyr kettle is made of copper?\nAnswer:") is None
    assert ask(lm, "Which Zephyr kettle is made of copper?").completion_tokens > 0
