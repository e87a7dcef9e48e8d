"""The library on three language models: GPT-2's architecture, LLaMA's, and the default model.

Each learns, finds, says and keeps what it was told; and where no memory speaks, the numbers that an answer is chosen
by are the bare model's own, to the last bit.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import MemoryLM
from pipeline.fusion import engine
from pipeline.fusion.sampling import choose
from pipeline.ingest import encoder as encoders
from pipeline.ingest.encoder import Encoder
from pipeline.memory_lm import Job
from tests.helpers.weights import encoder_of

FACTS = ["The Harlow desk lamp is made of walnut.", "Milo Kassab works as a glaciologist."]
PROMPT = "The Harlow desk lamp is made of"
QUESTION = "What does Milo Kassab work as?"
UNRELATED = "Once upon a time there was a"
SOURCES = {
    path.name: path for path in sorted((Path(__file__).parent.parent.parent / "pipeline").rglob("*.py"))
}


@pytest.fixture(scope="module", params=["gpt2", "llama", pytest.param("default", marks=pytest.mark.slow)])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    if request.param == "default":
        return Encoder.load()
    return encoder_of(request.getfixturevalue(request.param))


@pytest.fixture
def lm(encoder: Encoder) -> MemoryLM:
    return MemoryLM(encoder)


def chosen_by(lm: MemoryLM, prompts: list[str], **how: Any) -> list[torch.Tensor]:
    """The logits by which each token of the answers was chosen, in order."""
    seen: list[torch.Tensor] = []

    def record(logits: torch.Tensor, *more: Any) -> list[int]:
        seen.extend(logits.clone())
        return choose(logits, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "choose", record)
        lm.generate(prompts, **how)
    return seen


def bare(lm: MemoryLM, prompt: str, tokens: int) -> list[torch.Tensor]:
    """The same by the model alone: the decoder of its build, which tests/model/test_lean.py compares with transformers.

    A model of another build is decoded by transformers' own loop, with nothing of ours.
    """
    backbone = lm.encoder.backbone
    ids = backbone.tokenizer(prompt, return_tensors="pt")["input_ids"].to(backbone.device)
    if backbone.decoder is not None:
        logits, cache = backbone.decoder.prefill([()], ids.tolist())
        found = [logits[0]]
        while len(found) < tokens and int(logits.argmax()) not in backbone.eos_ids:
            logits = backbone.decoder.step(logits.argmax(-1), cache)
            found.append(logits[0])
        return found
    with torch.inference_mode():
        made = backbone.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False,
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    return [logits[0].float() for logits in made.logits]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_any_model_learns_retrieves_answers_and_scores(lm: MemoryLM) -> None:
    assert [d.outcome for d in lm.learn(FACTS, min_loss_delta=0)] == ["learned"] * 2
    assert lm.learn(FACTS[:1], min_loss_delta=0)[0].outcome == "reinforced"
    for prompt, text in zip((PROMPT, QUESTION), FACTS, strict=True):
        best = lm.retrieve([prompt])[0][0]
        assert best.text == text and best.gate > 0
    (answer,) = lm.answer([Job(PROMPT, max_new_tokens=8, tokens=True)])
    said = next(token.text for token in answer.tokens or [] if token.text.strip())
    assert said in " walnut", "a random model says the fact's word, or a piece of it"
    assert answer.memories[0].text == FACTS[0] and 0 < answer.completion_tokens <= 8
    (told,), (untold,) = lm.score([PROMPT], ["walnut"]), lm.score([PROMPT], ["walnut"], use_memory=False)
    assert told > untold + 1


def test_a_chat_is_answered_with_memories(lm: MemoryLM) -> None:
    lm.learn(FACTS, min_loss_delta=0)
    chat = [{"role": "user", "content": "What is the Harlow desk lamp made of?"}]
    (answer,) = lm.answer([Job(messages=chat, max_new_tokens=8)])
    assert answer.memories[0].text == FACTS[0] and answer.memories[0].gate > 0


def test_a_saved_memory_loads_as_the_same_memory(lm: MemoryLM, tmp_path: Path) -> None:
    lm.learn(FACTS, min_loss_delta=0)
    lm.save(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "weights_of", lambda _: lm.encoder.weights)
        again = MemoryLM.load(lm.encoder.backbone.name, memory=tmp_path)
    assert again.encoder_id == lm.encoder_id and again.bank.digest() == lm.bank.digest()
    assert again.generate([PROMPT], max_new_tokens=8) == lm.generate([PROMPT], max_new_tokens=8)


def test_without_memories_logits_equal_the_bare_models(lm: MemoryLM) -> None:
    lm.learn(FACTS, namespace="elsewhere", min_loss_delta=0)
    for prompt in (PROMPT, UNRELATED):
        assert same(chosen_by(lm, [prompt], max_new_tokens=12), bare(lm, prompt, 12))


def test_with_all_gates_shut_logits_equal_the_bare_models(lm: MemoryLM) -> None:
    lm.learn(FACTS, min_loss_delta=0)
    gates = [memory.gate for memory in lm.retrieve([UNRELATED])[0]]
    assert gates and not any(gates)
    assert same(chosen_by(lm, [UNRELATED], max_new_tokens=12), bare(lm, UNRELATED, 12))
    # An open gate does change them: what is compared here can differ.
    assert not same(chosen_by(lm, [PROMPT], max_new_tokens=12), bare(lm, PROMPT, 12))


def test_an_answer_does_not_depend_on_other_rows_of_its_batch(lm: MemoryLM) -> None:
    lm.learn(FACTS, min_loss_delta=0)
    (alone,) = chosen_by(lm, [UNRELATED], max_new_tokens=1, use_memory=False)
    shut, opened = chosen_by(
        lm, [PROMPT, UNRELATED], max_new_tokens=1
    )  # rows without an open gate come first
    assert torch.equal(shut, alone)
    (bare_opened,) = chosen_by(lm, [PROMPT], max_new_tokens=1, use_memory=False)
    assert not torch.allclose(opened, bare_opened, atol=1.0)


def test_without_memories_scores_equal_the_bare_models(lm: MemoryLM) -> None:
    lm.learn(FACTS, min_loss_delta=0)
    targets = ["there was a king", "walnut"]
    (shut, _), (unused, other) = (lm.score([UNRELATED, PROMPT], targets, use_memory=u) for u in (True, False))
    empty = lm.score([UNRELATED, PROMPT], targets, namespace="empty")
    assert [shut, empty[1]] == [unused, other] and empty[0] == shut
    tokenizer, model = lm.encoder.backbone.tokenizer, lm.encoder.backbone.model
    prompt = tokenizer(UNRELATED)["input_ids"]
    target = tokenizer(" " + targets[0], add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prompt + target]), use_cache=False).logits[0].float()
    log_p = torch.log_softmax(logits, -1)
    told = [float(log_p[len(prompt) + n - 1, token]) for n, token in enumerate(target)]
    # Another shape than that of the batch changes the last bits.
    close = 1e-4 if lm.encoder.backbone.dtype == torch.float32 else 0.05
    assert shut == pytest.approx(sum(told) / len(told), abs=close)


def test_an_encoding_does_not_depend_on_its_batch(encoder: Encoder) -> None:
    texts = ["A lamp.", *FACTS, "Ines Okafor keeps the rota of the harbour office. " * 6, "Yes"]
    beside = encoder.encode([*texts, *reversed(texts), "The Zephyr kettle ships from Tromso."])
    for text, one in zip(texts, beside, strict=False):
        (alone,) = encoder.encode([text])
        assert (alone.base_loss, alone.loss_delta) == (one.base_loss, one.loss_delta)
        assert alone.surprisals.tobytes() == one.surprisals.tobytes()


def test_an_encoding_does_not_depend_on_the_core_count(encoder: Encoder) -> None:
    texts, threads = (
        [*FACTS, "Ines Okafor keeps the rota of the harbour office."] * 40,
        torch.get_num_threads(),
    )
    try:
        torch.set_num_threads(1)
        by_one = encoder.encode(texts)
        torch.set_num_threads(3)
        by_three = encoder.encode(texts)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(by_one, by_three, strict=True):
        assert (one.text, one.loss_delta) == (other.text, other.loss_delta)
        assert one.surprisals.tobytes() == other.surprisals.tobytes()
        assert one.vectors.tobytes() == other.vectors.tobytes()


@pytest.mark.parametrize("name", ["gpt2", "llama"])  # whose contexts are short
def test_a_prompt_longer_than_the_context_keeps_its_end(request: pytest.FixtureRequest, name: str) -> None:
    lm = MemoryLM(encoder_of(request.getfixturevalue(name)))
    lm.learn(FACTS, min_loss_delta=0)
    long = "Once upon a time. " * lm.encoder.backbone.max_positions + PROMPT
    bare, told = (lm.generate([long], use_memory=use, max_new_tokens=8)[0] for use in (False, True))
    assert bare.prompt_tokens == lm.encoder.backbone.max_positions - 8
    assert told.memories[0].gate > 0 and 0 < told.prompt_tokens < bare.prompt_tokens


def test_memories_of_another_model_are_refused(gpt2: Path, llama: Path, tmp_path: Path) -> None:
    one = MemoryLM.load(str(gpt2))
    one.learn(FACTS, min_loss_delta=0)
    one.save(tmp_path)
    with pytest.raises(ValueError, match=rf"encoded by {one.encoder_id}"):
        MemoryLM.load(str(llama), memory=tmp_path)


# --- nothing in pipeline knows an architecture, but for the decoder's blocks ---

FAMILIES = re.compile(r"gpt|llama|mistral|qwen|gemma|phi-?\d|falcon|mamba|bloom|opt-\d", re.I)
INSIDES = {
    "transformer",
    "gpt_neox",
    "embed_tokens",
    "wte",
    "wpe",
    "ln_f",
    "lm_head",
    "self_attn",
    "c_attn",
    "q_proj",
}


def architectures(source: str) -> Iterator[str]:
    """Names and texts of the code, docstrings apart, that only one family of models has."""
    tree = ast.parse(source)
    prose = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            words = [node.value]
        else:
            words = [
                getattr(node, field)
                for field in ("id", "attr", "name")
                if isinstance(getattr(node, field, 0), str)
            ]
        yield from (word for word in words if word in INSIDES or FAMILIES.search(word))


@pytest.mark.parametrize(
    # hub.py names the default model's package, peer.py and generate.py a program; in texts.py a falcon is a bird
    "name",
    [name for name in SOURCES if name not in ("hub.py", "texts.py", "blocks.py", "peer.py", "generate.py")],
)
def test_no_module_names_an_architecture(name: str) -> None:
    assert not list(architectures(SOURCES[name].read_text(encoding="utf-8")))


def test_the_architecture_check_finds_names() -> None:
    source = '"""Works with GPT-2."""\ndef f(m):\n    "LLaMA"\n    return m.transformer.h if "gpt" in m else m.lm_head\n'
    assert sorted(architectures(source)) == ["gpt", "lm_head", "transformer"]
