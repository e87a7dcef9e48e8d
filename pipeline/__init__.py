"""The memory as a library, without Kafka and without a clock of its own.

`MemoryLM` is imported on its first use, so that a fold or a query of the history loads no model library.
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
