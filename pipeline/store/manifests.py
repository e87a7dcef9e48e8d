"""Manifests of a partition: a chain in which each is created once, and the last one counts.

Who gets a partition writes the next manifest of the chain, its fence, before it reads. A writer that lost the partition
without knowing it tries to create that same number when it has merged files, and fails: so it can never bring back what was
erased meanwhile (SlateDB fences its writers in the same way). A fence is kept for a day, and with it the number that an
earlier owner would try. An owner that was silent for long does not rely on it, and asks what the last number is.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipeline.history.errors import CommitConflict, HistoryError, Unwritable
from pipeline.store.bucket import Bucket, Found, Missing, Taken
from schemas.common import BadMessage, decode, encode
from schemas.files.manifest import Manifest

_NAME = re.compile(r".*/manifest-([0-9]{10})\.json")
_TRIES = 20  # to read, or to follow, a chain that grows meanwhile
KEPT_S = 24 * 3600.0
"""Seconds by the store's clock for which manifests stay that are not the last one."""
SURE_S = 3600.0
"""Seconds after an owner was the last one for which the next number of the chain is enough to know it. Far fewer than KEPT_S."""
MAX_BYTES = 4 * 1024 * 1024


@dataclass
class Owned:
    """A partition that this process has taken."""

    manifest: Manifest
    """The last one of the chain, as far as the owner knows; all from its epoch on are its own."""
    sure_at: float
    """When it was certainly the last one, by the owner's clock."""
    is_copied: bool = False
    is_clean: bool = False
    """Whether objects that do not count are removed. The owner before may have died before it removed them."""


def folder_of(partition: int) -> str:
    """The prefix of a partition's objects."""
    return f"history/partition={partition}"


def key_of(partition: int, number: int) -> str:
    """The object of a manifest."""
    return f"{folder_of(partition)}/manifest-{number:010d}.json"


def numbers(listing: Iterable[Found]) -> list[int]:
    """The numbers of the manifests in a listing, ascending."""
    return sorted(int(match[1]) for found in listing if (match := _NAME.fullmatch(found.key)))


def newest(bucket: Bucket, partition: int) -> tuple[Manifest | None, list[Found]]:
    """The manifest that counts, and the listing by which it was found."""
    for _ in range(_TRIES):
        listing = bucket.objects(folder_of(partition))
        present = numbers(listing)
        if not present:
            return None, listing
        try:
            return read(bucket, partition, present[-1]), listing
        except Missing:  # a later one exists by now
            continue
    raise Unwritable(f"{bucket.where}/{folder_of(partition)}: changes too fast to be read; it is tried again")


def read(bucket: Bucket, partition: int, number: int) -> Manifest:
    """One manifest. Raises `Missing`, `HistoryError`."""
    key = key_of(partition, number)
    try:
        manifest = decode(Manifest, bucket.get(key), MAX_BYTES)
    except BadMessage as error:
        raise HistoryError(
            f"{bucket.where}/{key}: cannot be read: {error}; upgrade factstream, or restore it from a backup"
        ) from error
    if manifest.number != number:
        raise HistoryError(f"{bucket.where}/{key}: is of another number; restore it from a backup")
    return manifest


def take(bucket: Bucket, partition: int, token: str) -> Manifest:
    """Writes the partition's next fence."""
    for _ in range(_TRIES):
        last, _ = newest(bucket, partition)
        number = last.number + 1 if last else 0
        fence = Manifest(number=number, epoch=number, files=last.files if last else [], token=token)
        try:
            bucket.create(key_of(partition, number), encode(fence), token)
        except Taken:
            continue
        # Others may have gone far beyond `last`, and removed the manifest of this number, before it was written.
        if numbers(bucket.objects(folder_of(partition)))[-1] == number:
            return fence
    raise Unwritable(f"{bucket.where}/{folder_of(partition)}: others keep taking it; it is tried again")


def follow(bucket: Bucket, partition: int, last: Manifest, files: Sequence[str], token: str) -> Manifest:
    """The owner's next manifest, with these files. Raises `CommitConflict` where another writer has taken the partition."""
    following = Manifest(number=last.number + 1, epoch=last.epoch, files=list(files), token=token)
    try:
        bucket.create(key_of(partition, following.number), encode(following), token)
    except Taken as error:
        raise lost(bucket, partition) from error
    return following


def check_owner(bucket: Bucket, partition: int, owned: Owned, clock: Callable[[], float]) -> None:
    """Raises `CommitConflict` if another writer has taken the partition."""
    asked_at = clock()
    if bucket.exists(key_of(partition, owned.manifest.number + 1)):
        raise lost(bucket, partition)
    if clock() - owned.sure_at > SURE_S:  # the fence of that number may have been removed
        check_last(bucket, partition, owned, bucket.objects(folder_of(partition)))
    owned.sure_at = asked_at


def check_last(bucket: Bucket, partition: int, owned: Owned, listing: Iterable[Found]) -> None:
    """Raises `CommitConflict` unless an owner's manifest is the last one in this listing."""
    if numbers(listing)[-1] != owned.manifest.number:
        raise lost(bucket, partition)


def lost(bucket: Bucket, partition: int) -> CommitConflict:
    """The error of a writer that is not the owner any more."""
    return CommitConflict(
        f"{bucket.where}/{folder_of(partition)}: another writer has taken it; fold the history again"
    )
