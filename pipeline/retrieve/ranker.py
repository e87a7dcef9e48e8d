"""Ranker: the frozen model reads a prompt's best candidates, and the head tells which of them answers."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.config import Settings
from pipeline.model.backbone import Backbone
from pipeline.model.batching import close_batches, run_each
from pipeline.model.contexts import Contexts, Prompt, Reading
from pipeline.model.reading import context_of
from pipeline.model.weights import Weights, none_token
from pipeline.retrieve.evidence import FEATURES, list_evidence, reading_evidence
from pipeline.retrieve.gate import settled
from pipeline.retrieve.hit import Hit

NONE = FEATURES.index("log_p_none")
BATCH_TOKENS = 512  # of the prompts that are read in one pass, without their contexts


class Asked(NamedTuple):
    """A prompt with its candidates, best first by score."""

    text: str
    hits: Sequence[Hit]


class Candidates(NamedTuple):
    """What the head gets about the candidates of one prompt."""

    evidence: Tensor  # [candidates, features]
    states: Tensor  # [candidates, depths, 2, d]
    bare: Tensor  # [depths, 2, d]


class Ranker:
    """The model, its kept contexts and its weights."""

    def __init__(self, backbone: Backbone, contexts: Contexts, weights: Weights, settings: Settings) -> None:
        self._backbone, self._contexts, self._weights = backbone, contexts, weights
        self._settings = settings

    @cached_property
    def _none(self) -> int | None:
        return none_token(self._backbone, self._weights)

    def rank(self, asked: Sequence[Asked]) -> list[list[Hit]]:
        """The hits of each prompt, likeliest first, with their gates. Those beyond `read_candidates` follow, unread."""
        count, weights, key = self._settings.read_candidates, self._weights, self._backbone.hash
        found = []
        for one, candidates in zip(asked, self.candidates(asked), strict=True):
            if candidates is None:
                found.append(list(one.hits))
                continue
            *likely, none = weights.probabilities(*candidates, key).tolist()
            none_of_each = candidates.evidence[:, NONE].tolist()
            hits = [
                replace(hit, probability=p, log_p_none=log_p)
                for hit, p, log_p in zip(one.hits, likely, none_of_each, strict=False)
            ]
            ranked = settled(
                hits,
                1.0 - none,
                weights.least(key),
                weights.numbers.beside,
                partial(self._replaces, one.text),
            )
            found.append([*ranked, *one.hits[count:]])
        return found

    def read_ahead(self, facts: Sequence[str]) -> None:
        """Lets the model read these facts, which are kept as contexts until others take their room."""
        self._contexts.keep([self._context([fact]) for fact in facts])

    def candidates(self, asked: Sequence[Asked]) -> list[Candidates | None]:
        """What the head gets about each prompt; None for a prompt without candidates."""
        count, ids = self._settings.read_candidates, self._ids([one.text for one in asked])
        prompts, places = list[Prompt](), list[tuple[int, int]]()  # the prompt's index, the candidate's or -1
        for i, one in enumerate(asked):
            if not one.hits or not ids[i]:
                continue
            contexts = [self._context([hit.passage]) for hit in one.hits[:count]]
            for j, context in enumerate([(), *contexts], -1):
                prompts.append(Prompt(context, ids[i]))
                places.append((i, j))
        readings = dict(zip(places, self._read(prompts), strict=True))
        return [self._candidates(one, ids[i], i, readings) for i, one in enumerate(asked)]

    def _candidates(
        self, one: Asked, ids: list[int], i: int, readings: dict[tuple[int, int], Reading]
    ) -> Candidates | None:
        if (i, -1) not in readings:
            return None
        bare, hits = readings[i, -1], one.hits[: self._settings.read_candidates]
        facts = self._backbone.tokenize([f" {hit.passage}" for hit in hits])
        times = [hit.memory.observed_at for hit in hits]
        read = [
            reading_evidence(readings[i, j], bare, fact.ids, ids, self._none) for j, fact in enumerate(facts)
        ]
        asks = one.text.endswith(":")
        rows = [
            [*hit.words.tolist(), *own, *list_evidence(j, asks, times, read)]
            for j, (hit, own) in enumerate(zip(hits, read, strict=True))
        ]
        states = torch.stack([readings[i, j].states for j in range(len(hits))])
        return Candidates(torch.tensor(rows), states.cpu(), bare.states.cpu())

    def _replaces(self, prompt: str, new: Hit, old: Hit) -> bool:
        """Whether the model, which would answer with the old fact something else than with the new, follows the new after both.

        After both it names first what stands first, if the prompt asks for a list.
        """
        if self._none is None:
            return False
        facts = [[old.passage, new.passage], [new.passage], [old.passage]]
        [ids] = self._ids([prompt])
        readings = self._contexts.read([Prompt(self._context(own), ids) for own in facts])
        none = torch.tensor([self._none], device=readings[0].log_p.device)
        both, first, second = (int(r.log_p.index_fill(0, none, -torch.inf).argmax()) for r in readings)
        return both == first != second

    def _ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """The last tokens of each prompt, as many as are read."""
        room = min(self._settings.prompt_tokens, self._backbone.max_positions // 4)
        return [tokens.ids[-room:] for tokens in self._backbone.tokenize(prompts)]

    def _read(self, prompts: Sequence[Prompt]) -> list[Reading]:
        """The readings of all prompts, in order, in passes over prompts of similar lengths."""
        on_cpu = self._backbone.device.type == "cpu"
        batches = close_batches([len(prompt.ids) for prompt in prompts], BATCH_TOKENS)
        parts = run_each(
            lambda batch: self._contexts.read([prompts[i] for i in batch.indices]),
            batches,
            on_cpu and len(batches) > 1,
        )
        read = {
            i: r
            for batch, part in zip(batches, parts, strict=True)
            for i, r in zip(batch.indices, part, strict=True)
        }
        return [read[i] for i in range(len(prompts))]

    def _context(self, facts: Sequence[str]) -> tuple[str, ...]:
        """The examples and the facts, as much as fits into half of the model's context."""
        examples, text = context_of(facts)
        room = self._backbone.max_positions // 2 - len(self._backbone.tokenize([examples])[0].ids)
        if room < 16:
            examples, room = "", self._backbone.max_positions // 2
        tokens = self._backbone.tokenize([text])[0]
        if len(tokens.ids) > room:
            text = text[: tokens.offsets[room - 1][1]] + "\n"
        return (examples, text) if examples else (text,)
