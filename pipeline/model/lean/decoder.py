"""Decoder: reads the tokens after those in a static cache, and tells the next token's logits.

What transformers computes with dozens of Python objects a layer is one loop here, over weights that are its own (blocks.py).
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from pipeline.model.lean.blocks import Block, Blocks, blocks_of
from pipeline.model.lean.cache import StaticCache, rounded
from pipeline.model.lean.graph import Graph, Step

CAPTURE_AFTER = 3  # steps of an unmoved cache: to capture one takes as long as a few
MANY_ROWS, FEW_QUERIES = 4, 16  # where products of matrices are faster than torch's own attention on a CPU
MASK_NUMBERS = 1 << 23  # of a pass: a longer prompt is read in several, as a mask grows with its square


class _Places(NamedTuple):
    """What the layers of a pass share."""

    written: Tensor  # [rows * 2 * heads * T] where keys and values go
    slots: tuple[Tensor, ...]  # where to, of each layer: [2 * rows * heads * width, d]
    keys: tuple[Tensor, ...]  # what is seen, of each layer: [rows, heads, width, d]
    values: tuple[Tensor, ...]
    masks: dict[int | None, Tensor | None]  # by window: [rows, 1, T * queries, width], added to the scores
    angles: dict[str, tuple[Tensor, Tensor]]  # by kind: cos and sin, [rows, T, 1, d]


class Decoder:
    """The lean loop over one model. Build it with `of`."""

    def __init__(self, model: Any, blocks: Blocks) -> None:
        self._blocks, self._device, self._dtype = blocks, model.device, model.dtype
        self._tables: dict[str, tuple[Tensor, Tensor]] = {}  # cos and sin of every position so far, by kind
        self._windows = {block.window for block in blocks.blocks}
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
        """Reads prompts: the logits after each, float32 [rows, V], and the cache that `step` goes on from.

        before: of each row, keys and values of the tokens before its prompt, in parts [layers, 2, heads, tokens, d].
        """
        blocks, lengths = self._blocks, [sum(part.shape[3] for part in parts) for parts in before]
        longest = max(map(len, ids))
        states = torch.zeros(
            len(blocks.blocks), 2, len(ids), blocks.heads, rounded(max(lengths) + longest + 1), blocks.head_size,
            dtype=self._dtype, device=self._device,
        )  # fmt: skip
        for row, parts in enumerate(before):
            at = 0
            for part in parts:
                states[:, :, row, :, at : at + part.shape[3]] = part
                at += part.shape[3]
        padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in ids], device=self._device)
        cache = StaticCache(states, lengths)
        counts, positions = [len(row) for row in ids], self._positions(cache, longest)
        at_once = max(1, MASK_NUMBERS // (len(ids) * blocks.queries * cache.width))
        ends: dict[int, Tensor] = {}
        for at in range(0, longest, at_once):
            end = min(at + at_once, longest)
            x = self._states(padded[:, at:end], positions[:, at:end], cache, max(lengths) + end)
            ends |= {row: x[row, n - 1 - at] for row, n in enumerate(counts) if at < n <= end}
        _advance(cache, counts)
        return self._logits(torch.stack([ends[row] for row in range(len(ids))])), cache

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
        else:
            # Of many rows the whole width is seen: a part of it would be copied for a product of matrices.
            width = max(cache.lengths) + 1 if cache.rows < MANY_ROWS else cache.width
            logits = self._pass(ids, positions, cache, width)
        _advance(cache, [1] * len(ids))
        cache.steps += 1
        return logits

    def _positions(self, cache: StaticCache, count: int) -> Tensor:
        """[rows, count] of the next tokens of each row."""
        firsts = torch.tensor(cache.lengths, device=self._device)
        return firsts[:, None] + torch.arange(count, device=self._device)

    def _pass(self, ids: Tensor, positions: Tensor, cache: StaticCache, width: int) -> Tensor:
        """The logits after the next token of each row, [rows, 1]."""
        return self._logits(self._states(ids, positions, cache, width)[:, 0])

    def _states(self, ids: Tensor, positions: Tensor, cache: StaticCache, width: int) -> Tensor:
        """The last layer's states of the tokens, [rows, T, d], whose keys and values the cache gets.

        ids, positions: [rows, T], padded on the right; width: how much of the cache is seen; whatever is not a token of a row
        is masked.
        """
        places = self._places(positions, cache, width)
        x = self._blocks.embed(ids)
        for number, block in enumerate(self._blocks.blocks):
            x = self._block(block, x, number, places)
        return x

    def _logits(self, x: Tensor) -> Tensor:
        return self._blocks.head(self._blocks.norm(x)).float()

    def _block(self, block: Block, x: Tensor, number: int, places: _Places) -> Tensor:
        blocks = self._blocks
        rows, count, size = x.shape
        heads, d = blocks.heads, blocks.head_size
        all_queries = heads * blocks.queries
        x = x.view(-1, size)
        qkv = block.qkv(block.before_attention(x)).view(rows, count, all_queries + 2 * heads, d)
        q, k = qkv[:, :, :all_queries], qkv[:, :, all_queries : all_queries + heads]
        if block.of_query and block.of_key:
            q.copy_(block.of_query(q))
            k.copy_(block.of_key(k))
        cos, sin = places.angles[block.kind]
        turned = qkv[:, :, : all_queries + heads]
        turned.copy_(torch.addcmul(turned * cos, turned.roll(d // 2, -1), sin))
        new = qkv[:, :, all_queries:].transpose(1, 2)  # [rows, 2 * heads, T, d]
        places.slots[number].index_copy_(0, places.written, new.reshape(-1, d))
        # The queries of one key's heads stand among the tokens: each key is read once for all of them.
        q = q.view(rows, count, heads, blocks.queries, d).permute(0, 2, 1, 3, 4)
        attended = attend(
            q.reshape(rows, heads, count * blocks.queries, d), places.keys[number], places.values[number],
            places.masks[block.window], blocks.scale,
        )  # fmt: skip
        attended = attended.view(rows, heads, count, blocks.queries, d).permute(0, 2, 1, 3, 4)
        y = block.attended(attended.reshape(rows * count, -1))
        x = x + (block.after_attention(y) if block.after_attention else y)
        gate, up = block.gate_up(block.before_network(x)).chunk(2, dim=-1)
        y = block.down(block.activation(gate) * up)
        return (x + (block.after_network(y) if block.after_network else y)).view(rows, count, size)

    def _places(self, positions: Tensor, cache: StaticCache, width: int) -> _Places:
        blocks, rows = self._blocks, len(positions)
        # A row's keys, and after those of all rows its values.
        firsts = torch.arange(2 * rows * blocks.heads, device=self._device).view(2, rows, -1).transpose(0, 1)
        firsts = firsts.reshape(rows, -1, 1) * cache.width
        angles = {}
        for kind in {block.kind for block in blocks.blocks}:
            cos, sin = self._table(kind, cache.width)
            angles[kind] = cos[positions][:, :, None], sin[positions][:, :, None]
        keys, values = cache.states[..., :width, :].unbind(1)
        return _Places(
            (firsts + positions[:, None]).view(-1),
            cache.states.view(len(blocks.blocks), -1, blocks.head_size).unbind(0), keys.unbind(0), values.unbind(0),
            {window: self._mask(positions, width, window) for window in self._windows}, angles,
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
