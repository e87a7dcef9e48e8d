"""Loading of modules and a model that are kept: without garbage collection, and once for all forks.

The million objects that torch and transformers make at their import never become garbage, but the collector goes through
all of them again and again while they come: a fifth of the time to load. Afterwards it would go through them at each of
its full collections, in the middle of an answer.
"""

from __future__ import annotations  # the types of modules that import torch are not loaded with this one

import atexit
import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from pipeline.model.errors import ModelError, Progress
from workers.runtime.imports import light_transformers
from workers.runtime.processes import environment

if TYPE_CHECKING:
    from pipeline.ingest.encoder import Encoder

THREADLESS = {"HF_DEACTIVATE_ASYNC_LOAD": "1", "TOKENIZERS_PARALLELISM": "false"}
_kept: dict[tuple[str, str], Encoder] = {}
"""The encoder of a model on a device that was loaded before this process was forked."""


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


def keep_encoder(model: str, device: str) -> None:
    """Load the model's encoder for the forks of this process, and make its decoder, unless it has to be calibrated first.

    Either takes hundreds of megabytes, and the decoder joins the model's matrices: in a fork it would not share them any more.
    It starts no thread, which a fork would lack. If it cannot be loaded, nothing is kept: a fork then tries itself, and tells why.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with light_transformers(), suppress(ModelError), environment(THREADLESS):
            from pipeline.ingest.encoder import Encoder
            from pipeline.model import calibration
            from pipeline.model.backbone import Backbone

            backbone = Backbone.load(model, device)
            if calibration.found(backbone):
                _kept[model, device] = Encoder(backbone)
                _ = backbone.decoder
                give_back()
    finally:
        torch.set_num_threads(threads)


def encoder_of(model: str, device: str, progress: Progress) -> Encoder:
    """The encoder that this process was forked with, or one that is loaded now. Raises ModelError."""
    with light_transformers():
        from pipeline.ingest.encoder import Encoder

        return _kept.get((model, device)) or Encoder.load(model, device, "auto", progress)


def give_back() -> None:
    """Gives freed memory back to the system. glibc by itself keeps it: small pieces lie between what is still used."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
