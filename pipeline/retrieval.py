"""Which memories does a prompt concern, and may they speak?

Three steps, each exact over what the one before leaves: words and pooled states find candidates through the bank's
index; late interaction over word states and the rarity of what is matched rank them; alignment opens the gates of the
best. A prompt that asks through the best one is answered by another (hop.py). Knows no model: the prompt comes encoded.

    score = (trial_weight + alignment's share) ·
            (sum over the prompt's words of information · likeness of states  (late interaction: Khattab & Zaharia 2020)
             + rarity_weight · rarity of the matched words together · their share²)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.alignment import Alignment, Floats, Words, align, gate
from pipeline.bank import Bank
from pipeline.decision import Memory
from pipeline.encoding import Asked
from pipeline.hop import hop
from pipeline.index import Index, pool
from pipeline.settings import Settings
from pipeline.vectors import unpack
from pipeline.weights import belonging, information_of, words_of
from pipeline.words import split


@dataclass(frozen=True, slots=True)
class Retrieved:
    memory: Memory
    information: Floats  # of the fact's words, nats
    alignment: Alignment
    score: float  # nats, with importance and category
    gate: float  # 0: keeps silent


def retrieve(bank: Bank, namespaces: Sequence[str], asked: Asked, k: int) -> list[Retrieved]:
    """The k best memories of the namespaces, best first. Ties go to the newer."""
    found = [hit for namespace in namespaces for hit in _of_namespace(bank, namespace, asked, max(k, 2))]
    found.sort(key=lambda hit: (hit.score, hit.memory.observed_at, hit.memory.memory_id), reverse=True)
    found = _newest_of_a_kind(found[: max(k, 2)])
    if found and found[0].gate:
        first = found[0]
        if second := hop(bank, namespaces, asked, first.memory, first.information, first.alignment):
            opens = gate(second.alignment.share, bank.settings)
            beyond = Retrieved(second.memory, second.information, second.alignment, first.score, opens)
            found = [beyond, *(replace(hit, gate=0.0) for hit in found if hit.memory is not beyond.memory)]
    return found[:k]


def _of_namespace(bank: Bank, namespace: str, asked: Asked, k: int) -> list[Retrieved]:
    index, settings = bank.index(namespace), bank.settings
    if index is None or not bank.size(namespace) or not asked.forms:
        return []
    size = bank.size(namespace)
    information = information_of(index, size, asked.forms, asked.priors, settings)
    # A word said again says nothing new: its last place counts, the one nearest to what is asked.
    information *= [form not in asked.forms[i + 1 :] for i, form in enumerate(asked.forms)]
    ids = _candidates(index, asked, information, settings)
    memories = [m for m in (bank.get(namespace, memory_id) for memory_id in ids) if m is not None]
    scores = _late_interaction(asked, information, memories, settings)
    scores += settings.rarity_weight * _rarity(index, size, asked, information, memories, settings)
    best = sorted(range(len(memories)), key=lambda i: (-scores[i], memories[i].memory_id))
    best = best[: max(k, settings.aligned)]
    least = min((memories[i].importance for i in best), default=0.0)
    marks = np.array(asked.marks)
    prompt = Words(
        asked.forms,
        belonging(information, asked.priors * (information > 0), marks),
        asked.surprisals.astype(float),
        marks,
        np.zeros((len(marks), 2), int),
    )
    hits = []
    for i in best:
        memory = memories[i]
        said = information_of(index, size, [w.form for w in split(memory.text)], memory.priors, settings)
        alignment = align(prompt, words_of(memory, said), settings)
        # A match of wording alone ("… belongs to the organization of") may score high; what is torn or missing tells.
        score = float(scores[i]) * (settings.trial_weight + alignment.share)
        score += abs(score) * _favour(memory, least, asked, settings)
        hits.append(Retrieved(memory, said, alignment, score, gate(alignment.share, settings)))
    return sorted(hits, key=lambda hit: (-hit.score, hit.memory.memory_id))[:k]


def _candidates(index: Index, asked: Asked, information: Floats, settings: Settings) -> list[str]:
    """Ids of memories that share words with the prompt, by the weight of these, and of those with near states."""
    masses: dict[str, float] = {}
    words = dict(
        zip(asked.forms, information.tolist(), strict=True)
    )  # the last of each form, hence the one that counts
    for form, info in sorted(words.items(), key=lambda item: (-item[1], item[0])):
        for n, memory_id in enumerate(reversed(index.holding(form))):
            if n >= settings.postings:
                break
            masses[memory_id] = masses.get(memory_id, 0.0) + info * info
    sharing = sorted(masses, key=lambda m: (-masses[m], m))[: settings.candidates]
    near = index.nearest(pool(asked.vectors, information.astype(np.float32)), settings.candidates)
    return list(dict.fromkeys([*sharing, *near]))


def _late_interaction(
    asked: Asked, information: Floats, memories: Sequence[Memory], settings: Settings
) -> Floats:
    """For each memory the sum over the prompt's words of information times the likeness of the likest word."""
    scores, dimensions = np.zeros(len(memories)), asked.vectors.shape[1]
    having = [i for i, m in enumerate(memories) if m.vectors.size]
    if not having:
        return scores
    packed = np.concatenate([memories[i].vectors for i in having])
    starts = np.cumsum([0, *(len(memories[i].vectors) for i in having)])[:-1]
    likest = np.maximum.reduceat(asked.vectors @ unpack(packed, dimensions).T, starts, axis=1)
    bound = settings.alike_from
    scores[having] = information @ np.clip((likest - bound) / (1 - bound), 0.0, 1.0)
    return scores


def _rarity(
    index: Index, size: int, asked: Asked, information: Floats, memories: Sequence[Memory], settings: Settings
) -> Floats:
    """How few memories have all the words that this one shares with the prompt (nats), by the share squared of the
    prompt that these are. Words of one wording come together: "belongs to the organization of" is one sign, not five."""
    priors = dict(zip(asked.forms, asked.priors.tolist(), strict=True))
    masses = dict(zip(asked.forms, (information**2).tolist(), strict=True))
    total = sum(masses.values()) or 1.0
    known: dict[frozenset[str], float] = {}
    holding = {form: index.holding(form) for form in masses}
    rarities = []
    for memory in memories:
        shared = frozenset(form for form, ids in holding.items() if memory.memory_id in ids)
        if shared not in known:
            rarity = 0.0
            if shared:
                together = index.together(sorted(shared), settings.postings)
                rarity = min(
                    math.log((size + settings.pseudo_facts) / together), sum(priors[f] for f in shared)
                )
            known[shared] = rarity * (sum(masses[f] for f in shared) / total) ** 2
        rarities.append(known[shared])
    return np.array(rarities)


def _favour(memory: Memory, least: float, asked: Asked, settings: Settings) -> float:
    """The bonus of an important memory, and of one whose category the prompt names, as a share of its score."""
    bonus = settings.importance_weight * min(memory.importance - least, 10.0)
    if memory.category and {w.form for w in split(memory.category)} & set(asked.forms):
        bonus += settings.category_bonus
    return bonus


def _newest_of_a_kind(found: Sequence[Retrieved]) -> list[Retrieved]:
    """Of several memories that match a prompt by the very same words, and as well, only the newest speaks: they contradict."""
    newest: dict[tuple[frozenset[str], float], Retrieved] = {}
    kinds = []
    for hit in found:
        forms = [w.form for w in split(hit.memory.text)]
        matched = frozenset(f for f, c in zip(forms, hit.alignment.covered.tolist(), strict=True) if c > 0.5)
        kind = (matched, round(hit.alignment.share, 1))
        kinds.append(kind)
        if kind not in newest or hit.memory.observed_at > newest[kind].memory.observed_at:
            newest[kind] = hit
    return [
        hit if newest[kind] is hit else replace(hit, gate=0.0) for hit, kind in zip(found, kinds, strict=True)
    ]
