"""The partition of a key, by the hash that all Kafka clients share."""

from collections.abc import Iterable
from functools import lru_cache

from kafka.partitioner.default import murmur2


@lru_cache(maxsize=4096)
def partition_for(key: str, partitions: int) -> int:
    """The partition of a record with this key: murmur2, as in the Java client."""
    return int(murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def partitions_for(keys: Iterable[str], partitions: int) -> set[int]:
    """The partitions of these keys."""
    return {partition_for(key, partitions) for key in keys}
