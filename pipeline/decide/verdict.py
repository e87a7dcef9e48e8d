"""Verdict on a fact before the loss gate: which memory it concerns, and by which rule.

fact_id        its fact_id was decided before
same_text      a memory has the same text
key            the key stated another text before: the newer one holds
many           the key may have several values: it stands beside them
key_over       it is older than what is known of the key, though no memory of the key tells: than a request to forget it
key_taken_up   a memory without a key has the same text, and gets the key
same_relation  another answer to the same subject and relation, which has one at a time: the newer one holds
many_valued    the same subject and relation, which may have several: it stands beside
new            none of these
"""

from typing import NamedTuple

from pipeline.memory.record import Memory


class Verdict(NamedTuple):
    outcome: str
    """duplicate, reinforced, superseded, outdated, or learned, which the loss gate may still skip."""
    rule: str
    memory: Memory | None = None
    """The one that was compared: it is repeated, replaced, newer, or stands beside."""
    similarity: float | None = None
    """Similarity to that memory, 0 to 1."""


def newer_or_outdated(is_newer: bool, rule: str, memory: Memory, similarity: float | None = None) -> Verdict:
    """The verdict on a fact that contradicts a memory."""
    return Verdict("superseded" if is_newer else "outdated", rule, memory, similarity)
