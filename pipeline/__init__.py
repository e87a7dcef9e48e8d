"""The memory as a library: backbone, encoding, bank, retrieval, reading, generation, history. No Kafka, no clock of its own.

`MemoryLM` is imported when it is first asked for: who only folds or queries the history need not load a model's library.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.memory_lm import MemoryLM

__all__ = ["MemoryLM"]


def __getattr__(name: str) -> Any:
    if name == "MemoryLM":
        from pipeline.memory_lm import MemoryLM

        return MemoryLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
