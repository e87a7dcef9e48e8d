"""Contradictions: memories that match a prompt by the same words. Only the newest one is right."""

from collections.abc import Sequence

from pipeline.config import Settings
from pipeline.retrieve.hit import Hit


def contradicted(hits: Sequence[Hit], settings: Settings) -> list[bool]:
    """[hits] whether a newer one matches the prompt by exactly the same words, and equally well."""
    kinds = [(_matched(hit), round(hit.alignment.share, settings.same_share_digits)) for hit in hits]
    newest: dict[tuple[frozenset[str], float], Hit] = {}
    for hit, kind in zip(hits, kinds, strict=True):
        if kind not in newest or hit.memory.observed_at > newest[kind].memory.observed_at:
            newest[kind] = hit
    return [newest[kind] is not hit for hit, kind in zip(hits, kinds, strict=True)]


def outdated(hits: Sequence[Hit], settings: Settings) -> list[bool]:
    """[hits] whether a newer one with an open gate gives the same subject another answer of the same kind.

    Two memories that match a prompt by the same words do so only if they also share wording that the prompt lacks, or one has
    no such wording: "plays goalkeeper" and "drives a Volvo" do not contradict each other.
    """
    words = [(_matched(hit), _unmatched_wording(hit, settings)) for hit in hits]
    return [
        any(
            other.gate > 0
            and other.memory.observed_at > hit.memory.observed_at
            and others == matched
            and (not theirs or not wording or bool(theirs & wording))
            for other, (others, theirs) in zip(hits, words, strict=True)
        )
        for hit, (matched, wording) in zip(hits, words, strict=True)
    ]


def _matched(hit: Hit) -> frozenset[str]:
    """The fact's terms that the prompt has."""
    return _chosen(hit, hit.alignment.matched.tolist())


def _unmatched_wording(hit: Hit, settings: Settings) -> frozenset[str]:
    """The fact's terms that the prompt lacks, without names and small words."""
    text = hit.text
    says = text.unigram_nll >= settings.informative * text.unigram_nll.max(initial=0.0)
    return _chosen(hit, (~hit.alignment.matched & (text.name_scores == 0) & says).tolist())


def _chosen(hit: Hit, which: Sequence[bool]) -> frozenset[str]:
    return frozenset(term for term, chosen in zip(hit.text.terms, which, strict=True) if chosen)
