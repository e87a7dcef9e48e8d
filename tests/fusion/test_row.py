"""The end of an answer: its line's, where the memory speaks; elsewhere where the model ends."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline import MemoryLM
from pipeline.fusion.fusion import Fusion
from pipeline.fusion.row import Job
from pipeline.memory_lm import Generation
from schemas.response import Token
from tests.helpers.weights import OPEN, SHUT, encoder_of

FACT, PROMPT = "The Harlow desk lamp is made of walnut.", "The Harlow desk lamp is made of"


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def lm(folder: Path) -> MemoryLM:
    made = MemoryLM(encoder_of(folder, none=OPEN, dtype="float32"))
    made.learn([FACT], min_loss_delta=-100.0)
    return made


def says(lm: MemoryLM, patch: pytest.MonkeyPatch, text: str) -> list[int]:
    """The memory says this text, token for token, and then the same once more. Returns its tokens."""
    ids = lm.encoder.backbone.tokenize([text])[0].ids

    def fuse(fusion: Fusion, bare: Tensor, memory: Tensor) -> Tensor:
        scores = torch.full_like(bare, -30.0)
        scores[ids[len(fusion._answer) % len(ids)]] = 0.0
        return scores

    patch.setattr(Fusion, "fuse", fuse)
    return ids


def answer(lm: MemoryLM, tokens: int = 20, stop: Sequence[str] = (), past: bool = False) -> Generation:
    (made,) = lm.answer([Job(PROMPT, max_new_tokens=tokens, stop=stop, stop_at_answer=not past, tokens=True)])
    assert made.memories[0].gate > 0 and "".join(t.text for t in made.tokens or []) == made.text
    return made


def bare_tokens(lm: MemoryLM, ids: list[int], count: int) -> list[int]:
    """What the bare model says after these tokens, by reading all of them again for each."""
    made: list[int] = []
    with torch.inference_mode():
        for _ in range(count):
            logits = lm.encoder.backbone.model(input_ids=torch.tensor([ids + made])).logits
            made.append(int(logits[0, -1].argmax()))
    return made


@pytest.mark.parametrize("text", [" walnut\nThe lamp", "\n\n walnut\n", "  walnut \n\n\nThe"])
def test_an_answer_ends_at_its_line(lm: MemoryLM, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    says(lm, monkeypatch, text)
    made = answer(lm)
    begin = len(text) - len(text.lstrip())
    assert made.text == text[: text.index("\n", begin)] and made.finish_reason == "stop"
    assert "walnut" in made.text, "blank lines before it are not its end"


def test_an_answer_without_a_line_goes_on_to_the_limit(lm: MemoryLM, monkeypatch: pytest.MonkeyPatch) -> None:
    says(lm, monkeypatch, " walnut and")
    made = answer(lm)
    assert made.finish_reason == "length" and made.completion_tokens == 20


def test_a_stop_string_within_the_line_ends_it_before(lm: MemoryLM, monkeypatch: pytest.MonkeyPatch) -> None:
    says(lm, monkeypatch, " walnut and oak\nThe")
    assert answer(lm, stop=[" and"]).text == " walnut"
    assert answer(lm, stop=["The"]).text == " walnut and oak"


def test_past_the_answer_the_bare_model_goes_on(lm: MemoryLM, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = says(lm, monkeypatch, " walnut\n")
    made = answer(lm, tokens=len(ids) + 6, past=True)
    backbone = lm.encoder.backbone
    prompt = backbone.tokenize([PROMPT])[0].ids
    begin = backbone.lead if backbone.lead == [backbone.tokenizer.bos_token_id] else []
    after = bare_tokens(lm, begin + prompt + ids, 6)
    assert made.text == backbone.decode(ids + after) and made.text.startswith(" walnut\n")
    assert all(token.moved == 0 for token in (made.tokens or [])[len(ids) :])


def test_what_is_shown_while_it_is_generated_is_the_answer(
    lm: MemoryLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(lm, monkeypatch, " walnut\nThe lamp")
    for past in (False, True):
        engine = lm.engine()
        (row,) = engine.submit([Job(PROMPT, max_new_tokens=20, stop_at_answer=not past)])
        shown = ""
        while engine.busy:
            shown += "".join(text for _, text, _ in engine.step())
        assert shown == row.text and shown.startswith(" walnut") and ("\n" in shown) == past


@pytest.mark.parametrize("stop", [(), (" and oak",), ("xyz not said", "ä")])
def test_each_piece_of_a_stream_has_its_own_tokens(
    lm: MemoryLM, monkeypatch: pytest.MonkeyPatch, stop: Sequence[str]
) -> None:
    """Also where a stop string holds characters back, and a character has several tokens."""
    says(lm, monkeypatch, " walnut 🙂 and oak, größer\nThe lamp")
    engine = lm.engine()
    (row,) = engine.submit([Job(PROMPT, max_new_tokens=60, stop=stop, logprobs=1)])
    shown, tokens = list[str](), list[Token]()
    while engine.busy:
        for _, text, _ in engine.step():
            if text:
                own = row.take_tokens()
                assert "".join(token.text for token in own) == text
                shown.append(text)
                tokens += own
    assert "".join(shown) == row.text and len(shown) > 2, shown
    assert tokens + row.take_tokens() == row.pieces() and all(token.likeliest for token in tokens)


def test_without_an_open_gate_a_line_ends_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shut = MemoryLM(encoder_of(folder, none=SHUT, dtype="float32"))
    shut.learn([FACT], min_loss_delta=-100.0)
    ids = shut.encoder.backbone.tokenize(["\nThe lamp\n"])[0].ids
    for use_memory in (True, False):
        engine = shut.engine()
        (row,) = engine.submit([Job(PROMPT, use_memory=use_memory, max_new_tokens=30)])
        assert row.prompt.fusion is None and bool(row.prompt.hits) == use_memory
        for token in ids:
            row.append(token)
        assert not row.finish_reason and row.text == "\nThe lamp\n"


@pytest.mark.parametrize("past", [False, True])
def test_shut_gates_leave_the_bare_answer_token_for_token(folder: Path, past: bool) -> None:
    shut = MemoryLM(encoder_of(folder, none=SHUT, dtype="float32"))
    shut.learn([FACT], min_loss_delta=-100.0)
    prompts = [PROMPT, "Once upon a time", "Question: What is the lamp made of?\nAnswer:"]
    for temperature in (0.0, 0.9):
        tokens = []
        for use_memory in (True, False):
            jobs = [
                Job(
                    prompt, use_memory=use_memory, max_new_tokens=24, temperature=temperature, seed=n,
                    stop_at_answer=not past,
                )
                for n, prompt in enumerate(prompts)
            ]  # fmt: skip
            engine = shut.engine()
            rows = engine.submit(jobs)
            while engine.busy:
                engine.step()
            tokens.append([row.tokens for row in rows])
        assert tokens[0] == tokens[1]
    assert shut.score(prompts, ["walnut"] * 3) == shut.score(prompts, ["walnut"] * 3, use_memory=False)
