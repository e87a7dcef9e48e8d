"""The network of a folder: as transformers loads it, whichever way it is loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pipeline.model import hub
from tests.model.builds import BUILDS, network


def tensors(model: Any) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}


def assert_same(found: Any, expected: Any) -> None:
    mine, theirs = tensors(found), tensors(expected)
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert mine[name].dtype == tensor.dtype and torch.equal(mine[name], tensor), name
    tied = expected.lm_head.weight is expected.get_input_embeddings().weight
    assert (found.lm_head.weight is found.get_input_embeddings().weight) is tied
    assert found.config.to_dict() == expected.config.to_dict()
    assert found.generation_config.to_dict() == expected.generation_config.to_dict()


@pytest.fixture(params=BUILDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    model = network(request.param)
    model.generation_config.eos_token_id = [3, 5]
    model.save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def from_pretrained(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were loaded by transformers' own way."""
    loaded: list[Path] = []
    load = AutoModelForCausalLM.from_pretrained

    def noted(folder: Path, **options: Any) -> Any:
        loaded.append(folder)
        return load(folder, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", noted)
    return loaded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_known_kind_is_loaded_as_by_transformers(
    folder: Path, dtype: torch.dtype, from_pretrained: list[Path]
) -> None:
    found = hub.load_network(folder, dtype)
    assert not from_pretrained
    assert_same(found, AutoModelForCausalLM.from_pretrained(folder, dtype=dtype))


def test_a_file_with_other_weights_is_left_to_transformers(folder: Path, from_pretrained: list[Path]) -> None:
    file = folder / "model.safetensors"
    save_file({**load_file(file), "model.extra": torch.ones(3)}, file, {"format": "pt"})
    found = hub.load_network(folder, torch.float32)
    assert from_pretrained == [folder]
    assert_same(found, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32))


def test_another_kind_is_left_to_transformers(gpt2: Path, from_pretrained: list[Path]) -> None:
    hub.load_network(gpt2, torch.float32)
    assert from_pretrained == [gpt2]
