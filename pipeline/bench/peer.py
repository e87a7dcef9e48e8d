"""llama.cpp beside us: the same prompts continued from the same GGUF, on as many threads.

The wheel xllamacpp (the extra `peer`) has its server, which batches what is asked together. Nothing else of it is used.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch

from pipeline.model.errors import ModelError
from pipeline.model.hub import gguf_of

PROMPT_TOKENS = 64
"""Tokens of a prompt for which there is room; those of the measurement are shorter."""


class LlamaCpp:
    """llama.cpp with one model."""

    name = "llama.cpp"

    def __init__(self, model: str) -> None:
        """model: "default" or a .gguf file. Raises ModelError, also if the wheel is missing."""
        if find_spec("xllamacpp") is None:
            raise ModelError("--peer needs xllamacpp: pip install 'factstream[peer]'")
        self._gguf = gguf_of(model)

    @contextmanager
    def serving(self, rows: int, tokens: int) -> Iterator[Callable[[Sequence[str]], object]]:
        """Continues up to `rows` prompts at once by so many tokens each, greedily."""
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(self._gguf)
        params.n_parallel, params.n_ctx = rows, rows * (PROMPT_TOKENS + tokens)
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
        params.n_gpu_layers, params.verbosity = 0, 0
        server: Any = xllamacpp.Server(params)

        def one(prompt: str) -> None:
            asked = {"prompt": prompt, "max_tokens": tokens, "temperature": 0.0}
            found = server.handle_completions({**asked, "ignore_eos": True, "cache_prompt": False})
            assert found["usage"]["completion_tokens"] == tokens, found

        with ThreadPoolExecutor(rows) as pool:
            yield lambda prompts: list(pool.map(one, prompts))
