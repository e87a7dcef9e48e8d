"""Eviction heaps against a scan of all memories."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.memory.eviction import SLACK, EvictionHeaps

actions = st.tuples(
    st.sampled_from(["put", "remove"]), st.sampled_from("abcd"), st.integers(0, 8), st.floats(-4, 4, width=32)
)


@given(st.lists(actions, max_size=200), st.sampled_from("abcde"))
def test_the_least_important_is_the_one_that_a_scan_finds(
    script: list[tuple[str, str, int, float]], growing: str
) -> None:
    heaps, plain = EvictionHeaps(), dict[str, dict[str, float]]()
    for action, category, number, importance in script:
        memory = f"{category}{number}"
        if action == "put":
            heaps.put(category, memory, importance)
            plain.setdefault(category, {})[memory] = importance
        elif memory in plain.get(category, {}):
            heaps.remove(category, memory)
            del plain[category][memory]
        sizes = {name: len(members) + (name == growing) for name, members in plain.items() if members}
        if sizes:
            largest = min(sizes, key=lambda name: (-sizes[name], name))
            expected = min((importance, memory) for memory, importance in plain[largest].items())[1]
            assert heaps.least_important(growing) == expected


def test_outdated_entries_do_not_pile_up() -> None:
    heaps = EvictionHeaps()
    for n in range(5_000):
        heaps.put("a", "kept", float(n))
        heaps.put(f"c{n % 7}", f"m{n}", 0.0)
        heaps.remove(f"c{n % 7}", f"m{n}")
    assert all(len(heap) <= 2 + SLACK for heap in heaps._heaps.values()) and len(heaps._sizes) <= 2 + SLACK
