"""Contexts: texts that the model reads before a prompt, with their keys and values kept for later.

    examples ─► fact ─► prompt

The examples are always the same, and a fact is asked about more than once: each is read once, and kept while there is room
(the least recently used context leaves first). Any number of prompts, each after its own context, are read in one pass.
A tuned prefix takes the place of a context's own keys and values (prefix tuning: Li and Liang 2021), and is always kept.

Holds no memory and no rule: what is read, and what follows from it, is decided elsewhere.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from pipeline.model.backbone import Backbone
from pipeline.model.kv_cache import KVCache
from pipeline.model.lean.cache import StaticCache

MAX_BYTES = 256 << 20  # of the kept keys and values
_READ_TOGETHER = 16  # contexts that are read in one pass
DEPTHS = (1 / 3, 0.53, 0.73, 0.93)  # shares of the layers after which the states of a prompt are read
Context = tuple[str, ...]
"""Texts, each read after the one before it; () for nothing."""
_NONE: Mapping[Context, Tensor] = {}


class Prompt(NamedTuple):
    """A prompt's tokens, and the context that is read before them."""

    context: Context
    ids: Sequence[int]  # at least one


class Reading(NamedTuple):
    """What the model computes for a prompt."""

    states: Tensor  # [depths, 2, d] float32: of its last token, and the mean of all
    log_p: Tensor  # [V] float32: of the next token
    token_log_p: Tensor  # [tokens - 1] float32: of each of its tokens but the first, given those before


class _Kept(NamedTuple):
    """One context's last text: its tokens, and their keys and values a layer, [1, heads, tokens, d]."""

    ids: list[int]
    layers: list[tuple[Tensor, Tensor]]
    whole: Tensor | None = (
        None  # [layers, 2, heads, tokens, d] of which the layers are parts, for the lean decoder
    )

    @property
    def size(self) -> int:
        return sum(t.numel() * t.element_size() for pair in self.layers for t in pair)


class Contexts:
    """The kept contexts of one model. Threads may share it."""

    def __init__(
        self, backbone: Backbone, max_bytes: int = MAX_BYTES, tuned: Mapping[Context, Tensor] = _NONE
    ) -> None:
        """tuned: prefixes, [layers, 2 (key, value), heads, tokens, d] each, by the contexts whose place they take."""
        self._backbone, self._max_bytes = backbone, max_bytes
        self._kept: OrderedDict[Context, _Kept] = OrderedDict()
        self._bytes, self._lock = 0, Lock()
        # Only a cache of the keys and values of all tokens can be cut and joined.
        self.cacheable = all(type(layer) is DynamicLayer for layer in backbone.empty_cache().layers)
        self._tuned = {c: _of_prefix(p, backbone) for c, p in tuned.items() if self.cacheable}
        begin = [backbone.tokenizer.bos_token_id]
        self._begin: list[int] = begin if backbone.lead == begin else []
        self._layers = [max(1, round(depth * backbone.n_layers)) for depth in DEPTHS]

    @torch.inference_mode()
    def read(self, prompts: Sequence[Prompt]) -> list[Reading]:
        """Reads the prompts in one pass."""
        output, _, counts = self._forward(prompts, states=True)
        readings = []
        for row, (prompt, count) in enumerate(zip(prompts, counts, strict=True)):
            states = [output.hidden_states[layer][row, -count:].float() for layer in self._layers]
            log_p = output.logits[row, -count:].float().log_softmax(-1)
            after = torch.tensor(prompt.ids[len(prompt.ids) - count + 1 :], device=log_p.device)[:, None]
            readings.append(
                Reading(
                    torch.stack([torch.stack([own[-1], own.mean(0)]) for own in states]),
                    log_p[-1],
                    log_p[:-1].gather(1, after)[:, 0],
                )
            )
        return readings

    @torch.inference_mode()
    def log_p(self, prompts: Sequence[Prompt], count: int) -> Tensor:
        """[prompts, count, V] float32: the log-probabilities after each of the last `count` tokens."""
        output, _, _ = self._forward(prompts)
        return torch.as_tensor(output.logits[:, -count:].float().log_softmax(-1))

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Prompt]) -> tuple[Tensor, KVCache | StaticCache]:
        """The next token's logits, float32 [prompts, V], and the cache that `Backbone.step` goes on from."""
        decoder = self._backbone.decoder
        if decoder is None:
            output, cache, _ = self._forward(prompts, last=True)
            return output.logits[:, -1].float(), cache
        parts = self._parts([prompt.context for prompt in prompts])
        kept = [_chain(prompt.context, parts) for prompt in prompts]
        ids = [list(self._after_context(prompt).ids) for prompt in prompts]
        if self.cacheable:
            return decoder.prefill([[p.whole for p in chain if p.whole is not None] for chain in kept], ids)
        unread = [[i for part in chain for i in part.ids] for chain in kept]
        return decoder.prefill([()] * len(ids), [[*u, *own] for u, own in zip(unread, ids, strict=True)])

    def _forward(
        self, prompts: Sequence[Prompt], states: bool = False, last: bool = False
    ) -> tuple[Any, KVCache, list[int]]:
        """The model's output, padded on the left; the cache; and the tokens of each prompt. last: the last logits are enough."""
        backbone = self._backbone
        parts = self._parts([prompt.context for prompt in prompts])
        kept = [_chain(prompt.context, parts) for prompt in prompts]
        prompts = [self._after_context(prompt) for prompt in prompts]
        if self.cacheable:
            cache, mask = _joined(kept, backbone)
            ids, own = backbone.pad([prompt.ids for prompt in prompts], left=True)
            mask = torch.cat([mask, own], dim=1)
        else:
            before = [[i for part in chain for i in part.ids] for chain in kept]
            ids, mask = backbone.pad([[*b, *p.ids] for b, p in zip(before, prompts, strict=True)], left=True)
            cache = backbone.empty_cache()
        decoding = KVCache(cache, mask)
        output = backbone.forward(ids, decoding, states, last)
        return output, decoding, [len(prompt.ids) for prompt in prompts]

    def _after_context(self, prompt: Prompt) -> Prompt:
        """The prompt without the model's beginning-of-text token, if its context begins with that."""
        begins = (
            prompt.context and self._begin and list(prompt.ids[:1]) == self._begin and len(prompt.ids) > 1
        )
        return prompt._replace(ids=prompt.ids[1:]) if begins else prompt

    def _parts(self, contexts: Sequence[Context]) -> dict[Context, _Kept]:
        """The parts of all contexts, by the texts up to them; those that are not kept are read now."""
        parts: dict[Context, _Kept] = {}
        for end in range(1, max((len(context) for context in contexts), default=0) + 1):
            wanted = list(dict.fromkeys(context[:end] for context in contexts if len(context) >= end))
            parts |= {context: self._tuned[context] for context in wanted if context in self._tuned}
            with self._lock:
                for context in wanted:
                    if part := self._kept.get(context):
                        self._kept.move_to_end(context)
                        parts[context] = part
            missing = [context for context in wanted if context not in parts]
            for at in range(0, len(missing), _READ_TOGETHER):
                some = missing[at : at + _READ_TOGETHER]
                parts |= zip(some, self._keep(some, parts), strict=True)
        return parts

    @torch.inference_mode()
    def _keep(self, contexts: Sequence[Context], parts: Mapping[Context, _Kept]) -> list[_Kept]:
        """Reads the last text of each context after the parts before it, and keeps the results."""
        backbone = self._backbone
        ids = [tokens.ids for tokens in backbone.tokenize([context[-1] for context in contexts])]
        ids = [
            self._begin + own if len(context) == 1 else own
            for own, context in zip(ids, contexts, strict=True)
        ]
        if not self.cacheable or not max(map(len, ids)):
            return [_Kept(own, []) for own in ids]
        cache, mask = _joined([_chain(context[:-1], parts) for context in contexts], backbone)
        tokens, own_mask = backbone.pad(ids)
        backbone.forward(tokens, KVCache(cache, torch.cat([mask, own_mask], dim=1)), last=True)
        width, found = mask.shape[1], list[_Kept]()
        for row, own in enumerate(ids):
            part = slice(width, width + len(own))
            pairs = [
                (layer.keys[row : row + 1, :, part], layer.values[row : row + 1, :, part])
                for layer in _layers(cache)
            ]
            if backbone.decoder is None:  # the layers' shapes may differ
                found.append(_Kept(own, [(keys.clone(), values.clone()) for keys, values in pairs]))
            else:
                found.append(_of_whole(own, torch.stack([torch.cat(pair) for pair in pairs])))
        with self._lock:
            for context, kept in zip(contexts, found, strict=True):
                if context not in self._kept:
                    self._kept[context] = kept
                    self._bytes += kept.size
            while self._bytes > self._max_bytes and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].size
        return found


def _chain(context: Context, parts: Mapping[Context, _Kept]) -> list[_Kept]:
    return [parts[context[:end]] for end in range(1, len(context) + 1)]


def _joined(chains: Sequence[Sequence[_Kept]], backbone: Backbone) -> tuple[DynamicCache, Tensor]:
    """A cache with each row's parts one after the other, padded on the left, and its mask [rows, tokens]."""
    counts = [sum(len(part.ids) for part in parts) for parts in chains]
    width, cache = max(counts), backbone.empty_cache()
    mask = torch.zeros((len(chains), width), dtype=torch.long, device=backbone.device)
    for row, count in enumerate(counts):
        mask[row, width - count :] = 1
    if width:
        example = next(part for parts in chains for part in parts if part.layers)
        for number, pair in enumerate(example.layers):
            joined = [t.new_zeros((len(chains), t.shape[1], width, t.shape[3])) for t in pair]
            for row, parts in enumerate(chains):
                at = width - counts[row]
                for part in parts:
                    for whole, own in zip(joined, part.layers[number] if part.layers else (), strict=False):
                        whole[row, :, at : at + len(part.ids)] = own[0]
                    at += len(part.ids)
            cache.update(joined[0], joined[1], number)
    return cache, mask


def _of_prefix(prefix: Tensor, backbone: Backbone) -> _Kept:
    # Only the number of its tokens matters: no token stands for a tuned key.
    return _of_whole([0] * prefix.shape[3], prefix.to(backbone.device, backbone.dtype))


def _of_whole(ids: list[int], whole: Tensor) -> _Kept:
    return _Kept(ids, [(layer[0][None], layer[1][None]) for layer in whole], whole)


def _layers(cache: DynamicCache) -> list[Any]:
    return list(cache.layers)
