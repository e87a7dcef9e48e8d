"""The cache folder: converted models, calibrations, and the hashes that identify a model."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from pipeline.files import atomic_file

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


def cache_folder() -> Path:
    """FACTSTREAM_CACHE, by default ~/.cache/factstream; made when it is first written to."""
    return Path(os.environ.get("FACTSTREAM_CACHE") or "~/.cache/factstream").expanduser()


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
