"""Validation of fact-encodings: every column is checked, and what passes is what the encoder sent."""

import dataclasses
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from pipeline.ingest.encoding import Encoding
from pipeline.memory.codec import facts_to_batch
from pipeline.memory.events import ForgetRequest, NewFact, SourceOffset
from schemas.common import BadMessage
from schemas.encoding import FACT_ENCODINGS, encode_batch
from workers.write.validate import AllRows, FactRows, ForgetRows, decode_events

AT = datetime(2026, 1, 2, tzinfo=UTC)
CHECKED_ELSEWHERE = {"observed_at", "published_at", "priors", "surprisals", "vectors"}


def fact(offset: int, text: str = "The lamp.", words: int = 2) -> NewFact:
    numbers = np.arange(words, dtype=np.float32)
    vectors = np.full((words, 3), offset, np.uint8)
    encoding = Encoding(text, "e", 2.0, 0.5, 1.5, numbers, numbers + 1, vectors)
    cause = SourceOffset("facts", "t", 1, offset)
    return NewFact(
        "n", encoding, AT - timedelta(days=1), AT, cause, 0.25, category="c", source="s", fact_id="f"
    )


def forget(offset: int, erase: bool) -> ForgetRequest:
    return ForgetRequest("n", "a" * 32, erase, AT, SourceOffset("facts", "t", 1, offset))


def test_every_column_is_checked() -> None:
    checked = {*AllRows.model_fields, *FactRows.model_fields, *ForgetRows.model_fields}
    assert checked | CHECKED_ELSEWHERE == set(FACT_ENCODINGS.names)
    assert not checked & CHECKED_ELSEWHERE


def test_what_the_encoder_sends_is_what_the_writer_gets() -> None:
    request, erasure = forget(1, erase=False), forget(3, erase=True)
    sent: list[NewFact | ForgetRequest] = [fact(0), request, fact(2, "...", words=0), erasure, fact(4)]
    received = decode_events(encode_batch(facts_to_batch(sent, "e")))
    for one, other in zip(received, sent, strict=True):
        if isinstance(other, ForgetRequest):
            assert one == other
            continue
        assert isinstance(one, NewFact)
        for field in dataclasses.fields(NewFact):
            if field.name != "encoding":
                assert getattr(one, field.name) == getattr(other, field.name)
        for name in ("priors", "surprisals", "vectors"):
            a, b = getattr(one.encoding, name), getattr(other.encoding, name)
            assert a.dtype == b.dtype and a.tolist() == b.tolist()
        for name in ("text", "encoder_id", "base_loss", "recall_loss", "loss_delta"):
            assert getattr(one.encoding, name) == getattr(other.encoding, name)


def test_words_of_one_row_cannot_make_up_for_anothers() -> None:
    batch = facts_to_batch([fact(0, "The lamp.", 1), fact(1, "The lamp.", 3)], "e")
    with pytest.raises(BadMessage, match="priors"):
        decode_events(encode_batch(batch))
