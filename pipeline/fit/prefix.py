"""Tuning of a prefix, which the frozen model reads before facts (Li and Liang 2021).

The prefix is keys and values. It begins as those of the written examples (model/reading.py), and is moved, by gradients through the frozen
model, so that the model says the answer after facts that answer a prompt, and its end-of-text token after others.
"""

import math
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.fit.rows import TuneRow
from pipeline.model.backbone import Backbone
from pipeline.model.reading import EXAMPLES

RATE = 4e-2
BETAS = (0.9, 0.98)
WARM_UP = 60  # steps
BATCH, BATCH_TOKENS = 12, 1100
CLIP = 1.0  # of the gradient's norm
Done = Callable[[int], object]
"""Called with the number of rows since the last call."""


class _Ids(NamedTuple):
    """A row's tokens: before the answer, and the answer's."""

    before: list[int]
    answer: list[int]


def tune(backbone: Backbone, epochs: Sequence[Sequence[TuneRow]], random: Random, done: Done) -> Tensor:
    """[layers, 2 (key, value), heads, tokens, d] float32, tuned on the rows, each of which is seen once in its epoch."""
    prefix = nn.Parameter(untuned(backbone))
    optimizer = torch.optim.AdamW([prefix], RATE, BETAS, weight_decay=0.0)
    room = backbone.max_positions - prefix.shape[3]
    batches = [batch for rows in epochs for batch in _batches(backbone, rows, random, room)]
    backbone.model.requires_grad_(False)
    for step, batch in enumerate(batches):
        rate = RATE * min(1.0, (step + 1) / WARM_UP) * (0.5 + 0.5 * math.cos(math.pi * step / len(batches)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        _loss(backbone, prefix, batch).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([prefix], CLIP)
        optimizer.step()
        done(len(batch))
    return prefix.detach()


@torch.inference_mode()
def _read_examples(backbone: Backbone) -> Tensor:
    begin = backbone.lead if backbone.lead == [backbone.tokenizer.bos_token_id] else []
    cache = backbone.empty_cache()
    ids = torch.tensor([begin + backbone.tokenize([EXAMPLES])[0].ids], device=backbone.device)
    backbone.model(input_ids=ids, past_key_values=cache, use_cache=True)
    layers: list[Any] = list(cache.layers)
    return torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in layers]).float()


def untuned(backbone: Backbone) -> Tensor:
    """The keys and values of the written examples: where the tuning begins."""
    return _read_examples(backbone).clone()


def _batches(backbone: Backbone, rows: Sequence[TuneRow], random: Random, room: int) -> list[list[_Ids]]:
    """The rows' tokens in batches of similar lengths, in a random order, without rows of more than `room` tokens."""
    facts = backbone.tokenize(["".join(f"{fact}\n" for fact in row.facts) for row in rows])
    prompts = backbone.tokenize([row.prompt for row in rows])
    answers = backbone.tokenize([f" {row.answer}\n" for row in rows])
    none = [backbone.tokenizer.eos_token_id]
    ids = [
        _Ids(f.ids + p.ids, none if row.answer is None else a.ids)
        for f, p, a, row in zip(facts, prompts, answers, rows, strict=True)
    ]
    ids = [one for one in ids if len(one.before) + len(one.answer) <= room]
    ids.sort(key=lambda one: len(one.before) + len(one.answer) + 6 * random.random())
    batches: list[list[_Ids]] = [[]]
    for one in ids:
        size = len(batches[-1]) + 1
        if size > BATCH or (size > 1 and size * (len(one.before) + len(one.answer)) > BATCH_TOKENS):
            batches.append([])
        batches[-1].append(one)
    random.shuffle(batches)
    return [batch for batch in batches if batch]


def _loss(backbone: Backbone, prefix: Tensor, batch: Sequence[_Ids]) -> Tensor:
    """The mean of the answers' tokens, nats; a token of a long answer weighs less."""
    cache = backbone.empty_cache()
    for number, pair in enumerate(prefix.to(backbone.dtype)):
        keys, values = pair[:, None].expand(-1, len(batch), -1, -1, -1)
        cache.update(keys, values, number)
    rows = [one.before + one.answer for one in batch]
    ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long, device=backbone.device)
    for row, own in enumerate(rows):
        ids[row, : len(own)] = torch.tensor(own)
    places = [(row, len(one.before) - 1 + n) for row, one in enumerate(batch) for n in range(len(one.answer))]
    weights = torch.tensor([len(one.answer) ** -0.5 for one in batch for _ in one.answer], device=ids.device)
    targets = torch.tensor([token for one in batch for token in one.answer], device=ids.device)
    states = backbone.model.base_model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
    logits = backbone.model.get_output_embeddings()(states[[p[0] for p in places], [p[1] for p in places]])
    losses = nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return (losses * weights).sum() / weights.sum()
