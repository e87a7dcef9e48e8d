"""Key/value cache of a decoding batch, from which rows can leave, and to which another batch can join.

Holds tensors only: no text, no sampling. `Backbone.prefill` makes one and `Backbone.step` grows it by a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


@dataclass
class KVCache:
    """Keys and values of a batch so far, padded on the left, and the mask that is 1 where a token is."""

    cache: DynamicCache
    mask: Tensor  # [B, T]

    @property
    def joinable(self) -> bool:
        """Whether the cache is keys and values of every token, and nothing else: only then can `join` work."""
        return all(type(layer) is DynamicLayer for layer in self.cache.layers)

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


def _layers(cache: KVCache) -> list[Any]:
    return list(cache.cache.layers)


def _widen(states: Tensor, width: int) -> Tensor:
    """[B, heads, T, d] padded on the left to [B, heads, width, d]."""
    return nn.functional.pad(states, (0, 0, width - states.shape[2], 0))
