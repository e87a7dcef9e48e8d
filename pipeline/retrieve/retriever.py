"""Retriever: finds the memories that an encoded prompt may concern, best first.

1. Candidates: words and pooled states find memories through the namespace's index (candidates.py).
2. Scores: late interaction and the rarity of the matched words rank them (scoring.py).
3. Alignment: the best ones are aligned with the prompt, word by word (alignment.py): score · (trial_weight + matching share).

Each step is exact over the results of the one before. Which of these memories answers, and whether any does, is told by reading them
(ranker.py).
"""

from collections.abc import Sequence
from itertools import islice

import numpy as np

from pipeline.config import Settings
from pipeline.ingest.encoding import PromptEncoding
from pipeline.memory.bank import Bank
from pipeline.memory.lookup import Lookup
from pipeline.memory.namespace import Namespace
from pipeline.memory.record import Memory
from pipeline.retrieve.alignment import align
from pipeline.retrieve.candidates import candidate_rows
from pipeline.retrieve.evidence import word_evidence
from pipeline.retrieve.hit import Hit
from pipeline.retrieve.idf import fact_idf, prompt_idf
from pipeline.retrieve.passage import passage
from pipeline.retrieve.scoring import bonus, scores_of
from pipeline.retrieve.word_arrays import Floats, of_fact, of_prompt
from pipeline.text.annotate import annotate


def retrieve(bank: Bank, namespaces: Sequence[str], prompt: PromptEncoding, k: int) -> list[Hit]:
    """The k best memories of the namespaces, best first. Ties go to the newer."""
    return retrieve_all(bank, [namespaces], [prompt], k)[0]


def retrieve_all(
    bank: Bank, namespaces: Sequence[Sequence[str]], prompts: Sequence[PromptEncoding], k: int
) -> list[list[Hit]]:
    """The same for many prompts, each with its namespaces, computed together where possible."""
    found: list[list[Hit]] = [[] for _ in prompts]
    for namespace in dict.fromkeys(name for names in namespaces for name in names):
        indices = [i for i, names in enumerate(namespaces) if namespace in names and prompts[i].terms]
        hit_lists = _in_namespace(bank, namespace, [prompts[i] for i in indices], k)
        for i, hits in zip(indices, hit_lists, strict=True):
            found[i] += hits
    for hits in found:
        hits.sort(key=lambda hit: (hit.score, hit.memory.observed_at, hit.memory.memory_id), reverse=True)
    return [hits[:k] for hits in found]


def _in_namespace(bank: Bank, namespace: str, prompts: Sequence[PromptEncoding], k: int) -> list[list[Hit]]:
    """The k best memories of the namespace for each prompt, with gates by their own alignment only."""
    space, settings = bank.namespace(namespace), bank.settings
    if space is None or not space.size or not prompts:
        return [[] for _ in prompts]
    idf, lookup = prompt_idf(space, prompts, settings), Lookup(space)
    memories: list[list[Memory]] = []
    scores: list[Floats] = []
    row_sets = candidate_rows(space, lookup, prompts, idf, settings)
    for prompt, weights, rows in zip(prompts, idf, row_sets, strict=True):
        memories.append([space.table.at(row) for row in rows.tolist()])
        scores += scores_of(lookup, space.size, [prompt], [weights], rows, memories[-1], settings)
    return best_hits(space, prompts, idf, memories, scores, settings, k)


def best_hits(
    space: Namespace,
    prompts: Sequence[PromptEncoding],
    idf: Sequence[Floats],
    memories: Sequence[Sequence[Memory]],
    scores: Sequence[Floats],
    settings: Settings,
    k: int,
) -> list[list[Hit]]:
    """The k best memories for each prompt, after the ones with the highest scores are aligned with it.

    idf: [words] of each prompt; memories, scores: of each prompt.
    """
    count = max(k, settings.aligned)
    best = [_highest(own, own_scores, count) for own, own_scores in zip(memories, scores, strict=True)]
    chosen = [own[i] for own, indices in zip(memories, best, strict=True) for i in indices]
    texts = [annotate(memory.text, memory.priors) for memory in chosen]
    idfs = fact_idf(space, texts, settings)
    arrays = [of_prompt(prompt, weights) for prompt, weights in zip(prompts, idf, strict=True)]
    sides = [side for side, indices in zip(arrays, best, strict=True) for _ in indices]
    facts = map(of_fact, chosen, texts, idfs)
    alignments = align(list(zip(sides, facts, strict=True)), settings)
    passages = [passage(t, a.matched, own) for t, a, own in zip(texts, alignments, idfs, strict=True)]
    aligned = zip(chosen, texts, alignments, passages, strict=True)
    found = []
    for prompt, weights, own_scores, indices in zip(prompts, idf, scores, best, strict=True):
        own_aligned = list(islice(aligned, len(indices)))
        least = min((memory.importance for memory, *_ in own_aligned), default=0.0)
        ranked = []
        for score, (memory, text, alignment, read) in zip(
            own_scores[indices].tolist(), own_aligned, strict=True
        ):
            # A match of wording alone ("… belongs to the organization of") may score high: the matching share tells.
            score *= settings.trial_weight + alignment.share
            score += abs(score) * bonus(memory, least, prompt, settings)
            ranked.append((score, memory, text, alignment, read))
        ranked.sort(key=lambda one: (-one[0], one[1].memory_id))
        top = ranked[0][0] if ranked else 1.0
        found.append(
            [
                Hit(memory, score, word_evidence(prompt, weights, text, alignment, score, top), read)
                for score, memory, text, alignment, read in ranked[:k]
            ]
        )
    return found


def _highest(memories: Sequence[Memory], scores: Floats, count: int) -> list[int]:
    """Indices of the memories with the highest scores, best first."""
    least = np.partition(scores, -count)[-count] if len(scores) > count else -np.inf
    high = np.flatnonzero(scores >= least).tolist()
    return sorted(high, key=lambda i: (-scores[i], memories[i].memory_id))[:count]
