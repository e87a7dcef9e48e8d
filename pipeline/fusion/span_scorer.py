"""Scorer of a fact's spans: how likely the frozen model continues a prompt with each of them.

    score = log p(span | examples, fact, prompt) / tokens^power + log p(the line ends | …, span)
            + question_weight · log p(prompt | examples, fact)

The examples come first. They show that an answer consists of words of the fact, and where it ends. They are invented and
always the same; the facts and prompts after them may be in any language.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from pipeline.config import Settings
from pipeline.model.backbone import Backbone
from pipeline.text.annotate import AnnotatedText
from pipeline.text.clauses import ends_in_label
from pipeline.text.words import blank_before

_CONTINUED = "The Orrin lighthouse is painted green.\nThe Orrin lighthouse is painted green.\n\n"
QUESTION_EXAMPLES = (
    f"{_CONTINUED}Marla Quist plays the cello.\n"
    "Question: Which instrument does Marla Quist play?\nAnswer: cello\n\n"
)
"""Put before the fact for a question."""
SENTENCE_EXAMPLES = (
    f"{_CONTINUED}Marla Quist plays the cello in Vienna.\nThe instrument of Marla Quist is the cello.\n\n"
)
"""Put before the fact for a sentence that breaks off."""
MAX_CACHED = 8192  # tokens in the cache of spans that are scored together


class ScoredSpan(NamedTuple):
    first: int  # word
    end: int  # the word after the last one
    score: float  # nats


class _Start(NamedTuple):
    """All spans with the same first word."""

    word: int
    ids: list[int]  # the longest one's tokens
    ends: list[tuple[int, int]]  # of each span: the word after its last one, and its number of tokens


class SpanScorer:
    """Holds the keys and values of the examples, which are read once."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._examples: dict[str, tuple[list[int], DynamicCache]] = {}

    @torch.inference_mode()
    def score(
        self, fact: AnnotatedText, edges: Sequence[bool], context: str, settings: Settings
    ) -> list[ScoredSpan]:
        """All spans of the fact with their scores; none if the model's context is too short for them.

        edges: [words] whether a span may begin or end with each; context: the prompt's text.
        """
        backbone, asks = self._backbone, ends_in_label(context)
        examples = QUESTION_EXAMPLES if asks else SENTENCE_EXAMPLES
        power = settings.question_power if asks else settings.continued_power
        prompt = backbone.tokenize([context])[0].ids[-settings.span_prompt_tokens :]
        ids = backbone.tokenize([f"{examples}{fact.text}\n"])[0].ids + prompt
        starts = self._starts(fact, edges, settings)
        if not starts or not prompt:
            return []
        if len(ids) + max(len(start.ids) for start in starts) > backbone.max_positions:
            return []
        log_p, cache = self._read(examples, ids)
        question = settings.question_weight * float(_chosen(log_p[-len(prompt) - 1 : -1], prompt).sum())
        line_ends = torch.tensor(sorted(self._line_ends(asks)), device=backbone.device)
        found, rows = list[ScoredSpan](), max(1, MAX_CACHED // len(ids))
        for at in range(0, len(starts), rows):
            group = starts[at : at + rows]
            repeated = deepcopy(cache)
            repeated.batch_repeat_interleave(len(group))
            after = _log_p(backbone, backbone.pad([start.ids for start in group])[0], repeated)
            for start, own in zip(group, after, strict=True):
                before_each = torch.cat([log_p[-1:], own[: len(start.ids) - 1]])
                spans = _chosen(before_each, start.ids).cumsum(0)
                ended = own[: len(start.ids), line_ends].logsumexp(-1)
                for end, count in start.ends:
                    score = float(spans[count - 1]) / count**power + float(ended[count - 1])
                    found.append(ScoredSpan(start.word, end, score + question))
        return found

    def _starts(self, fact: AnnotatedText, edges: Sequence[bool], settings: Settings) -> list[_Start]:
        starts, words = [], fact.words
        for first in [i for i, may in enumerate(edges) if may][: settings.answer_starts]:
            last = min(len(words), first + settings.answer_words)
            ends = [end for end in range(first + 1, last + 1) if edges[end - 1]]
            begin, blank = words[first].start, " " * blank_before(fact.text, words[first].start)
            tokens = self._backbone.tokenize([blank + fact.text[begin : words[ends[-1] - 1].end]])[0]
            places = [words[end - 1].end - begin + len(blank) for end in ends]  # characters
            counts = [sum(start < place for start, _ in tokens.offsets) for place in places]
            starts.append(_Start(first, tokens.ids, list(zip(ends, counts, strict=True))))
        return starts

    def _read(self, examples: str, ids: list[int]) -> tuple[Tensor, DynamicCache]:
        """[tokens, V] log-probabilities after each token that follows the examples, and the cache of all tokens."""
        known, cache = self._read_examples(examples)
        cache = deepcopy(cache)
        if ids[: len(known)] != known:  # the tokenizer joined the examples' end with the fact's beginning
            known, cache = [], self._backbone.empty_cache()
        rest = torch.tensor([ids[len(known) :]], device=self._backbone.device)
        return _log_p(self._backbone, rest, cache)[0], cache

    def _read_examples(self, examples: str) -> tuple[list[int], DynamicCache]:
        """The examples' tokens, and their cache, which the caller copies."""
        if examples not in self._examples:
            backbone, cache = self._backbone, self._backbone.empty_cache()
            ids = backbone.tokenize([f"{examples}A"])[0].ids[:-1]  # as they are tokenised before a word
            _log_p(backbone, torch.tensor([ids], device=backbone.device), cache)
            self._examples[examples] = ids, cache
        return self._examples[examples]

    def _line_ends(self, asks: bool) -> set[int]:
        """Tokens that end the answer of a question: a line's end. For a sentence also its full stop."""
        ends = ("\n", "\n\n") if asks else ("\n", "\n\n", ".", ".\n")
        return {self._backbone.tokenize([end])[0].ids[0] for end in ends} | set(self._backbone.eos_ids)


def _log_p(backbone: Backbone, ids: Tensor, cache: DynamicCache) -> Tensor:
    """[B, T, V] log-probabilities after each token of `ids` [B, T], which are appended to the cache."""
    return backbone.logits(ids, cache).float().log_softmax(-1)


def _chosen(log_p: Tensor, ids: Sequence[int]) -> Tensor:
    """[T] the log-probability of each of the ids, from log_p [T, V]."""
    return log_p.gather(-1, torch.tensor(ids, device=log_p.device)[:, None])[:, 0]
