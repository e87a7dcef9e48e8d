"""The frozen language model: text to tokens, tokens to logits and hidden states, decoding with a cache.

Works with any causal language model of transformers: nothing here names an architecture. Knows nothing of facts,
memories or Kafka, and never changes a weight.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedTokenizerFast
from transformers.cache_utils import DynamicLayer

from pipeline.model.hub import ModelError, Progress, model_hash, quiet, resolve, silent

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Tokens(NamedTuple):
    """A text's token ids, and for each the (start, end) characters it stands for, without leading blanks."""

    ids: list[int]
    offsets: list[tuple[int, int]]


@dataclass
class Decoding:
    """A batch that is being continued: the model's keys and values so far, and which of them are no padding."""

    cache: DynamicCache
    mask: Tensor  # [B, T]


class _Reached(Exception):
    """Ends a forward pass early: all that was wanted of it has been taken."""


class _Pass(threading.local):
    """What the forward pass of this thread is to hand over: several threads may compute with one model."""

    layer = 0  # the states after so many layers; 0: none
    until = ""  # where it ends: "layer", "head" or nowhere
    states: Tensor | None = None
    given: Tensor | None = None  # what the head is given
    instead: Tensor | None = None  # what it gets in its place


class Backbone:
    """A frozen causal language model and its tokenizer. Build it with `load`."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerFast, hash: str, name: str) -> None:
        config = model.config.get_text_config()
        self.model = model
        self.tokenizer = tokenizer
        self.hash = hash
        self.name = name
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.n_layers: int = config.num_hidden_layers
        self.d_model: int = config.hidden_size
        self.vocab_size: int = config.vocab_size
        self.max_positions: int = getattr(config, "max_position_embeddings", None) or 2048
        self.eos_ids = _eos_ids(model, tokenizer)
        self._blocks = _blocks(model, self.n_layers)
        self._head = model.get_output_embeddings()
        self._pass = _Pass()
        for number, block in enumerate(self._blocks, 1):
            block.register_forward_hook(partial(self._behind_layer, number))
        self._head.register_forward_pre_hook(self._before_head)
        self._accepts = set(signature(model.forward).parameters)
        # A text is data: in it, "<|im_end|>" is eleven characters, not the end of a turn.
        self._plain: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._plain.encode_special_tokens = True
        self._plain.no_truncation()
        self._plain.no_padding()
        # What comes before a text, so that no word of it sits at position 0, where attention dumps what it has
        # no use for: the model's own beginning if its tokenizer adds one, else a line break.
        begun = tokenizer("a")["input_ids"][:1]
        self.lead: list[int] = begun if begun == [tokenizer.bos_token_id] else self.tokenize(["\n"])[0].ids
        self._pad_id = next(i for i in (tokenizer.pad_token_id, *self.eos_ids, 0) if i is not None)

    @classmethod
    def load(
        cls,
        model: str | Path = "default",
        device: str = "auto",
        dtype: str = "auto",
        progress: Progress = silent,
    ) -> Self:
        """Loads the model that models.resolve finds. Raises ModelError.

        device: "auto" (CUDA, then Apple's GPU, then the CPU) or torch's name of one.
        dtype: "auto" (bfloat16 where the hardware computes in it, else float32), or a key of DTYPES.
        """
        folder = resolve(model, progress)
        if device == "auto":
            device = _best_device()
        if dtype != "auto" and dtype not in DTYPES:
            raise ModelError(f"dtype is auto, {', '.join(DTYPES)}, not {dtype!r}")
        kind = _best_dtype(device) if dtype == "auto" else DTYPES[dtype]
        safe = {"local_files_only": True, "trust_remote_code": False}
        try:
            with quiet():
                tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
                network: Any = AutoModelForCausalLM.from_pretrained(
                    folder, dtype=kind, use_safetensors=True, **safe
                )
                network = network.to(device)
        except Exception as error:  # of the folder's files any may be broken, and each library has its errors
            raise ModelError(f"{model} could not be loaded from {folder}: {error}") from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ModelError(f"{model} has no tokenizer.json, so its tokens' places in a text are not known")
        network.eval().requires_grad_(False)
        return cls(network, tokenizer, model_hash(folder), str(model))

    # --- text ---

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Every text's tokens as plain text: nothing is added, and no markup in it is obeyed."""
        encoded = self._plain.encode_batch(list(texts), add_special_tokens=False)
        return [
            Tokens(e.ids, [_visible(text, *span) for span in e.offsets])
            for text, e in zip(texts, encoded, strict=True)
        ]

    def tokenize_prompt(self, prompt: str) -> list[int]:
        """A prompt's token ids, the model's markup and own beginning included: for text made by `chat`."""
        begin = [self.tokenizer.bos_token_id]
        ids: list[int] = self.tokenizer.backend_tokenizer.encode(prompt, add_special_tokens=False).ids
        return begin + ids if self.lead == begin and ids[:1] != begin else ids

    def decode(self, ids: Sequence[int]) -> str:
        """The tokens' text, without markup."""
        return self.tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=True)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The conversation ({role, content} each) in the model's own template, up to where it is to answer.

        A model without a template gets "role: content" lines. Markup within a content is taken out.
        """
        clean = [{"role": m["role"], "content": self._without_markup(m["content"])} for m in messages]
        if not self.tokenizer.chat_template:
            return "".join(f"{m['role']}: {m['content']}\n" for m in clean) + "assistant:"
        text = self.tokenizer.apply_chat_template(clean, tokenize=False, add_generation_prompt=True)
        return str(text)

    def _without_markup(self, text: str) -> str:
        before = None
        while text != before:  # what is taken out may join the ends of another one
            before = text
            for token in self.tokenizer.all_special_tokens:
                text = text.replace(token, "")
        return text

    # --- encoding: whole texts, padded on the right ---

    def pad(
        self, ids: Sequence[Sequence[int]], rows: int = 0, length: int = 0, left: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Token ids as a rectangle of at least `rows` x `length`, and the mask that is 1 where a token is.

        Rows that are missing get one token, so that no row is empty.
        """
        rows, length = max(rows, len(ids)), max(length, *(len(row) for row in ids))
        padded = torch.full((rows, length), self._pad_id)
        mask = torch.zeros((rows, length), dtype=torch.long)
        mask[len(ids) :, -1 if left else 0] = 1
        for r, row in enumerate(ids):
            where = slice(length - len(row), length) if left else slice(0, len(row))
            padded[r, where] = torch.tensor(row)
            mask[r, where] = 1
        if self.device.type == "cuda":  # from pinned memory the copy runs beside the card's work
            padded, mask = padded.pin_memory(), mask.pin_memory()
        return padded.to(self.device, non_blocking=True), mask.to(self.device, non_blocking=True)

    @torch.inference_mode()
    def read(self, ids: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """What the head is given, in the model's dtype, and the states after `layer` (1 … n_layers) layers, float32: both
        [B, T, d]. Of what the head makes of the former see `losses`.

        ids: [B, T], padded on the right. There a causal model's tokens see no padding, so it gets no mask: with one it
        would take another path where a batch happens to have no padding, whose numbers differ in the last bits.
        """
        states, given = self._run(ids, layer, "head")
        return given, states.float()

    @torch.inference_mode()
    def losses(self, given: Tensor, targets: Sequence[int], rows: int) -> Tensor:
        """-log p of each target, nats, float32 [N]. given: what the head is given, [N, d]; targets: N token ids.

        The head is the widest part of a small model: it reads no padding but what fills `rows`, so that a state's numbers do
        not depend on what is beside it.
        """
        logits = self._logits(nn.functional.pad(given, (0, 0, 0, max(0, rows - len(given)))))[: len(given)]
        chosen = logits.gather(-1, torch.tensor(targets, device=self.device)[:, None])[:, 0].float()
        # A few rows at a time, whose sums are made in the processor's cache.
        return torch.cat([few.float().logsumexp(-1) for few in torch.split(logits, 16)]) - chosen

    def _logits(self, given: Tensor) -> Tensor:
        """[N, d] to [N, V]. A model that does more to its logits than its head does (scales or caps them) does it here too:
        it reads one token, and `given` takes that token's place before the head."""
        if self._head_is_all:
            return cast(Tensor, self._head(given))
        self._pass.instead = given[None]
        try:
            return cast(Tensor, self.model(input_ids=self._one_token(), use_cache=False).logits[0])
        finally:
            self._pass.instead = None

    @cached_property
    def _head_is_all(self) -> bool:
        ids = self._one_token()
        given = self._run(ids, 1, "head")[1]
        return torch.equal(self._head(given), self.model(input_ids=ids, use_cache=False).logits)

    def _one_token(self) -> Tensor:
        return torch.tensor([self.lead[:1]], device=self.device)

    @torch.inference_mode()
    def states(self, ids: Tensor, layer: int) -> Tensor:
        """The states after `layer` layers, float32 [B, T, d], as `read` has them; the layers above are not computed."""
        return self._run(ids, layer, "layer")[0].float()

    def _run(self, ids: Tensor, layer: int, until: str) -> tuple[Tensor, Tensor]:
        """The states after `layer` layers and, if it goes on until the "head", what that is given."""
        taken = self._pass
        taken.layer, taken.until = layer, until
        try:
            self.model(input_ids=ids, use_cache=False)
        except _Reached:
            pass
        finally:
            taken.layer, taken.until = 0, ""
            states, given, taken.states, taken.given = taken.states, taken.given, None, None
        return cast(Tensor, states), cast(Tensor, given)

    def _behind_layer(self, number: int, _module: nn.Module, _inputs: object, output: Any) -> None:
        if number == self._pass.layer:
            self._pass.states = _first(output)
            if self._pass.until == "layer":
                raise _Reached

    def _before_head(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self._pass.until == "head":
            self._pass.given = inputs[0]
            raise _Reached
        given = inputs[0] if self._pass.instead is None else self._pass.instead
        # Cut to its last position, the state is not contiguous, and the head would copy its weights for each row.
        return (given.contiguous(), *inputs[1:])

    # --- decoding: prompts, padded on the left, one token after the other ---

    @torch.inference_mode()
    def prefill(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Decoding]:
        """Reads the prompts: the next token's logits, float32 [B, V], and what `step` goes on from.

        ids, mask: [B, T], padded on the left.
        """
        decoding = Decoding(DynamicCache(config=self.model.config), mask)
        return self._next(ids, decoding), decoding

    @torch.inference_mode()
    def step(self, ids: Tensor, decoding: Decoding) -> Tensor:
        """Reads one more token of each row, ids [B]; the next token's logits, float32 [B, V]."""
        decoding.mask = torch.cat([decoding.mask, decoding.mask.new_ones(len(ids), 1)], dim=1)
        return self._next(ids[:, None], decoding)

    @torch.inference_mode()
    def select(self, decoding: Decoding, rows: Sequence[int]) -> None:
        """Keeps only these rows, in this order, and of the padding only what they need."""
        index = torch.tensor(rows, device=self.device)
        decoding.cache.batch_select_indices(index)
        decoding.mask = decoding.mask[index]
        if self.joinable(decoding) and (padding := int(decoding.mask.any(0).int().argmax())):
            decoding.mask = decoding.mask[:, padding:]
            for layer in _layers(decoding):
                layer.keys, layer.values = layer.keys[:, :, padding:], layer.values[:, :, padding:]

    @staticmethod
    def joinable(decoding: Decoding) -> bool:
        """Whether the cache is keys and values of every token, and nothing else: only then can `join` put two together."""
        return all(type(layer) is DynamicLayer for layer in decoding.cache.layers)

    @torch.inference_mode()
    def join(self, one: Decoding, other: Decoding) -> Decoding:
        """One batch of two, the first one's rows before the other's; the shorter one is padded on the left."""
        width = max(one.mask.shape[1], other.mask.shape[1])
        for mine, theirs in zip(_layers(one), _layers(other), strict=True):
            mine.keys = torch.cat([_widen(mine.keys, width), _widen(theirs.keys, width)])
            mine.values = torch.cat([_widen(mine.values, width), _widen(theirs.values, width)])
        masks = [nn.functional.pad(d.mask, (width - d.mask.shape[1], 0)) for d in (one, other)]
        return Decoding(one.cache, torch.cat(masks))

    def clip(self, ids: list[int], room: int) -> list[int]:
        """The end of a prompt, behind the model's own beginning if it has that, which leaves `room` tokens of the
        context for what is to be generated."""
        kept = max(1, self.max_positions - room)
        if len(ids) <= kept:
            return ids
        begin = [i for i in ids[:1] if kept > 1 and i == self.tokenizer.bos_token_id and self.lead == [i]]
        return begin + ids[len(ids) - kept + len(begin) :]

    def _next(self, ids: Tensor, decoding: Decoding) -> Tensor:
        given: dict[str, Any] = {}
        if "position_ids" in self._accepts:  # padding takes up no positions
            positions = (decoding.mask.cumsum(dim=1) - 1).clamp(min=0)
            given["position_ids"] = positions[:, -ids.shape[1] :]
        if "logits_to_keep" in self._accepts:
            given["logits_to_keep"] = 1
        output = self.model(
            input_ids=ids,
            attention_mask=decoding.mask,
            past_key_values=decoding.cache,
            use_cache=True,
            **given,
        )
        last: Tensor = output.logits[:, -1].float()
        return last


def _visible(text: str, start: int, end: int) -> tuple[int, int]:
    """A token's characters without leading blanks: some tokenizers count the blank before a word, some do not."""
    piece = text[start:end].lstrip()
    return end - len(piece), end


def _layers(decoding: Decoding) -> list[Any]:
    return list(decoding.cache.layers)


def _widen(states: Tensor, width: int) -> Tensor:
    """[B, heads, T, d] padded on the left to [B, heads, width, d]."""
    return nn.functional.pad(states, (0, 0, width - states.shape[2], 0))


def _first(output: Any) -> Tensor:
    state: Tensor = output if isinstance(output, Tensor) else output[0]
    return state


def _blocks(model: nn.Module, count: int) -> nn.ModuleList:
    """The decoder's layers: of the module lists with one entry a layer, the one with the most parameters."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise ModelError(
            f"{type(model).__name__} has no list of {count} layers, so its states cannot be read"
        )
    return max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))


def _eos_ids(model: Any, tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Every token that ends a text: a model may have several, and its tokenizer another one."""
    ends = model.generation_config.eos_token_id if model.generation_config else None
    several = ends if isinstance(ends, list) else [ends]
    return frozenset(int(i) for i in (*several, tokenizer.eos_token_id) if i is not None)


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
