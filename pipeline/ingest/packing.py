"""Packed passes: texts one after another in one row of the model, without padding between them.

A row always has the same number of tokens, so that a text's products are computed in the same shape whatever is beside it.
Attention is computed for each text by itself, texts of one length together. Both leave a text's numbers the same, to the last
bit, in any company. A model whose layers mix tokens in another way than by attention is not packed.
"""

import copy
import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from pipeline.model.backbone import Backbone
from pipeline.model.hidden_states import HiddenStates

TOKENS = 256
"""Tokens of a row: more of them leave the last row emptier, fewer cost more each."""
_NAME = "factstream_packed"
_UNDERSTOOD = {"scaling", "dropout", "sliding_window", "is_causal", "position_ids", "use_cache"}
"""Arguments of attention that change nothing here: a window is at least a row long, and dropout 0."""
_ALIKE = 0.99


class Pack(NamedTuple):
    """Texts to be computed in one row: their indices, those of one length together."""

    indices: list[int]


class Packing:
    """A model's packed passes. Threads may share it. Build it with `packing_of`."""

    def __init__(self, backbone: Backbone) -> None:
        config = copy.deepcopy(backbone.model.config)
        config._attn_implementation = _NAME
        self._backbone = backbone
        self._hidden = HiddenStates(_sharing(backbone.model, config), backbone.n_layers, backbone.lead[0])

    def read(self, rows: Sequence[Sequence[int]], layer: int) -> tuple[Tensor, Tensor]:
        """The result of HiddenStates.read for these rows, one after another: both [TOKENS, d]. Rows of one length are neighbours."""
        missing = TOKENS - sum(map(len, rows))
        filled = [*rows, self._backbone.lead[:1] * missing] if missing else rows
        _row.groups = [(length, len(list(same))) for length, same in groupby(map(len, filled))]
        _row.layers = 0
        ids = torch.tensor([[token for row in filled for token in row]])
        positions = torch.tensor([[place for row in filled for place in range(len(row))]])
        head_input, states = self._hidden.read(ids, layer, positions)
        return head_input[0], states[0]


def packing_of(backbone: Backbone) -> Packing | None:
    """The model's packed passes; None where they do not do what the model does, or on a GPU, which rather takes large batches."""
    window = getattr(backbone.model.config.get_text_config(), "sliding_window", None)
    if (
        backbone.device.type != "cpu"
        or "position_ids" not in backbone.accepts
        or min(window or TOKENS, backbone.max_positions) < TOKENS
    ):
        return None
    rows = [backbone.lead + ids for ids in ([1, 2, 3, 4], [5, 6, 7, 8], [3, 1, 2])]
    try:
        packing = Packing(backbone)
        together = torch.split(packing.read(rows, 1)[0], [*map(len, rows), TOKENS - sum(map(len, rows))])
        if _row.layers != backbone.n_layers:
            return None
    except Exception:  # each model has errors of its own for what it does not know
        return None
    for row, packed in zip(rows, together, strict=False):
        alone = backbone.hidden.read(torch.tensor([row]), 1)[0][0]
        if nn.functional.cosine_similarity(alone.float(), packed.float()).min() < _ALIKE:
            return None
    return packing


def packs(lengths: Sequence[int]) -> list[Pack]:
    """Groups texts of these lengths, TOKENS at most, into as few rows as the first one with room for each gives."""
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        at = next((i for i, left in enumerate(room) if left >= lengths[index]), len(rows))
        if at == len(rows):
            rows.append([])
            room.append(TOKENS)
        rows[at].append(index)
        room[at] -= lengths[index]
    return [Pack(row) for row in rows]


class _Row(threading.local):
    """What attention knows of the row that this thread computes."""

    groups: Sequence[tuple[int, int]] = ()  # length, and how many texts of it follow each other
    layers = 0  # that have computed their attention


_row = _Row()


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **others: Any
) -> tuple[Tensor, None]:
    """Causal attention within each text of the row. query: [1, heads, TOKENS, d]; returns [1, TOKENS, heads, d]."""
    unknown = {name for name, given in others.items() if given is not None} - _UNDERSTOOD
    if unknown or mask is not None or others.get("dropout"):
        raise ValueError(f"attention with {', '.join(unknown) or 'a mask'} is not packed")
    parts, at = [], 0
    for length, count in _row.groups:
        q, k, v = (
            states[0, :, at : at + count * length].view(-1, count, length, states.shape[3]).transpose(0, 1)
            for states in (query, key, value)
        )
        part = nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=others.get("scaling"), enable_gqa=q.shape[1] != k.shape[1]
        )
        parts.append(part.transpose(1, 2).flatten(0, 1))
        at += count * length
    _row.layers += 1
    return torch.cat(parts)[None], None


AttentionInterface.register(_NAME, _attention)


def _sharing(module: nn.Module, config: Any) -> nn.Module:
    """A copy of the modules with this configuration, which shares all weights, and has no hooks."""
    copied = copy.copy(module)
    copied.__dict__ = module.__dict__ | {
        "_modules": {name: child and _sharing(child, config) for name, child in module._modules.items()},
        "_forward_hooks": OrderedDict(),
        "_forward_pre_hooks": OrderedDict(),
    }
    if "config" in copied.__dict__:
        copied.__dict__["config"] = config
    return copied
