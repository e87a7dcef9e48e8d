"""Hidden states of a frozen model, read by forward hooks that end the pass early.

Works on whole texts, padded on the right, and without a cache. Causal attention keeps a token from seeing the padding
after it, so the model gets no mask: with one, it would take another path where a batch happens to have no padding,
whose numbers differ in the last bits.
"""

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from pipeline.model.errors import ModelError


class HiddenStates:
    """The states after a layer, the head's input, and the losses of the head's predictions. Threads may share it."""

    def __init__(self, model: Any, n_layers: int, probe_token: int) -> None:
        """probe_token: any token that the model accepts as its only input."""
        self._model = model
        self._head = model.get_output_embeddings()
        self._probe_token = probe_token
        self._pass = _Pass()
        for number, block in enumerate(_blocks(model, n_layers), 1):
            block.register_forward_hook(partial(self._after_layer, number))
        self._head.register_forward_pre_hook(self._before_head)

    @torch.inference_mode()
    def read(self, ids: Tensor, layer: int, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The head's input in the model's dtype, for `losses`, and the states after `layer` layers, float32; both [B, T, d].

        ids: [B, T], padded on the right; layer: 1 … n_layers; positions: [B, T], 0 … T - 1 by default.
        """
        states, head_input = self._run(
            ids, layer, "head", {} if positions is None else {"position_ids": positions}
        )
        return head_input, states.float()

    @torch.inference_mode()
    def after(self, ids: Tensor, layer: int) -> Tensor:
        """The states after `layer` layers, float32 [B, T, d]; the layers above are not computed."""
        return self._run(ids, layer, "layer")[0].float()

    @torch.inference_mode()
    def losses(self, head_input: Tensor, targets: Sequence[int], rows: int) -> Tensor:
        """-log p of each target, nats, float32 [N].

        head_input: [N, d]; targets: N token ids; rows: the head always computes at least this many, so that the numbers of
        one state do not depend on how many states are beside it.
        """
        missing = max(0, rows - len(head_input))
        logits = self._logits(nn.functional.pad(head_input, (0, 0, 0, missing)))[: len(head_input)]
        chosen = logits.gather(-1, torch.tensor(targets, device=logits.device)[:, None])[:, 0].float()
        # A few rows at a time, so that the sums are made in the processor's cache.
        return torch.cat([few.float().logsumexp(-1) for few in torch.split(logits, 16)]) - chosen

    def _logits(self, head_input: Tensor) -> Tensor:
        """[N, d] to [N, V]. A model may scale or cap its logits after the head.

        Then the model itself reads one token, and `head_input` replaces that token's state before the head.
        """
        if self._head_is_all:
            return cast(Tensor, self._head(head_input))
        self._pass.replacement = head_input[None]
        try:
            return cast(Tensor, self._model(input_ids=self._probe(), use_cache=False).logits[0])
        finally:
            self._pass.replacement = None

    @cached_property
    def _head_is_all(self) -> bool:
        """Whether the model does nothing to its logits after the head."""
        head_input = self._run(self._probe(), 1, "head")[1]
        return torch.equal(
            self._head(head_input), self._model(input_ids=self._probe(), use_cache=False).logits
        )

    def _probe(self) -> Tensor:
        return torch.tensor([[self._probe_token]], device=self._model.device)

    def _run(
        self, ids: Tensor, layer: int, until: str, inputs: Mapping[str, Tensor] = MappingProxyType({})
    ) -> tuple[Tensor, Tensor]:
        """The states after `layer` layers and, where the pass goes on until the "head", the head's input."""
        current = self._pass
        current.layer, current.until = layer, until
        try:
            self._model(input_ids=ids, use_cache=False, **inputs)
        except _Reached:
            pass
        finally:
            current.layer, current.until = 0, ""
            states, head_input, current.states, current.head_input = (
                current.states, current.head_input, None, None,
            )  # fmt: skip
        return cast(Tensor, states), cast(Tensor, head_input)

    def _after_layer(self, number: int, _module: nn.Module, _inputs: object, output: Any) -> None:
        if number == self._pass.layer:
            self._pass.states = output if isinstance(output, Tensor) else output[0]
            if self._pass.until == "layer":
                raise _Reached

    def _before_head(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self._pass.until == "head":
            self._pass.head_input = inputs[0]
            raise _Reached
        head_input = inputs[0] if self._pass.replacement is None else self._pass.replacement
        # Cut to its last position, the state is not contiguous, and the head would copy its weights for each row.
        return (head_input.contiguous(), *inputs[1:])


class _Reached(Exception):
    """Ends a forward pass early, once all wanted states are read."""


class _Pass(threading.local):
    """What the hooks read in the forward pass of this thread, and their results."""

    layer = 0  # read the states after this many layers; 0: none
    until = ""  # end at the "layer", at the "head", or not at all
    states: Tensor | None = None
    head_input: Tensor | None = None
    replacement: Tensor | None = None  # of the head's input


def _blocks(model: nn.Module, count: int) -> nn.ModuleList:
    """The decoder's layers: of the module lists with one entry a layer, the one with the most parameters."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise ModelError(
            f"{type(model).__name__} has no list of {count} layers, so its hidden states cannot be read"
        )
    return max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))
