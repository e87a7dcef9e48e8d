"""The frozen language model: tokens of a text, hidden states, and decoding with a key/value cache.

Works with any causal language model of transformers: nothing here names an architecture, and no weight is ever changed.
"""

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from transformers import AutoTokenizer, DynamicCache, PreTrainedTokenizerFast

from pipeline.model import room
from pipeline.model.cache import model_hash
from pipeline.model.errors import ModelError, Progress, silent
from pipeline.model.gguf import quiet
from pipeline.model.hidden_states import HiddenStates
from pipeline.model.hub import load_network, resolve
from pipeline.model.kv_cache import KVCache
from pipeline.model.lean.cache import StaticCache
from pipeline.model.lean.decoder import Decoder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Tokens(NamedTuple):
    """A text's token ids, and the characters (start, end) of each, without leading blanks."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Backbone:
    """A frozen causal language model and its tokenizer. Build it with `load`."""

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerFast, hash: str, name: str, packed: bool = False
    ) -> None:
        """packed: whether answers are decoded with weights of few bits (lean/matrix.py)."""
        config = model.config.get_text_config()
        self._packed = packed
        self.model = model
        self.tokenizer = tokenizer
        self.hash = hash
        self.name = name
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.n_layers: int = config.num_hidden_layers
        self.max_positions: int = getattr(config, "max_position_embeddings", None) or 2048
        self.eos_ids = _eos_ids(model, tokenizer)
        self.accepts = set(signature(model.forward).parameters)
        self._encoding = threading.Lock()
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        # The tokens before a text keep its words away from position 0, the attention sink (Xiao et al. 2023): the model's
        # own beginning-of-text token where its tokenizer adds one, else a line break.
        begun = tokenizer("a")["input_ids"][:1]
        self.lead: list[int] = begun if begun == [tokenizer.bos_token_id] else self.tokenize(["\n"])[0].ids
        self._pad_id = next(i for i in (tokenizer.pad_token_id, *self.eos_ids, 0) if i is not None)
        self.hidden = HiddenStates(model, self.n_layers, self.lead[0])

    @classmethod
    def load(
        cls,
        model: str | Path = "default",
        device: str = "auto",
        dtype: str = "auto",
        progress: Progress = silent,
    ) -> Self:
        """Loads the model that `hub.resolve` finds. Raises ModelError.

        device: "auto" (CUDA, then Apple's GPU, then the CPU) or torch's name of one.
        dtype: a key of DTYPES, or "auto": bfloat16 where the hardware computes in it, else float32; and on a CPU
            answers are decoded with weights of 4 or 8 bits (lean/matrix.py).
        """
        folder = resolve(model, progress)
        if device == "auto":
            device = _best_device()
        if dtype != "auto" and dtype not in DTYPES:
            raise ModelError(f"dtype is auto, {', '.join(DTYPES)}, not {dtype!r}")
        torch_dtype = _best_dtype(device) if dtype == "auto" else DTYPES[dtype]
        try:
            with quiet():
                tokenizer = AutoTokenizer.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
                network = load_network(folder, torch_dtype).to(device)
        except Exception as error:  # any file may be broken, and each library raises its own errors
            raise ModelError(f"{model} could not be loaded from {folder}: {error}") from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ModelError(f"{model} has no tokenizer.json, so its tokens' places in a text are not known")
        network.eval().requires_grad_(False)
        return cls(network, tokenizer, model_hash(folder), str(model), dtype == "auto" and _packs(device))

    # --- room on a GPU ---

    @cached_property
    def batch_tokens(self) -> int | None:
        """Tokens of a batch of facts, from the free memory of the GPU at first; None on other devices."""
        free = room.free_bytes(self.device)
        config = self.model.config.get_text_config()
        return None if free is None else room.tokens_at_once(config, self.dtype, free)

    @cached_property
    def batch_rows(self) -> int | None:
        """Requests that are answered together, likewise."""
        free = room.free_bytes(self.device)
        config = self.model.config.get_text_config()
        return None if free is None else room.rows_at_once(config, self.dtype, self.max_positions, free)

    # --- text ---

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Each text's tokens as plain text: nothing is added, and markup in it has no effect."""
        return [
            Tokens(e.ids, [_visible(text, *span) for span in e.offsets])
            for text, e in zip(texts, self._encode(texts, markup=False), strict=True)
        ]

    def tokenize_prompt(self, prompt: str) -> list[int]:
        """A prompt's token ids, the model's markup and own beginning included: for text made by `chat`."""
        begin = [self.tokenizer.bos_token_id]
        [encoded] = self._encode([prompt], markup=True)
        ids: list[int] = encoded.ids
        return begin + ids if self.lead == begin and ids[:1] != begin else ids

    def _encode(self, texts: Sequence[str], markup: bool) -> list[Any]:
        """The texts' tokens. A text is data: without `markup`, "<|im_end|>" is ten characters in it, not the end of a turn.

        One tokenizer serves both: a copy would take a quarter of a second to make, and its vocabulary again in memory.
        """
        tokenizer = self.tokenizer.backend_tokenizer
        with self._encoding:
            tokenizer.encode_special_tokens = not markup
            encoded: list[Any] = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return encoded

    def decode(self, ids: Sequence[int]) -> str:
        """The tokens' text, without markup."""
        return self.tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=True)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation ({role, content} each) in the model's own template, up to where its answer begins.

        A model without a template gets "role: content" lines. Markup within a content is removed.
        """
        clean = [{"role": m["role"], "content": self._without_markup(m["content"])} for m in messages]
        if not self.tokenizer.chat_template:
            return "".join(f"{m['role']}: {m['content']}\n" for m in clean) + "assistant:"
        text = self.tokenizer.apply_chat_template(clean, tokenize=False, add_generation_prompt=True)
        return str(text)

    def _without_markup(self, text: str) -> str:
        before = None
        while text != before:  # the ends of a removed token may join into another one
            before = text
            for token in self.tokenizer.all_special_tokens:
                text = text.replace(token, "")
        return text

    # --- batches ---

    def pad(
        self, ids: Sequence[Sequence[int]], rows: int = 0, length: int = 0, left: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Token ids as a rectangle of at least `rows` x `length`, and the mask that is 1 where a token is.

        Missing rows get one token, so that no row is empty.
        """
        rows, length = max(rows, len(ids)), max(length, *(len(row) for row in ids))
        padded = torch.full((rows, length), self._pad_id)
        mask = torch.zeros((rows, length), dtype=torch.long)
        mask[len(ids) :, -1 if left else 0] = 1
        for r, row in enumerate(ids):
            where = slice(length - len(row), length) if left else slice(0, len(row))
            padded[r, where] = torch.tensor(row)
            mask[r, where] = 1
        if self.device.type == "cuda":  # a copy from pinned memory overlaps with the GPU's work
            padded, mask = padded.pin_memory(), mask.pin_memory()
        return padded.to(self.device, non_blocking=True), mask.to(self.device, non_blocking=True)

    # --- decoding: one token after the other ---

    @cached_property
    def decoder(self) -> Decoder | None:
        """The lean loop; None for a model whose build it does not know, which transformers decodes."""
        return Decoder.of(self.model, self._packed)

    @torch.inference_mode()
    def prefill(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, KVCache]:
        """Reads the prompts with transformers: the next token's logits, float32 [B, V], and the cache for `step`.

        ids, mask: [B, T], padded on the left.
        """
        cache = KVCache(DynamicCache(config=self.model.config), mask)
        return self._next(ids, cache), cache

    @torch.inference_mode()
    def step(self, ids: Tensor, cache: KVCache | StaticCache) -> Tensor:
        """Reads one more token of each row, ids [B]; the next token's logits, float32 [B, V]."""
        if isinstance(cache, StaticCache):
            assert self.decoder is not None, "which made the cache"
            return self.decoder.step(ids, cache)
        cache.mask = torch.cat([cache.mask, cache.mask.new_ones(len(ids), 1)], dim=1)
        return self._next(ids[:, None], cache)

    def empty_cache(self) -> DynamicCache:
        """A cache without tokens, for `logits`."""
        return DynamicCache(config=self.model.config)

    @torch.inference_mode()
    def logits(self, ids: Tensor, cache: DynamicCache | None = None) -> Tensor:
        """The logits after each token, [B, T, V] in the model's dtype, for ids [B, T] that no padding precedes.

        cache: keys and values of the tokens before them; those of `ids` are appended to it.
        """
        output = self.model(input_ids=ids, past_key_values=cache, use_cache=cache is not None)
        logits: Tensor = output.logits
        return logits

    def clip(self, ids: list[int], room: int) -> list[int]:
        """The last tokens of a prompt, so many that `room` tokens of the context are left for the answer.

        The model's own beginning-of-text token is kept, if the prompt begins with it.
        """
        kept = max(1, self.max_positions - room)
        if len(ids) <= kept:
            return ids
        begin = [i for i in ids[:1] if kept > 1 and i == self.tokenizer.bos_token_id and self.lead == [i]]
        return begin + ids[len(ids) - kept + len(begin) :]

    def _next(self, ids: Tensor, cache: KVCache) -> Tensor:
        """The logits after the last of `ids` [B, T], float32 [B, V]; the cache has these tokens afterwards."""
        last: Tensor = self.forward(ids, cache, last=True).logits[:, -1].float()
        return last

    def forward(self, ids: Tensor, cache: KVCache, states: bool = False, last: bool = False) -> Any:
        """The model's own output for `ids` [B, T], which the cache's mask already has, and its cache gets.

        states: with the states after each layer; last: the logits after the last of the ids are enough.
        """
        optional: dict[str, Any] = {}  # arguments that not every model takes
        if "position_ids" in self.accepts:  # padding takes up no positions
            # A row that has ended goes on until its batch drops it, maybe beyond the last position that the model has.
            positions = (cache.mask.cumsum(dim=1) - 1).clamp(0, self.max_positions - 1)
            optional["position_ids"] = positions[:, -ids.shape[1] :]
        if last and "logits_to_keep" in self.accepts:
            optional["logits_to_keep"] = 1
        return self.model(
            input_ids=ids,
            attention_mask=cache.mask,
            past_key_values=cache.cache,
            use_cache=True,
            output_hidden_states=states,
            **optional,
        )


def _visible(text: str, start: int, end: int) -> tuple[int, int]:
    """A token's characters without leading blanks: some tokenizers count the blank before a word, some do not."""
    piece = text[start:end].lstrip()
    return end - len(piece), end


def _eos_ids(model: Any, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Every token that ends a text: a model may have several, and its tokenizer another one."""
    ends = model.generation_config.eos_token_id if model.generation_config else None
    several = ends if isinstance(ends, list) else [ends]
    return frozenset(int(i) for i in (*several, tokenizer.eos_token_id) if i is not None)


def _packs(device: str) -> bool:
    """Whether torch has fast kernels for weights of few bits there. Others than those of x86 were not tried."""
    return device == "cpu" and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _best_dtype(device: str) -> torch.dtype:
    """bfloat16 where it is computed in hardware. Elsewhere it would be slower than float32, not faster."""
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if device == "cpu" and any(
        getattr(torch.cpu, probe, lambda: False)()
        for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    ):
        return torch.bfloat16
    return torch.float32
