"""Kernels: what a layer does between its products, compiled to loops by numba (the extra `fast`).

In torch this is some thirty operations on a few numbers each, and for a small model calling them takes longer than the
products. States that a product takes or gives are bfloat16, here the bits of them, uint16; all others are float32, but for what the
cache holds.
They are compiled when this file is first imported, in a few seconds, and kept on disk for the next time.
"""

from collections.abc import Callable
from math import factorial
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., Any])
Floats = NDArray[np.float32]
Bits = NDArray[np.uint16]
_HALF, _ONE, _16 = np.uint32(0x7FFF), np.uint32(1), np.uint32(16)
_LOG2_E, _LN_2 = np.float32(1.4426950), np.float32(0.6931472)
# Taylor's coefficients of exp
_T1, _T2, _T3, _T4, _T5, _T6 = tuple(np.float32(1 / factorial(n)) for n in range(1, 7))
_LOWEST, _HIGHEST = np.float32(-87), np.float32(88)  # float32 holds the exponentials of what lies between
_EXPONENT_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)


def _compiled(signature: str) -> Callable[[F], F]:
    """Compiles a function of these arrays. Another thread may run meanwhile."""

    def compile(function: F) -> F:
        try:
            found: Any = njit(signature, nogil=True, fastmath=True, cache=True)(function)
        except RuntimeError:  # there is no folder to keep it in
            found = njit(signature, nogil=True, fastmath=True)(function)
        return cast(F, found)

    return compile


@_compiled("void(f4[::1], u2[::1])")
def _rounded(values: Floats, out: Bits) -> None:
    bits = values.view(np.uint32)
    for i in range(len(out)):
        out[i] = (bits[i] + _HALF + ((bits[i] >> _16) & _ONE)) >> _16


@_compiled("void(u2[::1], f4[::1])")
def _widened(values: Bits, out: Floats) -> None:
    bits = out.view(np.uint32)
    for i in range(len(values)):
        bits[i] = np.uint32(values[i]) << _16


@_compiled("void(f4[::1])")
def exponentiate(values: Floats) -> None:
    """Replaces values by their exponentials, to a millionth: several at once, where the C library takes one at a time.

    exp(x) = 2 ** n * exp(r), |r| <= log(2) / 2: the power is an exponent's bits, the rest Taylor's series.
    """
    powers = np.empty(len(values), np.int32)
    for i in range(len(values)):
        x = min(max(values[i], _LOWEST), _HIGHEST)
        n = np.floor(x * _LOG2_E + _T2)
        r = x - n * _LN_2
        powers[i] = (np.int32(n) + _EXPONENT_BIAS) << _MANTISSA_BITS
        values[i] = _T1 + r * (_T1 + r * (_T2 + r * (_T3 + r * (_T4 + r * (_T5 + r * _T6)))))
    scales = powers.view(np.float32)
    for i in range(len(values)):
        values[i] *= scales[i]


@_compiled("void(f4[:,::1], u2[:,::1], f4[::1], f4, u2[:,::1])")
def add_and_norm(x: Floats, more: Bits, weight: Floats, eps: np.float32, out: Bits) -> None:
    """Adds `more` to the states x, and puts their RMS norms into `out`; all [rows, d]."""
    own = np.empty(x.shape[1], np.float32)
    for r in range(len(x)):
        _widened(more[r], own)
        total = np.float32(0)
        for i in range(len(own)):
            x[r, i] += own[i]
            total += x[r, i] * x[r, i]
        scale = np.float32(1) / np.sqrt(total / np.float32(len(own)) + eps)
        for i in range(len(own)):
            own[i] = x[r, i] * scale * weight[i]
        _rounded(own, out[r])


@_compiled("void(u2[:,::1], u2[:,::1])")
def silu_of_gate(gate_up: Bits, out: Bits) -> None:
    """The network's gate, [rows, 2 * d] to [rows, d]: silu of the first half times the second (SwiGLU, Shazeer 2020)."""
    d = out.shape[1]
    own, negated = np.empty(2 * d, np.float32), np.empty(d, np.float32)
    for r in range(len(out)):
        _widened(gate_up[r], own)
        for i in range(d):
            negated[i] = -own[i]
        exponentiate(negated)
        for i in range(d):
            own[i] = own[i] / (np.float32(1) + negated[i]) * own[d + i]
        _rounded(own[:d], out[r])


@_compiled("void(u2[:,::1], f4[::1], u2[:,:,:,:,::1], i8[::1], f4[:,::1], f4[:,::1], f4[:,::1])")
def turn(
    qkv: Bits,
    bias: Floats,
    cache: Bits,
    lengths: NDArray[np.int64],
    cos: Floats,
    sin: Floats,
    out: Floats,
) -> None:
    """Turns queries and keys by their positions; the queries go to `out`, keys and values into the cache.

    qkv: [rows, (queries + 2 * heads) * d], where `queries` counts those of all heads; cache: bits of [2, rows, heads, width, d],
    bfloat16 or float32, which has two of them for each number; lengths: [rows] tokens before this one; cos, sin: [rows, d],
    the sine's first half negative; out: [rows, queries * d].
    """
    heads, d = cache.shape[2], cos.shape[1]
    half, queries, whole = d // 2, out.shape[1], cache.shape[4] == 2 * d
    own = np.empty(len(bias), np.float32)
    for r in range(len(qkv)):
        _widened(qkv[r], own)
        for i in range(len(own)):
            own[i] += bias[i]
        for first in range(0, queries + heads * d, d):
            for i in range(first, first + half):
                one, other, at = own[i], own[i + half], i - first
                own[i] = one * cos[r, at] + other * sin[r, at]
                own[i + half] = other * cos[r, at + half] + one * sin[r, at + half]
        out[r] = own[:queries]
        for kind in range(2):
            for h in range(heads):
                first = queries + (kind * heads + h) * d
                kept = cache[kind, r, h, lengths[r]]
                if whole:
                    kept.view(np.float32)[:] = own[first : first + d]
                else:
                    _rounded(own[first : first + d], kept)
