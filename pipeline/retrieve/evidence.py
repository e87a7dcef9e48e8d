"""Evidence that a fact answers a prompt: how their words agree, and what reading the fact changes.

The words tell whether both are about the same thing: names, numbers, spelling, wording. The model tells whether the fact makes the
prompt, and what comes next, more likely: d is the rise of each prompt token's log-probability by the fact, p and q are
the distributions of the next token with the fact and without it, and p_none is the probability of the token by which a tuned
model says that the fact does not answer.
"""

from collections.abc import Sequence
from datetime import datetime
from math import exp

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.ingest.encoding import PromptEncoding
from pipeline.model.contexts import Reading
from pipeline.retrieve.alignment import Alignment
from pipeline.retrieve.word_arrays import Floats
from pipeline.text.annotate import AnnotatedText
from pipeline.text.spelling import most_alike

WORDS = (
    "score", "share_of_best", "matching_share", "matching_share_undated", "idf_shared", "idf_missing",
    "share_of_idf", "names_missing", "names_shared", "most_missing", "fact_words", "prompt_words",
    "alike_nats", "alike_share", "alike_letters", "alike_name",
)  # fmt: skip
READ = (
    "d_sum", "d_mean", "d_last_half", "d_most", "d_least", "p_of_fact", "q_of_fact", "entropy_p", "entropy_q",
    "divergence", "log_p_best", "log_p_top", "log_q_top", "top_in_fact", "fact_implausible", "log_p_none",
)  # fmt: skip
LIST = ("rank", "asks", "newer", "newest", "newer_answers", "older_answers", "other_answers")
"""A candidate among the others: its place by score, how many of them are newer, and how likely one of them answers."""
FEATURES = (*WORDS, *READ, *LIST)
_NONE = READ.index("log_p_none")
_LEAST = -20.0  # nats: all smaller probabilities are alike
_CONTRAST, _PLAUSIBLE = 1.5, 3.0  # of the token that reading this fact would say: see fusion/fusion.py


def word_evidence(
    prompt: PromptEncoding, idf: Floats, fact: AnnotatedText, alignment: Alignment, score: float, best: float
) -> NDArray[np.float64]:
    """[WORDS] of one pair. idf: [words] of the prompt; best: the best candidate's score."""
    known, names = set(fact.terms), np.array(prompt.name_scores, float)
    alike = most_alike(prompt.terms, prompt.unigram_nll, fact.terms, fact.unigram_nll)
    has = np.array([term in known for term in prompt.terms], float)
    shared, missing = idf * has, idf * (1 - has)
    return np.array(
        [
            score, score / (best or 1.0), alignment.share, alignment.opening, shared.sum(), missing.sum(),
            shared.sum() / max(idf.sum(), 1e-6), (names * (1 - has)).sum(), (names * has).sum(),
            missing.max(initial=0.0), len(fact.terms), len(prompt.terms),
            alike.nats, alike.share, alike.letters, names[alike.word] if alike.letters else 0.0,
        ]
    )  # fmt: skip


def reading_evidence(
    with_fact: Reading, bare: Reading, fact: Sequence[int], prompt: Sequence[int], none: int | None
) -> list[float]:
    """[READ] of one pair. fact, prompt: their tokens; none: the token of p_none, None for a model that is not tuned."""
    d = with_fact.token_log_p - bare.token_log_p
    log_p, log_q = with_fact.log_p, bare.log_p
    p, q = log_p.exp(), log_q.exp()
    new = sorted(set(fact) - set(prompt)) or [0]
    plausible = log_p >= log_p.max() - _PLAUSIBLE
    contrast = torch.where(plausible, _CONTRAST * log_p - (_CONTRAST - 1) * log_q, -torch.inf)
    top = int(contrast.argmax())
    numbers: list[Tensor | float] = [
        d.sum(), d.mean() if len(d) else 0.0, d[len(d) // 2 :].sum(), d.max() if len(d) else 0.0,
        d.min() if len(d) else 0.0, p[new].sum(), q[new].sum(), -(p * log_p).sum(), -(q * log_q).sum(),
        (p * (log_p - log_q)).sum(), log_p.max(), log_p[top], log_q[top], float(top in new),
        float(not bool(plausible[new].any())), 0.0 if none is None else log_p[none].clamp(min=_LEAST),
    ]  # fmt: skip
    return [float(number) for number in numbers]


def list_evidence(
    place: int, asks: bool, times: Sequence[datetime], read: Sequence[Sequence[float]]
) -> list[float]:
    """[LIST] of the candidate at this place by score. times, read: of all candidates; asks: whether the prompt ends as a question."""
    answers = [1.0 - exp(one[_NONE]) for one in read]
    own = times[place]
    newer = [p for p, time in zip(answers, times, strict=True) if time > own]
    older = [p for p, time in zip(answers, times, strict=True) if time < own]
    others = [*answers[:place], *answers[place + 1 :]]
    likeliest = [max(some, default=0.0) for some in (newer, older, others)]
    return [float(place), float(asks), float(len(newer)), float(not newer), *likeliest]
