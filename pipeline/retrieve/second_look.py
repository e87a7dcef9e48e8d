"""Second look: the fact that an answer needs beside the one that the gate took.

"The street of Ola's office is" needs where Ola works and where that office stands (two hops); a list needs its other values. A
partner is sought among the prompt's other candidates and among what the words of the first fact find. Partners share a word
with it that the prompt lacks: the bridge. The model reads the prompt after both, and a logistic regression, fitted on such
pairs (fit/pairs.py), tells how likely the answer needs both.

A second look opens no gate for a prompt without one, and never replaces the fact that was taken.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.ingest.encoder import Encoder
from pipeline.memory.bank import Bank
from pipeline.model.contexts import Reading
from pipeline.retrieve.evidence import WORDS
from pipeline.retrieve.gate import joined
from pipeline.retrieve.hit import Hit
from pipeline.retrieve.idf import fact_idf
from pipeline.retrieve.ranker import Ranker
from pipeline.retrieve.retriever import retrieve_all
from pipeline.text.annotate import annotate
from pipeline.text.words import terms_of

FOUND, PARTNERS = 6, 4
"""Facts that the first one's words find, and the partners of a fact that are read."""
PAIR = (
    "bridge", "bridge_most", "covered", "lacking", "probability", "d", "d_mean", "log_p_none_first", "log_p_none_change",
    "p_of_partner", "q_of_first", "top_moves",
)  # fmt: skip
"""Evidence that an answer needs a partner: idf of the bridge and of the prompt's words that only the partner has; the head's
probability; d, the rise of the prompt's log-probability by the partner; and the next token before and after reading it."""
LACKING = WORDS.index("idf_missing")
MOST = 20.0  # nats: all larger changes are alike
NEEDED = 0.5
"""Probability from which a partner is read, too."""


class Query(NamedTuple):
    """A prompt, the namespaces that it may read, and its ranked hits."""

    text: str
    namespaces: Sequence[str]
    hits: Sequence[Hit]


class Pair(NamedTuple):
    """A partner, and the evidence that the answer needs it."""

    partner: Hit
    evidence: list[float]  # [PAIR]


class _Partner(NamedTuple):
    """A fact, and how its words meet the first fact's and the prompt's, in nats of idf."""

    hit: Hit
    bridge: float
    most: float
    covered: float


def look_again(encoder: Encoder, bank: Bank, ranker: Ranker, queries: Sequence[Query]) -> list[list[Hit]]:
    """The hits of each query, with the gate of the likeliest partner open where the answer needs it."""
    found = []
    for query, pairs in zip(queries, pairs_of(encoder, bank, ranker, queries), strict=True):
        likely = [encoder.weights.needed(pair.evidence) for pair in pairs]
        best = max(range(len(pairs)), key=lambda n: likely[n], default=None)
        if best is None or likely[best] < NEEDED:
            found.append(list(query.hits))
        else:
            found.append(joined(query.hits, pairs[best].partner))
    return found


def pairs_of(encoder: Encoder, bank: Bank, ranker: Ranker, queries: Sequence[Query]) -> list[list[Pair]]:
    """The partners of each query's fact; none for a query whose gates let in no fact, or several."""
    taken = [n for n, query in enumerate(queries) if sum(hit.gate > 0 for hit in query.hits) == 1]
    if ranker.none is None or not taken:
        return [[] for _ in queries]
    chosen = [queries[n] for n in taken]
    encoded = encoder.encode_prompts([query.hits[0].passage for query in chosen])
    linked = retrieve_all(bank, [query.namespaces for query in chosen], encoded, FOUND)
    partners = [_partners(bank, query, found) for query, found in zip(chosen, linked, strict=True)]
    readings = iter(
        ranker.readings(
            [
                (query.text, [hit.passage for hit in facts])
                for query, own in zip(chosen, partners, strict=True)
                for facts in ([query.hits[0]], *(_by_time(query.hits[0], partner.hit) for partner in own))
            ]
        )
    )
    pairs: list[list[Pair]] = [[] for _ in queries]
    for n, query, own in zip(taken, chosen, partners, strict=True):
        texts = [query.text, *(f" {hit.passage}" for hit in (query.hits[0], *(partner.hit for partner in own)))]
        prompt, first, *others = (frozenset(tokens.ids) for tokens in encoder.backbone.tokenize(texts))
        before = next(readings)
        for partner, tokens in zip(own, others, strict=True):
            changed = _changed(before, next(readings), first - prompt, tokens - first - prompt, ranker.none)
            lacking = float(query.hits[0].words[LACKING])
            words = [partner.bridge, partner.most, partner.covered, lacking, partner.hit.probability]
            pairs[n].append(Pair(partner.hit, [*words, *changed]))
    return pairs


def _by_time(first: Hit, partner: Hit) -> list[Hit]:
    """Both in the order in which an answer reads them."""
    return sorted((first, partner), key=lambda hit: hit.memory.observed_at)


def _partners(bank: Bank, query: Query, linked: Sequence[Hit]) -> list[_Partner]:
    """The facts that share most with the first fact, and with the prompt beyond it."""
    first, known = query.hits[0], set(terms_of(query.text))
    own = set(terms_of(first.passage))
    hits = {hit.memory.memory_id: hit for hit in (*linked, *query.hits[: bank.settings.read_candidates])}
    found = []
    for hit in hits.values():
        space = bank.namespace(hit.memory.namespace)
        if space is None or hit.doubted_by or hit.memory.memory_id == first.memory.memory_id:
            continue
        text = annotate(hit.memory.text, hit.memory.priors)
        [values] = fact_idf(space, [text], bank.settings)
        idf = dict(zip(text.terms, values.tolist(), strict=True))
        bridge = [nats for term, nats in idf.items() if term in own and term not in known]
        covered = sum(nats for term, nats in idf.items() if term in known and term not in own)
        if any(bridge):
            found.append(_Partner(hit, sum(bridge), max(bridge), covered))
    found.sort(key=lambda one: (-one.bridge - one.covered, one.hit.memory.memory_id))
    return found[:PARTNERS]


def _changed(
    before: Reading, after: Reading, first: frozenset[int], partner: frozenset[int], none: int
) -> list[float]:
    """The part of PAIR that the model tells. before, after: what it computes for the prompt after the first fact, and after both.

    first, partner: the tokens that only the one fact has; none: see Ranker.none.
    """
    rise = after.token_log_p - before.token_log_p
    some, others = sorted(partner) or [none], sorted(first) or [none]
    best = [int(_without(reading.log_p, none).argmax()) for reading in (before, after)]
    numbers = [
        rise.sum(), rise.mean() if len(rise) else 0.0, before.log_p[none].clamp(min=-MOST),
        (after.log_p[none] - before.log_p[none]).clamp(-MOST, MOST), after.log_p[some].exp().sum(),
        before.log_p[others].exp().sum(), float(best[0] != best[1]),
    ]  # fmt: skip
    return [float(number) for number in numbers]


def _without(log_p: Tensor, token: int) -> Tensor:
    return log_p.index_fill(0, torch.tensor([token], device=log_p.device), -torch.inf)
