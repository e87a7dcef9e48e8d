"""A history in a bucket: create for versions, manifests for the rest, copies on this machine.

A version is appended by creating its object, which only one writer can. Everything else an owner does on its own copy of
the partition, as in a folder: then it uploads what changed under new names, and the next manifest of the chain makes all of
it count at once, or, if another writer has taken the partition meanwhile, none of it ever.
"""

import math
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from pipeline.files import atomic_file
from pipeline.history import layout, log, storage, tables
from pipeline.history.errors import CommitConflict, HistoryError, disk_errors
from pipeline.memory.codec import decisions_to_table
from pipeline.memory.events import Decision
from pipeline.store import copies, manifests
from pipeline.store.bucket import Bucket, Found, Taken
from pipeline.store.cache import Cache
from pipeline.store.manifests import Owned

WRITER_KEY = b"factstream.writer"
"""Key, in the metadata of an appended file, of the token by which its writer knows it again."""
LINGER_S = 1.0
ROWS_KEPT_S = 60.0
"""Seconds for which an owner keeps its copies of answers and dead letters after an erasure: others often follow."""
_COPIES = 64  # writers on one machine


class ObjectStore:
    """The bucket: see `Store`."""

    def __init__(
        self,
        bucket: Bucket,
        local: Path,
        limit_bytes: int,
        token: Callable[[], str] = lambda: secrets.token_hex(16),
        clock: Callable[[], float] = time.time,  # which goes on while a machine sleeps
    ) -> None:
        """`local`: a folder of this machine, for copies; `limit_bytes`: the most that readers' copies may take."""
        self._bucket, self._local, self._token, self._clock = bucket, local, token, clock
        self._cache = Cache(bucket, local, limit_bytes)
        self._owned: dict[int, Owned] = {}
        self._lock: FileLock | None = None
        self._copy = Path()
        self._searched_at = -math.inf
        """When copies of answers and dead letters were last searched, by the clock."""

    @property
    def where(self) -> str:
        return self._bucket.where

    @property
    def linger_s(self) -> float:
        return LINGER_S

    def check(self) -> list[str]:
        if self._bucket.probe(self._token()):
            return [
                "the bucket keeps versions of objects, so an erased text stays in them (docs/security.md)"
            ]
        return ["a bucket with soft delete keeps an erased text for days (docs/security.md)"]

    def partitions(self) -> list[int]:
        return layout.partitions_of(self._bucket.folders(layout.HISTORY_FOLDER))

    # --- a writer ---

    def take(self, partition: int) -> None:
        self._own_copy()
        self._owned.pop(partition, None)
        asked_at = self._clock()
        self._owned[partition] = Owned(manifests.take(self._bucket, partition, self._token()), asked_at)

    def keep(self, partitions: Collection[int]) -> None:
        self._own_copy()
        for number in {*self._owned, *layout.partitions(self._copy)} - {*partitions}:
            self._owned.pop(number, None)
            copies.remove(self._place(number))
        if not partitions:
            self._remove_rows()

    def is_current(self, partition: int, version: int) -> bool:
        if not (owned := self._owned.get(partition)):
            return False
        following = layout.version_path(Path(), partition, version + 1).as_posix()
        if self._bucket.exists(following):
            return False
        try:
            manifests.check_owner(self._bucket, partition, owned, self._clock)
        except CommitConflict:
            return False
        return True

    def append(self, partition: int, version: int, decisions: Sequence[Decision]) -> None:
        table, token = decisions_to_table(decisions), self._token()
        log.check_size(table)
        key, body = layout.version_path(Path(), partition, version).as_posix(), _file(table, token)
        with self._owner(partition) as owned:
            try:
                self._bucket.create(key, body, token)
            except Taken as error:
                raise CommitConflict(f"{error}; fold the history again") from error
            # Another owner may have merged this version and removed it: then its name was free again.
            manifests.check_owner(self._bucket, partition, owned, self._clock)
        if owned.is_copied:
            path = layout.version_path(self._copy, partition, version)
            with disk_errors(path), atomic_file(path, durable=False) as file:
                file.write(body)

    def files(self, partition: int) -> Path:
        with self._owner(partition) as owned:
            if not owned.is_copied or copies.is_changing(self._place(partition)):
                owned.is_copied = False
                if copies.pull(self._bucket, self._copy, partition) != owned.manifest:
                    raise manifests.lost(self._bucket, partition)
                owned.is_copied = True
        return self._copy

    @contextmanager
    def change(self, partition: int, rows: bool = False) -> Iterator[Path]:
        data = self.files(partition)
        if rows:
            self._searched_at = self._clock()
        elif self._clock() - self._searched_at > ROWS_KEPT_S:
            self._remove_rows()
        with self._changing(data, partition, copies.TABLES if rows else ()):
            yield data

    @contextmanager
    def _changing(self, data: Path, partition: int, tables: Sequence[str]) -> Iterator[None]:
        place = self._place(partition)
        objects = {table: copies.pull_rows(self._bucket, data, table) for table in tables}
        folders = [*(data / table for table in objects), place]
        before = {folder: copies.stamps(folder) for folder in folders}
        last = layout.last_version(data, partition)
        for folder in folders:
            copies.begin_change(folder)
        yield
        for (
            table,
            own,
        ) in objects.items():  # first: the texts that are erased in them are found in the history
            self._push_rows(table, own, before[data / table])
        with self._owner(partition) as owned:
            if not owned.is_clean or copies.stamps(place) != before[place]:
                self._push(partition, owned, before[place], last)
        for folder in folders:
            copies.end_change(folder)

    def add(self, folder: str, rows: list[dict[str, Any]], name: str) -> None:
        token, key = self._token(), tables.path_of(folder, name).as_posix()
        with suppress(Taken):  # the same records, kept before
            self._bucket.create(key, _file(tables.table_of(folder, rows), token), token)

    # --- a reader ---

    def view(self, partition: int | None = None, rows: bool = True) -> AbstractContextManager[Path]:
        return self._cache.view(self.partitions() if partition is None else [partition], rows)

    # --- what is behind ---

    def _own_copy(self) -> None:
        """Finds a folder for copies that no other process uses."""
        for number in range(0 if self._lock is None else _COPIES, _COPIES):
            folder = self._local / "writers" / str(number)
            with disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                lock = FileLock(folder / ".lock", timeout=0)
                with suppress(Timeout):
                    lock.acquire()
                    self._lock, self._copy = lock, folder
                    self._remove_left(number)
                    return
        if self._lock is None:
            raise HistoryError(
                f"{self._local}: {_COPIES} writers use it; set FACTSTREAM_CACHE to another folder"
            )

    def _remove_rows(self) -> None:
        """Removes the copies of answers and dead letters: the next erasure may be another machine's, and not reach them."""
        for table in copies.TABLES:
            copies.remove(self._copy / table)

    def _remove_left(self, own: int) -> None:
        """Removes what ended processes have left: their copies, and answers of an erasure that was not finished."""
        self._remove_rows()
        for folder in (self._local / "writers").iterdir():
            if folder.name != str(own):
                with suppress(Timeout), FileLock(folder / ".lock", timeout=0):
                    for name in (layout.HISTORY_FOLDER, *copies.TABLES):
                        copies.remove(folder / name)

    @contextmanager
    def _owner(self, partition: int) -> Iterator[Owned]:
        """A partition that this process has taken. Where the block finds that another has, it is let go, and its copy removed."""
        if partition not in self._owned:
            raise CommitConflict(f"{self.where}: partition {partition} was not taken; fold the history again")
        try:
            yield self._owned[partition]
        except CommitConflict:
            del self._owned[partition]
            shutil.rmtree(self._place(partition), ignore_errors=True)
            raise

    def _place(self, partition: int) -> Path:
        return layout.partition_folder(self._copy, partition)

    def _push(self, partition: int, owned: Owned, before: dict[str, copies.Stamp], last: int) -> None:
        """Uploads what changed in the copy, lets the next manifest name it, and removes what no manifest needs any more."""
        place, folder = self._place(partition), manifests.folder_of(partition)
        if (files := layout.complete_files(self._copy, partition)) and files[-1].last != last:
            raise HistoryError(f"{place}: was changed by another program; delete {self._copy}")
        owned.is_clean = False
        known = {name.rpartition("/")[2]: name for name in owned.manifest.files}
        fresh, named = f"{owned.manifest.number + 1:010d}-{self._token()}", []
        for name, stamp in copies.stamps(place).items():
            if stamp != before.get(name):
                known[name] = f"{fresh}/{name}"
                self._bucket.upload(f"{folder}/{fresh}/{name}", place / name)
            if name in known:
                named.append(known[name])
        if named != owned.manifest.files:
            try:
                owned.manifest = manifests.follow(
                    self._bucket, partition, owned.manifest, named, self._token()
                )
            except CommitConflict:  # nobody will ever name them, and they may have what was erased meanwhile
                self._bucket.delete(f"{folder}/{name}" for name in named if name.startswith(fresh))
                raise
        listing = self._bucket.objects(folder)
        manifests.check_last(self._bucket, partition, owned, listing)
        self._bucket.delete(self._obsolete(partition, owned, listing))
        copies.note(place, copies.live(partition, owned.manifest, listing))
        owned.is_clean = True

    def _obsolete(self, partition: int, owned: Owned, listing: Sequence[Found]) -> list[str]:
        """Objects that do not count, and cannot in any later manifest.

        Files of higher numbers stay: if this process has just lost the partition, its next owner is uploading them. So do
        merged versions until they leave the copy, for those who are reading them, and manifests of owners before for a day.
        """
        manifest, folder = owned.manifest, manifests.folder_of(partition)
        named, copied = set(manifest.files), copies.stamps(self._place(partition))
        rewritten = {name.rpartition("/")[2] for name in named}
        counts = copies.live(partition, manifest, listing)
        kept_since = max(found.written for found in listing) - timedelta(seconds=manifests.KEPT_S)
        gone = []
        for found in listing:
            parent, _, name = found.key.removeprefix(f"{folder}/").rpartition("/")
            if parent:
                is_gone = int(parent.partition("-")[0]) <= manifest.number and f"{parent}/{name}" not in named
            elif number := manifests.numbers([found]):
                is_own = number[0] > manifest.epoch
                is_gone = number[0] < manifest.number and (is_own or found.written < kept_since)
            else:
                is_gone = name in rewritten or (name not in counts and name not in copied)
            if is_gone:
                gone.append(found.key)
        return gone

    def _push_rows(self, table: str, objects: dict[str, Found], before: dict[str, copies.Stamp]) -> None:
        """Replaces the objects of the files that changed in the copy, unless another writer has replaced one meanwhile."""
        place = self._copy / table
        for name, stamp in copies.stamps(place).items():
            if stamp != before.get(name):
                objects[name] = self._bucket.replace(objects[name], (place / name).read_bytes())
        copies.note(place, objects)


def _file(table: pa.Table, token: str) -> bytes:
    """A table as a Parquet file, with its writer's token in the footer."""
    out = BytesIO()
    metadata = (table.schema.metadata or {}) | {WRITER_KEY: token.encode()}
    storage.write_tables(out, [table.replace_schema_metadata(metadata)])
    return out.getvalue()
