"""Stores on a bucket in memory, and their facts, for tests."""

from pathlib import Path
from typing import Any

from obstore.store import MemoryStore

from pipeline.store.bucket import Bucket
from pipeline.store.objects import ObjectStore

LIMIT = 64 << 20


def bucket(memory: Any = None) -> Bucket:
    """A bucket in memory that never waits before it tries again."""
    return Bucket(memory or MemoryStore(), "memory://", pause=lambda _: None)


def store(own: Bucket, folder: Path, limit_bytes: int = LIMIT) -> ObjectStore:
    """A process of its own on a bucket, with a folder of its machine."""
    return ObjectStore(own, folder, limit_bytes)
