"""Calibration of a model: the layer and the whitening basis by which states of words are compared.

Raw states are dominated by a few directions that every text shares; centred and whitened, they tell words apart. Mean and
covariance come from texts that the frozen model itself writes (at temperature 1, without a prompt). So the basis needs no data
and no language, exists before the first fact, and is the same for every worker. It is computed once a model, in a minute,
and kept as a file; the default model's is shipped. Its SHA-256 is part of the encoder id, so that vectors of two
calibrations are never compared.
"""

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor, nn

from pipeline.config import CALIBRATION
from pipeline.files import atomic_file, locked
from pipeline.model.backbone import Backbone
from pipeline.model.cache import cache_folder
from pipeline.model.errors import ModelError, Progress, silent

SHIPPED = "default.safetensors"


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
    path, shipped = calibration_path(backbone), resources.files("pipeline.model") / SHIPPED
    if not path.is_file() and shipped.is_file():
        found = Calibration.from_bytes(shipped.read_bytes(), shipped)
        if found.model_hash == backbone.hash:
            return found
    with locked(path.with_suffix(".lock")):  # else all workers of a first start would compute it
        if not path.is_file():
            progress(f"calibrating {backbone.name}, once: the model writes {CALIBRATION.texts} texts")
            keep(calibrate(backbone), path)
    return Calibration.from_bytes(path.read_bytes(), path)


def calibration_path(backbone: Backbone) -> Path:
    """The file in the cache."""
    return cache_folder().resolve() / "calibrations" / f"{backbone.hash[:32]}.safetensors"


def keep(calibration: bytes, path: Path) -> Path:
    """Writes the file, and returns its path."""
    with atomic_file(path, durable=False) as out:
        out.write(calibration)
    return path


def calibrate(backbone: Backbone) -> bytes:
    """Computes a calibration: the bytes of a safetensors file."""
    layer = max(1, round(CALIBRATION.depth * backbone.n_layers))
    states = []
    for text in written(backbone):
        ids, _ = backbone.pad([backbone.lead + text])
        states.append(backbone.hidden.after(ids, layer)[0, len(backbone.lead) :].cpu().numpy())
    all_states = np.concatenate(states).astype(np.float64)
    mean = all_states.mean(0)
    covariance = np.cov((all_states - mean).T)
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


def written(backbone: Backbone) -> list[list[int]]:
    """The token ids of texts that the model writes by itself, without the tokens that it begins with."""
    generator = torch.Generator().manual_seed(CALIBRATION.seed)
    begin = [backbone.tokenizer.bos_token_id]
    starts = [
        begin if None not in begin else backbone.lead,
        backbone.tokenize(["\n"])[0].ids or backbone.lead,
    ]
    texts = []
    for start in starts:
        for _ in range(0, CALIBRATION.texts // 2, CALIBRATION.texts_together):
            ids, mask = backbone.pad([start] * CALIBRATION.texts_together, left=True)
            logits, decoding = backbone.prefill(ids, mask)
            rows: list[list[int]] = [[] for _ in range(CALIBRATION.texts_together)]
            for _ in range(CALIBRATION.tokens):
                chosen = torch.multinomial(torch.softmax(logits.cpu(), -1), 1, generator=generator)[:, 0]
                for row, token in zip(rows, chosen.tolist(), strict=True):
                    row.append(token)
                logits = backbone.step(chosen.to(backbone.device), decoding)
            texts += [_until_end(row, backbone) for row in rows]
    return [text for text in texts if len(text) >= CALIBRATION.least_tokens]


def _until_end(row: list[int], backbone: Backbone) -> list[int]:
    end = next((i for i, token in enumerate(row) if token in backbone.eos_ids), len(row))
    return row[:end]
