"""The frozen model: markup in a text is data, padding changes nothing, and no weight ever moves."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.model.backbone import Backbone
from pipeline.model.batching import LENGTHS, close_batches, fixed_batches
from pipeline.model.errors import ModelError

TEXTS = ["A lamp.", "The Harlow desk lamp is made of walnut.", "Ines Okafor keeps the rota. " * 5]


@pytest.fixture(scope="module", params=["gpt2", "llama", "default"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    name = request.param
    return Backbone.load(name if name == "default" else request.getfixturevalue(name))


@pytest.fixture(scope="module")
def small(gpt2: Path) -> Backbone:
    return Backbone.load(gpt2, device="cpu", dtype="float32")


# --- text ---


def test_tokens_carry_their_character_offsets(backbone: Backbone) -> None:
    texts = [*TEXTS, "naïve 東京 🦊  two blanks\nand a line", ""]
    for text, tokens in zip(texts, backbone.tokenize(texts), strict=True):
        assert backbone.decode(tokens.ids) == text
        assert len(tokens.ids) == len(tokens.offsets)
        assert not any(text[start:end][:1].isspace() for start, end in tokens.offsets)
    (lamp,) = backbone.tokenize(["The lamp"])
    assert {c for span in lamp.offsets for c in range(*span)} == {0, 1, 2, 4, 5, 6, 7}


def test_markup_in_a_text_is_plain_characters(backbone: Backbone) -> None:
    special = set(backbone.tokenizer.all_special_ids)
    assert special
    for mark in backbone.tokenizer.all_special_tokens:
        text = f"before {mark}{mark} after"
        (tokens,) = backbone.tokenize([text])
        assert not special & set(tokens.ids) and backbone.decode(tokens.ids) == text


def test_texts_and_prompts_are_read_at_once_each_in_its_way(backbone: Backbone) -> None:
    mark = backbone.tokenizer.eos_token
    with ThreadPoolExecutor(4) as pool:
        texts = [pool.submit(backbone.tokenize, [mark] * 50) for _ in range(40)]
        prompts = [pool.submit(backbone.tokenize_prompt, mark) for _ in range(40)]
    end = backbone.tokenizer.eos_token_id
    assert all(end not in tokens.ids for one in texts for tokens in one.result())
    assert all(one.result()[-1] == end for one in prompts)


def test_markup_is_removed_from_chat_contents(backbone: Backbone) -> None:
    end = backbone.tokenizer.eos_token
    said = f"Hello{end} you {end[:2]}{end}{end[2:]}!"  # what is taken out must not leave another one
    clean, marked = (
        backbone.chat([{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}])
        for content in ("Hello you !", said)
    )
    assert marked == clean
    ids = backbone.tokenize_prompt(marked)
    assert ids.count(backbone.tokenizer.eos_token_id) == backbone.tokenize_prompt(clean).count(
        backbone.tokenizer.eos_token_id
    )


def test_a_chat_without_a_template_is_role_lines(gpt2: Path) -> None:
    messages = [
        {"role": "user", "content": "Hello <|endoftext|>there"},
        {"role": "assistant", "content": "Hi"},
    ]
    assert Backbone.load(gpt2).chat(messages) == "user: Hello there\nassistant: Hi\nassistant:"


def test_a_chat_with_a_template_has_one_beginning_token(llama: Path) -> None:
    backbone = Backbone.load(llama)
    text = backbone.chat([{"role": "user", "content": "Hello"}])
    assert text == "<|turn|>user\nHello<|end|>\n<|turn|>assistant"
    ids, begin = backbone.tokenize_prompt(text), backbone.tokenizer.bos_token_id
    assert ids[0] == begin and ids.count(begin) == 1
    assert set(backbone.tokenizer.all_special_ids) <= set(ids)
    assert backbone.tokenize_prompt("<|begin|>" + text) == ids


def test_the_lead_is_the_beginning_token_or_a_line_break(gpt2: Path, llama: Path) -> None:
    own, none = Backbone.load(llama), Backbone.load(gpt2)
    assert own.lead == [own.tokenizer.bos_token_id]
    assert none.decode(none.lead) == "\n"


def test_clip_keeps_the_end_and_leaves_room(small: Backbone) -> None:
    ids = list(range(2 * small.max_positions))
    assert small.clip(ids, 10) == ids[-(small.max_positions - 10) :]
    assert small.clip(ids[:5], 10) == ids[:5]
    assert small.clip(ids, small.max_positions + 10) == ids[-1:]


def test_clip_keeps_the_models_own_beginning(llama: Path) -> None:
    backbone = Backbone.load(llama)
    begin = backbone.tokenizer.bos_token_id
    ids = [begin, *range(100, 100 + 2 * backbone.max_positions)]
    clipped = backbone.clip(ids, 10)
    assert clipped == [begin, *ids[-(backbone.max_positions - 11) :]]
    assert backbone.clip(clipped, 10) == clipped


# --- shapes ---


def test_pad_makes_a_rectangle_with_no_empty_row(small: Backbone) -> None:
    ids, mask = small.pad([[5, 6, 7], [8]], rows=3, length=5)
    assert ids.shape == mask.shape == (3, 5)
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert ids[mask.bool()].tolist()[:4] == [5, 6, 7, 8]
    ids, mask = small.pad([[5, 6, 7], [8]], left=True)
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]] and ids[:, -1].tolist() == [7, 8]
    assert int(ids.max()) < small.model.config.vocab_size


def test_fixed_batches_give_a_text_a_shape_by_its_length_only() -> None:
    dice = random.Random(3)
    lengths = [*dice.choices(range(1, 300), k=200), *LENGTHS, 9000]
    batches = fixed_batches(lengths)
    assert sorted(i for batch in batches for i in batch.indices) == list(range(len(lengths)))
    for batch in batches:
        assert 0 < len(batch.indices) <= batch.rows
        for i in batch.indices:
            assert batch.length >= lengths[i]
            (alone,) = fixed_batches([lengths[i]])
            assert (alone.rows, alone.length) == (batch.rows, batch.length)
    assert fixed_batches([]) == []


def test_close_batches_group_by_length() -> None:
    lengths = [*random.Random(5).choices(range(1, 90), k=100), 700]
    batches = close_batches(lengths, 256)
    assert sorted(i for batch in batches for i in batch.indices) == list(range(len(lengths)))
    for batch in batches:
        assert batch.rows == len(batch.indices) and batch.length == max(lengths[i] for i in batch.indices)
        assert batch.rows * batch.length <= 256 or batch.rows == 1
    assert len(batches) < sum(lengths) / 128 and close_batches([], 256) == []


def test_hidden_states_do_not_depend_on_the_batch(backbone: Backbone) -> None:
    rows = [backbone.lead + tokens.ids for tokens in backbone.tokenize(TEXTS * 3)]
    layer = backbone.n_layers // 2

    def computed(rows: list[list[int]]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        found = {}
        for batch in fixed_batches([len(row) for row in rows]):
            ids, _ = backbone.pad([rows[i] for i in batch.indices], batch.rows, batch.length)
            given, states = backbone.hidden.read(ids, layer)
            assert torch.equal(backbone.hidden.after(ids, layer), states)
            for n, i in enumerate(batch.indices):
                found[i] = (given[n, : len(rows[i])], states[n, : len(rows[i])])
        return found

    together = computed(rows)
    for i, row in enumerate(rows[: len(TEXTS)]):
        alone = computed([row])[0]
        for j in (i, i + len(TEXTS)):
            assert torch.equal(together[j][0], alone[0]) and torch.equal(together[j][1], alone[1])


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_losses_equal_those_of_the_models_logits(gpt2: Path, scale: float) -> None:
    """Also where a model does more to them than its head does: some scale their logits, or cap them."""
    backbone = Backbone.load(gpt2, device="cpu", dtype="float32")
    forward = backbone.model.forward

    def scaled(*given: Any, **named: Any) -> Any:
        output = forward(*given, **named)
        output.logits = output.logits * scale
        return output

    backbone.model.forward = scaled
    (tokens,) = backbone.tokenize([TEXTS[2]])
    ids, mask = backbone.pad([tokens.ids], 2, len(tokens.ids) + 1)
    given, _ = backbone.hidden.read(ids, 1)
    found = backbone.hidden.losses(given[0, : len(tokens.ids) - 1], tokens.ids[1:], 16)
    logits = backbone.model(input_ids=ids, attention_mask=mask).logits[0, : len(tokens.ids) - 1]
    want = torch.nn.functional.cross_entropy(logits, torch.tensor(tokens.ids[1:]), reduction="none")
    assert backbone.hidden._head_is_all == (scale == 1.0) and torch.allclose(found, want, atol=1e-4)


def test_a_loss_does_not_depend_on_the_batch(backbone: Backbone) -> None:
    dice = torch.Generator().manual_seed(1)
    given = torch.randn(70, backbone.model.config.hidden_size, generator=dice).to(
        backbone.device, backbone.dtype
    )
    targets = torch.randint(backbone.model.config.vocab_size, (70,), generator=dice).tolist()
    together = backbone.hidden.losses(given, targets, 32)
    for n in (0, 31, 32, 69):
        assert torch.equal(backbone.hidden.losses(given[n : n + 1], targets[n : n + 1], 32)[0], together[n])


def test_prefill_select_and_step_equal_one_prefill(backbone: Backbone) -> None:
    """Padding takes up no positions, what is selected goes on, and the cache holds what was read."""
    rows = [tokens.ids for tokens in backbone.tokenize(TEXTS)]
    ids, mask = backbone.pad([row[:-1] for row in rows], left=True)
    _, decoding = backbone.prefill(ids, mask)
    decoding.select([2, 1])
    stepped = backbone.step(torch.tensor([rows[2][-1], rows[1][-1]], device=backbone.device), decoding)
    for got, row in zip(stepped, (rows[2], rows[1]), strict=True):
        want, _ = backbone.prefill(*backbone.pad([row]))
        tolerance = 1e-3 if backbone.dtype == torch.float32 else 0.5
        assert torch.allclose(got, want[0], atol=tolerance)
        assert int(got.argmax()) == int(want[0].argmax())


def test_a_row_that_has_ended_is_stepped_beyond_the_last_position(gpt2: Path) -> None:
    """It stays until its batch drops it, and must not fail the rows beside it."""
    backbone = Backbone.load(gpt2, "cpu", "float32")
    whole, short = [5] * backbone.max_positions, [5, 6, 7]
    _, cache = backbone.prefill(*backbone.pad([whole, short], left=True))
    stepped = backbone.step(torch.tensor([5, 8]), cache)
    assert torch.allclose(stepped[1], backbone.prefill(*backbone.pad([[*short, 8]]))[0][0], atol=1e-3)


# --- frozen ---


def test_no_weight_can_be_trained(backbone: Backbone) -> None:
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_a_model_may_have_several_end_tokens(small: Backbone, gpt2: Path) -> None:
    other = Backbone.load(gpt2, device="cpu", dtype="float32")
    other.model.generation_config.eos_token_id = [7, 8]
    made = Backbone(other.model, other.tokenizer, "hash", "name")
    assert made.eos_ids == {7, 8, small.tokenizer.eos_token_id}


def test_a_model_without_a_list_of_layers_is_refused(gpt2: Path) -> None:
    other = Backbone.load(gpt2, device="cpu", dtype="float32")
    other.model.config.num_hidden_layers = 40
    with pytest.raises(ModelError, match="no list of 40 layers"):
        Backbone(other.model, other.tokenizer, "hash", "name")
