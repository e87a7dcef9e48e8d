"""`factstream encode`, `load` and `reencode`: facts and memories in bulk, outside of the stream."""

from workers.cli.bulk.encode import encode, reencode
from workers.cli.bulk.load import load

__all__ = ["encode", "load", "reencode"]
