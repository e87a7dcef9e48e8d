"""The synthetic inputs: distinct, of the wanted kinds, and the same for a seed."""

import pytest

from pipeline.bench.synthetic import texts
from pipeline.bench.synthetic.facts import made_up_stream


def test_made_up_facts_are_distinct_and_the_same_for_a_seed() -> None:
    facts = texts.made_up_facts(93_400, seed=1)
    assert len(set(facts)) == 93_400 and all(fact.endswith(".") for fact in facts)
    assert facts[:100] == texts.made_up_facts(100, seed=1) != texts.made_up_facts(100, seed=2)


def test_everyday_prompts_are_distinct_and_the_same_for_a_seed() -> None:
    prompts = texts.everyday_prompts(200, seed=1)
    assert len(set(prompts)) == 200 and prompts == texts.everyday_prompts(200, seed=1)
    with pytest.raises(ValueError, match="everyday prompts"):
        texts.everyday_prompts(100_000, seed=1)


def test_made_up_facts_are_new_ones_updates_and_repetitions() -> None:
    facts = list(made_up_stream(300, 1))
    stream = [fact.encoding.text for fact in facts]
    assert (
        stream
        == [fact.encoding.text for fact in made_up_stream(300, 1)]
        != [fact.encoding.text for fact in made_up_stream(300, 2)]
    )
    assert 10 < len(stream) - len(set(stream)) < 60
    assert all(len(f.encoding.priors) == len(f.encoding.vectors) > 2 for f in facts)
    assert len({fact.cause.offset for fact in facts}) == 300
