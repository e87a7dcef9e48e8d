"""Batch of streams that one pass of the model continues, and from which finished rows are dropped."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.fusion.row import Row
from pipeline.model.backbone import Backbone
from pipeline.model.kv_cache import KVCache
from pipeline.model.lean.cache import StaticCache

Cache = KVCache | StaticCache  # transformers', or the lean decoder's


class Stream(NamedTuple):
    """One row of the model's batch: a row's bare prompt, or the same prompt after its facts."""

    row: Row
    memory: bool

    @property
    def ended(self) -> bool:
        """Whether nobody needs its next token: its row has finished, or its facts have given their answer."""
        return bool(self.row.finish_reason) or (self.memory and self.row.answered)


class Batch:
    """Streams with their cache. Between two steps each has a token that the model reads next.

    A stream that has ended stays and is ignored until half of the streams have ended: removing one copies the whole cache.
    """

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.cache: Cache | None = None

    @property
    def rows(self) -> list[Row]:
        """The rows that have not finished."""
        return [s.row for s in self.streams if not s.memory and not s.row.finish_reason]

    @property
    def joinable(self) -> bool:
        """Whether other streams may join: a cache that is more than keys and values lets none."""
        return self.cache is None or self.cache.joinable

    def step(self, backbone: Backbone) -> Tensor | None:
        """[streams, V] the logits after each stream's last token; None for an empty batch."""
        if self.cache is None:
            return None
        last = [row.tokens[-1] if row.tokens else 0 for row, _ in self.streams]
        return backbone.step(torch.tensor(last, device=backbone.device), self.cache)

    def join(self, streams: Sequence[Stream], cache: Cache) -> None:
        """Adds the streams, but those that have ended with their first token."""
        joined = _select_unended(streams, cache)
        if joined and self.cache is not None:
            self.streams = _select_unended(self.streams, self.cache) + joined
            self.cache.join(cache)  # type: ignore[arg-type]  # one model makes one kind of cache
        elif joined:
            self.streams, self.cache = joined, cache

    def drop_finished(self) -> None:
        """Removes the streams that have ended, once they are half of all."""
        unended = sum(not s.ended for s in self.streams)
        if self.cache is not None and 2 * unended <= len(self.streams):
            self.streams = _select_unended(self.streams, self.cache)
            self.cache = self.cache if self.streams else None


def _select_unended(streams: Sequence[Stream], cache: Cache) -> list[Stream]:
    """The streams that have not ended. If there are any, the cache keeps only these."""
    unended = [i for i, s in enumerate(streams) if not s.ended]
    if 0 < len(unended) < len(streams):
        cache.select(unended)
    return [streams[i] for i in unended]
