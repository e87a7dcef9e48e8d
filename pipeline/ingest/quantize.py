"""Whitened states in two bits a dimension: 144 bytes a word, not 2,304, for a model 576 wide.

A unit vector's coordinates are cut at -s, 0 and s, where s = 1/sqrt(d) is their root mean square. Against full
precision it costs nothing that could be measured in retrieval: recall at 1, 3, 5, 10 on conversations is
.579 / .721 / .783 / .834 beside .584 / .715 / .784 / .835. Prompts are compared in full precision (as in
asymmetric distance computation, Jegou et al. 2011), but in steps so small and whole that float32 holds every sum: linear
algebra libraries add in an order that differs by processor and by where a row stands, and that must not tell equal memories apart.
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
_ROWS = 16  # that are multiplied together at least
_EXACT = 2.0**22  # float32 holds whole numbers and halves up to twice that


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


def cosines(vectors: Floats, packed: NDArray[np.uint8], d: int) -> Floats:
    """[words, d] unit vectors and [others, ceil(d / 4)] bytes to [words, others] cosines.

    Of others some are unpacked at a time: as many as the processor's cache holds. What is unpacked of a byte, four
    coordinates of four bytes each, numpy copies at once if it takes them for one number of 16 bytes.
    """
    others, width = packed.shape
    steps = _EXACT / (_CODES.max() * np.sqrt(max(d, 1)))  # in a unit vector's length
    turned = np.zeros((4 * width, len(vectors)), np.float32)  # what pads the last byte is multiplied by 0
    turned[:d] = np.rint(vectors.T * steps)
    some, block = np.zeros((_AT_ONCE, width), np.complex128), np.empty((_AT_ONCE, len(vectors)), np.float32)
    products = np.empty((others, len(vectors)), np.float32)
    for start in range(0, others, _AT_ONCE):
        part = packed[start : start + _AT_ONCE]
        np.take(_FOURS, part, out=some[: len(part)], mode="clip")
        product(some.view(np.float32), turned, block)
        products[start : start + _AT_ONCE] = block[: len(part)]
    inner = np.bitwise_count((packed ^ packed >> 1) & 0b01010101).sum(1, dtype=np.int32)
    lengths = steps * np.sqrt(2.25 * d - 2.0 * inner)  # what pads is 0, and not among the inner ones
    return np.asarray((products / np.maximum(lengths, 1e-9)[:, None]).T, np.float32)


def product(rows: Floats, columns: Floats, out: Floats) -> None:
    """[n, d] times [d, m], into [n, m]; n is a power of two.

    In pieces so small that the linear algebra library computes each where it is asked. Its threads are no help here: they
    wait for each other many times a prompt, and do it spinning, which takes the processor from everybody else.
    """
    (n, d), m = rows.shape, columns.shape[1]
    piece = n
    while piece > _ROWS and piece * d * m > _ONE_THREAD:
        piece //= 2
    np.matmul(rows.reshape(-1, piece, d), columns, out=out.reshape(-1, piece, m))


def unit(vectors: Floats) -> Floats:
    """Rows of length 1; a row of zeros stays."""
    lengths = np.sqrt((vectors * vectors).sum(1, keepdims=True))
    return np.asarray(vectors / np.maximum(lengths, 1e-9), np.float32)
