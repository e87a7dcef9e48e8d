"""Whitened states in two bits a dimension: 144 bytes a word for a model 576 wide, instead of 2,304.

A unit vector's coordinates are cut at -s, 0 and s, where s = 1/sqrt(d) is their root mean square. Against full
precision it costs nothing that could be measured in retrieval: recall at 1, 3, 5, 10 on conversations is
.579 / .721 / .783 / .834 beside .584 / .715 / .784 / .835. Prompts are compared in full precision (as in
asymmetric distance computation, Jegou et al. 2011).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_SHIFTS = np.array([0, 2, 4, 6], np.uint8)
_CODES = ((np.arange(256)[:, None] >> _SHIFTS & 3) - 1.5).astype(
    np.float32
)  # [byte, 4] coordinates, not yet of length 1
_FOURS = _CODES.view(np.complex128)[:, 0]  # [byte] the same four coordinates as one item of 16 bytes
_SQUARES = (_CODES**2).sum(1)
_AT_ONCE = 128  # words' states that are unpacked at a time
_ONE_THREAD = 1 << 18  # multiplications: OpenBLAS asks no other thread for so few


def pack(vectors: Floats) -> NDArray[np.uint8]:
    """[words, d] unit vectors to [words, ceil(d / 4)] bytes."""
    words, d = vectors.shape
    codes = np.clip(np.floor(vectors * np.sqrt(max(d, 1))), -2, 1).astype(np.int8) + 2
    padded = np.zeros((words, -(-d // 4) * 4), np.uint8)
    padded[:, :d] = codes
    parts = padded.reshape(words, padded.shape[1] // 4, 4) << _SHIFTS
    return np.asarray(np.bitwise_or.reduce(parts, axis=2), np.uint8)


def unpack(packed: NDArray[np.uint8], d: int) -> Floats:
    """[words, ceil(d / 4)] bytes to [words, d] unit vectors."""
    return unit(_CODES[packed].reshape(len(packed), packed.shape[1] * 4)[:, :d])


def unpack_leading(packed: NDArray[np.uint8], d: int) -> Floats:
    """The first d dimensions, or as many as there are, of the same unit vectors; d is a multiple of 4."""
    lead = _CODES[packed[:, : d // 4]].reshape(len(packed), -1)
    return np.asarray(lead / np.sqrt(_SQUARES[packed].sum(1, keepdims=True)), np.float32)


def likeness_of(vectors: Floats, packed: NDArray[np.uint8], d: int) -> Floats:
    """[words, d] unit vectors and [others, ceil(d / 4)] bytes to [words, others] cosines.

    Of others some are unpacked at a time: as many as the processor's cache holds. What is unpacked of a byte, four
    coordinates of four bytes each, numpy copies at once if it takes them for one number of 16 bytes.
    """
    others, width = packed.shape
    turned = np.zeros((4 * width, len(vectors)), np.float32)  # what pads the last byte is multiplied by 0
    turned[:d] = vectors.T
    some = np.empty((min(_AT_ONCE, others), width), np.complex128)
    cosines = np.empty((others, len(vectors)), np.float32)
    for start in range(0, others, _AT_ONCE):
        part = packed[start : start + _AT_ONCE]
        codes = np.take(_FOURS, part, out=some[: len(part)], mode="clip").view(np.float32)
        product(codes, turned, cosines[start : start + len(part)])
    inner = np.bitwise_count((packed ^ packed >> 1) & 0b01010101).sum(1, dtype=np.int32)
    lengths = np.sqrt(2.25 * d - 2.0 * inner)  # what pads is 0, and not among the inner ones
    return np.asarray((cosines / np.maximum(lengths, 1e-9)[:, None]).T, np.float32)


def product(rows: Floats, columns: Floats, out: Floats) -> None:
    """[n, d] times [d, m], into [n, m].

    In pieces so small that the linear algebra library computes each where it is asked. Its threads are no help here: they
    wait for each other many times a prompt, and do it spinning, which takes the processor from everybody else.
    """
    (n, d), m = rows.shape, columns.shape[1]
    piece = max(_ONE_THREAD // max(d * m, 1), 8)
    whole = n // piece * piece
    np.matmul(rows[:whole].reshape(-1, piece, d), columns, out=out[:whole].reshape(-1, piece, m))
    np.matmul(rows[whole:], columns, out=out[whole:])


def unit(vectors: Floats) -> Floats:
    """Rows of length 1; a row of zeros stays."""
    lengths = np.sqrt((vectors * vectors).sum(1, keepdims=True))
    return np.asarray(vectors / np.maximum(lengths, 1e-9), np.float32)
