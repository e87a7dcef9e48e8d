"""Whitened states in two bits a dimension: 144 bytes a word, not 2,304, for a model 576 wide.

A unit vector's coordinates are cut at -s, 0 and s, where s = 1/sqrt(d) is their root mean square. Against full
precision it costs nothing that could be measured in retrieval: recall at 1, 3, 5, 10 on conversations is
.579 / .721 / .783 / .834 beside .584 / .715 / .784 / .835. Prompts are compared in full precision (as in
asymmetric distance computation, Jegou et al. 2011), but rounded to small steps whose sums float32 holds exactly: linear
algebra libraries add in an order that depends on the processor and on a row's place, and equal memories must score equally.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_SHIFTS = np.array([0, 2, 4, 6], np.uint8)
# [byte, 4] coordinates, not yet of length 1
_CODES = ((np.arange(256)[:, None] >> _SHIFTS & 3) - 1.5).astype(np.float32)
_FOURS = _CODES.view(np.complex128)[:, 0]  # [byte] the same four coordinates as one item of 16 bytes
_SQUARES = (_CODES**2).sum(1)
_AT_ONCE = 128  # word states that are unpacked together
_ONE_THREAD = 1 << 18  # multiplications: OpenBLAS computes so few in one thread
_ROWS = 16  # fewest rows of a matrix product
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

    The others are unpacked in blocks that fit into the processor's cache. A byte unpacks into four coordinates of four bytes
    each, which numpy copies at once as one number of 16 bytes.
    """
    others, width = packed.shape
    steps = _EXACT / (_CODES.max() * np.sqrt(max(d, 1)))  # in a unit vector's length
    columns = np.zeros((4 * width, len(vectors)), np.float32)  # padding of the last byte is multiplied by 0
    columns[:d] = np.rint(vectors.T * steps)
    unpacked = np.zeros((_AT_ONCE, width), np.complex128)
    block = np.empty((_AT_ONCE, len(vectors)), np.float32)
    products = np.empty((others, len(vectors)), np.float32)
    for start in range(0, others, _AT_ONCE):
        part = packed[start : start + _AT_ONCE]
        np.take(_FOURS, part, out=unpacked[: len(part)], mode="clip")
        product(unpacked.view(np.float32), columns, block)
        products[start : start + _AT_ONCE] = block[: len(part)]
    inner = np.bitwise_count((packed ^ packed >> 1) & 0b01010101).sum(1, dtype=np.int32)
    lengths = steps * np.sqrt(2.25 * d - 2.0 * inner)  # codes 1 and 2 are inner; padding is 0
    return np.asarray((products / np.maximum(lengths, 1e-9)[:, None]).T, np.float32)


def product(rows: Floats, columns: Floats, out: Floats) -> None:
    """[n, d] times [d, m], into [n, m]; n is a power of two.

    Multiplies pieces so small that the linear algebra library uses no other thread. Its threads are of no use here: they wait
    for each other many times a prompt, and spin meanwhile, which takes the processor from other work.
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
