"""The lean decoder: the tokens that transformers generates, in any batch, and packed weights."""

import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline.model.backbone import Backbone
from pipeline.model.lean import blocks
from pipeline.model.lean import decoder as lean
from pipeline.model.lean.cache import WIDTH
from pipeline.model.lean.decoder import Decoder
from pipeline.model.lean.graph import Step
from pipeline.model.lean.matrix import GROUP, Matrix, _Eight, _Four, _onednn_multiplies
from tests.model.builds import BUILDS, SIZE, network

PROMPTS = [[5, 6, 7, 8, 9, 20, 21], [3], [11, 12, 13] * 30]
TOKENS = 40


@pytest.fixture(scope="module", params=list(BUILDS))
def model(request: pytest.FixtureRequest) -> Any:
    return network(request.param)


def decoder_of(model: Any, packed: bool = False) -> Decoder:
    made = Decoder.of(model, packed)
    assert made is not None
    return made


def generated(model: Any, prompt: Sequence[int], tokens: int = TOKENS) -> list[int]:
    """What transformers continues the prompt by."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
            do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    found: list[int] = made[0, len(prompt) :].tolist()
    return found


def decoded(decoder: Decoder, prompts: Sequence[Sequence[int]], tokens: int = TOKENS) -> list[list[int]]:
    logits, cache = decoder.prefill([()] * len(prompts), prompts)
    found = [logits.argmax(-1)]
    while len(found) < tokens:
        found.append(decoder.step(found[-1], cache).argmax(-1))
    return torch.stack(found, dim=1).tolist()


def test_the_tokens_are_those_of_transformers(model: Any) -> None:
    want = [generated(model, prompt) for prompt in PROMPTS]
    decoder = decoder_of(model)
    assert decoded(decoder, PROMPTS) == want
    assert [decoded(decoder, [prompt])[0] for prompt in PROMPTS] == want
    assert [generated(model, prompt) for prompt in PROMPTS] == want, "its own weights are where they were"


def test_the_logits_are_those_of_transformers(model: Any) -> None:
    decoder = decoder_of(model)
    logits, cache = decoder.prefill([()] * 3, PROMPTS)
    stepped = decoder.step(torch.tensor([1, 2, 3]), cache)
    for prompt, token, first, second in zip(PROMPTS, (1, 2, 3), logits, stepped, strict=True):
        with torch.inference_mode():
            want = model(torch.tensor([[*prompt, token]])).logits[0, -2:]
        assert torch.allclose(torch.stack([first, second]), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("at_once", [13, 1000])
def test_the_states_of_rows_of_any_length_are_those_of_transformers(
    model: Any, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, before, depths = decoder_of(model, packed=True), [4, 5, 6, 7], [1, 3, SIZE["num_hidden_layers"]]
    (kept,) = decoder.read([()], [before], [])[1].last([len(before)])
    monkeypatch.setattr(lean, "MASK_NUMBERS", at_once * len(PROMPTS) * decoder._blocks.queries * 2 * WIDTH)
    states, cache = decoder.read([(kept[..., :1, :], kept[..., 1:, :]), (kept,), ()], PROMPTS, depths)
    logits, end = decoder.logits(states[-1]), 0
    assert cache.lengths == [11, 5, 90] and decoder._blocks.head.few, "packed weights take no part"
    for prefix, prompt in zip((before, before, []), PROMPTS, strict=True):
        begin, end = end, end + len(prompt)
        with torch.inference_mode():
            want = model(torch.tensor([[*prefix, *prompt]]), output_hidden_states=True)
        assert torch.allclose(logits[begin:end], want.logits[0, len(prefix) :], rtol=1e-4, atol=1e-4)
        for depth, own in zip(depths, states[:, begin:end], strict=True):
            assert torch.allclose(own, want.hidden_states[depth][0, len(prefix) :], rtol=1e-4, atol=1e-4)
    assert end == states.shape[1]


def test_long_prompts_are_read_in_passes_with_small_masks(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, before = decoder_of(model), [4, 5, 6, 7]
    kept = decoder.prefill([()], [before])[1].states[:, :, 0, :, : len(before)]
    want, _ = decoder.prefill([(kept,), (), ()], PROMPTS)
    monkeypatch.setattr(lean, "MASK_NUMBERS", 13 * len(PROMPTS) * decoder._blocks.queries * 2 * WIDTH)
    masks, mask = list[int](), decoder._mask

    def seen(*arguments: Any) -> torch.Tensor | None:
        made = mask(*arguments)
        masks.append(0 if made is None else made.numel())
        return made

    monkeypatch.setattr(decoder, "_mask", seen)
    logits, cache = decoder.prefill([(kept,), (), ()], PROMPTS)
    assert torch.allclose(logits, want, rtol=1e-4, atol=1e-4) and cache.lengths == [11, 1, 90]
    assert max(masks) <= lean.MASK_NUMBERS and len(masks) >= 7


def test_a_model_can_still_be_fitted_after_its_decoder_is_made() -> None:
    model = network("llama")
    with torch.inference_mode():  # as where a context is read for the first time
        decoder_of(model)
    x = torch.ones((1, SIZE["hidden_size"]), requires_grad=True)
    model.model.layers[0].self_attn.q_proj(x).sum().backward()
    assert x.grad is not None


def test_the_default_models_tokens_are_those_of_transformers() -> None:
    backbone = Backbone.load("default", "cpu", "float32")
    prompts = [backbone.tokenize([text])[0].ids for text in ("The capital of France is", "Once upon a time")]
    assert backbone.decoder is not None
    assert decoded(backbone.decoder, prompts) == [generated(backbone.model, prompt) for prompt in prompts]


def test_rows_leave_and_join_and_grow(model: Any) -> None:
    decoder, rows = decoder_of(model), [[7, 8], [9] * (WIDTH - 3), [1, 2, 3]]
    want = [generated(model, prompt, 2 * WIDTH) for prompt in rows]
    logits, cache = decoder.prefill([()] * 2, rows[:2])
    found: list[list[int]] = [[], [], []]
    here = [0, 1]
    for step in range(2 * WIDTH):
        tokens = logits.argmax(-1)
        for row, token in zip(here, tokens.tolist(), strict=True):
            found[row].append(token)
        logits = decoder.step(tokens, cache)
        if step == 9:
            first, joining = decoder.prefill([()], rows[2:])
            cache.join(joining)
            logits, here = torch.cat([logits, first]), [0, 1, 2]
        if step == 19:
            cache.select([2, 0])
            logits, here = logits[[2, 0]], [2, 0]
    assert [len(tokens) for tokens in found] == [2 * WIDTH, 20, 2 * WIDTH - 10]
    for own, whole in zip(found, want, strict=True):
        assert own == whole[: len(own)]
    assert cache.width < 8 * WIDTH and cache.states.shape[2] == cache.rows == 2


def test_a_captured_step_is_replayed_until_its_cache_moves(model: Any) -> None:
    """A GPU replays the kernels of a step on the same memory; here a stand-in runs the step on what it was captured with."""
    captured: list[Step] = []

    def capture(step: Step, ids: torch.Tensor, positions: torch.Tensor) -> Step:
        mine = ids.clone(), positions.clone()
        states = caches[-1].states

        def replay(ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            assert caches[-1].states is states, "the graph writes where the cache was"
            mine[0].copy_(ids)
            mine[1].copy_(positions)
            return step(*mine)

        captured.append(replay)
        return replay

    decoder, rows = decoder_of(model), PROMPTS[:2]
    decoder.capture = capture
    logits, cache = decoder.prefill([()] * 2, rows)
    caches = [cache]
    found = []
    for _ in range(WIDTH + 10):
        found.append(logits.argmax(-1))
        logits = decoder.step(found[-1], cache)
    assert len(captured) == 2, "once more in the wider cache"
    want = [generated(model, prompt, WIDTH + 10) for prompt in rows]
    assert torch.stack(found, dim=1).tolist() == want


def test_a_step_that_cannot_be_captured_is_computed_without(model: Any) -> None:
    tries: list[Step] = []

    def capture(step: Step, ids: torch.Tensor, positions: torch.Tensor) -> Step:
        tries.append(step)
        step(ids, positions)  # a rehearsal, and then the capture fails
        raise RuntimeError("operation not permitted when stream is capturing")

    decoder = decoder_of(model)
    decoder.capture = capture
    logits, cache = decoder.prefill([()], PROMPTS[:1])
    found = []
    with pytest.warns(RuntimeWarning, match="without a CUDA graph: operation not permitted"):
        for _ in range(WIDTH + 10):
            found.append(int(logits.argmax(-1)))
            logits = decoder.step(logits.argmax(-1), cache)
    assert len(tries) == 1, "it is not tried again"
    assert found == generated(model, PROMPTS[0], WIDTH + 10)


def test_the_positions_that_a_captured_step_reads_stay_in_memory(model: Any) -> None:
    decoder = decoder_of(model)
    decoder.capture = lambda step, ids, positions: step
    logits, cache = decoder.prefill([()], [[3]])
    for _ in range(lean.CAPTURE_AFTER + 1):
        logits = decoder.step(logits.argmax(-1), cache)
    read = [weakref.ref(part) for table in decoder._tables.values() for part in table]
    decoder.prefill([()], [[3] * (WIDTH + 1)])  # in another cache, which has more positions
    assert cache.graph is not None and all(part() is not None for part in read)
    cache.reserve(WIDTH + 1)
    assert cache.graph is None and not any(part() is not None for part in read)


def test_kept_keys_and_values_are_read_as_their_tokens(model: Any) -> None:
    decoder, before = decoder_of(model), [4, 5, 6, 7]
    _, cache = decoder.prefill([()], [before])
    part = cache.states[:, :, 0, :, : len(before)]
    logits, joined = decoder.prefill([(part[..., :3, :], part[..., 3:, :]), ()], [[8, 9], [*before, 8, 9]])
    assert joined.lengths == [6, 6] and torch.allclose(logits[0], logits[1], rtol=1e-4, atol=1e-4)


def test_a_model_of_another_build_is_left_to_transformers(gpt2: Any) -> None:
    assert Backbone.load(gpt2, "cpu", "float32").decoder is None
    config = LlamaConfig(**SIZE, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    assert Decoder.of(LlamaForCausalLM(config), False) is None


# --- weights of few bits ---


def four_bit_weight(rows: int = 32, columns: int = 4 * GROUP) -> torch.Tensor:
    """Weights as a file of 4 bits has them, rounded to bfloat16."""
    dice = torch.Generator().manual_seed(2)
    quants = torch.randint(0, 16, (rows, columns // GROUP, GROUP), generator=dice).float()
    quants[..., 0], quants[..., 1] = 0, 15
    scales = torch.rand((rows, columns // GROUP, 1), generator=dice) + 0.1
    return ((quants - 7.3) * scales).view(rows, columns).bfloat16()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["four", "eight"])
def test_packed_weights_multiply_as_the_whole_ones(kind: str, dtype: torch.dtype) -> None:
    dice = torch.Generator().manual_seed(4)
    weight = four_bit_weight() if kind == "four" else torch.randn((32, 4 * GROUP), generator=dice)
    bias = torch.randn(32, generator=dice).to(dtype)
    matrix = Matrix(weight.to(dtype), bias, packed=True)
    assert isinstance(matrix.few, _Four if kind == "four" else _Eight)
    for rows in (1, 3, 12, 13, 40):
        x = torch.randn((rows, 4 * GROUP), generator=dice).to(dtype)
        want = x.float() @ weight.float().T + bias.float()
        error = (matrix(x).float() - want).norm() / want.norm()
        assert error < (0.004 if kind == "four" else 0.012)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 7, 13, 40, 200])
def test_weights_in_the_order_of_onednn_give_the_same_products(rows: int, dtype: torch.dtype) -> None:
    dice = torch.Generator().manual_seed(5)
    weight, bias = (torch.randn(size, generator=dice).to(dtype) for size in ((96, 4 * GROUP), (96,)))
    plain, reordered = Matrix(weight, bias, packed=True), Matrix(weight, bias, packed=True)
    reordered.reorder()
    x = torch.randn((rows, 4 * GROUP), generator=dice).to(dtype)
    assert reordered._ordered.is_mkldnn == _onednn_multiplies(dtype)
    torch.testing.assert_close(reordered(x, exact=True), plain(x, exact=True))
    assert torch.equal(reordered(x[:1]), plain(x[:1])), "a single row is multiplied by the packed weights"


@pytest.mark.parametrize("most, reordered", [(None, True), (0, False)])
def test_a_large_model_is_kept_once(
    llama: Any, monkeypatch: pytest.MonkeyPatch, most: int | None, reordered: bool
) -> None:
    if most is not None:
        monkeypatch.setattr(blocks, "REORDERED_BYTES", most)
    found = blocks.blocks_of(Backbone.load(llama, "cpu", "float32").model, packed=True)
    assert found is not None and len(found.matrices()) == 4 * len(found.blocks) + 1
    assert {m._ordered is not m.weight for m in found.matrices()} == {reordered}
    unpacked = blocks.blocks_of(Backbone.load(llama, "cpu", "float32").model, packed=False)
    assert unpacked is not None and all(m._ordered is m.weight for m in unpacked.matrices())


def test_one_weight_between_the_levels_makes_eight_bits() -> None:
    weight = four_bit_weight()
    weight[20, 40] += 0.5 * (weight[20, 32:64].max() - weight[20, 32:64].min()) / 15
    assert isinstance(Matrix(weight, None, packed=True).few, _Eight)


def test_only_automatic_arithmetic_packs_weights(llama: Any) -> None:
    few = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    for dtype, packed in (("auto", few), ("float32", False), ("bfloat16", False)):
        decoder = Backbone.load(llama, "cpu", dtype).decoder
        assert decoder is not None and bool(decoder._blocks.head.few) == packed
