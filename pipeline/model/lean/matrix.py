"""Matrix of a layer's weights, kept in a few bits as well where few rows are multiplied by it.

A step of a few rows takes as long as its weights take to be read, so fewer bits are faster:

  4 bits   a model that comes from a file with 4 bits (GGUF's Q4_0, Q4_1, Q4_K) has sixteen evenly spaced values in every
           32 weights of a row. They are found again, and nothing is lost but what bfloat16 rounds anyway.
  8 bits   all others: one scale a row. The weights are rounded, and the states are not. A large matrix is multiplied in
           integers where the processor can (VNNI).

More rows, such as a prompt's, are multiplied by the model's own weights. For them oneDNN wants the weights in an order of
its own and otherwise makes it anew at each product; `reorder` keeps them in that order, as a second copy.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

GROUP = 32  # weights that have a scale and a least value together, in GGUF as here
LARGE = 1 << 22  # weights of a matrix from which products of integers are faster
_MOST, _ZERO = 127, 128  # of 8 bits with a sign; what stands for 0 without one
_REORDERED_FOR = 32  # rows; the order of the weights hardly depends on their number
_EXACT = 2**-7  # of a group's largest weight: twice what bfloat16 rounds; weights of more bits miss by 2**-4


class Matrix:
    """Weights [out, in] and a bias: a call maps states [rows, in] to [rows, out].

    exact: by the weights themselves, however few rows there are.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, packed: bool) -> None:
        self.weight, self.bias = weight, bias
        self.few = _packed(weight) if packed else None
        self.most_rows = 0 if self.few is None else self.few.most_rows[self._arithmetic]
        """Rows up to which the packed weights are used."""
        dense = weight.dtype == torch.float32 and weight.device.type == "cpu"
        self._multiply = _onednn if dense and _onednn_multiplies(weight.dtype) else nn.functional.linear
        self._ordered = weight

    @property
    def _arithmetic(self) -> int:
        """The place of this processor's arithmetic in the tables below."""
        if self.weight.dtype == torch.bfloat16:  # as where it is computed in hardware
            return 0
        return 1 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 2

    def __call__(self, x: Tensor, exact: bool = False) -> Tensor:
        if self.few is None or exact or len(x) > self.most_rows:
            return self._multiply(x, self._ordered, self.bias)
        y = self.few(x)
        return y if self.bias is None else y + self.bias

    def reorder(self) -> None:
        """Keeps a copy of the weights in oneDNN's order: products of more rows are the same, and faster."""
        if self.few is None or not _onednn_multiplies(self.weight.dtype):
            return
        self._ordered = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), _REORDERED_FOR)
        self._multiply, self.most_rows = _onednn, self.few.most_rows_reordered[self._arithmetic]


def _onednn_multiplies(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies numbers of this type on this processor."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    in_bfloat16 = dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return bool(dtype == torch.float32 or in_bfloat16)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product by oneDNN: in float32 faster than by torch's default library (MKL), above all for few rows."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


class _Four:
    """Weights of 4 bits."""

    # Up to so many rows it is faster than the model's own weights: in bfloat16, in float32 by AVX-512, in float32 by AVX2.
    most_rows = 12, 16, 16
    most_rows_reordered = 8, 16, 16

    def __init__(self, quants: Tensor, scales: Tensor, middles: Tensor) -> None:
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(quants, 1)
        self._groups = torch.stack([scales, middles], dim=-1).transpose(0, 1).contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        return self.product(x.bfloat16()).to(x.dtype)

    def product(self, x: Tensor) -> Tensor:
        """The product with states in bfloat16."""
        found: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self._packed, GROUP, self._groups)
        return found


class _Eight:
    """Weights of 8 bits."""

    most_rows = 6, 12, 12
    most_rows_reordered = 4, 4, 4

    def __init__(self, weight: Tensor) -> None:
        scales = weight.float().abs().amax(1, keepdim=True).clamp_(min=1e-9).div_(_MOST)
        self.weight = (weight / scales).round_().to(torch.int8)
        self.scales = scales[:, 0].bfloat16()

    def __call__(self, x: Tensor) -> Tensor:
        return self.product(x.bfloat16()).to(x.dtype)

    def product(self, x: Tensor) -> Tensor:
        """The product with states in bfloat16."""
        found: Tensor = torch.ops.aten._weight_int8pack_mm(x, self.weight, self.scales)
        return found


class _Integers:
    """Weights of 8 bits, and states of 16: two rows of 8, the second of which is what the first one rounds off."""

    most_rows = 24, 24, 24
    most_rows_reordered = 8, 24, 24
    least_rows = 4  # fewer take longer

    def __init__(self, weight: Tensor) -> None:
        eight = _Eight(weight)
        self._weight = torch.ops.onednn.qlinear_prepack(eight.weight, None)
        self._scales = eight.scales.float()
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)

    def __call__(self, x: Tensor) -> Tensor:
        rows, states = len(x), x.float()
        scales = states.abs().amax(1, keepdim=True).clamp_(min=1e-9).div_(_MOST)
        scaled = states / scales
        high = scaled.round()
        low = scaled.sub_(high).mul_(2 * _MOST).round_()  # a half is the most that rounding takes
        both = nn.functional.pad(torch.cat([high, low]), (0, 0, 0, max(0, self.least_rows - 2 * rows)))
        y = torch.ops.onednn.qlinear_pointwise(
            both.add_(_ZERO).to(torch.uint8), 1.0, _ZERO, self._weight, self._scales, self._zeros, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        found: Tensor = y[:rows].add_(y[rows : 2 * rows], alpha=0.5 / _MOST).mul_(scales)
        return found.to(x.dtype)


def _packed(weight: Tensor) -> _Four | _Eight | _Integers:
    rows, columns = weight.shape
    fits = columns % GROUP == 0 and rows % 16 == 0  # what torch's kernel takes
    if fits and _four(weight[:16]) and (found := _four(weight)):  # a few rows tell most others apart
        return found
    integers = weight.numel() >= LARGE and torch.cpu._is_vnni_supported()
    return _Integers(weight) if integers else _Eight(weight)


def _four(weight: Tensor) -> _Four | None:
    """The weight in 4 bits, if it has no more."""
    groups = weight.float().view(len(weight), -1, GROUP)
    least, most = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scales = ((most - least) / 15).clamp(min=1e-9)
    quants = (groups - least).div_(scales).round_()
    missed = (quants * scales).add_(least).sub_(groups).abs_().amax(-1, keepdim=True)
    if bool((missed > _EXACT * torch.maximum(most, -least)).any()):
        return None
    scales, middles = (t.squeeze(-1).bfloat16() for t in (scales, least + 8 * scales))
    return _Four(quants.to(torch.int32).view(weight.shape), scales, middles)


def fuse(linears: Sequence[Any], packed: bool) -> Matrix:
    """Linear layers of the same input as one matrix. Their weights become parts of it, so that none is kept twice."""
    if len(linears) == 1:
        return Matrix(linears[0].weight, linears[0].bias, packed)
    weight = torch.cat([linear.weight for linear in linears])
    parts = torch.split(weight, [len(one.weight) for one in linears])
    for linear, part in zip(linears, parts, strict=True):
        linear.weight.data = part
    biases = [linear.bias for linear in linears]
    return Matrix(weight, None if None in biases else torch.cat(biases), packed)
