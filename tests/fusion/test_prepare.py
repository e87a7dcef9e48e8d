"""Prompts with their facts: all that is read fits into the context, and the right tokens are scored."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline import MemoryLM
from pipeline.fusion.row import Job, Prompt
from pipeline.ingest.encoding import PromptEncoding
from tests.helpers.weights import NUMBERS, OPEN, encoder_of

FACT, PROMPT = "The Harlow desk lamp is made of walnut.", "The Harlow desk lamp is made of"


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def lm_of(folder: Path, facts: Sequence[str]) -> MemoryLM:
    """A model that reads every fact it finds."""
    made = MemoryLM(encoder_of(folder, none=OPEN, numbers=NUMBERS._replace(beside=0.0), dtype="float32"))
    made.learn(facts, min_loss_delta=-100.0)
    return made


def prepared(lm: MemoryLM, job: Job) -> Prompt:
    (prompt,) = lm._preparer.prompts([job])
    return prompt


def read_tokens(lm: MemoryLM, prompt: Prompt) -> int:
    """Tokens that are read before the answer, with the facts."""
    assert prompt.reading is not None
    contexts = lm.encoder.backbone.tokenize(prompt.reading.context)
    return 1 + sum(len(tokens.ids) for tokens in contexts) + len(prompt.reading.ids)


def test_examples_and_facts_are_read_oldest_first(folder: Path) -> None:
    lm = lm_of(folder, [FACT, "Two of the Harlow desk lamp are red."])
    prompt = prepared(lm, Job("The Harlow desk lamp", max_new_tokens=4))
    assert prompt.fusion is not None and prompt.reading is not None and prompt.reading.ids == prompt.ids
    _, facts = prompt.reading.context
    assert facts == f"{FACT}\nTwo of the Harlow desk lamp are red.\n"
    assert prepared(lm, Job("The Harlow desk lamp", use_memory=False)).reading is None


@pytest.mark.parametrize("prompt", [PROMPT, f"{PROMPT} " * 200])
@pytest.mark.parametrize("words", [0, 40, 50])
@pytest.mark.parametrize("tokens", [1, 32, 2048])
def test_facts_prompt_and_answer_fit_into_the_context(
    folder: Path, prompt: str, words: int, tokens: int
) -> None:
    begins = ("is made of oak", "ships from Gdansk", "was drawn by Ada")
    facts = [f"The Harlow desk lamp {begin}{' and gold' * words}." for begin in begins]
    lm = lm_of(folder, facts)
    made = prepared(lm, Job(prompt, max_new_tokens=tokens))
    most = lm.encoder.backbone.max_positions
    assert made.reading and made.max_new_tokens >= 1 and len(made.ids) > 1
    assert read_tokens(lm, made) + made.max_new_tokens <= most + 1  # the last token is not read
    for fact in facts:
        assert fact[:30] in "".join(made.reading.context), "each has its share"
    (answer,) = lm.answer([Job(prompt, max_new_tokens=tokens)])
    assert 0 < answer.completion_tokens <= made.max_new_tokens
    assert lm.score([prompt], ["walnut"])[0] < 0


def test_a_long_chat_with_a_fact_keeps_its_end(folder: Path) -> None:
    lm = lm_of(folder, [FACT])
    chat = [{"role": "user", "content": "Hello there. " * 100}, {"role": "user", "content": PROMPT}]
    made = prepared(lm, Job(messages=chat, max_new_tokens=8))
    assert made.reading and read_tokens(lm, made) + 8 <= lm.encoder.backbone.max_positions + 1
    assert PROMPT in lm.encoder.backbone.decode(made.ids)
    assert lm.answer([Job(messages=chat, max_new_tokens=8)])[0].completion_tokens > 0


def test_a_score_does_not_depend_on_the_other_rows(folder: Path) -> None:
    """Rows with facts and rows without, with targets and prompts of very different lengths."""
    lm = lm_of(folder, [FACT])
    prompts = [PROMPT, "", PROMPT, "The Harlow lamp", "", f"{PROMPT} oak, and the desk is made of"]
    targets = ["walnut", "It was long and it was so very dark. " * 3, "oak " * 20, "w", "x", "walnut"]
    together = lm.score(prompts, targets)
    alone = [lm.score([p], [t])[0] for p, t in zip(prompts, targets, strict=True)]
    assert together == pytest.approx(alone, abs=1e-3)
    bare = lm.score(prompts, targets, use_memory=False)
    assert [abs(a - b) > 0.01 for a, b in zip(together, bare, strict=True)] == [
        prompt != "" for prompt in prompts
    ]


def test_a_score_is_that_of_the_tokens_as_they_are_generated(folder: Path) -> None:
    lm = lm_of(folder, [FACT])
    walnut, oak = (lm.score([PROMPT], [target])[0] for target in ("walnut", "oak"))
    bare_walnut, bare_oak = (
        lm.score([PROMPT], [target], use_memory=False)[0] for target in ("walnut", "oak")
    )
    assert walnut > bare_walnut + 1 and walnut - bare_walnut > oak - bare_oak


def test_a_fact_that_was_read_ahead_is_not_read_for_the_answer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = lm_of(folder, [FACT])
    lm.read_ahead([FACT, "A very long fact. " * 40])
    encode, encoded = lm.encoder._encode_prompts, list[str]()

    def counted(prompts: Sequence[str]) -> list[PromptEncoding]:
        encoded.extend(prompts)
        return encode(prompts)

    monkeypatch.setattr(lm.encoder, "_encode_prompts", counted)
    monkeypatch.setattr(lm.encoder.contexts, "_keep", lambda *_: pytest.fail("a context is read"))
    (hits,) = lm._preparer.retrieve([PROMPT], [["default"]], 3)
    assert [hit.gate > 0 for hit in hits] == [True] and encoded == [PROMPT]
