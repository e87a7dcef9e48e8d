"""Key/value cache of a decoding batch, from which rows can leave, and to which another batch can join.

Holds tensors only: no text, no sampling. `Backbone.prefill` makes one and `Backbone.step` grows it by a token. It can be cut into
the keys and values of some tokens, and joined from these.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

Layers = Sequence[tuple[Tensor, Tensor]] | Tensor
"""Keys and values of some tokens, [heads, tokens, d] of each layer; the lean decoder's in one tensor, [layers, 2, heads, tokens, d]."""


@dataclass
class KVCache:
    """Keys and values of a batch so far, padded on the left, and the mask that is 1 where a token is."""

    cache: DynamicCache
    mask: Tensor  # [B, T]

    @property
    def joinable(self) -> bool:
        """Whether the cache is keys and values of every token, and nothing else: only then can `join` work."""
        return all(type(layer) is DynamicLayer for layer in self.cache.layers)

    def cut(self, row: int, begin: int, count: int) -> Layers:
        """A copy of so many keys and values of a row."""
        part = slice(begin, begin + count)
        return [
            (layer.keys[row, :, part].clone(), layer.values[row, :, part].clone()) for layer in _layers(self)
        ]

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Keeps only these rows, in this order, and only the padding that they need."""
        index = torch.tensor(rows, device=self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask = self.mask[index]
        if self.joinable and (padding := int(self.mask.any(0).int().argmax())):
            self.mask = self.mask[:, padding:]
            for layer in _layers(self):
                layer.keys, layer.values = layer.keys[:, :, padding:], layer.values[:, :, padding:]

    @torch.inference_mode()
    def join(self, other: "KVCache") -> None:
        """Appends the other batch's rows to this one's; the shorter batch is padded on the left."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        for mine, theirs in zip(_layers(self), _layers(other), strict=True):
            mine.keys = torch.cat([_widen(mine.keys, width), _widen(theirs.keys, width)])
            mine.values = torch.cat([_widen(mine.values, width), _widen(theirs.values, width)])
        masks = [nn.functional.pad(d.mask, (width - d.mask.shape[1], 0)) for d in (self, other)]
        self.mask = torch.cat(masks)


def joined(rows: Sequence[Sequence[Layers]], empty: DynamicCache, device: torch.device) -> KVCache:
    """A cache with each row's parts one after the other, padded on the left."""
    counts = [[part[0][0].shape[1] for part in parts] for parts in rows]
    width = max(map(sum, counts))
    mask = torch.zeros((len(rows), width), dtype=torch.long, device=device)
    for row, own in enumerate(counts):
        mask[row, width - sum(own) :] = 1
    for number, pair in enumerate(next(part for parts in rows for part in parts) if width else ()):
        both = [t.new_zeros((len(rows), t.shape[0], width, t.shape[2])) for t in pair]
        for row, (parts, own) in enumerate(zip(rows, counts, strict=True)):
            at = width - sum(own)
            for part, count in zip(parts, own, strict=True):
                for whole, states in zip(both, part[number], strict=True):
                    whole[row, :, at : at + count] = states
                at += count
        empty.update(both[0], both[1], number)
    return KVCache(empty, mask)


def _layers(cache: KVCache) -> list[Any]:
    return list(cache.cache.layers)


def _widen(states: Tensor, width: int) -> Tensor:
    """[B, heads, T, d] padded on the left to [B, heads, width, d]."""
    return nn.functional.pad(states, (0, 0, width - states.shape[2], 0))
