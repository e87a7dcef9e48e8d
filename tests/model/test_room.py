"""The room on a GPU, with a stand-in for the GPU's free memory."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.ingest import token_states
from pipeline.ingest.encoder import Encoder
from pipeline.model import room
from pipeline.model.backbone import Backbone

GIB = 1 << 30
SMALL: Any = SimpleNamespace(
    vocab_size=49_152, num_hidden_layers=30, hidden_size=576, num_attention_heads=9, num_key_value_heads=3
)
LARGE: Any = SimpleNamespace(
    vocab_size=262_144, num_hidden_layers=48, hidden_size=3840, num_attention_heads=16,
    num_key_value_heads=8, head_dim=256,
)  # fmt: skip


def tokens(config: Any, free: int) -> int:
    return room.tokens_at_once(config, torch.bfloat16, free)


def rows(config: Any, free: int) -> int:
    return room.rows_at_once(config, torch.bfloat16, 8192, free)


def test_more_free_memory_makes_larger_batches_within_bounds() -> None:
    for config in (SMALL, LARGE):
        for size, (least, most) in ((tokens, room.TOKENS), (rows, room.ROWS)):
            sizes = [size(config, free) for free in (0, GIB // 4, GIB, 4 * GIB, 16 * GIB, 1000 * GIB)]
            assert sizes == sorted(sizes) and sizes[0] == least and sizes[-1] == most
    assert all(number & (number - 1) == 0 for number in (tokens(SMALL, n * GIB // 3) for n in range(1, 20)))
    assert tokens(LARGE, 4 * GIB) < tokens(SMALL, 4 * GIB) and rows(LARGE, 40 * GIB) < rows(SMALL, 40 * GIB)


def test_a_batch_fits_into_its_share() -> None:
    for free in (2 * GIB, 8 * GIB):
        logits = tokens(LARGE, free) * LARGE.vocab_size * 6
        assert logits < room.SHARE * free


def test_a_backbone_asks_its_gpu_once(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone.load(llama, "cpu", "float32")
    assert backbone.batch_tokens is None and backbone.batch_rows is None
    backbone = Backbone.load(llama, "cpu", "float32")
    free = iter([80 * GIB, 80 * GIB])
    monkeypatch.setattr(room, "free_bytes", lambda device: next(free))
    assert [backbone.batch_tokens for _ in range(3)] == [8192] * 3
    assert [backbone.batch_rows for _ in range(3)] == [128] * 3


def test_facts_are_encoded_in_batches_of_the_gpus_size(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, but for the device: the batch's size is the backbone's, and no numbers change beyond rounding."""
    encoder = Encoder(Backbone.load(llama, "cpu", "float32"))
    texts = [f"The lamp of hall {number} is blue." for number in range(40)]
    want = encoder.encode(texts)
    asked: list[int] = []
    batches = token_states._batches

    def noted(lengths: Any, tokens: int, *rest: Any) -> Any:
        asked.append(tokens)
        return batches(lengths, tokens, *rest)

    monkeypatch.setattr(token_states, "_batches", noted)
    monkeypatch.setattr(encoder.backbone, "device", SimpleNamespace(type="cuda"))
    encoder.backbone.__dict__["batch_tokens"] = 512
    monkeypatch.setattr(Backbone, "pad", _pad_on_cpu(Backbone.pad))
    encoder.__dict__["_packing"] = None
    found = encoder.encode(texts)
    assert set(asked) == {512}
    for one, other in zip(found, want, strict=True):
        assert one.loss_delta == pytest.approx(other.loss_delta, abs=1e-3)


def _pad_on_cpu(pad: Any) -> Any:
    def padded(backbone: Any, *args: Any, **more: Any) -> Any:
        real, backbone.device = backbone.device, torch.device("cpu")
        try:
            return pad(backbone, *args, **more)
        finally:
            backbone.device = real

    return padded
