"""Which words of a fact a prompt asks for: the frozen model reads the fact before the prompt, and each run of words that
could be the answer is weighed by how likely the model would go on with it, and with nothing else.

For a prompt that ends in an empty label ("Question: …\\nAnswer:"), or breaks off within a sentence that the fact does not
go on with. A fact that says several things which the prompt lacks does not tell by itself which of them was asked for; the
model does, behind two examples of what is wanted. Several facts are read, each by itself: of a question those that were
found with a score near the best; where a sentence breaks off, all about its subject, for its words say little else.

    run's score = log p(run | examples, fact, prompt) / tokens^power + log p(the line ends | …, run)
                  + question_weight · log p(prompt | examples, fact) + inside_span where alignment sees the answer, too
                  + score_weight · the fact's score, half of it where a sentence breaks off

Knows the backbone and what was found; knows nothing of how an answer is said.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from pipeline.config import TEXT, Settings
from pipeline.model.backbone import Backbone
from pipeline.retrieve.gate import only_chosen
from pipeline.retrieve.hit import Hit
from pipeline.text.clauses import begins_sentence, ends_in_label
from pipeline.text.words import Word, blank_before, matching_before, terms_of

_REPEATED = "The Orrin lighthouse is painted green.\nThe Orrin lighthouse is painted green.\n\n"
EXAMPLES = f"{_REPEATED}Marla Quist plays the cello.\nQuestion: Which instrument does Marla Quist play?\nAnswer: cello\n\n"
"""Invented, and always the same: one is continued, one is asked. They show that an answer is words of the fact, and where it
ends; the facts and prompts behind them may be in any language."""
CONTINUED = (
    f"{_REPEATED}Marla Quist plays the cello in Vienna.\nThe instrument of Marla Quist is the cello.\n\n"
)
"""The same for a sentence that breaks off."""
MAX_CACHED = 8192  # tokens whose keys and values are held for runs that are weighed together


@dataclass(frozen=True, slots=True)
class Run:
    """Words `first` up to, not including, `behind` of the memory that was found as number `found`."""

    found: int
    first: int
    behind: int
    begins: int  # the first of the small words before it that may be said with it


def answer_of(
    backbone: Backbone,
    hits: Sequence[Hit],
    context: str,
    k: int,
    informative: float,
    settings: Settings,
) -> Run | None:
    """The run that answers the prompt. None where nothing is asked, no memory may speak, or there is nothing to choose.

    k: how many of the best are read for a question; where a sentence breaks off, all that are eligible.
    informative: nats that a word says at least, to begin or end an answer.
    """
    asked = ends_in_label(context)
    if not any(hit.gate > 0 for hit in hits) or (not asked and begins_sentence(context)):
        return None
    facts = [_fact(hit, informative) for hit in hits]
    if asked:
        least = settings.near_score * max(hit.score for hit in hits)
        read = [n for n, hit in enumerate(hits[:k]) if hit.score >= least]
        choice = any(hit.gate > 0 and sum(fact.ends) > 1 for hit, fact in zip(hits, facts, strict=True))
    else:
        said = terms_of(context)[-TEXT.context_words :]
        read = [n for n, hit in enumerate(hits) if hit.answerable]
        choice = sum(sum(facts[n].ends) for n in read) > 1 and not any(_goes_on(facts[n], said) for n in read)
    if not choice:
        return None
    best: tuple[float, Run] | None = None
    for number in read:
        hit, fact = hits[number], facts[number]
        for first, behind, score in _weighed(backbone, hit.memory.text, fact, context, settings):
            inside = hit.alignment.span[0] <= first and behind <= hit.alignment.span[1]
            found = settings.score_weight * (1.0 if asked else settings.continued_score) * hit.score
            score += found + settings.inside_span * inside
            if best is None or score > best[0]:
                best = score, Run(number, first, behind, first if asked else fact.begins[first])
    return best[1] if best else None


def speaking(hits: Sequence[Hit], run: Run) -> list[Hit]:
    """What was found, of which only the run's memory speaks, and of it only the run."""
    made = only_chosen(hits, run.found)
    alignment = hits[run.found].alignment
    matched = np.ones_like(alignment.matched)
    matched[run.begins : run.first + 1] = False
    made[run.found] = replace(
        made[run.found], alignment=alignment._replace(span=(run.first, run.behind), matched=matched)
    )
    return made


@dataclass(frozen=True, slots=True)
class _Fact:
    words: list[Word]
    ends: list[bool]  # of each word, whether an answer may begin or end with it
    begins: list[int]  # of each word, the first of the small words before it that the prompt lacks, too
    wording: list[bool]  # of each word, whether it says something and is no name


def _fact(hit: Hit, informative: float) -> _Fact:
    """An answer stands in the sentence that the prompt asks about, and neither begins nor ends with what the prompt says, or
    with what stands within that ("capital city of")."""
    text = hit.text
    words, places = text.words, text.places
    here = places[min(hit.alignment.span[0], len(words) - 1)].sentence if words else 0
    tells = text.informative(informative)
    matched, asked = hit.alignment.matched.tolist(), hit.alignment.asked_for.tolist()
    ends = [
        not has and a > 0 and says and place.sentence == here
        for has, a, says, place in zip(matched, asked, tells, places, strict=True)
    ]
    begins: list[int] = []
    for i in range(len(words)):
        small = i > 0 and not matched[i - 1] and not tells[i - 1]
        begins.append(begins[i - 1] if small else i)
    wording = [says and not mark for says, mark in zip(tells, text.name_scores.tolist(), strict=True)]
    return _Fact(words, ends, begins, wording)


def _goes_on(fact: _Fact, said: Sequence[str]) -> bool:
    """Whether the fact goes on with an answer where the prompt breaks off: all that was said last stands before it, or so
    much of it that it tells what is asked ("leads", but not "Mira Holt is")."""
    for at in {at for i, may in enumerate(fact.ends) if may for at in (i, fact.begins[i])}:
        count = matching_before(fact.words, at, said)
        if count == len(said) or any(fact.wording[at - count : at]):
            return True
    return False


@torch.inference_mode()
def _weighed(
    backbone: Backbone, text: str, fact: _Fact, context: str, settings: Settings
) -> list[tuple[int, int, float]]:
    """(first word, behind the last, score) of each run that could be the answer."""
    begins = [i for i, may in enumerate(fact.ends) if may][: settings.answer_starts]
    asked = ends_in_label(context)
    power = settings.question_power if asked else settings.continued_power
    prompt = backbone.tokenize([context])[0].ids[-settings.span_prompt_tokens :]
    read = backbone.tokenize([f"{EXAMPLES if asked else CONTINUED}{text}\n"])[0].ids + prompt
    if not begins or not prompt:
        return []
    runs: list[list[int]] = []
    # Of each beginning, where the run may end: behind which word, after how many tokens.
    lasts: list[list[tuple[int, int]]] = []
    for i in begins:
        behind = [
            j for j in range(i + 1, min(len(fact.words), i + settings.answer_words) + 1) if fact.ends[j - 1]
        ]
        start, blank = fact.words[i].start, " " * blank_before(text, fact.words[i].start)
        tokens = backbone.tokenize([blank + text[start : fact.words[behind[-1] - 1].end]])[0]
        runs.append(tokens.ids)
        ends = [fact.words[j - 1].end - start + len(blank) for j in behind]
        counts = [sum(begun < end for begun, _ in tokens.offsets) for end in ends]
        lasts.append(list(zip(behind, counts, strict=True)))
    if len(read) + max(map(len, runs)) > backbone.max_positions:
        return []
    shown, known = _read_once(backbone, EXAMPLES if asked else CONTINUED)
    cache = deepcopy(known)
    if read[: len(shown)] != shown:  # the tokenizer joined the examples' end with what follows
        shown, cache = [], DynamicCache(config=backbone.model.config)
    before = _log_p(backbone, torch.tensor([read[len(shown) :]], device=backbone.device), cache)[0]
    likelier = float(_taken(before[-len(prompt) - 1 : -1], prompt).sum())
    stops = torch.tensor(sorted(_ends(backbone, asked)), device=backbone.device)
    found, rows = [], max(1, MAX_CACHED // len(read))
    for at in range(0, len(runs), rows):
        some = slice(at, at + rows)
        repeated = deepcopy(cache)
        repeated.batch_repeat_interleave(len(runs[some]))
        behind_each = _log_p(backbone, backbone.pad(runs[some])[0], repeated)
        for i, ids, log_p, last in zip(begins[some], runs[some], behind_each, lasts[some], strict=True):
            said = _taken(torch.cat([before[-1:], log_p[: len(ids) - 1]]), ids).cumsum(0)
            stop = log_p[: len(ids), stops].logsumexp(-1)
            for end, count in last:
                score = float(said[count - 1]) / count**power + float(stop[count - 1])
                found.append((i, end, score + settings.question_weight * likelier))
    return found


@lru_cache(maxsize=4)
def _read_once(backbone: Backbone, text: str) -> tuple[list[int], DynamicCache]:
    """The tokens of what is always read first, and a cache that has them: for all who read on, so nobody may add to it."""
    ids = backbone.tokenize([f"{text}A"])[0].ids[:-1]  # as it is split where a word follows
    cache = DynamicCache(config=backbone.model.config)
    _log_p(backbone, torch.tensor([ids], device=backbone.device), cache)
    return ids, cache


def _log_p(backbone: Backbone, ids: Tensor, cache: DynamicCache) -> Tensor:
    """[B, T, V] log-probabilities of what follows each token; the cache has them afterwards."""
    logits: Tensor = backbone.model(input_ids=ids, past_key_values=cache, use_cache=True).logits
    return logits.float().log_softmax(-1)


def _taken(log_p: Tensor, ids: Sequence[int]) -> Tensor:
    return log_p.gather(-1, torch.tensor(ids, device=log_p.device)[:, None])[:, 0]


def _ends(backbone: Backbone, asked: bool) -> set[int]:
    """Tokens with which a line ends, or a sentence."""
    marks = ("\n", "\n\n") if asked else ("\n", "\n\n", ".", ".\n")
    return {backbone.tokenize([end])[0].ids[0] for end in marks} | set(backbone.eos_ids)
