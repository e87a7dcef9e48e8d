"""Contexts: a prompt after a kept one is read as after the whole text, and what is kept is bounded."""

from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import pytest
import torch
from torch import Tensor

from pipeline.model.backbone import Backbone
from pipeline.model.contexts import DEPTHS, Context, Contexts, Prompt

EXAMPLES = "The lamp of the bado is a rit.\nThe lamp of the bado is a rit.\n\n"
FACTS = ["Ris and gan are in fider.\n", "Question: what is the bado? Answer: no one says.\n", "x\n"]
CONTEXTS: list[Context] = [
    (), (EXAMPLES,), (EXAMPLES, FACTS[0]), (EXAMPLES, FACTS[1]), (FACTS[2],), (EXAMPLES, FACTS[0], FACTS[2]),
]  # fmt: skip
TEXTS = ["The lamp of the", "Question: what is made of ris?\nAnswer:", "It", "Bado and rit are in " * 4]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return Backbone.load(request.getfixturevalue(request.param), "cpu", "float32")


@pytest.fixture
def contexts(backbone: Backbone) -> Contexts:
    return Contexts(backbone)


def begin(backbone: Backbone) -> list[int]:
    return backbone.lead if backbone.lead == [backbone.tokenizer.bos_token_id] else []


def ids_of(backbone: Backbone, text: str) -> list[int]:
    return backbone.tokenize([text])[0].ids


def prompts_of(backbone: Backbone) -> list[Prompt]:
    """Each text after each context."""
    return [Prompt(context, ids_of(backbone, text)) for context in CONTEXTS for text in TEXTS]


def whole(backbone: Backbone, prompt: Prompt) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities after each of the prompt's tokens, and its states by layer, from one pass over the whole text."""
    before = [i for text in prompt.context for i in ids_of(backbone, text)]
    ids = [*(begin(backbone) if prompt.context else []), *before, *prompt.ids]
    with torch.inference_mode():
        output = backbone.model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    own = slice(len(ids) - len(prompt.ids), None)
    return output.logits[0, own].log_softmax(-1), [states[0, own] for states in output.hidden_states]


def close(a: Tensor, b: Tensor) -> bool:
    """Equal but for the order in which float32 sums were computed."""
    return bool(torch.allclose(a, b, rtol=1e-4, atol=2e-4))


@pytest.mark.parametrize("cacheable", [True, False])
def test_a_prompt_is_read_as_at_the_end_of_the_whole_text(
    backbone: Backbone, contexts: Contexts, cacheable: bool
) -> None:
    contexts.cacheable = cacheable  # as for a model whose cache is more than keys and values
    prompts = prompts_of(backbone)
    layers = [max(1, round(depth * backbone.n_layers)) for depth in DEPTHS]
    for _ in range(2):  # the second time from what was kept
        for prompt, reading in zip(prompts, contexts.read(prompts), strict=True):
            log_p, states = whole(backbone, prompt)
            assert close(reading.log_p, log_p[-1])
            assert close(reading.token_log_p, log_p[range(len(prompt.ids) - 1), prompt.ids[1:]])
            for depth, layer in enumerate(layers):
                assert close(reading.states[depth, 0], states[layer][-1])
                assert close(reading.states[depth, 1], states[layer].mean(0))
    assert bool(contexts._kept) == cacheable


def test_the_last_tokens_have_the_log_probabilities_of_the_whole_text(
    backbone: Backbone, contexts: Contexts
) -> None:
    prompts = [prompt for prompt in prompts_of(backbone) if len(prompt.ids) >= 4]
    for prompt, own in zip(prompts, contexts.log_p(prompts, 4), strict=True):
        assert close(own, whole(backbone, prompt)[0][-4:])


def test_decoding_goes_on_after_a_kept_context(backbone: Backbone, contexts: Contexts) -> None:
    prompts = prompts_of(backbone)
    logits, cache = contexts.prefill(prompts)
    for _ in range(3):
        for prompt, own in zip(prompts, logits, strict=True):
            assert close(own.log_softmax(-1), whole(backbone, prompt)[0][-1])
        tokens = logits.argmax(-1)
        logits = backbone.step(tokens, cache)
        prompts = [p._replace(ids=[*p.ids, int(t)]) for p, t in zip(prompts, tokens, strict=True)]


def test_a_kept_context_is_not_read_again(
    backbone: Backbone, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts_of(backbone)
    contexts.read(prompts)
    kept = dict(contexts._kept)
    assert set(kept) == {context[:end] for context in CONTEXTS for end in range(1, len(context) + 1)}
    passes: list[int] = []
    forward = backbone.forward

    def counted(ids: Tensor, *more: object) -> object:
        passes.append(ids.shape[1])
        return forward(ids, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(backbone, "forward", counted)
    contexts.read(prompts)
    assert passes == [max(len(prompt.ids) for prompt in prompts)], "one pass, over the prompts alone"
    assert dict(contexts._kept) == kept


def test_a_prompts_own_beginning_is_left_out_after_a_context(backbone: Backbone, contexts: Contexts) -> None:
    ids, lead = ids_of(backbone, TEXTS[0]), begin(backbone)
    plain, begun = contexts.read([Prompt((EXAMPLES,), ids), Prompt((EXAMPLES,), lead + ids)])
    assert close(plain.log_p, begun.log_p) and close(plain.states, begun.states)
    assert close(plain.token_log_p, begun.token_log_p)
    plain, begun = contexts.read([Prompt((), ids), Prompt((), lead + ids)])
    assert close(plain.log_p, begun.log_p) == (not lead), "without a context it stays"
    assert len(begun.token_log_p) == len(lead) + len(plain.token_log_p)
    (only,) = contexts.read([Prompt((EXAMPLES,), backbone.lead)])
    assert bool(only.log_p.isfinite().all()) and len(only.token_log_p) == 0


def test_contexts_without_text_change_nothing(backbone: Backbone, contexts: Contexts) -> None:
    prompts = [Prompt(context, ids_of(backbone, TEXTS[0])) for context in (("",), ("", ""), ())]
    one, other, bare = contexts.read(prompts)
    assert close(one.log_p, other.log_p)
    assert close(one.log_p, bare.log_p) == (not begin(backbone))


def test_kept_contexts_are_bounded_and_the_least_recently_used_leave(backbone: Backbone) -> None:
    ids = ids_of(backbone, TEXTS[0])
    texts = [f"Ris and gan are in fider {n}.\n" for n in range(12)]
    sizes = Contexts(backbone)
    sizes.read([Prompt((EXAMPLES, text), ids) for text in texts])
    total = list(accumulate(kept.size for kept in sizes._kept.values()))
    contexts = Contexts(backbone, max_bytes=total[4])  # the examples, and about four facts
    for text in texts:
        contexts.read([Prompt((EXAMPLES, texts[0]), ids), Prompt((EXAMPLES, text), ids)])
        assert contexts._bytes == sum(kept.size for kept in contexts._kept.values()) <= total[4]
    kept = set(contexts._kept)
    assert {(EXAMPLES,), (EXAMPLES, texts[0]), (EXAMPLES, texts[-1])} <= kept, "what each prompt needs stays"
    assert not kept & {(EXAMPLES, text) for text in texts[1:8]}


def test_more_contexts_than_there_is_room_for_are_read_all_the_same(backbone: Backbone) -> None:
    prompts = prompts_of(backbone)
    contexts = Contexts(backbone, max_bytes=1)
    for prompt, reading in zip(prompts, contexts.read(prompts), strict=True):
        assert close(reading.log_p, whole(backbone, prompt)[0][-1])
    assert len(contexts._kept) <= 1


def test_threads_read_the_same(backbone: Backbone) -> None:
    prompts, contexts = prompts_of(backbone), Contexts(backbone, max_bytes=100_000)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda prompt: contexts.read([prompt])[0].log_p, prompts * 3))
    for prompt, log_p in zip(prompts * 3, found, strict=True):
        assert close(log_p, whole(backbone, prompt)[0][-1])
    assert contexts._bytes == sum(kept.size for kept in contexts._kept.values())
