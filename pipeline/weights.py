"""What words weigh among a bank's facts: the numbers that retrieval and alignment reckon with. Knows no model."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.alignment import Floats, Words
from pipeline.decision import Memory
from pipeline.index import Index
from pipeline.settings import Settings
from pipeline.words import marked, parts, split


def information_of(
    index: Index, size: int, forms: Sequence[str], priors: Sequence[float] | np.ndarray, settings: Settings
) -> Floats:
    """What each word says among these facts, nats. A word that the facts use says less than it does elsewhere, never
    more; one use is not counted: being in one fact is no sign of being common."""
    pseudo, said = settings.pseudo_facts, []
    for form, prior in zip(forms, priors, strict=True):
        others = max(0, index.count(form) - 1)
        here = math.log((size + pseudo) / (others + pseudo * math.exp(-float(prior))))
        said.append(max(0.0, min(here, float(prior))))
    return np.array(said)


def words_of(memory: Memory, information: Floats) -> Words:
    """The memory's words as alignment takes them; information: what each says among the facts."""
    forms, marks, places = _read(memory.text, memory.priors.tobytes())
    weighed = belonging(information, memory.priors, marks)
    return Words(forms, weighed, memory.surprisals.astype(float), marks, places)


def forms_of(memory: Memory) -> list[str]:
    """The memory's words, normalised."""
    return _read(memory.text, memory.priors.tobytes())[0]


@lru_cache(maxsize=4096)
def _read(text: str, priors: bytes) -> tuple[list[str], Floats, NDArray[np.int64]]:
    """The words of a text, how much each looks like a name, and where it stands. Many prompts concern the same memories."""
    words, says = split(text), np.frombuffer(priors, np.float32)
    most = max(float(says.max(initial=0.0)), 1e-9)
    marks = np.array(marked(text, words, [float(p) / most for p in says]))
    places = np.array(parts(text, words), int).reshape(len(words), 2)
    for shared in (marks, places):
        shared.setflags(write=False)
    return [w.form for w in words], marks, places


def belonging(information: Floats, priors: np.ndarray, marks: Floats) -> Floats:
    """What a word says about whether prompt and fact belong together. A name that half of the facts have does not tell
    them apart, yet a prompt with that name is about them: names count by what they say elsewhere."""
    named = np.minimum(1.0, 2 * marks)
    return np.asarray(information * (1.0 - named) + priors * named)
