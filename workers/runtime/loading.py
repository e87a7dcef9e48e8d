"""Loading without garbage collection, of modules and a model that are kept until the process ends.

The million objects that torch and transformers make at their import never become garbage, but the collector goes through
all of them again and again while they come: a fifth of the time to load. Afterwards it would go through them at each of
its full collections, in the middle of an answer.
"""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_objects() -> Iterator[None]:
    """Objects that are made in this block are never looked at by the garbage collector."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # DuckDB complains, in 50 lines, of objects that are never collected
