"""Random models of each build that the lean decoder knows."""

from typing import Any

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SIZE: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
LAYERS = ["sliding_attention", "full_attention"] * 2
BUILDS: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZE)),
    "llama, long": (
        LlamaForCausalLM,
        LlamaConfig(**SIZE, rope_parameters={
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        }),
    ),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**SIZE)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**SIZE, head_dim=24)),
    "gemma3": (
        Gemma3ForCausalLM,
        Gemma3TextConfig(**SIZE, head_dim=24, sliding_window=16, layer_types=LAYERS, query_pre_attn_scalar=10),
    ),
}  # fmt: skip


def network(build: str, vocabulary: int = 300) -> Any:
    """A random model, in float32, whose every weight, bias and norm matters."""
    kind, config = BUILDS[build]
    config = type(config)(**config.to_dict() | {"vocab_size": vocabulary})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = kind(config).eval().requires_grad_(False)
        for parameter in made.parameters():
            parameter.copy_(parameter * 6 if parameter.dim() > 1 else parameter + torch.rand_like(parameter))
    return made
