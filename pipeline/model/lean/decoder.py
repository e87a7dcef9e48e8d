"""Decoder: reads the tokens after those in a static cache, and tells the next token's logits.

What transformers computes with dozens of Python objects a layer is one loop here, over weights that are its own (blocks.py).
"""

import warnings
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from pipeline.model.lean.blocks import Block, Blocks, blocks_of
from pipeline.model.lean.cache import StaticCache, rounded
from pipeline.model.lean.fused import Fused
from pipeline.model.lean.graph import Graph, Step

CAPTURE_AFTER = 3  # steps of an unmoved cache: to capture one takes as long as a few
MANY_ROWS, FEW_QUERIES = 4, 16  # where products of matrices are faster than torch's own attention on a CPU
MASK_NUMBERS = 1 << 23  # of a pass: a longer prompt is read in several, as a mask grows with its square


class _Places(NamedTuple):
    """What the layers of a pass share."""

    rows: int
    longest: int  # tokens of a row
    own: Tensor | None  # [tokens] of [rows * longest], where they are; None: everywhere
    written: Tensor  # [tokens * 2 * heads] where keys and values go
    slots: tuple[Tensor, ...]  # where to, of each layer: [2 * rows * heads * width, d]
    keys: tuple[Tensor, ...]  # what is seen, of each layer: [rows, heads, width, d]
    values: tuple[Tensor, ...]
    masks: dict[int | None, Tensor | None]  # by window: [rows, 1, T * queries, width], added to the scores
    angles: dict[str, tuple[Tensor, Tensor]]  # by kind: cos and sin, [tokens, 1, d]
    exact: bool  # with the model's own weights, however few tokens there are


class Decoder:
    """The lean loop over one model. Build it with `of`."""

    def __init__(self, model: Any, blocks: Blocks) -> None:
        self._blocks, self._device, self._dtype = blocks, model.device, model.dtype
        self._tables: dict[str, tuple[Tensor, Tensor]] = {}  # cos and sin of every position so far, by kind
        self._windows = {block.window for block in blocks.blocks}
        self._fused = Fused.of(blocks)
        cuda = self._device.type == "cuda"
        self.capture: Callable[[Step, Tensor, Tensor], Step] | None = Graph if cuda else None

    @classmethod
    @torch.inference_mode(
        False
    )  # the model's weights become parts of others; a fit needs gradients through them
    def of(cls, model: Any, packed: bool) -> Self | None:
        """packed: whether few rows are multiplied by packed weights. None: the model's build is not known."""
        blocks = blocks_of(model, packed)
        return None if blocks is None else cls(model, blocks)

    @torch.inference_mode()
    def prefill(
        self, before: Sequence[Sequence[Tensor]], ids: Sequence[Sequence[int]]
    ) -> tuple[Tensor, StaticCache]:
        """Reads prompts: the logits after each, float32 [rows, V], and the cache that `step` goes on from. Arguments: see `read`."""
        [states], cache = self.read(before, ids, [len(self._blocks.blocks)], exact=False)
        ends = torch.tensor([*accumulate(map(len, ids))], device=self._device) - 1
        return self._blocks.head(states[ends]).float(), cache

    @torch.inference_mode()
    def read(
        self,
        before: Sequence[Sequence[Tensor]],
        ids: Sequence[Sequence[int]],
        depths: Sequence[int],
        exact: bool = True,
    ) -> tuple[Tensor, StaticCache]:
        """Reads tokens: their states, [depths, tokens, d], the rows one after the other, and the cache.

        before: of each row, keys and values of what precedes its ids, in parts [layers, 2, heads, tokens, d].
        depths: numbers of layers after which the states are wanted; after all of them they are the head's input.
        exact: with the model's own weights, not the packed ones, however few tokens there are.
        """
        counts = [len(row) for row in ids]
        longest, cache = max(counts), self.joined(before, max(counts) + 1)
        padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in ids], device=self._device)
        real = torch.arange(longest, device=self._device) < torch.tensor(counts, device=self._device)[:, None]
        positions, width = self._positions(cache, longest), max(cache.lengths)
        at_once = max(1, MASK_NUMBERS // (len(ids) * self._blocks.queries * cache.width))
        size = len(self._blocks.norm.weight)
        found = torch.empty((len(depths), *real.shape, size), dtype=self._dtype, device=self._device)
        for at in range(0, longest, at_once):
            part = slice(at, min(at + at_once, longest))
            own = real[:, part]
            indices = None if min(counts) >= part.stop else own.flatten().nonzero()[:, 0]
            places = self._places(positions[:, part], indices, cache, width + part.stop, exact)
            states = self._states(padded[:, part][own], places)
            for whole, depth in zip(found, depths, strict=True):
                whole[:, part][own] = states[depth]
        _advance(cache, counts)
        return found[:, real], cache

    @torch.inference_mode()
    def logits(self, states: Tensor) -> Tensor:
        """The logits after tokens with these states after all layers, [tokens, d] to float32 [tokens, V]."""
        return self._blocks.head(states, exact=True).float()

    @torch.inference_mode()
    def joined(self, before: Sequence[Sequence[Tensor]], room: int) -> StaticCache:
        """A cache with each row's keys and values, in parts [layers, 2, heads, tokens, d], and room for more tokens."""
        blocks, lengths = self._blocks, [sum(part.shape[3] for part in parts) for parts in before]
        states = torch.zeros(
            len(blocks.blocks), 2, len(before), blocks.heads, rounded(max(lengths) + room), blocks.head_size,
            dtype=self._dtype, device=self._device,
        )  # fmt: skip
        for row, parts in enumerate(before):
            at = 0
            for part in parts:
                states[:, :, row, :, at : at + part.shape[3]] = part
                at += part.shape[3]
        return StaticCache(states, lengths)

    @torch.inference_mode()
    def step(self, ids: Tensor, cache: StaticCache) -> Tensor:
        """Reads one more token of each row, ids [rows]; the logits after it, float32 [rows, V]."""
        cache.reserve(max(cache.lengths) + 1)
        ids, positions = ids[:, None], self._positions(cache, 1)
        if cache.graph is None and self.capture is not None and cache.steps >= CAPTURE_AFTER:
            try:
                cache.graph = self.capture(lambda i, p: self._pass(i, p, cache, cache.width), ids, positions)
                cache.graph_reads = [*self._tables.values()]
            except (
                RuntimeError
            ) as error:  # a kernel that cannot be captured, or no memory for it: the step works without
                self.capture = None
                warnings.warn(
                    f"steps are computed without a CUDA graph: {error}", RuntimeWarning, stacklevel=2
                )
        if cache.graph is not None:
            logits = cache.graph(ids, positions)
        elif self._fused and len(ids) <= self._fused.most_rows:
            places = self._places(positions, None, cache, self._seen(cache), False)
            [(cos, sin)] = places.angles.values()  # all layers are of one kind
            [mask] = places.masks.values()

            def attention(q: Tensor, number: int) -> Tensor:
                return attend(q, places.keys[number], places.values[number], mask, self._blocks.scale)

            states = self._fused(self._blocks.embed(ids[:, 0]), cos[:, 0], sin[:, 0], cache, attention)
            logits = self._blocks.head(self._blocks.norm(states)).float()
        else:
            logits = self._pass(ids, positions, cache, self._seen(cache))
        _advance(cache, [1] * len(ids))
        cache.steps += 1
        return logits

    def _seen(self, cache: StaticCache) -> int:
        """The width of the cache that a step sees: of many rows all of it, as a part would be copied for a product of matrices."""
        return max(cache.lengths) + 1 if cache.rows < MANY_ROWS else cache.width

    def _positions(self, cache: StaticCache, count: int) -> Tensor:
        """[rows, count] of the next tokens of each row."""
        firsts = torch.tensor(cache.lengths, device=self._device)
        return firsts[:, None] + torch.arange(count, device=self._device)

    def _pass(self, ids: Tensor, positions: Tensor, cache: StaticCache, width: int) -> Tensor:
        """The logits after the next token of each row, [rows, 1]."""
        places = self._places(positions, None, cache, width, False)
        states = self._states(ids[:, 0], places)
        return self._blocks.head(states[-1]).float()

    def _states(self, ids: Tensor, places: _Places) -> list[Tensor]:
        """The tokens' states before all layers and after each, [tokens, d]; the last are the head's input.

        The keys and values go to their places.
        """
        states: list[Tensor] = [self._blocks.embed(ids)]
        for number, block in enumerate(self._blocks.blocks):
            states.append(self._block(block, states[-1], number, places))
        return [*states[:-1], self._blocks.norm(states[-1])]

    def _block(self, block: Block, x: Tensor, number: int, places: _Places) -> Tensor:
        blocks, exact = self._blocks, places.exact
        heads, d = blocks.heads, blocks.head_size
        all_queries = heads * blocks.queries
        qkv = block.qkv(block.before_attention(x), exact).view(len(x), all_queries + 2 * heads, d)
        q, k = qkv[:, :all_queries], qkv[:, all_queries : all_queries + heads]
        if block.of_query and block.of_key:
            q.copy_(block.of_query(q))
            k.copy_(block.of_key(k))
        cos, sin = places.angles[block.kind]
        turned = qkv[:, : all_queries + heads]
        turned.copy_(torch.addcmul(turned * cos, turned.roll(d // 2, -1), sin))
        places.slots[number].index_copy_(0, places.written, qkv[:, all_queries:].reshape(-1, d))
        keys, values = places.keys[number], places.values[number]
        attended = attend(self._of_rows(q, places), keys, values, places.masks[block.window], blocks.scale)
        y = block.attended(self._of_tokens(attended, places), exact)
        x = x + (block.after_attention(y) if block.after_attention else y)
        gate, up = block.gate_up(block.before_network(x), exact).chunk(2, dim=-1)
        y = block.down(block.activation(gate) * up, exact)
        return x + (block.after_network(y) if block.after_network else y)

    def _of_rows(self, q: Tensor, places: _Places) -> Tensor:
        """Queries of the tokens, [tokens, queries, d], as attention takes them: [rows, heads, longest * queries of a head, d].

        The queries of one key's heads stand among the tokens: each key is read once for all of them.
        """
        heads, queries, d = self._blocks.heads, self._blocks.queries, q.shape[-1]
        if places.own is not None:
            padded = q.new_zeros(places.rows * places.longest, *q.shape[1:])
            q = padded.index_copy_(0, places.own, q)
        q = q.reshape(places.rows, places.longest, heads, queries, d).permute(0, 2, 1, 3, 4)
        return q.reshape(places.rows, heads, -1, d)

    def _of_tokens(self, attended: Tensor, places: _Places) -> Tensor:
        """What attention gives, shaped as by `_of_rows`, for each token: [tokens, heads * queries * d]."""
        rows, heads, _, d = attended.shape
        each = attended.view(rows, heads, places.longest, -1, d).permute(0, 2, 1, 3, 4)
        each = each.reshape(rows * places.longest, -1)
        return each if places.own is None else each[places.own]

    def _places(
        self, positions: Tensor, own: Tensor | None, cache: StaticCache, width: int, exact: bool
    ) -> _Places:
        """positions: [rows, T]; own: see _Places; width: how much of the cache is seen."""
        blocks, (rows, longest) = self._blocks, positions.shape
        # A row's keys, and after those of all rows its values.
        firsts = torch.arange(2 * rows * blocks.heads, device=self._device).view(2, rows, -1).transpose(0, 1)
        written = firsts.reshape(rows, 1, -1) * cache.width + positions[..., None]
        written, of_tokens, angles = written.flatten(0, 1), positions.flatten(), {}
        if own is not None:
            written, of_tokens = written[own], of_tokens[own]
        for kind in {block.kind for block in blocks.blocks}:
            cos, sin = self._table(kind, cache.width)
            angles[kind] = cos[of_tokens][:, None], sin[of_tokens][:, None]
        keys, values = cache.states[..., :width, :].unbind(1)
        return _Places(
            rows, longest, own, written.flatten(),
            cache.states.view(len(blocks.blocks), -1, blocks.head_size).unbind(0), keys.unbind(0), values.unbind(0),
            {window: self._mask(positions, width, window) for window in self._windows}, angles, exact,
        )  # fmt: skip

    def _mask(self, positions: Tensor, width: int, window: int | None) -> Tensor | None:
        """0 where a token of `positions` [rows, T] sees the one at a place, and -inf where it does not."""
        if positions.numel() == 1 and (window is None or width <= window):
            return None
        places = torch.arange(width, device=self._device)
        seen = places <= positions[..., None]
        if window is not None:
            seen &= places > positions[..., None] - window
        mask = torch.zeros(seen.shape, dtype=self._dtype, device=self._device).masked_fill_(~seen, -torch.inf)
        return mask.repeat_interleave(self._blocks.queries, dim=1)[:, None]

    def _table(self, kind: str, width: int) -> tuple[Tensor, Tensor]:
        """cos and sin of the positions below `width`, [width, d]; the sine's first half with the sign that a turn needs."""
        table = self._tables.get(kind)
        if table is None or len(table[0]) < width:
            example = torch.empty((), dtype=self._dtype, device=self._device)
            cos, sin = self._blocks.rotary(example, torch.arange(width, device=self._device)[None], kind)
            half = sin.shape[-1] // 2
            table = cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)
            self._tables[kind] = table
        return table


def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Attention. q: [rows, heads, queries, d]; keys, values: [rows, heads, width, d]; mask: [rows, 1, queries, width]."""
    rows, heads, queries, _ = q.shape
    if mask is None or rows < MANY_ROWS or queries > FEW_QUERIES or q.device.type != "cpu":
        return nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scale)
    scores = torch.bmm(q.flatten(0, 1) * scale, keys.flatten(0, 1).mT).view(rows, heads, queries, -1)
    shares = scores.add_(mask).softmax(-1).flatten(0, 1)
    return torch.bmm(shares, values.flatten(0, 1)).view_as(q)


def _advance(cache: StaticCache, counts: Sequence[int]) -> None:
    cache.lengths = [length + count for length, count in zip(cache.lengths, counts, strict=True)]
