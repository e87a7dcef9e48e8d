"""Prompting, the baseline of the comparison: the retriever's best fact is put before the prompt.

There are three wordings, and each is measured twice: with the fact always, and only where its gate is open. Each measure
reports the best of these six ways.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.memory_lm import Job, MemoryLM
from pipeline.model.backbone import Backbone
from pipeline.model.batching import close_batches
from pipeline.model.kv_cache import KVCache
from pipeline.model.reading import QUESTION, REPEATED, SENTENCE
from pipeline.text.clauses import ends_in_label

WORDINGS = ("plain", "chat", "two examples")
GATINGS = ("", ", gated")
TOKENS = 24
"""Tokens of every generated text."""
BATCH = 32
"""Prompts that are continued together."""
BATCH_TOKENS = 1024
"""Prompt tokens that are read together."""

Done = Callable[[int], object]
"""Called with the number of prompts done since the last call."""


@dataclass(frozen=True, slots=True)
class Found:
    """The text of the best memories for a prompt ("" for none), and whether one of their gates is open."""

    text: str
    open: bool


def found(lm: MemoryLM, prompts: Sequence[str], namespace: str = "default", k: int = 1) -> list[Found]:
    """The best k memories of each prompt, one a line, best first."""
    retrieved = lm.retrieve(prompts, namespace, k)
    return [Found("\n".join(h.text for h in hits), any(h.gate > 0 for h in hits)) for hits in retrieved]


def after(prompt: str, facts: Sequence[str]) -> str:
    """The prompt after two examples of its kind and the facts, one a line; the prompt alone if there are none."""
    examples = REPEATED + (QUESTION if ends_in_label(prompt) else SENTENCE)
    return "\n".join([examples + facts[0], *facts[1:], prompt]) if facts else prompt


def job(wording: str, fact: str, prompt: str, max_new_tokens: int = 32) -> Job:
    """The prompt with the fact before it."""
    text = f"{fact}\n{prompt}" if fact else prompt
    if wording == "chat":
        chat = [{"role": "user", "content": text}]
        return Job(None, chat, use_memory=False, max_new_tokens=max_new_tokens)
    text = REPEATED + QUESTION + text if wording == "two examples" else text
    return Job(text, use_memory=False, max_new_tokens=max_new_tokens)


def generate(
    lm: MemoryLM, wording: str, facts: Sequence[Found], prompts: Sequence[str], done: Done
) -> list[str]:
    """Greedy answers with the fact always before the prompt, each cut off at the first blank line."""
    texts = []
    for at in range(0, len(prompts), BATCH):
        part = slice(at, at + BATCH)
        jobs = [job(wording, f.text, p, TOKENS) for f, p in zip(facts[part], prompts[part], strict=True)]
        texts += [answer.text.split("\n\n")[0] for answer in lm.answer(jobs)]
        done(len(jobs))
    return texts


def score(
    backbone: Backbone,
    wording: str,
    facts: Sequence[Found],
    prompts: Sequence[str],
    targets: Sequence[Sequence[str]],
    done: Done,
) -> list[list[float]]:
    """Mean log-probability per token (nats) of each of a prompt's targets, with the fact before the prompt.

    A prompt is read once for all its targets. All prompts must have equally many.
    """
    contexts = [_ids(backbone, job(wording, f.text, p)) for f, p in zip(facts, prompts, strict=True)]
    scores: list[list[float]] = [[] for _ in contexts]
    for batch, _, _ in close_batches([len(ids) for ids in contexts], BATCH_TOKENS):
        ids, mask = backbone.pad([contexts[i] for i in batch], left=True)
        first, decoding = backbone.prefill(ids, mask)
        for n in range(len(targets[batch[0]])):
            target_ids = [backbone.tokenize([" " + targets[i][n].strip()])[0].ids for i in batch]
            log_p = _log_probabilities(backbone, first, decoding, target_ids)
            for i, value in zip(batch, log_p, strict=True):
                scores[i].append(value)
            if added := decoding.mask.shape[1] - ids.shape[1]:  # back to where the prompt ends
                decoding.cache.crop(-added)
                decoding.mask = mask
        done(len(batch))
    return scores


def _log_probabilities(
    backbone: Backbone, first: Tensor, decoding: KVCache, target_ids: Sequence[list[int]]
) -> list[float]:
    """The mean log-probability per token of each row's target. first: the logits after the prompts, [rows, V]."""
    total = [0.0] * len(target_ids)
    logits = first
    for n in range(max(len(ids) for ids in target_ids)):
        if n:
            last = torch.tensor([ids[min(n, len(ids)) - 1] for ids in target_ids], device=backbone.device)
            logits = backbone.step(last, decoding)
        log_p = logits.log_softmax(-1)
        for row, ids in enumerate(target_ids):
            if n < len(ids):
                total[row] += float(log_p[row, ids[n]])
    return [value / len(ids) for value, ids in zip(total, target_ids, strict=True)]


def _ids(backbone: Backbone, job: Job) -> list[int]:
    text = backbone.chat(job.messages) if job.messages is not None else job.prompt or ""
    return backbone.clip(backbone.tokenize_prompt(text), 64)
