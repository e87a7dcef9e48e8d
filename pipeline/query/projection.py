"""Projection of memories onto a plane: principal components of their mean word states.

Shows the two directions in which the states differ most (PCA: Pearson 1901), for people to look at. The same memories get
the same places.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipeline.history import layout
from pipeline.history.errors import HistoryError
from pipeline.ingest.quantize import Floats, unit, unpack
from pipeline.store.opening import store_at

MemoryKey = tuple[str, str]
"""Namespace and memory id."""


def mean_states(data: Path, wanted: Collection[MemoryKey]) -> dict[MemoryKey, Floats]:
    """The mean state of each memory's words, [dimensions], weighted by unigram_nll. Raises `HistoryError`.

    Only for memories of the most frequent encoder: states of two models cannot be compared.
    """
    with store_at(data).view(rows=False) as folder:
        return _mean_states(folder, wanted)


def _mean_states(data: Path, wanted: Collection[MemoryKey]) -> dict[MemoryKey, Floats]:
    paths = [str(file.path) for n in layout.partitions(data) for file in layout.live_files(data, n)]
    if not paths or not wanted:
        return {}
    ids = pa.array(sorted({memory_id for _, memory_id in wanted}))
    learned = pc.field("outcome").isin(["learned", "superseded"]) & pc.field("memory_id").isin(ids)
    columns = ["namespace", "memory_id", "encoder_id", "priors", "vectors"]
    found: dict[MemoryKey, tuple[str, Floats]] = {}
    try:
        for batch in ds.dataset(paths, format="parquet").to_batches(columns=columns, filter=learned):
            for row in batch.to_pylist():
                key, priors, vectors = (row["namespace"], row["memory_id"]), row["priors"], row["vectors"]
                if key in wanted and priors and vectors and len(vectors) % len(priors) == 0:
                    packed = np.frombuffer(vectors, np.uint8).reshape(len(priors), -1)
                    found[key] = row["encoder_id"], _mean(packed, np.array(priors, np.float32))
    except (pa.ArrowException, OSError) as error:
        raise HistoryError(f"the history in {data} cannot be read: {error}") from error
    kinds = Counter((encoder, len(state)) for encoder, state in found.values()).most_common(1)
    return {key: state for key, (encoder, state) in found.items() if (encoder, len(state)) == kinds[0][0]}


def pca(states: Sequence[Floats]) -> NDArray[np.float64]:
    """[n, 2] the place of each state, centred, with a largest distance of 1 along each axis.

    The sign of each direction puts the longer tail of the places on its positive side: a few more memories seldom change it.
    """
    if not states:
        return np.zeros((0, 2))
    x = np.asarray(states, np.float64)
    x = x - x.mean(0)
    directions = np.linalg.eigh(x.T @ x)[1][:, :-3:-1]
    projected = x @ directions
    places = np.zeros((len(x), 2))
    places[:, : directions.shape[1]] = projected * np.where((projected**3).sum(0) < 0, -1.0, 1.0)
    return np.asarray(places / np.maximum(np.abs(places).max(0), 1e-9), np.float64)


def _mean(packed: NDArray[np.uint8], priors: Floats) -> Floats:
    """[dimensions] the weighted mean of packed states, of unit length."""
    states = unpack(packed, packed.shape[1] * 4)
    weights = np.maximum(priors, 0.0) + 1e-6
    return np.asarray(unit((states * weights[:, None]).sum(0, keepdims=True))[0], np.float32)
