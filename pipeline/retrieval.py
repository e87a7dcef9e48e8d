"""Which memories does a prompt concern, and may they speak?

Words find candidates through the bank's index; alignment scores them and opens their gates. Knows no model but the
prior information of words, so it needs no forward pass.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.alignment import Alignment, align, gate
from pipeline.bank import Bank
from pipeline.decision import Memory
from pipeline.settings import Settings
from pipeline.words import split


@dataclass(frozen=True, slots=True)
class Retrieved:
    memory: Memory
    words: list[tuple[str, float]]  # of the fact: form, information in nats
    alignment: Alignment
    score: float  # nats squared, with importance and category
    gate: float  # 0: keeps silent


def query(text: str, prior: Callable[[str], float], settings: Settings) -> list[tuple[str, str, float]]:
    """(form, surface, prior information) of the last words of a prompt."""
    words = split(text)[-settings.prompt_words :]
    return [(w.form, text[w.start : w.end], prior(text[w.start : w.end])) for w in words]


def retrieve(
    bank: Bank, namespaces: Sequence[str], text: str, prior: Callable[[str], float], k: int
) -> list[Retrieved]:
    """The k best memories of the namespaces, best first. Ties go to the newer."""
    settings = bank.settings
    asked = query(text, prior, settings)
    found = [hit for namespace in namespaces for hit in _of_namespace(bank, namespace, asked, settings)]
    found.sort(key=lambda hit: (hit.score, hit.memory.observed_at, hit.memory.memory_id), reverse=True)
    return _newest_of_a_kind(found[: max(k, 2)])[:k]


def _of_namespace(
    bank: Bank, namespace: str, asked: Sequence[tuple[str, str, float]], settings: Settings
) -> list[Retrieved]:
    size = bank.size(namespace)
    if not size or not asked:
        return []

    def information(form: str, prior: float) -> float:
        """What the word says among these facts; 0 for a word that says little by itself. The fact's own use of it
        is not counted: being in one fact is no sign of being common."""
        if prior < settings.informative:
            return 0.0
        others = max(0, len(bank.holding(namespace, form)) - 1)
        return math.log((size + settings.pseudo_facts) / (others + settings.pseudo_facts * math.exp(-prior)))

    prompt = [(form, information(form, prior)) for form, _, prior in asked]
    masses: dict[str, float] = {}
    for form, info in sorted(dict(prompt).items(), key=lambda item: (-item[1], item[0])):
        for n, memory_id in enumerate(reversed(bank.holding(namespace, form))):
            if n >= settings.postings:
                break
            masses[memory_id] = masses.get(memory_id, 0.0) + info * info
    best = sorted(masses, key=lambda m: (-masses[m], m))[: settings.candidates]
    hits = []
    for memory_id in best:
        memory = bank.get(namespace, memory_id)
        if memory is None:
            continue
        words = [
            (w.form, information(w.form, float(prior)))
            for w, prior in zip(split(memory.text), memory.priors, strict=True)
        ]
        alignment = align(prompt, words, settings)
        hits.append((memory, words, alignment))
    if not hits:
        return []
    forms = {form for form, _ in prompt}
    least = min(memory.importance for memory, _, _ in hits)
    retrieved = []
    for memory, words, alignment in hits:
        bonus = settings.importance_weight * min(memory.importance - least, 10.0)
        if memory.category and {w.form for w in split(memory.category)} & forms:
            bonus += settings.category_bonus
        score = alignment.score + abs(alignment.score) * bonus
        retrieved.append(Retrieved(memory, words, alignment, score, gate(alignment.share, settings)))
    return retrieved


def _newest_of_a_kind(found: Sequence[Retrieved]) -> list[Retrieved]:
    """Of several memories that match a prompt by the very same words only the newest speaks: they contradict."""
    newest: dict[frozenset[str], Retrieved] = {}
    kinds = []
    for hit in found:
        kind = frozenset(
            form for (form, _), c in zip(hit.words, hit.alignment.covered, strict=True) if c > 0.5
        )
        kinds.append(kind)
        if kind not in newest or hit.memory.observed_at > newest[kind].memory.observed_at:
            newest[kind] = hit
    return [
        hit if newest[kind] is hit else Retrieved(hit.memory, hit.words, hit.alignment, hit.score, 0.0)
        for hit, kind in zip(found, kinds, strict=True)
    ]
