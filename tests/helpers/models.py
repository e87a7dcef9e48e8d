"""Small random language models in Hugging Face's format, made in a second and without network.

Their weights and their tokenizer's corpus are invented, from a fixed seed: they know nothing and say nonsense, but
they are built as the real ones are, so whatever works on any causal model must work on them.
"""

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

CONTEXT = 256
VOCABULARY = 1000
TURNS = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}<|turn|>assistant"
)


def make_gpt2(folder: Path) -> Path:
    """GPT-2's build: learned positions, tied embeddings, one special token, no chat template."""
    tokenizer = _tokenizer(["<|endoftext|>"])
    end = "<|endoftext|>"
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)
    config = GPT2Config(
        vocab_size=len(fast), n_positions=CONTEXT, n_embd=48, n_layer=3, n_head=4,
        bos_token_id=fast.bos_token_id, eos_token_id=fast.eos_token_id,
    )  # fmt: skip
    return _save(folder, GPT2LMHeadModel, config, fast)


def make_llama(folder: Path) -> Path:
    """LLaMA's build: rotary positions, grouped heads, a beginning that the tokenizer adds, and a chat template."""
    tokenizer = _tokenizer(["<|begin|>", "<|end|>", "<|turn|>"])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", fast.bos_token_id)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>", chat_template=TURNS,
        additional_special_tokens=["<|turn|>"],
    )  # fmt: skip
    config = LlamaConfig(
        vocab_size=len(fast), max_position_embeddings=CONTEXT, hidden_size=64, intermediate_size=96,
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        bos_token_id=fast.bos_token_id, eos_token_id=fast.eos_token_id,
    )  # fmt: skip
    return _save(folder, LlamaForCausalLM, config, fast)


def _save(folder: Path, kind: Any, config: Any, tokenizer: PreTrainedTokenizerFast) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = kind(config)
        for parameter in network.parameters():  # as initialised, all logits are nearly alike
            if parameter.dim() > 1:
                parameter.data.mul_(6)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(special: list[str]) -> Tokenizer:
    """A byte-level BPE, whose vocabulary is in the order of its merges, as that of every real one."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _corpus(sentences: int = 2000) -> list[str]:
    """Sentences of common English little words and invented nouns, some frequent and most rare."""
    dice = random.Random(7)
    syllables = [a + b for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "u", "an", "er", "is")]
    nouns = ["".join(dice.choices(syllables, k=dice.randint(1, 3))) for _ in range(600)]
    weights = [1 / rank for rank in range(1, len(nouns) + 1)]
    frames = [
        "The {} of the {} is a {}.",
        "{} and {} are in {}.",
        "Question: what is the {}? Answer: {} is made of {}.",
    ]
    return [
        dice.choice(frames).format(*dice.choices(nouns, weights, k=3)).replace("  ", " ")
        for _ in range(sentences)
    ]
