"""Prompting, what a memory must beat: the frozen model is given the retriever's best fact before the prompt.

Three wordings, each with the fact always put there, or only when its gate is open: whichever is best at a measure
stands for prompting in it. Knows MemoryLM and its backbone; knows nothing of what is measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.fusion.answer_span import EXAMPLES
from pipeline.memory_lm import Job, MemoryLM
from pipeline.model.backbone import Backbone
from pipeline.model.batching import close_batches
from pipeline.model.kv_cache import KVCache

WORDINGS = ("plain", "chat", "two examples")
GATINGS = ("", ", gated")

BATCH = 16  # prompts that are continued together
TOGETHER = 1024  # tokens of prompts that are read together

Tell = Callable[[int], None]
"""Is told how many more are done."""


@dataclass(frozen=True, slots=True)
class Found:
    """The best memory's text for a prompt ("" if there is none), and whether it may speak."""

    text: str
    open: bool


def found(lm: MemoryLM, prompts: Sequence[str], namespace: str = "default", k: int = 1) -> list[Found]:
    """The best k memories of each prompt, one a line, best first."""
    hits = lm.retrieve(prompts, namespace, k)
    return [Found("\n".join(h.text for h in some), any(h.gate > 0 for h in some)) for some in hits]


def job(wording: str, fact: str, prompt: str, max_new_tokens: int = 32) -> Job:
    """The prompt with the fact before it."""
    told = f"{fact}\n{prompt}" if fact else prompt
    if wording == "chat":
        chat = [{"role": "user", "content": told}]
        return Job(None, chat, use_memory=False, max_new_tokens=max_new_tokens)
    text = EXAMPLES + told if wording == "two examples" else told
    return Job(text, use_memory=False, max_new_tokens=max_new_tokens)


def generate(
    lm: MemoryLM, wording: str, facts: Sequence[Found], prompts: Sequence[str], tokens: int, tell: Tell
) -> list[str]:
    """Greedy answers, the fact always put before the prompt. Two examples end where another one would begin."""
    texts = []
    for at in range(0, len(prompts), 2 * BATCH):
        part = slice(at, at + 2 * BATCH)
        jobs = [job(wording, f.text, p, tokens) for f, p in zip(facts[part], prompts[part], strict=True)]
        texts += [answer.text.split("\n\n")[0] for answer in lm.answer(jobs)]
        tell(len(jobs))
    return texts


def score(
    backbone: Backbone,
    wording: str,
    facts: Sequence[Found],
    prompts: Sequence[str],
    targets: Sequence[Sequence[str]],
    tell: Tell,
) -> list[list[float]]:
    """Mean log-probability per token (nats) of each of a prompt's targets, the fact always put before the prompt.

    A prompt is read once for all of its targets. All prompts have equally many.
    """
    contexts = [_ids(backbone, job(wording, f.text, p)) for f, p in zip(facts, prompts, strict=True)]
    done: list[list[float]] = [[] for _ in contexts]
    for batch, _, _ in close_batches([len(ids) for ids in contexts], TOGETHER):
        ids, mask = backbone.pad([contexts[i] for i in batch], left=True)
        first, decoding = backbone.prefill(ids, mask)
        for n in range(len(targets[batch[0]])):
            wanted = [backbone.tokenize([" " + targets[i][n].strip()])[0].ids for i in batch]
            for i, value in zip(batch, _continued(backbone, first, decoding, wanted), strict=True):
                done[i].append(value)
            if added := decoding.mask.shape[1] - ids.shape[1]:  # back to where the prompt ends
                decoding.cache.crop(-added)
                decoding.mask = mask
        tell(len(batch))
    return done


def _continued(
    backbone: Backbone, first: Tensor, decoding: KVCache, wanted: Sequence[list[int]]
) -> list[float]:
    total = [0.0] * len(wanted)
    logits = first
    for n in range(max(len(ids) for ids in wanted)):
        if n:
            read = torch.tensor([ids[min(n, len(ids)) - 1] for ids in wanted], device=backbone.device)
            logits = backbone.step(read, decoding)
        log_p = logits.log_softmax(-1)
        for row, ids in enumerate(wanted):
            if n < len(ids):
                total[row] += float(log_p[row, ids[n]])
    return [value / len(ids) for value, ids in zip(total, wanted, strict=True)]


def _ids(backbone: Backbone, asked: Job) -> list[int]:
    text = backbone.chat(asked.messages) if asked.messages is not None else asked.prompt or ""
    return backbone.clip(backbone.tokenize_prompt(text), 64)
