"""The fusion of two streams, on made-up probabilities: contrast, copies, and what is held impossible."""

import pytest
import torch
from torch import Tensor

from pipeline.fusion.fusion import OUT, Fusion
from pipeline.model.weights import Numbers

V = 10
PLAIN = Numbers(
    least=0.5, least_without_states=0.5, beside=0.5, contrast=1.0, copy=0.0, follow=0.0, plausible=100.0, copied=100.0
)  # fmt: skip


def log_p(seed: int) -> Tensor:
    return torch.randn(V, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


BARE, MEMORY = log_p(1), log_p(2)


def fused(
    numbers: Numbers, lacking: list[int] | None = None, said: tuple[int, ...] = (), gate: float = 1.0,
    facts: list[list[int]] | None = None,
) -> Tensor:  # fmt: skip
    fusion = Fusion(gate, facts or [], lacking or [], numbers)
    for token in said:
        fusion.advance(token)
    return fusion.fuse(BARE, MEMORY)


def test_a_gate_that_is_nearly_shut_leaves_the_bare_scores() -> None:
    numbers = PLAIN._replace(contrast=3.0, copy=9.0, plausible=0.5, copied=0.5)
    assert torch.equal(fused(numbers, [1, 2], gate=0.0), BARE)
    assert torch.allclose(fused(numbers, [1, 2], gate=1e-6), BARE, atol=1e-3)


def test_contrast_says_what_the_facts_change() -> None:
    assert torch.allclose(fused(PLAIN), MEMORY)
    assert torch.allclose(fused(PLAIN, gate=0.5), (BARE + MEMORY) / 2)
    doubled = fused(PLAIN._replace(contrast=2.0))
    assert torch.allclose(doubled, BARE + 2 * (MEMORY - BARE))
    assert torch.equal(Fusion(1.0, [], [], PLAIN).fuse(BARE, BARE), BARE), "what both say cancels out"


def test_an_answer_does_not_begin_with_the_token_that_means_none() -> None:
    memory = torch.full((V,), -20.0)
    memory[4], memory[7] = 5.0, 0.0
    fusion = Fusion(1.0, [], [], PLAIN._replace(plausible=3.0), none=4)
    first = fusion.fuse(BARE, memory.log_softmax(-1))
    assert int(first.argmax()) == 7 and bool(first.isfinite().all()) and float(first[4]) < -1000
    fusion.advance(7)
    assert int(fusion.fuse(BARE, memory.log_softmax(-1)).argmax()) == 4, "later it ends the answer"


def test_copied_are_the_words_that_the_prompt_lacks() -> None:
    rise = fused(PLAIN._replace(copy=2.0), [3, 3, 5]) - fused(PLAIN)
    expected = torch.zeros(V)
    expected[[3, 5]] = 2.0
    assert torch.allclose(rise, expected, atol=1e-6)
    half = fused(PLAIN._replace(copy=2.0), [3, 5], gate=0.5) - fused(PLAIN, gate=0.5)
    assert torch.allclose(half, expected / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("said", "follow"),
    [
        ((), {}),
        ((4,), {5: 3.0}),  # fact: 2 3 4 5
        ((9, 3, 4), {5: 3.0}),
        ((5,), {}),  # the fact ends there
        ((2,), {}),  # the prompt has this word: it was not copied
        ((6,), {3: 3.0}),  # from the other fact, 6 3 7
        ((6, 3), {7: 3.0}),  # the longer of two ends
        ((4, 3), {4: 3.0, 7: 3.0}),  # as long in both: 3 stands in both
    ],
)
def test_what_follows_a_copy_in_its_fact_is_raised(said: tuple[int, ...], follow: dict[int, float]) -> None:
    facts, lacking = [[2, 3, 4, 5], [6, 3, 7]], [3, 4, 5, 6, 7]
    numbers = PLAIN._replace(follow=3.0)
    rise = fused(numbers, lacking, said, facts=facts) - fused(PLAIN, lacking, said, facts=facts)
    expected = torch.zeros(V)
    for token, nats in follow.items():
        expected[token] = nats
    assert torch.allclose(rise, expected, atol=1e-6)


def test_implausible_tokens_lose_and_copies_reach_further() -> None:
    best = float(MEMORY.max())
    order = MEMORY.argsort(descending=True).tolist()
    second = float(MEMORY[order[1]])
    reach = best - second + 1e-4
    only = fused(PLAIN._replace(plausible=reach)) - fused(PLAIN)
    assert [n for n in order if float(only[n]) == 0.0] == order[:2]
    assert torch.allclose(only[order[2:]], torch.full((V - 2,), -OUT), atol=1e-4)
    numbers = PLAIN._replace(plausible=reach, copied=100.0, copy=1.0)
    copied = fused(numbers, [order[-1]]) - fused(PLAIN)
    assert float(copied[order[-1]]) == pytest.approx(1.0, abs=1e-5)
    assert int(fused(numbers._replace(copy=50.0), [order[-1]]).argmax()) == order[-1]


def test_every_target_has_a_finite_score() -> None:
    sure = torch.full((V,), -1e4)
    sure[0] = 0.0
    other = sure.roll(1)
    numbers = PLAIN._replace(contrast=3.0, copy=5.0, follow=5.0, plausible=0.0, copied=0.0)
    for bare, memory in ((sure, other), (other, sure), (sure, sure), (BARE, sure), (sure, BARE)):
        fusion = Fusion(1.0, [[1, 2, 3]], [1, 2, 3], numbers)
        for token in (1, 2, 9):
            fusion.advance(token)
            scores = fusion.fuse(bare, memory)
            assert bool(scores.isfinite().all()) and bool(scores.log_softmax(-1).isfinite().all())


def test_a_fusion_changes_no_stream() -> None:
    bare, memory = BARE.clone(), MEMORY.clone()
    Fusion(1.0, [[1, 2]], [1, 2], PLAIN._replace(copy=3.0, follow=2.0, plausible=0.1)).fuse(bare, memory)
    assert torch.equal(bare, BARE) and torch.equal(memory, MEMORY)
