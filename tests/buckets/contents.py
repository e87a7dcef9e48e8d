"""What lies in a store and on disks: every object and every file, decoded, to see which texts are left where."""

import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.store.bucket import Bucket
from tests.buckets.stream import MARK


def objects(bucket: Bucket) -> dict[str, bytes]:
    """Every object under the bucket's prefix, by its key."""
    return {found.key: bucket.get(found.key) for found in bucket.objects("")}


def files(folder: Path) -> dict[str, bytes]:
    """Every file under the folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def marks(contents: dict[str, bytes]) -> dict[str, set[str]]:
    """By the name of each file that has any, the marks of the texts in it."""
    found = {name: set(MARK.findall(text)) for name, body in contents.items() for text in _texts(name, body)}
    return {name: own for name, own in found.items() if own}


def _texts(name: str, body: bytes) -> Iterator[str]:
    if name.endswith(".parquet"):
        yield repr(pq.ParquetFile(io.BytesIO(body)).read().to_pylist()) + body.decode("latin-1")
    else:
        yield body.decode("latin-1")
