"""What lies in a store and on disks, decoded, to see which texts are left where."""

import io
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


def decoded(name: str, body: bytes) -> str:
    """All that a file says: a Parquet file's rows, and the bytes themselves."""
    raw = body.decode("latin-1")
    return (
        raw + repr(pq.ParquetFile(io.BytesIO(body)).read().to_pylist()) if name.endswith(".parquet") else raw
    )


def marks(contents: dict[str, bytes]) -> dict[str, set[str]]:
    """By the name of each file that has any, the marks of the texts in it."""
    found = {name: set(MARK.findall(decoded(name, body))) for name, body in contents.items()}
    return {name: own for name, own in found.items() if own}
