"""Tests of the gate, and of contradictions, by which gates close."""

from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from pipeline.config import Settings
from pipeline.memory.record import Memory
from pipeline.retrieve.alignment import Alignment
from pipeline.retrieve.gate import closed, gate_of, gate_of_chosen, only_chosen, settled
from pipeline.retrieve.hit import Hit
from pipeline.text.annotate import annotate

AT = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = Settings()


def hit(text: str, matched: str, day: int, share: float = 0.9) -> Hit:
    """A hit with an open gate, of a memory that was observed on this day; the prompt has the words of `matched`."""
    nll = np.full(len(text.split()), 10.0, np.float32)
    memory = Memory(
        memory_id=text, namespace="n", text=text, observed_at=AT + timedelta(day), learned_at=AT, importance=0.0,
        loss_delta=1.0, encoder_id="e", priors=nll, surprisals=nll, vectors=np.zeros((len(nll), 0), np.uint8),
    )  # fmt: skip
    read = annotate(text, nll)
    alignment = Alignment(
        np.array([term in matched.split() for term in read.terms]), (0, 1), share, share, np.ones(len(nll))
    )
    return Hit(memory, read, nll.astype(float), alignment, 5.0, gate_of(share, SETTINGS))


def test_a_gate_opens_by_the_matching_share() -> None:
    config = Settings(gate_open=0.6, gate_full=0.8)
    assert gate_of(0.59, config) == 0.0
    assert gate_of(0.6, config) == 0.5
    assert gate_of(0.7, config) == pytest.approx(0.75)
    assert gate_of(0.8, config) == gate_of(1.0, config) == 1.0


def test_only_the_newest_of_contradicting_memories_takes_part() -> None:
    old, new = hit("Ann lives in bonn", "ann lives in", 1), hit("Ann lives in kiel", "ann lives in", 2)
    assert [one.gate for one in settled([old, new], 2, SETTINGS)] == [0.0, 1.0]
    worse = hit("Ann lives in kiel", "ann lives in", 2, share=0.7)
    assert all(one.gate for one in settled([old, worse], 2, SETTINGS)), "they do not match equally well"
    other = hit("Ann lives in kiel", "ann lives", 2)
    assert all(one.gate for one in settled([old, other], 2, SETTINGS)), "they match by other words"


def test_memories_beyond_the_best_are_silent_but_may_answer() -> None:
    first, second = hit("Ann lives in bonn", "ann", 1), hit("Bo lives in kiel", "bo", 1)
    [one, other] = settled([first, second], 1, SETTINGS)
    assert (one.gate, other.gate) == (1.0, 0.0) and one.answerable and other.answerable
    shut = hit("Bo lives in kiel", "bo", 1, share=0.1)
    assert not settled([first, shut], 2, SETTINGS)[1].answerable


def test_an_outdated_memory_may_not_answer() -> None:
    old, new = hit("Ann plays in goal", "ann", 1), hit("Ann plays in attack", "ann", 2)
    assert [one.answerable for one in settled([old, new], 2, SETTINGS)] == [False, True]
    unlike = hit("Ann drives a volvo", "ann", 2)
    assert [one.answerable for one in settled([old, unlike], 2, SETTINGS)] == [True, True]


def test_the_chosen_memory_takes_part_alone_with_the_widest_gate() -> None:
    hits = [hit("Ann lives in bonn", "ann", 1, share=0.7), closed(hit("Bo lives in kiel", "bo", 1))]
    widest = gate_of_chosen(hits)
    assert widest == hits[0].gate > 0
    assert [one.gate for one in only_chosen(hits, 1)] == [0.0, widest]
    assert [one.gate for one in hits] == [widest, 0.0], "the hits themselves stay as they were"


def test_a_hit_is_immutable() -> None:
    one = hit("Ann lives in bonn", "ann", 1)
    with pytest.raises(FrozenInstanceError):
        one.gate = 0.0  # type: ignore[misc]
    assert replace(one, score=1.0).gate == one.gate
