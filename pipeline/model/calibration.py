"""Calibration of a model: the layer and the whitening basis by which states of words are compared.

Raw states are dominated by a few directions that every text shares; centred and whitened, they tell words apart. Mean and
covariance come from texts that the frozen model itself writes (at temperature 1, without a prompt). So the basis needs no data
and no language, exists before the first fact, and is the same for every worker. It is computed once a model, in a minute or
three, and kept as a file; the default model's is shipped. A user's own texts may take the place of the written ones. Its SHA-256 is part of the encoder id, so that vectors of two
calibrations are never compared.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from threading import Event, Lock
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor, nn

from pipeline.config import CALIBRATION
from pipeline.files import atomic_file, is_locked, locked
from pipeline.model.backbone import Backbone
from pipeline.model.batching import Batch, close_batches, run_each
from pipeline.model.cache import cache_folder
from pipeline.model.errors import ModelError, Progress, Step, no_step, silent

SHIPPED = "default.safetensors"
READ_TOKENS = 512  # tokens of a batch whose states are read; tuned for speed
GIVEN_TOKENS = 128  # tokens that are read of a user's text
MOST_TOKENS = 65_536  # tokens that are read of a user's texts; more change the basis little
LINE_EVERY_S = 5.0
_REPORTING = Lock()  # steps are reported by one thread at a time


@dataclass(frozen=True, slots=True)
class Calibration:
    model_hash: str
    layer: int  # 1 … n_layers: states are read after so many layers
    mean: NDArray[np.float32]  # [d]
    basis: NDArray[np.float32]  # [d, d]: (state - mean) @ basis is white
    sha256: str  # of the file

    @classmethod
    def from_bytes(cls, content: bytes, where: object) -> Self:
        """The calibration in a safetensors file; `where` is its name in errors. Raises ModelError for another content."""
        try:
            tensors = load(content)
            mean, basis = (tensors[name].astype(np.float32) for name in ("mean", "basis"))
            layer = int(tensors["layer"][0])
            model = tensors["model"].tobytes().hex()
        except (SafetensorError, LookupError, ValueError, AttributeError) as error:
            raise ModelError(
                f"{where} is no calibration ({error}); delete it, and it is made anew"
            ) from error
        if mean.ndim != 1 or basis.shape != (len(mean), len(mean)) or not np.isfinite(basis).all():
            raise ModelError(
                f"{where} is no calibration: its shapes or numbers are wrong; delete it, and it is made anew"
            )
        return cls(model, layer, mean, basis, hashlib.sha256(content).hexdigest())

    def whiten(self, states: Tensor) -> Tensor:
        """[n, d] states, float32, to [n, d] unit vectors, the directions that vary most first."""
        mean, basis = (torch.from_numpy(part).to(states.device) for part in (self.mean, self.basis))
        return nn.functional.normalize((states - mean) @ basis, dim=1, eps=1e-9)


def calibration_of(backbone: Backbone, progress: Progress = silent) -> Calibration:
    """The model's calibration: the one in the cache, else the shipped one, else a new one, which is kept in the cache.

    Workers on several machines must have the same: give them the same file (`factstream model calibrate` prints its path).
    """
    path = calibration_path(backbone)
    if not path.is_file() and is_locked(path.with_suffix(".lock")):
        progress(f"another process calibrates {backbone.name}: waiting for it")
    path = ensure(backbone, lines(backbone, progress))
    return Calibration.from_bytes(path.read_bytes(), path)


def found(backbone: Backbone) -> Path | None:
    """The file with the model's calibration, if there is one: in the cache, or the shipped one."""
    path, shipped = calibration_path(backbone), Path(str(resources.files("pipeline.model") / SHIPPED))
    if path.is_file():
        return path
    is_its = shipped.is_file() and (
        Calibration.from_bytes(shipped.read_bytes(), shipped).model_hash == backbone.hash
    )
    return shipped if is_its else None


def ensure(backbone: Backbone, step: Step = no_step) -> Path:
    """The file with the model's calibration, which is computed if there is none, by one process while others wait."""
    if there := found(backbone):
        return there
    path = calibration_path(backbone)
    with locked(path.with_suffix(".lock")):  # else all workers of a first start would compute it
        return path if path.is_file() else keep(calibrate(backbone, written(backbone, step), step), path)


def replace(backbone: Backbone, texts: Sequence[str], step: Step = no_step) -> Path:
    """Calibrates the model on these texts, in the place of the calibration that it had. Raises ModelError.

    Memories that were encoded with the other calibration are not read any more.
    """
    content = calibrate(backbone, given(backbone, texts), step)
    path = calibration_path(backbone)
    with locked(path.with_suffix(".lock")):
        return keep(content, path)


def lines(backbone: Backbone, progress: Progress, clock: Callable[[], float] = time.monotonic) -> Step:
    """Steps told as lines of text: one at once, and one with the time left every LINE_EVERY_S seconds."""
    began = last = seen = clock()
    current, done = "", 0

    def step(what: str, more: int, total: int) -> None:
        nonlocal began, last, seen, current, done
        now = clock()
        if not current:
            progress(f"calibrating {backbone.name}, once: the file is kept")
        if what != current:
            current, done, began = what, 0, seen  # a step takes time before its first item is told
        seen = now
        done += more
        if now - last >= LINE_EVERY_S:
            last, left = now, (now - began) * (total - done) / done
            progress(f"{what}: {done / total:.0%}, {left:.0f} s left")

    return step


def calibration_path(backbone: Backbone) -> Path:
    """The file in the cache."""
    return cache_folder().resolve() / "calibrations" / f"{backbone.hash[:32]}.safetensors"


def keep(calibration: bytes, path: Path) -> Path:
    """Writes the file, and returns its path."""
    with atomic_file(path, durable=False) as out:
        out.write(calibration)
    return path


def calibrate(backbone: Backbone, texts: Sequence[list[int]], step: Step = no_step) -> bytes:
    """Computes a calibration from texts (token ids without the lead): the bytes of a safetensors file."""
    layer, lead = max(1, round(CALIBRATION.depth * backbone.n_layers)), backbone.lead
    batches = close_batches([len(text) for text in texts], READ_TOKENS)

    def read(batch: Batch) -> Tensor:
        ids, _ = backbone.pad([lead + texts[i] for i in batch.indices])
        states = backbone.hidden.after(ids, layer)
        with _REPORTING:
            step("reading samples", len(batch.indices), len(texts))
        return torch.cat(
            [row[len(lead) :][: len(texts[i])] for row, i in zip(states, batch.indices, strict=True)]
        )

    parts = run_each(read, batches, backbone.device.type == "cpu")
    states = torch.cat(parts).cpu().numpy().astype(np.float64)
    mean = states.mean(0)
    covariance = np.cov((states - mean).T)
    covariance += CALIBRATION.shrink * np.trace(covariance) / len(mean) * np.eye(len(mean))
    variances, directions = np.linalg.eigh(covariance)
    basis = (directions / np.sqrt(variances))[:, ::-1]
    return save(
        {
            "mean": mean.astype(np.float32),
            "basis": np.ascontiguousarray(basis).astype(np.float16),
            "layer": np.array([layer], np.int32),
            "model": np.frombuffer(bytes.fromhex(backbone.hash), np.uint8),
        }
    )


def given(backbone: Backbone, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of a user's texts, of long ones the beginning; evenly chosen if there are many. Raises ModelError."""
    tokens = [t.ids[:GIVEN_TOKENS] for t in backbone.tokenize(texts)]
    tokens = [ids for ids in tokens if len(ids) >= CALIBRATION.least_tokens]
    width = backbone.model.config.get_text_config().hidden_size
    total = sum(map(len, tokens))
    if total < width:
        raise ModelError(
            f"the samples have {total:,} tokens in texts of {CALIBRATION.least_tokens} or more; "
            f"{backbone.name} needs {width:,} or more, better ten times as many"
        )
    return tokens[:: max(1, -(-total // MOST_TOKENS))]


def written(backbone: Backbone, step: Step = no_step) -> list[list[int]]:
    """The token ids of texts that the model writes by itself, without the tokens that it begins with.

    Half of them begin with nothing, half with a line break. A batch has a random generator of its own, and batches are written
    side by side, one on each core: the texts do not depend on the number of cores.
    """
    begin = [backbone.tokenizer.bos_token_id]
    starts = [
        begin if None not in begin else backbone.lead,
        backbone.tokenize(["\n"])[0].ids or backbone.lead,
    ]
    batches, failed = range(CALIBRATION.texts // CALIBRATION.texts_together), Event()

    def write(number: int) -> list[list[int]]:
        start = starts[number * len(starts) // len(batches)]
        generator = torch.Generator().manual_seed(CALIBRATION.seed + number)
        ids, mask = backbone.pad([start] * CALIBRATION.texts_together, left=True)
        logits, cache = backbone.prefill(ids, mask)
        tokens: list[Tensor] = []
        for _ in range(CALIBRATION.tokens):
            if failed.is_set():  # an interrupted batch of a large model would be written for minutes
                return []
            tokens.append(drawn(backbone.step(tokens[-1], cache) if tokens else logits, generator))
            with _REPORTING:
                step("writing samples", 1, len(batches) * CALIBRATION.tokens)
        return [_until_end(row, backbone) for row in torch.stack(tokens, 1).tolist()]

    parts = run_each(write, batches, backbone.device.type == "cpu", failed.set)
    texts = [text for part in parts for text in part]
    return [text for text in texts if len(text) >= CALIBRATION.least_tokens]


def drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """[B] tokens drawn at temperature 1 from [B, V] logits.

    By one random number a row: to draw one for each token of a vocabulary would cost more than the model's step.
    """
    chance = torch.rand(len(logits), generator=generator, dtype=torch.float64).to(logits.device)
    rows = [  # a row at a time, in the processor's cache
        torch.searchsorted((sums := row.softmax(0).cumsum(0)), (u * sums[-1]).to(sums.dtype), right=True)
        for row, u in zip(logits, chance, strict=True)
    ]
    return torch.stack(rows).clamp(max=logits.shape[1] - 1)


def _until_end(row: list[int], backbone: Backbone) -> list[int]:
    end = next((i for i, token in enumerate(row) if token in backbone.eos_ids), len(row))
    return row[:end]
