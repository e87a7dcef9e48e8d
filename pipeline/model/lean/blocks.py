"""Blocks: the weights of a transformers model, as the lean loop takes them.

The only file that knows how models are built. One family is known: rotary positions, RMS norms, a gated network, keys and values that several query heads share. Its members
differ in biases (Qwen 2), in norms of each head (Qwen 3, Gemma 3), in norms after a part (Gemma 3), and in layers that see only
the last tokens (Gemma 3).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.model.lean.matrix import Matrix, fuse

KNOWN = {"llama", "qwen2", "qwen3", "gemma3_text"}
_ROPES = {"default", "linear", "llama3", "yarn"}  # whose angles do not depend on a text's length
REORDERED_BYTES = 1 << 30  # of a model's weights, up to which they are kept in oneDNN's order as well
_REJECTED = ("final_logit_softcapping", "attn_logit_softcapping", "use_bidirectional_attention")


class Norm(NamedTuple):
    """An RMS norm."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return torch.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Block(NamedTuple):
    """A layer. None: the model has no such part."""

    before_attention: Norm
    qkv: Matrix
    of_query: Norm | None
    of_key: Norm | None
    attended: Matrix
    after_attention: Norm | None
    before_network: Norm
    gate_up: Matrix
    activation: Callable[[Tensor], Tensor]
    down: Matrix
    after_network: Norm | None
    kind: str  # of its rotary positions and its window
    window: int | None  # the last tokens that are seen

    def matrices(self) -> list[Matrix]:
        return [self.qkv, self.attended, self.gate_up, self.down]


class Blocks(NamedTuple):
    """A whole model."""

    embed: Callable[[Tensor], Tensor]
    blocks: list[Block]
    norm: Norm
    head: Matrix
    heads: int  # of keys
    queries: int  # heads of a query for each of them
    head_size: int
    scale: float  # of a query
    rotary: Callable[
        [Tensor, Tensor, str], tuple[Tensor, Tensor]
    ]  # (dtype's example, positions, kind) to cos, sin

    def matrices(self) -> list[Matrix]:
        return [*(matrix for block in self.blocks for matrix in block.matrices()), self.head]


def blocks_of(model: Any, packed: bool) -> Blocks | None:
    """The model's weights; None for a model that is built in another way.

    packed: whether they are also kept in few bits, for few rows, and if they are not large in oneDNN's order, for more.
    """
    config = model.config
    if config.model_type not in KNOWN or any(getattr(config, name, None) for name in _REJECTED):
        return None
    inner = model.model
    types = inner.rotary_emb.rope_type
    if not set(types.values() if isinstance(types, dict) else [types]) <= _ROPES:
        return None
    attention = inner.layers[0].self_attn
    blocks = Blocks(
        inner.embed_tokens, [_block(layer, config, n, packed) for n, layer in enumerate(inner.layers)],
        _norm(inner.norm), Matrix(model.lm_head.weight, None, packed), config.num_key_value_heads,
        config.num_attention_heads // config.num_key_value_heads, attention.head_dim, attention.scaling,
        inner.rotary_emb if isinstance(types, dict) else lambda x, positions, _: inner.rotary_emb(x, positions),
    )  # fmt: skip
    if packed and sum(matrix.weight.nbytes for matrix in blocks.matrices()) <= REORDERED_BYTES:
        for matrix in blocks.matrices():
            matrix.reorder()
    return blocks


def _block(layer: Any, config: Any, number: int, packed: bool) -> Block:
    attention, network = layer.self_attn, layer.mlp
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    # What follows the attention's norm is called differently where a part has norms before and after it.
    twice = hasattr(layer, "pre_feedforward_layernorm")
    return Block(
        before_attention=_norm(layer.input_layernorm),
        qkv=fuse([attention.q_proj, attention.k_proj, attention.v_proj], packed),
        of_query=_norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
        of_key=_norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
        attended=fuse([attention.o_proj], packed),
        after_attention=_norm(layer.post_attention_layernorm) if twice else None,
        before_network=_norm(layer.pre_feedforward_layernorm if twice else layer.post_attention_layernorm),
        gate_up=fuse([network.gate_proj, network.up_proj], packed),
        activation=network.act_fn.forward,
        down=fuse([network.down_proj], packed),
        after_network=_norm(layer.post_feedforward_layernorm) if twice else None,
        kind=kinds[number],
        window=config.sliding_window if kinds[number] == "sliding_attention" else None,
    )


def _norm(module: Any) -> Norm:
    if hasattr(module, "variance_epsilon"):
        return Norm(module.weight, module.variance_epsilon)
    return Norm(1 + module.weight, module.eps)  # as Gemma counts them
