"""Decision by the upstream's key: exact, whatever the words and in whatever order the facts arrive.

A key names what is stated, such as table, primary key and column. With one value at a time the newest `observed_at` holds;
at equal times the later record, since sources such as MySQL date by the second. With many values all of them hold.
"""

from pipeline.decide.verdict import Verdict, newer_or_outdated
from pipeline.memory.bank import memory_id
from pipeline.memory.events import NewFact
from pipeline.memory.namespace import Namespace


def by_key(space: Namespace, fact: NewFact) -> Verdict:
    """The verdict on a fact that has a key."""
    assert fact.key is not None
    text = fact.encoding.text
    own = space.table.get(memory_id(fact.namespace, text, fact.key))
    ended = space.ended_keys.get(fact.key)
    if ended is not None and fact.observed_at < ended:
        return Verdict("outdated", "key_over")
    others = [memory for memory in space.of_key(fact.key) if own is None or memory.memory_id != own.memory_id]
    if fact.is_single and others:
        newest = max(others, key=lambda memory: memory.observed_at)
        if own is None or fact.observed_at < newest.observed_at:
            return newer_or_outdated(fact.observed_at >= newest.observed_at, "key", newest)
    if own is not None:
        return Verdict("reinforced", "same_text", own, 1.0)
    if unkeyed := space.table.get(memory_id(fact.namespace, text)):
        return Verdict("superseded", "key_taken_up", unkeyed, 1.0)
    return Verdict("learned", "many" if others else "new")
