"""Model names: refusals name their reason, local models need no network, one conversion serves all."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from pipeline.model import gguf
from pipeline.model.backbone import Backbone
from pipeline.model.cache import file_sha256, model_hash
from pipeline.model.errors import ModelError
from pipeline.model.hub import resolve


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, so that the user's is not touched."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FACTSTREAM_CACHE", str(folder))
    return folder


@pytest.fixture
def folder(gpt2: Path, tmp_path: Path) -> Path:
    """A copy of a small model that a test may break."""
    return Path(shutil.copytree(gpt2, tmp_path / "model"))


def refusal(model: str | Path) -> str:
    with pytest.raises(ModelError) as refused:
        Backbone.load(model)
    return str(refused.value)


# --- folders ---


def test_a_folder_resolves_to_itself(folder: Path) -> None:
    assert resolve(folder) == resolve(str(folder)) == folder.resolve()


def test_a_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert f"{folder} has no config.json" in refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_pickled_weights_alone_are_refused_with_the_reason(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    said = refusal(folder)
    assert f"only {name}, which can run code when read" in said and "save_pretrained" in said


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "has no weights" in refusal(folder)


def test_a_folder_without_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer" in refusal(folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[7]"])
def test_a_broken_file_is_a_clear_error(folder: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)
    assert f"{folder} could not be loaded" in refusal(folder)


def test_a_models_own_code_is_never_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    assert "could not be loaded" in refusal(folder)
    assert not (folder / "ran").exists()


def test_an_unknown_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="float32"):
        Backbone.load(folder, dtype="int3")


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder", "~/no-such-folder-of-mine"])
def test_a_missing_path_is_not_tried_as_a_hub_id(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", never)
    assert refusal(name).startswith("there is no folder")


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("this must not be asked")


# --- identity ---


def test_a_model_hash_follows_the_content(folder: Path, tmp_path: Path) -> None:
    before = model_hash(folder)
    assert model_hash(Path(shutil.copytree(folder, tmp_path / "copy"))) == before
    (folder / "README.md").write_text("no part of the model")
    assert model_hash(folder) == before
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert model_hash(folder) != before


def test_a_file_hash_is_cached_until_the_file_changes(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    first = file_sha256(file)
    (note,) = (cache / "hashes").iterdir()
    note.write_text(note.read_text().replace(first, "remembered"))
    assert file_sha256(file) == "remembered"
    note.write_text("{")  # cut off, say
    assert file_sha256(file) == first
    file.write_bytes(b"two!")
    assert file_sha256(file) != first


def test_a_read_only_cache_is_not_an_error(cache: Path, folder: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert len(model_hash(folder)) == 64


# --- GGUF ---


def test_a_missing_gguf_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.gguf") == f"there is no file {tmp_path / 'none.gguf'}"


def test_an_invalid_gguf_file_leaves_no_folder(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + bytes(100))
    assert f"{file} could not be converted" in refusal(file)
    assert not [path for path in (cache / "models").iterdir() if path.is_dir()]


def test_concurrent_loads_convert_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpt2: Path) -> None:
    count, together = 4, threading.Barrier(4)
    conversions: list[Path] = []

    def convert(gguf: Path, folder: Path) -> None:
        conversions.append(gguf)
        shutil.copytree(gpt2, folder, dirs_exist_ok=True)

    def ask(_: int) -> Path:
        together.wait(30)
        return resolve(file)

    monkeypatch.setattr(gguf, "convert_gguf", convert)
    file = tmp_path / "some model.gguf"
    file.write_bytes(b"GGUF")
    with ThreadPoolExecutor(count) as pool:
        found = set(pool.map(ask, range(count)))
    assert conversions == [file] and len(found) == 1
    assert Backbone.load(file).hash == model_hash(found.pop())
    file.write_bytes(b"GGUF, another one")
    resolve(file)
    assert len(conversions) == 2


def test_an_interrupted_conversion_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpt2: Path
) -> None:
    def break_off(gguf: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise ModelError("no room")

    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.setattr(gguf, "convert_gguf", break_off)
    assert refusal(file) == "no room"
    monkeypatch.setattr(
        gguf, "convert_gguf", lambda _, folder: shutil.copytree(gpt2, folder, dirs_exist_ok=True)
    )
    assert (resolve(file) / "model.safetensors").is_file()


# --- the hub ---


class Hub:
    """In the place of huggingface_hub.snapshot_download: what is here already, and what a download does."""

    def __init__(self, local: Path | None, remote: Path | Exception) -> None:
        self.local, self.remote, self.downloads = local, remote, 0

    def __call__(self, name: str, local_files_only: bool = False, **_: Any) -> str:
        if local_files_only:
            if self.local is None:
                raise LocalEntryNotFoundError("not here")
            return str(self.local)
        self.downloads += 1
        if isinstance(self.remote, Exception):
            raise self.remote
        return str(self.remote)


def hub(monkeypatch: pytest.MonkeyPatch, local: Path | None, remote: Path | Exception) -> Hub:
    made = Hub(local, remote)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made)
    return made


class OfTheClient(Exception):
    """An error of the library that the hub's client speaks HTTP with: another one in each of its versions."""


@pytest.mark.parametrize(
    "error",
    [LocalEntryNotFoundError("no network"), ConnectionError("no network"), OSError(), OfTheClient("proxy")],
)
def test_a_hub_that_does_not_answer_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    hub(monkeypatch, None, error)
    said = refusal("someone/some-model")
    assert said.startswith("someone/some-model is no local folder") and '"default"' in said
    assert str(error) in said


def test_an_unknown_hub_id_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    error = RepositoryNotFoundError.__new__(RepositoryNotFoundError)  # its own arguments differ by version
    error.args = ("404: no such repository\nand more",)
    hub(monkeypatch, None, error)
    assert refusal("someone/none").startswith("someone/none is no local folder")


@pytest.mark.parametrize("name", ["a/b/c", "what is this?", "model.safetensors/"])
def test_an_invalid_name_is_refused(name: str) -> None:
    assert "neither a folder, nor a .gguf file, nor a hub id" in refusal(name)


def test_a_downloaded_model_needs_no_network(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    asked = hub(monkeypatch, folder, ConnectionError())
    assert resolve("someone/some-model") == folder and asked.downloads == 0


def test_an_interrupted_download_is_resumed(
    monkeypatch: pytest.MonkeyPatch, folder: Path, gpt2: Path
) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(gpt2 / "model.safetensors", folder / "model-1-of-2.safetensors")
    asked = hub(monkeypatch, folder, gpt2)
    assert resolve("someone/some-model") == gpt2 and asked.downloads == 1
