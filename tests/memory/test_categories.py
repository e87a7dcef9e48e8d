"""The least important memory of the largest category, against a look at all of them."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.memory.eviction import SLACK, Categories

actions = st.tuples(
    st.sampled_from(["put", "remove"]), st.sampled_from("abcd"), st.integers(0, 8), st.floats(-4, 4, width=32)
)


@given(st.lists(actions, max_size=200), st.sampled_from("abcde"))
def test_it_is_the_one_that_a_look_at_all_finds(
    script: list[tuple[str, str, int, float]], coming: str
) -> None:
    fast, plain = Categories(), dict[str, dict[str, float]]()
    for action, category, number, importance in script:
        memory = f"{category}{number}"
        if action == "put":
            fast.put(category, memory, importance)
            plain.setdefault(category, {})[memory] = importance
        elif memory in plain.get(category, {}):
            fast.remove(category, memory)
            del plain[category][memory]
        sizes = {name: len(members) + (name == coming) for name, members in plain.items() if members}
        if sizes:
            largest = min(sizes, key=lambda name: (-sizes[name], name))
            expected = min((importance, memory) for memory, importance in plain[largest].items())[1]
            assert fast.of_largest(coming) == expected


def test_what_is_outdated_does_not_pile_up() -> None:
    held = Categories()
    for n in range(5_000):
        held.put("a", "kept", float(n))
        held.put(f"c{n % 7}", f"m{n}", 0.0)
        held.remove(f"c{n % 7}", f"m{n}")
    assert all(len(heap) <= 2 + SLACK for heap in held._heaps.values()) and len(held._sizes) <= 2 + SLACK
