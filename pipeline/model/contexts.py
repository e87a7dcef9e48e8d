"""Contexts: texts that the model reads before a prompt, with their keys and values kept for later.

    examples ─► fact ─► prompt

The examples are always the same, and a fact is asked about more than once: each is read once, and kept while there is room
(the least recently used context leaves first). Any number of prompts, each after its own context, are read in one pass,
and the last ones are kept as well, so that the answer to one of them goes on from there.
A tuned prefix takes the place of a context's own keys and values (prefix tuning: Li and Liang 2021), and is always kept.

Holds no memory and no rule: what is read, and what follows from it, is decided elsewhere.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from pipeline.model.backbone import Backbone
from pipeline.model.kv_cache import KVCache, Layers, joined
from pipeline.model.lean.cache import StaticCache

MAX_BYTES = 256 << 20  # of the kept keys and values
RECENT_BYTES = 64 << 20  # of the prompts that were read last: those of about ten requests
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
    """One context's last text: its tokens, and their keys and values."""

    ids: list[int]
    layers: Layers

    @property
    def size(self) -> int:
        return sum(t.nbytes for pair in self.layers for t in pair)


class _Recent(NamedTuple):
    """A prompt that was read: what came of it and, by the lean decoder, its keys and values."""

    reading: Reading
    parts: list[Tensor]  # none or one, [layers, 2, heads, tokens, d]

    @property
    def size(self) -> int:
        return sum(t.nbytes for t in (*self.reading, *self.parts))


class Contexts:
    """The kept contexts of one model. Threads may share it."""

    def __init__(
        self, backbone: Backbone, max_bytes: int = MAX_BYTES, tuned: Mapping[Context, Tensor] = _NONE
    ) -> None:
        """tuned: prefixes, [layers, 2 (key, value), heads, tokens, d] each, by the contexts whose place they take."""
        self._backbone, self._max_bytes = backbone, max_bytes
        self._kept: OrderedDict[Context, _Kept] = OrderedDict()
        self._recent: OrderedDict[Prompt, _Recent] = OrderedDict()  # by prompts whose ids are tuples
        self._bytes, self._recent_bytes, self._lock = 0, 0, Lock()
        # transformers' cache can be cut and joined only if it is the keys and values of all tokens.
        self.cacheable = all(type(layer) is DynamicLayer for layer in backbone.empty_cache().layers)
        # Only the number of its tokens matters: no token stands for a tuned key.
        self._tuned = {
            context: _Kept([0] * prefix.shape[3], prefix.to(backbone.device, backbone.dtype))
            for context, prefix in tuned.items()
            if self.cacheable
        }
        begin = [backbone.tokenizer.bos_token_id]
        self._begin: list[int] = begin if backbone.lead == begin else []
        self._layers = [max(1, round(depth * backbone.n_layers)) for depth in DEPTHS]

    def keep(self, contexts: Sequence[Context]) -> None:
        """Reads contexts for prompts that may come."""
        self._parts(contexts)

    @torch.inference_mode()
    def read(self, prompts: Sequence[Prompt]) -> list[Reading]:
        """Reads the prompts in one pass, but those that were read just before."""
        prompts = [self._after_context(prompt) for prompt in prompts]
        found = self._recently(prompts)
        if unread := [prompt for prompt in dict.fromkeys(prompts) if prompt not in found]:
            found |= zip(unread, self._read(unread), strict=True)
            self._remember(found)
        return [found[prompt].reading for prompt in prompts]

    @torch.inference_mode()
    def log_p(self, prompts: Sequence[Prompt], count: int) -> Tensor:
        """[prompts, count, V] float32: the log-probabilities after each of the last `count` tokens."""
        decoder = self._backbone.decoder
        if decoder is None:
            logits = self._forward(prompts)[0].logits[:, -count:]
            return torch.as_tensor(logits.float().log_softmax(-1))
        prompts = [self._after_context(prompt) for prompt in prompts]
        [states], _ = decoder.read(self._before(prompts), [p.ids for p in prompts], [self._backbone.n_layers])
        ends = torch.tensor([*accumulate(len(prompt.ids) for prompt in prompts)], device=states.device)
        last = (ends[:, None] + torch.arange(-count, 0, device=states.device)).clamp(min=0)
        return decoder.logits(states[last.flatten()]).log_softmax(-1).view(*last.shape, -1)

    @torch.inference_mode()
    def prefill(
        self, prompts: Sequence[Prompt], resume: bool = False
    ) -> tuple[Tensor, KVCache | StaticCache]:
        """The next token's logits, float32 [prompts, V], and the cache that `Backbone.step` goes on from.

        resume: goes on from what `read` has read just before; the logits of such prompts are their log-probabilities.
        """
        decoder = self._backbone.decoder
        if decoder is None:
            output, padded = self._forward(prompts, last=True)
            return output.logits[:, -1].float(), padded
        prompts = [self._after_context(prompt) for prompt in prompts]
        before, recent = self._before(prompts), self._recently(prompts) if resume else {}
        read = [n for n, prompt in enumerate(prompts) if prompt in recent]
        unread = [n for n, prompt in enumerate(prompts) if prompt not in recent]
        if not read:
            return decoder.prefill(before, [prompt.ids for prompt in prompts])
        logits = torch.stack([recent[prompts[n]].reading.log_p for n in read])
        cache = decoder.joined([[*before[n], *recent[prompts[n]].parts] for n in read], 1)
        if unread:
            more, other = decoder.prefill([before[n] for n in unread], [prompts[n].ids for n in unread])
            cache.join(other)
            order = torch.tensor([*read, *unread]).argsort()
            cache.select(order.tolist())
            logits = torch.cat([logits, more])[order.to(logits.device)]
        return logits, cache

    def _recently(self, prompts: Sequence[Prompt]) -> dict[Prompt, _Recent]:
        with self._lock:
            found = {prompt: self._recent[prompt] for prompt in prompts if prompt in self._recent}
            for prompt in found:
                self._recent.move_to_end(prompt)
        return found

    def _remember(self, read: Mapping[Prompt, _Recent]) -> None:
        with self._lock:
            for prompt, recent in read.items():
                if prompt not in self._recent:
                    self._recent[prompt] = recent
                    self._recent_bytes += recent.size
            while self._recent_bytes > RECENT_BYTES:
                self._recent_bytes -= self._recent.popitem(last=False)[1].size

    def _read(self, prompts: Sequence[Prompt]) -> list[_Recent]:
        decoder, counts = self._backbone.decoder, [len(prompt.ids) for prompt in prompts]
        parts: list[list[Tensor]] = [[] for _ in prompts]
        if decoder is None:
            output, _ = self._forward(prompts, states=True)
            width = output.logits.shape[1]
            own = torch.arange(width) >= width - torch.tensor(counts)[:, None]
            own = own.to(output.logits.device)
            states = torch.stack([output.hidden_states[layer][own] for layer in self._layers])
            logits = output.logits[own]
        else:
            depths = [*self._layers, self._backbone.n_layers]
            states, cache = decoder.read(self._before(prompts), [prompt.ids for prompt in prompts], depths)
            states, logits = states[:-1], decoder.logits(states[-1])
            parts = [[part] for part in cache.last(counts)]
        return [*map(_Recent, _readings(prompts, states.float(), logits), parts)]

    def _before(self, prompts: Sequence[Prompt]) -> list[list[Tensor]]:
        """Keys and values of each prompt's context, in parts, for the lean decoder."""
        parts = self._parts([prompt.context for prompt in prompts])
        return [_states(_chain(prompt.context, parts)) for prompt in prompts]

    def _forward(
        self, prompts: Sequence[Prompt], states: bool = False, last: bool = False
    ) -> tuple[Any, KVCache]:
        """transformers' output, padded on the left, and the cache. last: the last logits are enough."""
        backbone = self._backbone
        parts = self._parts([prompt.context for prompt in prompts])
        kept = [_chain(prompt.context, parts) for prompt in prompts]
        prompts = [self._after_context(prompt) for prompt in prompts]
        if self.cacheable:
            cache = joined([_states(chain) for chain in kept], backbone.empty_cache(), backbone.device)
            ids, mask = backbone.pad([prompt.ids for prompt in prompts], left=True)
        else:
            cache = joined([()] * len(prompts), backbone.empty_cache(), backbone.device)
            before = [[i for part in chain for i in part.ids] for chain in kept]
            ids, mask = backbone.pad([[*b, *p.ids] for b, p in zip(before, prompts, strict=True)], left=True)
        cache.mask = torch.cat([cache.mask, mask], dim=1)
        return backbone.forward(ids, cache, states, last), cache

    def _after_context(self, prompt: Prompt) -> Prompt:
        """The prompt without the model's beginning-of-text token, if its context begins with that, to be looked up."""
        begins = (
            prompt.context and self._begin and list(prompt.ids[:1]) == self._begin and len(prompt.ids) > 1
        )
        return prompt._replace(ids=tuple(prompt.ids[1:] if begins else prompt.ids))

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
        before = [_states(_chain(context[:-1], parts)) for context in contexts]
        if not max(map(len, ids)) or not (self.cacheable or backbone.decoder):
            return [_Kept(own, []) for own in ids]
        if backbone.decoder is None:
            cache = joined(before, backbone.empty_cache(), backbone.device)
            (tokens, mask), begin = backbone.pad(ids), cache.mask.shape[1]
            cache.mask = torch.cat([cache.mask, mask], dim=1)
            backbone.forward(tokens, cache, last=True)
            found = [_Kept(own, cache.cut(row, begin, len(own))) for row, own in enumerate(ids)]
        else:
            _, read = backbone.decoder.read(before, ids, [])
            found = [*map(_Kept, ids, read.last([len(own) for own in ids]))]
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


def _states(chain: Sequence[_Kept]) -> list[Any]:
    return [kept.layers for kept in chain if len(kept.layers)]


def _readings(prompts: Sequence[Prompt], states: Tensor, logits: Tensor) -> list[Reading]:
    """states: [depths, tokens, d] float32, of the prompts one after the other; logits: [tokens, V]."""
    ids = torch.tensor([i for prompt in prompts for i in prompt.ids], device=logits.device)
    # A few rows at a time, so that the sums are made in the processor's cache.
    totals = torch.cat([few.float().logsumexp(-1) for few in torch.split(logits, 16)])
    of_tokens = logits[:-1].gather(1, ids[1:, None])[:, 0].float() - totals[:-1]
    found, end = list[Reading](), 0
    for own in torch.split(states, [len(prompt.ids) for prompt in prompts], dim=1):
        begin, end = end, end + own.shape[1]
        both = torch.stack([own[:, -1], own.mean(1)], dim=1)
        found.append(Reading(both, logits[end - 1].float() - totals[end - 1], of_tokens[begin : end - 1]))
    return found
