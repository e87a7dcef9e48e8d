"""Conversion of GGUF files to Hugging Face's format with safetensors weights, kept in the cache."""

import contextlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.files import locked
from pipeline.model.cache import cache_folder
from pipeline.model.errors import ModelError, Progress

# Part of a converted model's identity: raise it whenever convert_gguf would write something else.
CONVERSION = 1

# llama.cpp's names of the byte-level tokenizers that split numbers into single digits. A GGUF names its
# pre-tokenizer instead of carrying it, and transformers rebuilds these ones without the digits.
SINGLE_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}


def converted(gguf: Path, sha256: str, progress: Progress) -> Path:
    """The folder in the cache with the converted GGUF. The first process converts it; others wait. Raises ModelError."""
    folder = converted_folder(gguf.stem, sha256)
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


def converted_folder(stem: str, sha256: str) -> Path:
    """The folder of a converted GGUF, which is there or will be; stem, sha256: of the GGUF's name and content."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem)
    return cache_folder().resolve() / "models" / f"{name}-{sha256[:12]}-{CONVERSION}"


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
        with quiet(), contextlib.redirect_stderr(io.StringIO()):  # the converter prints a progress bar
            place, file = str(gguf.parent), gguf.name
            config = AutoConfig.from_pretrained(place, gguf_file=file)
            with torch.device("meta"):  # only the names of its parameters are needed
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
