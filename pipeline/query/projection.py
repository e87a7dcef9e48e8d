"""Memories as points of a plane: the two directions in which their mean word states differ most (PCA: Pearson 1901).

For a person to look at. Deterministic: the same memories lie at the same places. Knows the history's files and vectors;
knows nothing of who looks.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipeline.history import log as history
from pipeline.ingest.quantize import Floats, unit, unpack

Key = tuple[str, str]
"""(namespace, memory_id)"""


def pooled(data: Path, wanted: Collection[Key]) -> dict[Key, Floats]:
    """The mean state of each memory's words, weighted by what a word says. Raises HistoryError.

    Only of the model that encoded most of them: states of two models do not compare.
    """
    files = [str(path) for n in history.partitions(data) for path in history.files(data, n)]
    if not files or not wanted:
        return {}
    ids = pa.array(sorted({memory_id for _, memory_id in wanted}))
    made = pc.field("outcome").isin(["learned", "superseded"]) & pc.field("memory_id").isin(ids)
    columns = ["namespace", "memory_id", "encoder_id", "priors", "vectors"]
    found: dict[Key, tuple[str, Floats]] = {}
    try:
        for batch in ds.dataset(files, format="parquet").to_batches(columns=columns, filter=made):
            for row in batch.to_pylist():
                key, priors, vectors = (row["namespace"], row["memory_id"]), row["priors"], row["vectors"]
                if key in wanted and priors and vectors and len(vectors) % len(priors) == 0:
                    packed = np.frombuffer(vectors, np.uint8).reshape(len(priors), -1)
                    found[key] = row["encoder_id"], _mean(packed, np.array(priors, np.float32))
    except (pa.ArrowException, OSError) as error:
        raise history.HistoryError(f"the history in {data} cannot be read: {error}") from error
    most = Counter((encoder, len(vector)) for encoder, vector in found.values()).most_common(1)
    return {
        key: vector for key, (encoder, vector) in found.items() if [(encoder, len(vector))] == [most[0][0]]
    }


def pca(vectors: Sequence[Floats]) -> NDArray[np.float64]:
    """[n, 2]: each vector's place; centred, the farthest at a distance of 1 along either axis.

    A direction has two signs: that by which the places' longer tail lies on the positive side is taken, since a few
    more memories seldom change it.
    """
    if not vectors:
        return np.zeros((0, 2))
    x = np.asarray(vectors, np.float64)
    x = x - x.mean(0)
    directions = np.linalg.eigh(x.T @ x)[1][:, :-3:-1]
    found = x @ directions
    places = np.zeros((len(x), 2))
    places[:, : directions.shape[1]] = found * np.where((found**3).sum(0) < 0, -1.0, 1.0)
    return np.asarray(places / np.maximum(np.abs(places).max(0), 1e-9), np.float64)


def _mean(packed: NDArray[np.uint8], priors: Floats) -> Floats:
    states = unpack(packed, packed.shape[1] * 4)
    weights = np.maximum(priors, 0.0) + 1e-6
    return np.asarray(unit((states * weights[:, None]).sum(0, keepdims=True))[0], np.float32)
