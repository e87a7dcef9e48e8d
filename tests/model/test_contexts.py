"""Contexts: a prompt after a kept one is read as after the whole text, and what is kept is bounded."""

from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.model.backbone import Backbone
from pipeline.model.contexts import DEPTHS, Context, Contexts, Prompt
from tests.model.builds import network

EXAMPLES = "The lamp of the bado is a rit.\nThe lamp of the bado is a rit.\n\n"
FACTS = ["Ris and gan are in fider.\n", "Question: what is the bado? Answer: no one says.\n", "x\n"]
CONTEXTS: list[Context] = [
    (), (EXAMPLES,), (EXAMPLES, FACTS[0]), (EXAMPLES, FACTS[1]), (FACTS[2],), (EXAMPLES, FACTS[0], FACTS[2]),
]  # fmt: skip
TEXTS = ["The lamp of the", "Question: what is made of ris?\nAnswer:", "It", "Bado and rit are in " * 4]


@pytest.fixture(scope="module", params=["gpt2", "llama", "qwen2", "qwen3", "gemma3"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """Builds that there is no folder of get the tokenizer of one."""
    own = request.param in ("gpt2", "llama")
    loaded = Backbone.load(request.getfixturevalue(request.param if own else "llama"), "cpu", "float32")
    if own:
        return loaded
    made = network(request.param, loaded.model.config.vocab_size)
    return Backbone(made, loaded.tokenizer, request.param, request.param)


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
        contexts._recent.clear()
        for prompt, reading in zip(prompts, contexts.read(prompts), strict=True):
            log_p, states = whole(backbone, prompt)
            assert close(reading.log_p, log_p[-1])
            assert close(reading.token_log_p, log_p[range(len(prompt.ids) - 1), prompt.ids[1:]])
            for depth, layer in enumerate(layers):
                assert close(reading.states[depth, 0], states[layer][-1])
                assert close(reading.states[depth, 1], states[layer].mean(0))
    assert bool(contexts._kept) == (cacheable or backbone.decoder is not None)


def test_the_last_tokens_have_the_log_probabilities_of_the_whole_text(
    backbone: Backbone, contexts: Contexts
) -> None:
    prompts = [prompt for prompt in prompts_of(backbone) if len(prompt.ids) >= 4]
    for prompt, own in zip(prompts, contexts.log_p(prompts, 4), strict=True):
        assert close(own, whole(backbone, prompt)[0][-4:])


def test_decoding_goes_on_after_a_kept_context(backbone: Backbone, contexts: Contexts) -> None:
    prompts = prompts_of(backbone)
    logits, cache = contexts.prefill(prompts)
    check_decoding(backbone, prompts, logits, cache)


def check_decoding(backbone: Backbone, prompts: list[Prompt], logits: Tensor, cache: Any) -> None:
    """That these are the logits after the prompts, and that three steps go on from there."""
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
    passes = counted_passes(backbone, monkeypatch)
    longer = [prompt._replace(ids=[*prompt.ids, 7]) for prompt in prompts]
    contexts.read(longer)
    assert passes == [max(len(prompt.ids) for prompt in longer)], "one pass, over the prompts alone"
    assert dict(contexts._kept) == kept


def counted_passes(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The most tokens of a row in each pass of the model from now on."""
    passes: list[int] = []
    forward, decoder = backbone.forward, backbone.decoder

    def counted(ids: Tensor, *more: object) -> object:
        passes.append(ids.shape[1])
        return forward(ids, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(backbone, "forward", counted)
    if decoder is not None:
        read = decoder.read

        def counted_too(before: Any, ids: Any, *more: Any, **named: Any) -> object:
            passes.append(max(map(len, ids)))
            return read(before, ids, *more, **named)

        monkeypatch.setattr(decoder, "read", counted_too)
    return passes


def test_a_prompt_that_was_read_just_before_is_not_read_again(
    backbone: Backbone, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts_of(backbone)
    first = contexts.read(prompts[1:])
    passes = counted_passes(backbone, monkeypatch)
    second = contexts.read(prompts)
    assert passes == [len(prompts[0].ids)] and all(a is b for a, b in zip(first, second[1:], strict=True))
    assert len(contexts.read([prompts[3], prompts[3]])) == 2 and len(passes) == 1


def test_decoding_goes_on_from_prompts_that_were_read(
    backbone: Backbone, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backbone.decoder is None:
        pytest.skip("transformers' own caches are not cut")
    prompts = prompts_of(backbone)
    contexts.read([prompt for n, prompt in enumerate(prompts) if n % 3])
    passes = counted_passes(backbone, monkeypatch)
    for known in (prompts[1:3], prompts):
        check_decoding(backbone, known, *contexts.prefill(known, resume=True))
    assert passes == [max(len(prompt.ids) for prompt in prompts[::3])], "only those that were not read"
    contexts.prefill(prompts[1:3])
    assert len(passes) == 2, "only where that is wanted"


def test_what_is_kept_of_the_last_prompts_is_bounded(
    backbone: Backbone, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = prompts_of(backbone)
    contexts.read(prompts)
    sizes = [recent.size for recent in contexts._recent.values()]
    assert contexts._recent_bytes == sum(sizes) and len(sizes) == len(prompts)
    monkeypatch.setattr("pipeline.model.contexts.RECENT_BYTES", sum(sizes) // 2)
    contexts.read([prompts[0]])
    contexts.read([prompts[1]._replace(ids=[7, 8, 9])])
    assert contexts._recent_bytes == sum(r.size for r in contexts._recent.values()) <= sum(sizes) // 2
    ids = {(prompt.context, tuple(prompt.ids)) for prompt in contexts._recent}
    assert {(prompts[0].context, tuple(prompts[0].ids)), (prompts[1].context, (7, 8, 9))} <= ids


def test_both_ways_read_the_same_behind_a_tuned_prefix(backbone: Backbone) -> None:
    tuned: dict[Context, torch.Tensor] = {(EXAMPLES,): prefix_of(backbone)}
    prompts, way = prompts_of(backbone), backbone.decoder
    readings = Contexts(backbone, tuned=tuned).read(prompts)
    plain = Contexts(backbone).read(prompts)
    assert not close(readings[4].log_p, plain[4].log_p) or not Contexts(backbone).cacheable
    backbone.__dict__["decoder"] = None
    try:
        others = Contexts(backbone, tuned=tuned).read(prompts)
    finally:
        backbone.__dict__["decoder"] = way
    for one, other in zip(readings, others, strict=True):
        assert all(close(a, b) for a, b in zip(one, other, strict=True))


def prefix_of(backbone: Backbone) -> Tensor:
    """A random prefix of five tokens."""
    config = backbone.model.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = (backbone.n_layers, 2, heads, 5, size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


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
        ids = [*ids, 7]  # not a prompt that was just read
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
