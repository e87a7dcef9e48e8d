"""What an answer says of its own tokens: how far the memories moved each one."""

import pytest

from pipeline import MemoryLM
from pipeline.fusion.engine import Row, pieces
from pipeline.ingest.encoder import Encoder
from pipeline.memory_lm import Job

FACT, PROMPT = "The Harlow desk lamp is made of walnut.", "The Harlow desk lamp is made of"


@pytest.fixture(scope="module", params=["gpt2", "default"])
def lm(request: pytest.FixtureRequest) -> MemoryLM:
    name = "default" if request.param == "default" else str(request.getfixturevalue(request.param))
    made = MemoryLM(Encoder.load(name))
    made.learn([FACT], min_loss_delta=-100.0)
    return made


def test_the_pieces_are_the_text_and_say_what_the_memory_moved(lm: MemoryLM) -> None:
    told, bare, plain = lm.answer(
        [Job(PROMPT, tokens=True), Job(PROMPT, tokens=True, use_memory=False), Job(PROMPT)]
    )
    assert plain.tokens is None and plain.text == told.text
    for answer in (told, bare):
        assert answer.tokens and len(answer.tokens) == answer.completion_tokens
        assert "".join(token.text for token in answer.tokens) == answer.text
    assert all(token.moved == 0 for token in bare.tokens or [])
    assert "walnut" in told.text
    most = max(told.tokens or [], key=lambda token: token.moved)
    assert most.moved > 0.3 and most.text.strip() and most.text in " walnut"


def test_what_a_stop_string_cuts_off_is_in_no_piece(lm: MemoryLM) -> None:
    whole = lm.answer([Job(PROMPT, use_memory=False)])[0].text
    stop = whole[len(whole) // 2 :][:3]
    cut = lm.answer([Job(PROMPT, use_memory=False, tokens=True, stop=[stop])])[0]
    assert cut.text == whole[: whole.find(stop)]
    assert "".join(token.text for token in cut.tokens or []) == cut.text


def test_a_character_of_several_tokens_is_one_piece() -> None:
    ends = [1, 2, 3, 4, 3, 5]  # while the character is not whole its place is held
    row = Row([], None, 6, tokens=[1] * 6, text="a 雪 b", moved=[(0.1, end) for end in ends])  # type: ignore[arg-type]
    found = pieces(row) or []
    assert [token.text for token in found] == ["a", " ", "雪", " ", "", "b"]
    assert {token.moved for token in found} == {0.1}
