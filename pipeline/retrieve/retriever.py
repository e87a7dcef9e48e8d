"""Which memories does a prompt concern, and may they speak?

Three steps, each exact over what the one before leaves: words and pooled states find candidates through the bank's
index; late interaction over word states and the rarity of what is matched rank them; alignment opens the gates of the
best. A prompt that asks through the best one is answered by another (hop.py). Knows no model: the prompt comes encoded.

    score = (trial_weight + alignment's share) ·
            (sum over the prompt's words of information · likeness of states  (late interaction: Khattab & Zaharia 2020)
             + rarity_weight · rarity of the matched words together · their share²)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Settings
from pipeline.ingest.encoding import Asked
from pipeline.ingest.quantize import likeness_of
from pipeline.memory.bank import Bank
from pipeline.memory.lookup import Lookup, Rows
from pipeline.memory.postings import NO_STATES, Index, Stated, pool
from pipeline.memory.record import Memory
from pipeline.retrieve.alignment import PART, Alignment, Floats, Words, align, gate
from pipeline.retrieve.idf import belonging, information_of, informations_in, words_of
from pipeline.retrieve.multihop import First, Second, hop
from pipeline.text.annotate import annotate
from pipeline.text.words import terms_of

SHARING = 2  # times as many candidates are found by words as by states: with as many recall@3 of 100,000 was .984, not .993


@dataclass(frozen=True, slots=True)
class Retrieved:
    memory: Memory
    information: Floats  # of the fact's words, nats
    alignment: Alignment
    score: float  # nats, with importance and category
    gate: float  # 0: keeps silent
    eligible: bool = False  # whether the model may choose it for an answer, see extraction.py


def retrieve(bank: Bank, namespaces: Sequence[str], asked: Asked, k: int) -> list[Retrieved]:
    """The k best memories of the namespaces, best first. Ties go to the newer."""
    return retrieve_all(bank, [namespaces], [asked], k)[0]


def retrieve_all(
    bank: Bank, namespaces: Sequence[Sequence[str]], asked: Sequence[Asked], k: int, others: int = 0
) -> list[list[Retrieved]]:
    """The same for many prompts, each with its namespaces; what can be is computed for all of them at once.

    others: so many more of each prompt's, which keep silent unless the model chooses one of them.
    """
    found: list[list[Retrieved]] = [[] for _ in asked]
    for namespace in dict.fromkeys(name for names in namespaces for name in names):
        those = [i for i, names in enumerate(namespaces) if namespace in names and asked[i].forms]
        hits = _of_namespace(bank, namespace, [asked[i] for i in those], max(k, 2) + others)
        for i, some in zip(those, hits, strict=True):
            found[i] += some
    found = [_best(hits, max(k, 2), others) for hits in found]
    speaking = [i for i, hits in enumerate(found) if hits and hits[0].gate]
    firsts = [
        First(namespaces[i], asked[i], first.memory, first.information, first.alignment)
        for i in speaking
        for first in found[i][:1]
    ]
    for i, second in zip(speaking, hop(bank, firsts), strict=True):
        if second:
            found[i] = _instead(second, found[i], bank.settings)
    return [hits[: k + others] for hits in found]


def _best(found: list[Retrieved], k: int, others: int) -> list[Retrieved]:
    found.sort(key=lambda hit: (hit.score, hit.memory.observed_at, hit.memory.memory_id), reverse=True)
    found = _eligible(found[: k + others])
    return [*_newest_of_a_kind(found[:k]), *(replace(hit, gate=0.0) for hit in found[k:])]


def _instead(second: Second, found: list[Retrieved], settings: Settings) -> list[Retrieved]:
    """Where a prompt asks through its first memory, the second one speaks, and no other."""
    opens = gate(second.alignment.opening, settings)
    beyond = Retrieved(second.memory, second.information, second.alignment, found[0].score, opens, opens > 0)
    others = [hit for hit in found if hit.memory.memory_id != beyond.memory.memory_id]
    return [beyond, *(replace(hit, gate=0.0, eligible=False) for hit in others)]


def _of_namespace(bank: Bank, namespace: str, asked: Sequence[Asked], k: int) -> list[list[Retrieved]]:
    index, size = bank.index(namespace), bank.size(namespace)
    if index is None or not size or not asked:
        return [[] for _ in asked]
    settings = bank.settings
    informations = informations_of(index, size, asked, settings)

    def stated(memory_id: str) -> Stated:
        memory = bank.get(namespace, memory_id)
        return (memory.vectors, memory.priors) if memory else NO_STATES

    pooled = [
        pool(one.vectors, said.astype(np.float32)) for one, said in zip(asked, informations, strict=True)
    ]
    near = index.nearest(np.stack(pooled), settings.candidates, stated)
    lookup = Lookup(index)

    def candidates(
        one: Asked, said: Floats, state: NDArray[np.float32], close: NDArray[np.uint32]
    ) -> tuple[list[Memory], Floats]:
        masses = dict(zip(one.forms, (said**2).tolist(), strict=True))
        sharing = lookup.sharing(masses, SHARING * settings.candidates, partial(index.nearness, state))
        rows = np.union1d(sharing, close)
        memories = [bank.at(namespace, row) for row in rows.tolist()]
        return memories, scored(lookup, size, [one], [said], rows, memories, settings)[0]

    each = map(candidates, asked, informations, pooled, near)
    memories, scores = zip(*each, strict=True)
    return best_of(index, size, asked, informations, memories, scores, settings, k)


def informations_of(index: Index, size: int, asked: Sequence[Asked], settings: Settings) -> list[Floats]:
    """What each of the prompts' words says. One said again says nothing new: its last place counts, the one nearest to
    what is asked."""
    forms = [form for one in asked for form in one.forms]
    said = information_of(index, size, forms, np.concatenate([one.priors for one in asked]), settings)
    said *= [form not in one.forms[i + 1 :] for one in asked for i, form in enumerate(one.forms)]
    return np.split(said, np.cumsum([len(one.forms) for one in asked])[:-1])


def scored(
    lookup: Lookup,
    size: int,
    asked: Sequence[Asked],
    informations: Sequence[Floats],
    rows: Rows,
    memories: Sequence[Memory],
    settings: Settings,
) -> list[Floats]:
    """For each prompt the memories' scores, before any of them is aligned. Their rows ascend."""
    alike = _late_interaction(asked, informations, memories, settings)
    return [
        likeness + settings.rarity_weight * _rarity(lookup, size, one, said, rows, settings)
        for likeness, one, said in zip(alike, asked, informations, strict=True)
    ]


def best_of(
    index: Index,
    size: int,
    asked: Sequence[Asked],
    informations: Sequence[Floats],
    memories: Sequence[Sequence[Memory]],
    scores: Sequence[Floats],
    settings: Settings,
    k: int,
) -> list[list[Retrieved]]:
    """For each prompt the k best of its memories: those with the best scores are aligned with it."""
    most = max(k, settings.aligned)
    best = [_highest(*one, most) for one in zip(memories, scores, strict=True)]
    those = [some[i] for some, chosen in zip(memories, best, strict=True) for i in chosen]
    said = informations_in(index, size, those, settings)
    prompts = [
        prompt
        for one, information, chosen in zip(asked, informations, best, strict=True)
        for prompt in [_prompt(one, information)] * len(chosen)
    ]
    aligned = align(list(zip(prompts, words_of(those, said), strict=True)), settings)
    pairs = iter(zip(those, said, aligned, strict=True))
    found = []
    for one, some, chosen in zip(asked, scores, best, strict=True):
        its = list(islice(pairs, len(chosen)))
        least = min((memory.importance for memory, _, _ in its), default=0.0)
        ranks = []
        for n, (score, (memory, _, alignment)) in enumerate(zip(some[chosen].tolist(), its, strict=True)):
            # A match of wording alone ("… belongs to the organization of") may score high; what is torn or missing tells.
            score *= settings.trial_weight + alignment.share
            score += abs(score) * _favour(memory, least, one, settings)
            ranks.append((-score, memory.memory_id, n))
        found.append(
            [
                Retrieved(*its[n], -score, gate(its[n][2].opening, settings))
                for score, _, n in sorted(ranks)[:k]
            ]
        )
    return found


def _highest(memories: Sequence[Memory], scores: Floats, most: int) -> list[int]:
    least = np.partition(scores, -most)[-most] if len(scores) > most else -np.inf
    high = np.flatnonzero(scores >= least).tolist()
    return sorted(high, key=lambda i: (-scores[i], memories[i].memory_id))[:most]


def _prompt(asked: Asked, information: Floats) -> Words:
    marks = np.array(asked.marks, float)
    says = belonging(information, asked.priors * (information > 0), marks)
    return Words(asked.forms, says, asked.surprisals.astype(float), marks, np.zeros((len(marks), 2), int))


def _late_interaction(
    asked: Sequence[Asked], informations: Sequence[Floats], memories: Sequence[Memory], settings: Settings
) -> list[Floats]:
    """For each prompt and memory the sum over the prompt's words of information times the likeness of the likest word."""
    scores = [np.zeros(len(memories)) for _ in asked]
    states = [memory.states for memory in memories]
    having = [i for i, some in enumerate(states) if some]
    if not having:
        return scores
    vectors, counts = np.concatenate([one.vectors for one in asked]), [memories[i].words for i in having]
    packed = np.frombuffer(b"".join(states), np.uint8).reshape(sum(counts), -1)
    alike = likeness_of(vectors, packed, vectors.shape[1])
    likest = np.maximum.reduceat(alike, np.cumsum([0, *counts[:-1]]), axis=1)
    bound, begins = settings.alike_from, np.cumsum([len(one.forms) for one in asked])[:-1]
    likest = np.clip((likest - bound) / (1 - bound), 0.0, 1.0)
    for one, said, those in zip(scores, informations, np.split(likest, begins), strict=True):
        # No matrix product: that one adds in an order that hangs on where a memory stands.
        one[having] = (said[:, None] * those).sum(0)
    return scores


def _rarity(
    lookup: Lookup, size: int, asked: Asked, information: Floats, rows: Rows, settings: Settings
) -> Floats:
    """How few memories have all the words that this one shares with the prompt (nats), by the share squared of the
    prompt that these are. Words of one wording come together: "belongs to the organization of" is one sign, not five."""
    says = dict(
        zip(asked.forms, zip(asked.priors.tolist(), (information**2).tolist(), strict=True), strict=True)
    )
    forms = sorted(says)
    priors, masses = np.array([says[form] for form in forms]).T
    sets, of = np.unique(lookup.shared(forms, rows), return_inverse=True)
    together = np.maximum(lookup.together(forms, sets, settings.postings), 1)
    has = (sets[:, None] >> np.arange(len(forms), dtype=np.uint64) & np.uint64(1)).astype(float)
    rarities = np.minimum(np.log((size + settings.pseudo_facts) / together), (has * priors).sum(1))
    return np.asarray((rarities * ((has * masses).sum(1) / (masses.sum() or 1.0)) ** 2)[of])


def _favour(memory: Memory, least: float, asked: Asked, settings: Settings) -> float:
    """The bonus of an important memory, and of one whose category the prompt names, as a share of its score."""
    bonus = settings.importance_weight * min(memory.importance - least, 10.0)
    if memory.category and set(terms_of(memory.category)) & set(asked.forms):
        bonus += settings.category_bonus
    return bonus


def _newest_of_a_kind(found: Sequence[Retrieved]) -> list[Retrieved]:
    """Of several memories that match a prompt by the very same words, and as well, only the newest speaks: they contradict."""
    newest: dict[tuple[frozenset[str], float], Retrieved] = {}
    kinds = []
    for hit in found:
        kind = (_matched(hit), round(hit.alignment.share, 1))
        kinds.append(kind)
        if kind not in newest or hit.memory.observed_at > newest[kind].memory.observed_at:
            newest[kind] = hit
    return [
        hit if newest[kind] is hit else replace(hit, gate=0.0) for hit, kind in zip(found, kinds, strict=True)
    ]


def _eligible(found: Sequence[Retrieved]) -> list[Retrieved]:
    """Marks those whose gates are open, but for what a newer one says anew. Two that match a prompt by the same words say
    the same thing of it only if they also share wording that the prompt lacks, or one has none: "plays goalkeeper" and
    "drives a Volvo" do not contradict each other."""
    says = [(_matched(hit), _wording(hit)) for hit in found]
    marked = []
    for hit, (matched, wording) in zip(found, says, strict=True):
        anew = (
            other.gate > 0
            and other.memory.observed_at > hit.memory.observed_at
            and others == matched
            and (not theirs or not wording or bool(theirs & wording))
            for other, (others, theirs) in zip(found, says, strict=True)
        )
        marked.append(replace(hit, eligible=hit.gate > 0 and not any(anew)))
    return marked


def _matched(hit: Retrieved) -> frozenset[str]:
    """The fact's words that the prompt has."""
    terms = annotate(hit.memory.text, hit.memory.priors).terms
    return frozenset(
        term for term, has in zip(terms, hit.alignment.covered.tolist(), strict=True) if has > 0.5
    )


def _wording(hit: Retrieved) -> frozenset[str]:
    """The fact's words that the prompt lacks, without names and small words."""
    text, lacks = annotate(hit.memory.text, hit.memory.priors), hit.alignment.covered <= 0.5
    priors = text.unigram_nll
    those = lacks & (text.name_scores == 0) & (priors >= PART * priors.max(initial=0.0))
    return frozenset(term for term, is_one in zip(text.terms, those.tolist(), strict=True) if is_one)
