"""Which memories does a prompt concern, and may they speak?

Three steps, each exact over what the one before leaves: words and pooled states find candidates through the bank's
index; late interaction over word states and the rarity of what is matched rank them; alignment opens the gates of the
best. Knows no model: the prompt comes encoded.

    score = (trial_weight + alignment's share) ·
            (sum over the prompt's words of information · likeness of states  (late interaction: Khattab & Zaharia 2020)
             + rarity_weight · rarity of the matched words together · their share²)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np

from pipeline.alignment import PART, Alignment, Floats, Words, align, gate
from pipeline.bank import Bank
from pipeline.decision import Memory
from pipeline.encoding import Asked
from pipeline.index import Index, pool
from pipeline.settings import Settings
from pipeline.vectors import unpack
from pipeline.words import clauses, likeness, marked, split


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
    if found and found[0].gate and (beyond := _beyond(bank, namespaces, asked, found[0])):
        found = [beyond, *(replace(hit, gate=0.0) for hit in found if hit.memory is not beyond.memory)]
    return found[:k]


def _of_namespace(bank: Bank, namespace: str, asked: Asked, k: int) -> list[Retrieved]:
    index, settings = bank.index(namespace), bank.settings
    if index is None or not bank.size(namespace) or not asked.forms:
        return []
    size = bank.size(namespace)
    information = _information(index, size, asked.forms, asked.priors, settings)
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
        _belonging(information, asked.priors * (information > 0), marks),
        asked.surprisals.astype(float),
        marks,
        np.zeros(len(marks), int),
    )
    hits = []
    for i in best:
        memory = memories[i]
        said = _information(index, size, [w.form for w in split(memory.text)], memory.priors, settings)
        alignment = align(prompt, _words_of(memory, said), settings)
        # A match of wording alone ("… belongs to the organization of") may score high; what is torn or missing tells.
        score = float(scores[i]) * (settings.trial_weight + alignment.share)
        score += abs(score) * _favour(memory, least, asked, settings)
        hits.append(Retrieved(memory, said, alignment, score, gate(alignment.share, settings)))
    return sorted(hits, key=lambda hit: (-hit.score, hit.memory.memory_id))[:k]


def _information(
    index: Index, size: int, forms: Sequence[str], priors: Sequence[float] | np.ndarray, settings: Settings
) -> Floats:
    """What each word says among these facts, nats. A word that the facts use says less than it does elsewhere, never
    more; one use is not counted: being in one fact is no sign of being common."""
    pseudo, said = settings.pseudo_facts, []
    for form, prior in zip(forms, priors, strict=True):
        others = max(0, len(index.holding(form)) - 1)
        here = math.log((size + pseudo) / (others + pseudo * math.exp(-float(prior))))
        said.append(max(0.0, min(here, float(prior))))
    return np.array(said)


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


def _words_of(memory: Memory, information: Floats) -> Words:
    """The memory's words as alignment takes them; information: what each says among the facts."""
    words = split(memory.text)
    most = max(float(memory.priors.max(initial=0.0)), 1e-9)
    marks = np.array(marked(memory.text, words, [float(p) / most for p in memory.priors]))
    parts = np.array(clauses(memory.text, words), int)
    weighed = _belonging(information, memory.priors, marks)
    return Words([w.form for w in words], weighed, memory.surprisals.astype(float), marks, parts)


def _belonging(information: Floats, priors: np.ndarray, marks: Floats) -> Floats:
    """What a word says about whether prompt and fact belong together. A name that half of the facts have does not tell
    them apart, yet a prompt with that name is about them: names count by what they say elsewhere."""
    named = np.minimum(1.0, 2 * marks)
    return np.asarray(information * (1.0 - named) + priors * named)


def _beyond(bank: Bank, namespaces: Sequence[str], asked: Asked, first: Retrieved) -> Retrieved | None:
    """The memory that answers through the first one ("Where is the maker of X?"): it is about what the first one answers,
    has of the prompt what the first one lacks, and its own answer comes behind these."""
    words, (start, end) = split(first.memory.text), first.alignment.span
    forms = [w.form for w in words]
    least = PART * float(asked.priors.max(initial=0.0))
    rest = [
        i
        for i, (form, prior) in enumerate(zip(asked.forms, asked.priors.tolist(), strict=True))
        if prior >= least
        and not asked.marks[i]
        and max(map(partial(likeness, form), forms), default=0.0) <= 0.5
    ]
    told = _words_of(first.memory, first.information)
    bridge = [i for i in range(start, end) if told.marks[i] > 0]
    # "produced by" instead of "developed by" is another wording, one word for one: what is asked beyond it is more.
    instead = (first.alignment.covered <= 0.5) & (told.marks == 0) & (first.memory.priors >= least)
    instead[start:end] = False
    if len(rest) < 2 or len(rest) <= instead.sum() or not bridge:
        return None
    prompt = Words(
        [*(asked.forms[i] for i in rest), *(forms[i] for i in bridge)],
        np.concatenate([asked.priors[rest], told.information[bridge]]).astype(float),
        np.concatenate([asked.surprisals[rest], told.surprisals[bridge]]).astype(float),
        np.concatenate([np.zeros(len(rest)), told.marks[bridge]]),
        np.zeros(len(rest) + len(bridge), int),
    )
    best: Retrieved | None = None
    for namespace in namespaces:
        for memory in _about(bank, namespace, [forms[i] for i in bridge]):
            if memory.memory_id == first.memory.memory_id:
                continue
            index, settings = bank.index(namespace), bank.settings
            assert index is not None
            fact_forms = [w.form for w in split(memory.text)]
            information = _information(index, bank.size(namespace), fact_forms, memory.priors, settings)
            alignment = align(prompt, _words_of(memory, information), settings)
            answers = [i for i, c in enumerate(alignment.covered.tolist()) if c > 0.5]
            asks = any(likeness(asked.forms[i], fact_forms[a]) > 0.5 for a in answers for i in rest)
            if not asks or max(answers) >= alignment.span[0]:
                continue
            opens = gate(alignment.share, settings)
            if opens and (best is None or alignment.share > best.alignment.share):
                best = Retrieved(memory, information, alignment, first.score, opens)
    return best


def _about(bank: Bank, namespace: str, forms: Sequence[str]) -> list[Memory]:
    """Memories that have all these words, the newest first, a bounded number of them."""
    index = bank.index(namespace)
    if index is None:
        return []
    rarest, *others = sorted((index.holding(form) for form in forms), key=len)
    having = (m for m in islice(reversed(rarest), bank.settings.postings) if all(m in ids for ids in others))
    memories = (bank.get(namespace, m) for m in islice(having, bank.settings.candidates))
    return [memory for memory in memories if memory is not None]


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
