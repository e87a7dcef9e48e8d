"""The memory bank: a fold over decisions, and what it remembers of them."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Settings
from pipeline.decide.requests import decide_forget
from pipeline.memory.bank import Bank, fold
from pipeline.memory.codec import memory_from_record, memory_to_record
from pipeline.memory.events import ForgetRequest, SourceOffset
from schemas.changelog import MemoryRecord
from schemas.common import decode, encode
from tests.decide.samples import START, feed

words = st.lists(
    st.sampled_from(["Acme", "Zorg", "is", "in", "Bonn", "Kiel", "Oslo"]), min_size=1, max_size=5
)
facts_in_order = st.lists(st.tuples(words, st.integers(0, 9), st.sampled_from([0.25, 4.0])), max_size=25)


@given(facts_in_order)
def test_folding_the_history_makes_the_same_memory(facts: list[tuple[list[str], int, float]]) -> None:
    bank = Bank(Settings(capacity=4))
    decisions = feed(bank, *((" ".join(w), {"at": at, "loss_delta": delta}) for w, at, delta in facts))
    assert fold(decisions, bank.settings).digest() == bank.digest()
    assert len(bank) <= 4
    for offset in range(len(facts)):
        assert bank.is_decided("default", SourceOffset("facts", "t", 0, offset))
    assert not bank.is_decided("default", SourceOffset("facts", "anew", 0, 0))


@given(facts_in_order)
def test_a_restored_bank_decides_as_the_one_that_was_saved(facts: list[tuple[list[str], int, float]]) -> None:
    stream = [(" ".join(w), {"at": at, "loss_delta": delta}) for w, at, delta in facts]
    bank, restored = Bank(Settings(capacity=4)), Bank(Settings(capacity=4))
    feed(bank, *stream)
    for namespace in bank.namespaces:
        restored.restore(namespace, *bank.decided_state(namespace))
        for memory in bank.memories(namespace):
            restored.put(memory)
    assert restored.digest() == bank.digest()
    again = [[(d.outcome, d.memory_id, d.nearest) for d in feed(b, *stream)] for b in (bank, restored)]
    assert again[0] == again[1]


def test_an_emptied_namespace_remembers_what_it_has_decided() -> None:
    bank, fact = Bank(), ("Torben Betts was from Munich.", {"fact_id": "a"})
    [learned] = feed(bank, fact)
    cause = SourceOffset("facts", "t", 1, 0)
    request = ForgetRequest("default", str(learned.memory_id), False, START, cause)
    for decision in decide_forget(bank, request, START):
        bank.apply(decision)
    assert not len(bank) and bank.positions("default") == {"t/0": 0, "t/1": 0}
    assert [d.outcome for d in feed(bank, fact)] == ["duplicate"]


def test_only_the_newest_fact_ids_are_remembered() -> None:
    bank = Bank(Settings(remembered_ids=2))
    feed(bank, *((f"Subject{n}x.", {"fact_id": str(n)}) for n in range(4)))
    assert bank.decided_state("default")[1] == ["2", "3"]


def test_a_memory_survives_the_changelog() -> None:
    bank, replica = Bank(), Bank()
    feed(bank, ("Torben Betts was from München.", {"category": "people"}))
    for memory in bank.memories("default"):
        replica.put(memory_from_record(decode(MemoryRecord, encode(memory_to_record(memory)), 1 << 20)))
    assert replica.digest() == bank.digest()
