"""A bucket: the few requests of an object store that a history needs, each bounded in time and tries.

`create` is what a hard link is on a disk: one of several writers gets a name. Its answer is never taken at its word: "already
exists" also comes for our own PUT whose answer was lost, and for a conflict that has passed (409). So each created object
has its writer's random token near its end, and whenever the answer is not a plain success, the object itself is asked.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.history.errors import HistoryError, Unwritable, disk_errors

if TYPE_CHECKING:
    from obstore import Bytes, ObjectMeta, PutResult, UpdateVersion
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

TRIES = 4
"""Attempts at a create whose outcome is unknown."""
PAUSE_S = 0.2
"""Pause before the second try; twice as long before each further one."""
TAIL_BYTES = 64 * 1024
"""Bytes at an object's end in which its token is looked for: a Parquet footer has about ten kilobytes."""

PIECE_BYTES = 5 * 1024 * 1024
"""Size of a request: a larger file comes and goes in several, each of which has time enough on a slow line. S3's least for a part."""

CLIENT: "ClientConfig" = {"timeout": "30s", "connect_timeout": "5s"}
RETRY: "RetryConfig" = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}
"""Retries of what is safe to repeat: object_store repeats reads, and requests that got a 5xx or no connection."""


_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
"""The codes of S3 and Google, and of Azure."""


class Taken(Exception):
    """Another writer created the object."""


class Missing(Exception):
    """A missing object."""


class Found(NamedTuple):
    """An object in a listing."""

    key: str
    size: int
    tag: str
    """The object's version, which changes when the object is replaced."""
    written: datetime = datetime.min.replace(tzinfo=UTC)
    """Time of writing by the store's clock; the year 1 for an object that was not listed."""


class Bucket:
    """The objects under one prefix of a bucket. Raises `Unwritable` where a later try may succeed."""

    def __init__(
        self, store: "ObjectStore", where: str, pause: Callable[[float], object] = time.sleep
    ) -> None:
        self._store, self.where, self._pause = store, where, pause

    @classmethod
    def open(cls, url: str) -> "Bucket":
        """The bucket at s3://, gs:// or az://BUCKET/PREFIX; the login is the cloud's own (environment, role, metadata)."""
        try:
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError:
            raise HistoryError(
                f"{url}: needs the package obstore: pip install 'factstream[object-store]'"
            ) from None
        try:
            client = CLIENT | {"allow_http": _allows_http()}
            return cls(from_url(url, client_options=client, retry_config=RETRY), url)
        except (BaseError, ValueError, TypeError) as error:
            raise HistoryError(f"{url}: cannot be opened: {_line(error)}") from error

    def create(self, key: str, body: bytes, token: str) -> None:
        """Creates an object whose last TAIL_BYTES have `token`. Raises `Taken` if another writer has; `Unwritable`; `HistoryError`
        where there is no bucket.

        After `Unwritable` the object may exist, or appear later.
        """
        import obstore

        failure: Exception | None = None
        for attempt in range(TRIES):
            if attempt:
                self._pause(PAUSE_S * 2 ** (attempt - 1))
            try:
                obstore.put(self._store, key, body, mode="create", use_multipart=False)
                return
            except FileNotFoundError as error:
                raise self._no_bucket() from error
            except Exception as error:  # whatever it is, the object tells
                failure = error
            with suppress(Missing, Unwritable):
                if token.encode() in self._tail(key):
                    return
                raise Taken(f"{self.where}/{key}: another writer created it first")
        raise self._unwritable(key, failure) from failure

    def upload(self, key: str, path: Path) -> None:
        """Uploads a file under a name that nobody else uses: in parts, where it is large. Raises `Unwritable`."""
        import obstore

        with disk_errors(path):
            path.stat()
        with self._errors(key):
            obstore.put(self._store, key, path, chunk_size=PIECE_BYTES, max_concurrency=4)

    def replace(self, found: Found, body: bytes) -> Found:
        """Replaces an object that is still as it was found. Raises `Unwritable`, also where it changed meanwhile."""
        import obstore

        changed = Unwritable(f"{self.where}/{found.key}: was changed meanwhile; it is tried again")
        with self._errors(found.key):
            try:
                now = obstore.head(self._store, found.key)
            except FileNotFoundError:
                raise changed from None
            if _tag(now) != found.tag:
                raise changed
            mode: UpdateVersion = {"e_tag": now["e_tag"]}
            if now["version"] is not None:
                mode["version"] = now["version"]
            put = obstore.put(self._store, found.key, body, mode=mode, use_multipart=False)
        return Found(found.key, len(body), _tag(put))

    def get(self, key: str) -> bytes:
        """An object. Raises `Missing`, `Unwritable`."""
        import obstore

        with self._errors(key, may_miss=True):
            return bytes(obstore.get(self._store, key).bytes())

    def download(self, key: str, path: Path) -> None:
        """Writes an object to a file, in pieces, where it is large. Raises `Missing`, `Unwritable`."""
        with disk_errors(path), path.open("wb") as file:
            for piece in self._pieces(key):
                file.write(piece)

    def _pieces(self, key: str) -> Iterator["Bytes"]:
        """An object in pieces, all of the same state of it."""
        import obstore

        with self._errors(key, may_miss=True):
            whole = obstore.get(self._store, key)
            size, e_tag = whole.meta["size"], whole.meta["e_tag"]
            if size <= PIECE_BYTES:
                yield whole.bytes()
                return
            del whole  # which closes the connection
            for begin in range(0, size, PIECE_BYTES):
                part = (begin, min(begin + PIECE_BYTES, size))
                yield obstore.get(self._store, key, options={"range": part, "if_match": e_tag}).bytes()

    def exists(self, key: str) -> bool:
        import obstore

        try:
            with self._errors(key, may_miss=True):
                obstore.head(self._store, key)
        except Missing:
            return False
        return True

    def objects(self, prefix: str) -> list[Found]:
        """All objects under a prefix, by name."""
        import obstore

        with self._errors(prefix):
            metas = obstore.list(self._store, prefix, chunk_size=1000).collect()
            found = [Found(meta["path"], meta["size"], _tag(meta), meta["last_modified"]) for meta in metas]
        return sorted(found)

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders right under a prefix."""
        import obstore

        with self._errors(prefix):
            prefixes = obstore.list_with_delimiter(self._store, prefix)["common_prefixes"]
        return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in prefixes)

    def delete(self, keys: Iterable[str]) -> None:
        """Deletes objects, missing ones, too."""
        import obstore

        for key in keys:
            with suppress(Missing), self._errors(key, may_miss=True):
                obstore.delete(self._store, key)

    def probe(self, token: str) -> bool:
        """Refuses a store that lets two writers create one object; returns whether it keeps versions. Raises `HistoryError`."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        key = f"probe-{token}"
        try:
            self.create(key, token.encode(), token)  # whose answer may be lost, as any other's
            with self._errors(key):
                try:
                    obstore.put(self._store, key, b"another", mode="create", use_multipart=False)
                except AlreadyExistsError:
                    return obstore.head(self._store, key)["version"] is not None
            raise HistoryError(
                f"{self.where}: lets two writers create the same object (it ignores If-None-Match), so facts would be lost; "
                "use a store with conditional writes, or a folder"
            )
        finally:
            with suppress(HistoryError):
                self.delete([key])

    def _tail(self, key: str) -> bytes:
        import obstore

        with self._errors(key, may_miss=True):
            size = obstore.head(self._store, key)["size"]
            return (
                bytes(obstore.get_range(self._store, key, start=max(0, size - TAIL_BYTES), end=size))
                if size
                else b""
            )

    @contextmanager
    def _errors(self, key: str, may_miss: bool = False) -> Iterator[None]:
        """Errors of requests as a HistoryError: Missing for an object that `may_miss`; otherwise only the bucket can."""
        try:
            yield
        except HistoryError:
            raise
        except FileNotFoundError as error:
            if not may_miss:
                raise self._no_bucket() from error
            raise Missing(f"{self.where}/{key}: is missing") from error
        except Exception as error:  # obstore's own, and Python's for files, times and arguments
            if any(code in str(error) for code in _NO_BUCKET):
                raise self._no_bucket() from error
            raise self._unwritable(key, error) from error

    def _no_bucket(self) -> HistoryError:
        return HistoryError(f"{self.where}: there is no such bucket; create it first")

    def _unwritable(self, key: str, error: Exception | None) -> Unwritable:
        return Unwritable(f"{self.where}/{key}: {_line(error)}; check the network, the login and its rights")


def _allows_http() -> bool:
    """Whether the environment allows a store without TLS, as for tests: obstore's own names, which options would hide."""
    return any(
        os.environ.get(f"{name}_ALLOW_HTTP", "").lower() in ("1", "true")
        for name in ("AWS", "AZURE", "GOOGLE")
    )


def _tag(known: "ObjectMeta | PutResult") -> str:
    """The tag of an object without its quotes, which Azure leaves out in listings only."""
    return (known["e_tag"] or "").strip('"')


def _line(error: Exception | None) -> str:
    """The first line of an error, whose further ones are for debugging."""
    return str(error).strip().split("\n")[0][:300] or type(error).__name__
