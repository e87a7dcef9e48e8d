"""Copies of a bucket in a data folder of this machine: what works on a folder works on a copy.

A rewritten file of a partition has the name of the file in whose place it counts, and lies in a folder of its own:
`0000000007-TOKEN/0000000000-0000000031.parquet`, where 7 is the number of the first manifest that names it. A folder of a copy
notes of which objects it has copies.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

from pipeline.files import atomic_file, make_folder
from pipeline.history import layout
from pipeline.history.errors import Unwritable, disk_errors
from pipeline.store import manifests
from pipeline.store.bucket import Bucket, Found, Missing
from schemas.files.manifest import Manifest

TABLES = (layout.GENERATIONS_FOLDER, layout.DEAD_LETTERS_FOLDER)
TRIES = 10
"""Attempts to copy what others change meanwhile."""

_CHANGING = ".changing"
_NOTES = ".objects.json"
_KEPT = (_NOTES, ".lock")
_VERSION = re.compile(r"[0-9]{10}(-[0-9]{10})?\.parquet")  # merged, where a folder was copied into the bucket
_ROWS = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.parquet")
_DOWNLOADS = 8  # at a time

T = TypeVar("T")
Stamp = tuple[int, int, int]
"""The version of a file in a copy: another one if it was written again."""
Objects = Mapping[str, Found]
"""Objects by the names of their files in a copy."""


def pull(bucket: Bucket, data: Path, partition: int) -> Manifest | None:
    """Makes the copy of a partition what the bucket has now; returns the manifest that counted. Raises `HistoryError`."""

    def copy() -> Manifest | None:
        manifest, listing = manifests.newest(bucket, partition)
        bring(bucket, layout.partition_folder(data, partition), live(partition, manifest, listing))
        return manifest

    return retried(copy)


def pull_rows(bucket: Bucket, data: Path, table: str) -> dict[str, Found]:
    """The same as `pull`, for the answers or the dead letters; returns their objects."""

    def copy() -> dict[str, Found]:
        objects = rows(bucket, table)
        bring(bucket, data / table, objects)
        return objects

    return retried(copy)


def retried(copy: Callable[[], T]) -> T:
    """What `copy` returns, which begins again where an object was merged or erased since it was listed. Raises `Unwritable`."""
    missing: Missing | None = None
    for _ in range(TRIES):
        try:
            return copy()
        except Missing as error:
            missing = error
    raise Unwritable(
        f"{missing}, or what is beside it changes too fast to be copied; if it stays so, restore it from a backup"
    )


def live(partition: int, manifest: Manifest | None, listing: Iterable[Found]) -> dict[str, Found]:
    """The objects of a partition that count: live files and checkpoints."""
    folder = manifests.folder_of(partition)
    by_key = {found.key: found for found in listing}
    every = {}
    for name in manifest.files if manifest else ():
        key = f"{folder}/{name}"
        every[name.rpartition("/")[2]] = by_key.get(key, Found(key, 0, ""))
    for key, found in by_key.items():
        parent, _, name = key.rpartition("/")
        if parent == folder and _VERSION.fullmatch(name):
            every.setdefault(name, found)
    counts = {*layout.live_names(every), *(name for name in every if name.startswith("snapshot-"))}
    return {name: every[name] for name in sorted(counts)}


def rows(bucket: Bucket, table: str) -> dict[str, Found]:
    """The objects of the answers or the dead letters."""
    listing = {found.key.removeprefix(f"{table}/"): found for found in bucket.objects(table)}
    return {name: found for name, found in listing.items() if _ROWS.fullmatch(name)}


def bring(bucket: Bucket, place: Path, objects: Objects) -> None:
    """Makes the folder `place` a copy of these objects. Raises `Missing` where one is gone; `HistoryError`.

    Files come in the order of their names: a reader of the copy may miss the newest versions, but none between others.
    """
    with disk_errors(place):
        if is_changing(place):
            shutil.rmtree(place)
        make_folder(place)
        noted = _noted(place)
        changed = [
            name
            for name, found in objects.items()
            if noted.get(name) != _note(found) or not _has(place / name, found.size)
        ]
        _download(bucket, place, {name: objects[name].key for name in changed})
        if changed or noted.keys() - objects.keys():
            note(place, objects)
        for name in {*layout.file_names(place)} - {*objects, *_KEPT}:
            (place / name).unlink(missing_ok=True)


def note(place: Path, objects: Objects) -> None:
    """Notes of which objects `place` has copies. A file that is not in the notes is copied again."""
    with disk_errors(place), atomic_file(place / _NOTES, durable=False) as file:
        file.write(json.dumps({name: _note(found) for name, found in objects.items()}).encode())


def remove(place: Path) -> None:
    """Removes a copy, with the texts in it."""
    with disk_errors(place), suppress(FileNotFoundError):
        shutil.rmtree(place)


def begin_change(place: Path) -> None:
    """Marks a folder: until the change has ended, what is done to it may not count, and it is copied again."""
    with disk_errors(place):
        (place / _CHANGING).touch()


def end_change(place: Path) -> None:
    """Takes the mark away."""
    with disk_errors(place):
        (place / _CHANGING).unlink(missing_ok=True)


def is_changing(place: Path) -> bool:
    """Whether a change has begun and not ended: it failed, or its process died."""
    return (place / _CHANGING).exists()


def _noted(place: Path) -> dict[str, list[str | int]]:
    with suppress(OSError, ValueError):
        return dict(json.loads((place / _NOTES).read_bytes()))
    return {}


def _note(found: Found) -> list[str | int]:
    return [found.key, found.size, found.tag]


def _has(path: Path, size: int) -> bool:
    """Whether the file is whole: a copy is not made durable, so a power cut may leave it empty."""
    with suppress(FileNotFoundError):
        return path.stat().st_size == size
    return False


def _download(bucket: Bucket, place: Path, keys: Mapping[str, str]) -> None:
    with ThreadPoolExecutor(_DOWNLOADS, "download") as pool:
        rest = iter(sorted(keys))
        while names := list(islice(rest, _DOWNLOADS)):
            parts = [place / f".{name}.part" for name in names]
            list(pool.map(bucket.download, [keys[name] for name in names], parts))
            for name, part in zip(names, parts, strict=True):
                os.replace(part, place / name)


def stamps(folder: Path) -> dict[str, Stamp]:
    """The files of a folder of a copy, by name."""
    found = {}
    for name in sorted(layout.file_names(folder)):
        if name.endswith(".parquet") and not name.startswith("."):
            stat = (folder / name).stat()
            found[name] = stat.st_ino, stat.st_size, stat.st_mtime_ns
    return found
