"""The light import of transformers: what it leaves out is there later, and what it remembers is right."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.import_utils import create_import_structure_from_path

from workers.runtime import imports

LIGHT = "import sys, torch\nfrom workers.runtime.imports import light_transformers\nwith light_transformers():\n    {}\n"
MODEL = "from transformers.models.llama import modeling_llama"


def said(inside: str, after: str, cache: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(inside) + after],
        capture_output=True,
        text=True,
        env=os.environ | {"FACTSTREAM_CACHE": str(cache)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_neither_the_compiler_nor_distributed_tensors_are_imported(tmp_path: Path) -> None:
    left_out = (
        "print([n for n in ('torch._dynamo', 'torch.distributed.tensor', 'sympy') if n in sys.modules])"
    )
    assert said(MODEL, left_out, tmp_path) == "[]\n"


def test_the_compiler_is_there_afterwards(tmp_path: Path) -> None:
    after = (
        "print(torch.distributed.is_available())\n"
        "print(torch.compile(lambda x: x + 1, backend='eager')(torch.ones(())).item(), torch._dynamo.__file__ != '')\n"
        "from transformers import masking_utils\n"
        "with masking_utils.TransformGetItemToIndex() as mode:\n    print(type(mode).__module__, mode is not None)"
    )
    expected = f"{_distributed()}\n2.0 True\n"
    assert said(MODEL, after, tmp_path).startswith(expected)


def _distributed() -> bool:
    import torch.distributed

    return torch.distributed.is_available()


@pytest.mark.parametrize("asked", ["import torch._dynamo", "from torch._dynamo.source import LocalSource"])
def test_whatever_else_is_asked_of_the_compiler_is_its_own(asked: str, tmp_path: Path) -> None:
    used = "print(torch._dynamo.config.__name__, torch._dynamo.disable(len) is len)"
    assert said(f"{asked}; {used}", "", tmp_path) == "torch._dynamo.config False\n"


def test_what_models_there_are_is_remembered_as_it_is_found(tmp_path: Path) -> None:
    print_structure = (
        "import json, transformers.models; from transformers.utils import import_utils\n"
        "print(import_utils.create_import_structure_from_path.__name__)"
    )
    assert said(MODEL, print_structure, tmp_path) == "scanned\n"
    (kept,) = (tmp_path / "imports").iterdir()
    import transformers

    found = create_import_structure_from_path(Path(transformers.__file__).parent / "models")
    assert json.loads(kept.read_bytes(), object_hook=imports._from_json) == found
    written = kept.stat().st_mtime_ns
    assert said(f"{MODEL}; print(modeling_llama.LlamaModel.__name__)", "", tmp_path) == "LlamaModel\n"
    assert kept.stat().st_mtime_ns == written


def test_a_folder_is_looked_through_again_after_it_has_changed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("FACTSTREAM_CACHE", str(tmp_path / "cache"))
    models, looked = tmp_path / "package" / "models", list[Path]()
    models.mkdir(parents=True)
    (models.parent / "__init__.py").touch()
    structure = {
        "auto": {frozenset(): {"auto.config": {"A", "B"}}, frozenset({"torch", "vision"}): {"x": set()}}
    }

    def scan(path: Path) -> Any:
        looked.append(path)
        return structure

    for _ in range(2):
        scanned = imports.remembered(scan, models)
        assert scanned(models) == scanned(models / "__init__.py") == structure
    assert looked == [models]
    (models / "new").mkdir()
    os.utime(models, ns=(1, 1))
    assert imports.remembered(scan, models)(models) == structure
    assert looked == [models, models]
    scanned(models / "auto")
    assert looked[2:] == [models / "auto"]
