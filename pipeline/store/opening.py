"""Opening of the store of a data folder: of the folder itself, or of the bucket that it belongs to."""

import os
from functools import lru_cache
from pathlib import Path

from pipeline.history.errors import HistoryError
from pipeline.store.bucket import Bucket
from pipeline.store.folder import Folder
from pipeline.store.objects import ObjectStore
from pipeline.store.place import url_of
from pipeline.store.store import Store

DEFAULT_CACHE_MB = 20 * 1024


def store_at(data: Path) -> Store:
    """The store of a data folder; what it takes, it takes for itself. Raises `HistoryError`, OSError."""
    url = url_of(data)
    return ObjectStore(_bucket(url), data, _cache_mb() << 20) if url else Folder(data)


@lru_cache
def _bucket(url: str) -> Bucket:
    return Bucket.open(url)


def _cache_mb() -> int:
    text = os.environ.get("FACTSTREAM_STORE_CACHE_MB") or str(DEFAULT_CACHE_MB)
    if not (text.isascii() and text.isdigit() and int(text)):
        raise HistoryError(f"FACTSTREAM_STORE_CACHE_MB: {text[:40]!r} is not a number of MiB")
    return int(text)
