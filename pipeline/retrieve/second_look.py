"""Second look: the fact that an answer needs beside the one that the gate took.

"The street of Ola's office is" needs where Ola works and where that office stands (two hops); a list needs its other values. A
partner is sought among the prompt's other candidates and among what the words of the first fact find. Both share a word that
the prompt lacks: the bridge between them. A logistic regression, fitted on such pairs (fit/pairs.py), tells how likely the
answer needs both; then the model reads both, in the order of their times.

A second look opens no gate for a prompt without an open one, and never replaces the fact that was taken.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.ingest.encoder import Encoder
from pipeline.memory.bank import Bank
from pipeline.model.weights import none_token
from pipeline.retrieve.evidence import WORDS
from pipeline.retrieve.gate import joined
from pipeline.retrieve.hit import Hit
from pipeline.retrieve.idf import fact_idf
from pipeline.retrieve.retriever import retrieve_all
from pipeline.text.annotate import annotate
from pipeline.text.words import terms_of

FOUND = 6
"""Facts that the first one's words find."""
PAIR = ("bridge", "bridge_most", "bridge_names", "covered", "lacking", "log_p_none")
"""Evidence that an answer needs a partner, in nats: idf of the bridge, of its heaviest word and of its names, of the prompt's words that
only the partner has, of those that the first fact lacks, and the log-probability by which the model says that this does not answer."""
LACKING = WORDS.index("idf_missing")


class Query(NamedTuple):
    """A prompt, the namespaces that it may read, and its ranked hits."""

    text: str
    namespaces: Sequence[str]
    hits: Sequence[Hit]


class Pair(NamedTuple):
    """A partner of the first hit, and the evidence that the answer needs it."""

    partner: Hit
    evidence: list[float]  # [PAIR]


def look_again(encoder: Encoder, bank: Bank, queries: Sequence[Query]) -> list[list[Hit]]:
    """The hits of each query, with the gate of the likeliest partner open where the answer needs it."""
    found = []
    for query, pairs in zip(queries, pairs_of(encoder, bank, queries), strict=True):
        likely = [encoder.weights.needed(pair.evidence) for pair in pairs]
        needed = max(likely, default=0.0) >= 0.5
        best = pairs[likely.index(max(likely))].partner if needed else None
        found.append(joined(query.hits, best) if best else list(query.hits))
    return found


def pairs_of(encoder: Encoder, bank: Bank, queries: Sequence[Query]) -> list[list[Pair]]:
    """The pairs of each query; none for one whose gates let in no fact or several, and for a model that is not tuned."""
    taken = [n for n, query in enumerate(queries) if sum(hit.gate > 0 for hit in query.hits) == 1]
    pairs: list[list[Pair]] = [[] for _ in queries]
    if not taken or none_token(encoder.backbone, encoder.weights) is None:
        return pairs
    chosen = [queries[n] for n in taken]
    encoded = encoder.encode_prompts([query.hits[0].passage for query in chosen])
    linked = retrieve_all(bank, [query.namespaces for query in chosen], encoded, FOUND)
    for n, query, found in zip(taken, chosen, linked, strict=True):
        hits = {hit.memory.memory_id: hit for hit in (*found, *query.hits[: bank.settings.read_candidates])}
        del hits[query.hits[0].memory.memory_id]
        for hit in hits.values():
            if not hit.doubted_by and (evidence := _evidence(bank, query, hit)):
                pairs[n].append(Pair(hit, evidence))
    return pairs


def _evidence(bank: Bank, query: Query, partner: Hit) -> list[float] | None:
    """[PAIR]; None for facts without a bridge."""
    first, memory = query.hits[0], partner.memory
    space = bank.namespace(memory.namespace)
    if space is None:
        return None
    text = annotate(memory.text, memory.priors)
    [values] = fact_idf(space, [text], bank.settings)
    idf = dict(zip(text.terms, values.tolist(), strict=True))
    names = dict(zip(text.terms, text.name_scores.tolist(), strict=True))
    asked, stated = set(terms_of(query.text)), set(terms_of(first.passage))
    bridge = {term: nats for term, nats in idf.items() if term in stated - asked}
    if not any(bridge.values()):
        return None
    of_names = sum(nats * names[term] for term, nats in bridge.items())
    covered = sum(nats for term, nats in idf.items() if term in asked - stated)
    words = [sum(bridge.values()), max(bridge.values()), of_names, covered, float(first.words[LACKING])]
    return [*words, first.log_p_none]
