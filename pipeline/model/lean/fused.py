"""Fused step: a layer of few rows as packed products and an attention, with kernels between them.

For float32 and bfloat16 on a CPU, and for what is built as LLaMA and Qwen 2 are: no norms but those before a part, no windows,
silu. Between the products it computes in float32. Where it does not fit, or numba is missing, a step is computed by the
decoder's own loop, to the same numbers up to their rounding.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.model.lean.blocks import Block, Blocks, Norm
from pipeline.model.lean.cache import StaticCache

Product = Callable[[Tensor], Tensor]
Attention = Callable[[Tensor, int], Tensor]
"""Attention of turned queries, [rows, heads, queries, d], to what the cache has of a layer."""


class _Norm(NamedTuple):
    weight: Any  # [d] float32
    eps: np.float32


class _Layer(NamedTuple):
    before_attention: _Norm
    qkv: Product
    bias: Any  # of qkv, float32
    attended: Product
    before_network: _Norm
    gate_up: Product
    down: Product


class Fused:
    """The fused step of one model. Build it with `of`."""

    def __init__(self, blocks: Blocks) -> None:
        from pipeline.model.lean import kernels

        self._kernels = kernels
        self._layers = [_layer(block) for block in blocks.blocks]
        self._shape = blocks.heads, blocks.queries, blocks.head_size  # of a token's queries
        self._gated = blocks.blocks[0].down.weight.shape[1]
        self.most_rows = min(m.most_rows for block in blocks.blocks for m in block.matrices())

    @classmethod
    def of(cls, blocks: Blocks) -> Self | None:
        """None for a model or an arithmetic that it does not fit, and without numba."""
        fits = all(map(_fits, blocks.blocks)) and len({block.kind for block in blocks.blocks}) == 1
        return cls(blocks) if fits and find_spec("numba") else None

    def __call__(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: StaticCache, attention: Attention
    ) -> Tensor:
        """The states after all layers, [rows, d], of the next tokens, whose states before them are x; they go into the cache.

        cos, sin: [rows, d] of a head, of their positions.
        """
        kernels, rows, dtype = self._kernels, len(x), x.dtype
        x = x.to(torch.float32, copy=True)
        normed, gated = (
            torch.empty(rows, width, dtype=torch.bfloat16) for width in (x.shape[1], self._gated)
        )
        states, lengths = _bits(cache.states), np.array(cache.lengths)
        arrays = x.numpy(), cos.float().numpy(), sin.float().numpy()
        turned = torch.empty(rows, *self._shape)
        queries = turned.view(rows, -1).numpy()
        kernels.add_and_norm(
            arrays[0], _bits(normed.zero_()), *self._layers[0].before_attention, _bits(normed)
        )
        for number, layer in enumerate(self._layers):
            kernels.turn(_bits(layer.qkv(normed)), layer.bias, states[number], lengths, *arrays[1:], queries)
            attended = attention(turned.to(dtype), number).reshape(rows, -1).bfloat16()
            kernels.add_and_norm(
                arrays[0], _bits(layer.attended(attended)), *layer.before_network, _bits(normed)
            )
            kernels.silu_of_gate(_bits(layer.gate_up(normed)), _bits(gated))
            following = self._layers[min(number + 1, len(self._layers) - 1)].before_attention
            kernels.add_and_norm(arrays[0], _bits(layer.down(gated)), *following, _bits(normed))
        return x.to(dtype)


def _fits(block: Block) -> bool:
    sample = torch.linspace(-3, 3, 8)
    plain = not (
        block.of_query or block.of_key or block.after_attention or block.after_network or block.window
    )
    packed = all(hasattr(m.few, "product") for m in block.matrices())
    unbiased = all(m.bias is None for m in block.matrices()[1:])
    weight = block.qkv.weight
    of_cpu = weight.dtype in (torch.float32, torch.bfloat16) and weight.device.type == "cpu"
    silu = of_cpu and torch.allclose(block.activation(sample), nn.functional.silu(sample))
    return plain and packed and unbiased and silu


def _layer(block: Block) -> _Layer:
    qkv, *others = (m.few.product for m in block.matrices())  # type: ignore[union-attr]
    size = len(block.qkv.weight)
    bias = torch.zeros(size) if block.qkv.bias is None else block.qkv.bias.detach()
    return _Layer(
        _norm(block.before_attention),
        qkv,
        bias.float().numpy(),
        others[0],
        _norm(block.before_network),
        *others[1:],
    )


def _norm(norm: Norm) -> _Norm:
    return _Norm(norm.weight.detach().float().contiguous().numpy(), np.float32(norm.eps))


def _bits(states: Tensor) -> Any:
    """The bits of numbers, 16 at a time, as an array of the same memory."""
    return states.view(torch.uint16).numpy()
