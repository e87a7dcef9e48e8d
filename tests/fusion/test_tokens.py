"""Tokens of an answer: how far the memories raised the probability of each."""

import numpy as np
import pytest

from pipeline import MemoryLM
from pipeline.fusion.row import Prompt, Row
from pipeline.ingest.encoder import Encoder
from pipeline.memory_lm import Job
from tests.helpers.weights import encoder_of

FACT, PROMPT = "The Harlow desk lamp is made of walnut.", "The Harlow desk lamp is made of"


@pytest.fixture(scope="module", params=["gpt2", "default"])
def lm(request: pytest.FixtureRequest) -> MemoryLM:
    default = request.param == "default"
    made = MemoryLM(Encoder.load() if default else encoder_of(request.getfixturevalue(request.param)))
    made.learn([FACT], min_loss_delta=-100.0)
    return made


def test_the_pieces_make_up_the_text_and_show_what_the_memory_raised(lm: MemoryLM) -> None:
    told, bare, plain = lm.answer(
        [Job(PROMPT, tokens=True), Job(PROMPT, tokens=True, use_memory=False), Job(PROMPT)]
    )
    assert plain.tokens is None and plain.text == told.text
    for answer in (told, bare):
        assert answer.tokens and len(answer.tokens) == answer.completion_tokens
        assert "".join(token.text for token in answer.tokens) == answer.text
    assert all(token.moved == 0 for token in bare.tokens or [])
    said = next(token for token in told.tokens or [] if token.text.strip())
    assert said.moved > 0.3 and said.text in " walnut"


def test_what_is_said_after_the_answer_is_not_the_memorys(lm: MemoryLM) -> None:
    (answer,) = lm.answer([Job(PROMPT, tokens=True, stop_at_answer=False, max_new_tokens=24)])
    lines = answer.text.lstrip().split("\n", 1)
    after = len(answer.text) - len(lines[1]) if len(lines) > 1 else len(answer.text)
    at = 0
    for token in answer.tokens or []:
        assert at < after or token.moved == 0.0
        at += len(token.text)


def test_text_after_a_stop_string_is_in_no_piece(lm: MemoryLM) -> None:
    whole = lm.answer([Job(PROMPT, use_memory=False)])[0].text
    stop = whole[len(whole) // 2 :][:3]
    cut = lm.answer([Job(PROMPT, use_memory=False, tokens=True, stop=[stop])])[0]
    assert cut.text == whole[: whole.find(stop)]
    assert "".join(token.text for token in cut.tokens or []) == cut.text


def test_a_character_of_several_tokens_is_one_piece(lm: MemoryLM) -> None:
    backbone = lm.encoder.backbone
    row = Row(Job(tokens=True))
    row.start(Prompt([], 99, (), None, None), backbone)
    ids = backbone.tokenize(["a 雪 b"])[0].ids
    for token in ids:
        row.append(token)
    pieces = [token.text for token in row.pieces()]
    assert "".join(pieces) == "a 雪 b" and len(pieces) == len(ids) > 4
    assert [piece for piece in pieces if "雪" in piece] in (["雪"], [" 雪"]) and "" in pieces


def test_logprobs_are_those_of_the_distribution_that_is_drawn_from(lm: MemoryLM) -> None:
    told, bare, none = lm.answer(
        [
            Job(PROMPT, logprobs=3),
            Job(PROMPT, logprobs=0, use_memory=False),
            Job(PROMPT, tokens=True),
        ]
    )
    assert all(token.logprob is None and token.likeliest is None for token in none.tokens or [])
    assert told.tokens and bare.tokens and len(told.tokens) == told.completion_tokens
    for token in told.tokens:  # greedy: the chosen one is the likeliest
        assert token.likeliest and len(token.likeliest) == 3 and token.logprob == token.likeliest[0].logprob
        assert [one.logprob for one in token.likeliest] == sorted(
            (one.logprob for one in token.likeliest), reverse=True
        )
        assert -50 < token.logprob <= 0
    said = next(token for token in told.tokens if token.text.strip())
    assert said.likeliest and said.likeliest[0].text == said.text
    assert all(token.likeliest == [] for token in bare.tokens)
    total = sum(token.logprob or 0.0 for token in bare.tokens[:3])
    # Decoded with weights of few bits, and scored with the model's own.
    scored = lm.score([PROMPT], ["".join(token.text for token in bare.tokens[:3])], use_memory=False)[0] * 3
    assert total == pytest.approx(scored, abs=0.25)


def test_embeddings_are_unit_vectors_near_for_what_is_alike(lm: MemoryLM) -> None:
    fact, question, other, empty = lm.embed([FACT, PROMPT, "Flights to Oslo leave at noon.", " "])
    assert np.linalg.norm([fact, question, other], axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert fact @ question > fact @ other and not empty.any()
    assert np.abs(lm.embed([PROMPT])[0] - question).max() < 1e-3
