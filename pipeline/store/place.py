"""The place of a history: a folder's path, or a bucket's URL with its folder on this machine.

A bucket has a folder in the cache folder, with a note of the URL. Everything that takes a data folder takes this one: it has
what belongs to this machine (logs, heartbeats, locks, positions) and the copies that readers read.
"""

import hashlib
import re
from pathlib import Path

from pipeline.files import atomic_file
from pipeline.history.errors import HistoryError
from pipeline.model.cache import cache_folder

SCHEMES = ("s3", "gs", "az")
_NOTE = "store.url"
_URL = re.compile(rf"(?:{'|'.join(SCHEMES)})://[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9._=-]+)*/?")


def folder_of(place: str) -> Path:
    """The data folder of this machine for a path or a URL. Raises ValueError, OSError."""
    if "://" not in place:
        return Path(place)
    if not _URL.fullmatch(place) or ".." in place:
        raise ValueError(
            f"{place}: a history is kept in a folder, or in s3://, gs:// or az://BUCKET/PREFIX without a login, which comes from "
            "the cloud's own settings (docs/operating.md)"
        )
    url = place.rstrip("/")
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", url)[:60]
    folder = _stores() / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    if not (folder / _NOTE).is_file():
        with atomic_file(folder / _NOTE) as file:
            file.write(url.encode())
    return folder


def url_of(data: Path) -> str | None:
    """The URL of the bucket whose folder this is; None for a folder that is a store itself. Raises `HistoryError`, OSError."""
    try:
        return (data / _NOTE).read_text()
    except (FileNotFoundError, NotADirectoryError):
        if (
            data.absolute().parent == _stores().absolute()
        ):  # a history that is begun here would be in no bucket
            raise HistoryError(f"{data}: was removed while it was in use; start this command again") from None
        return None


def place_of(data: Path) -> str:
    """The path or the URL of which `folder_of` makes this folder, for people and for other processes. Raises as `url_of`."""
    return url_of(data) or str(data)


def _stores() -> Path:
    return cache_folder() / "stores"
