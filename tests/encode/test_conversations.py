"""Conversations in the encoder worker: statements travel together; stating nothing counts, too."""

from typing import Any

import numpy as np
import orjson
import pytest

from pipeline.config import CONVERSATIONS
from pipeline.ingest.encoding import FactEncoding
from pipeline.memory.events import NothingStated
from pipeline.text.words import split
from schemas import topics
from schemas.encoding import decode_batch
from tests.encode.test_encoder import Sent, batch, sent, worker  # noqa: F401
from workers.encode import messages
from workers.kafka.config import KafkaSettings
from workers.kafka.producer import BATCH_OVERHEAD_BYTES


def said(content: str, **more: Any) -> bytes:
    return orjson.dumps(
        {"messages": [{"role": "user", "name": "Ana", "content": content}], "min_loss_delta": 0} | more
    )


def test_the_statements_of_a_record_are_facts_with_its_offset(sent: Sent) -> None:  # noqa: F811
    worker().process(
        batch(
            b'{"text": "first"}', said("Hi! I moved to Porto. I like tea.", fact_id="c"), b'{"text": "last"}'
        )
    )
    assert [(f.encoding.text, f.cause.offset, f.fact_id, f.min_loss_delta) for f in sent.facts()] == [
        ("first", 0, None, None), ("Ana moved to Porto.", 1, "c#0", 0.0), ("Ana likes tea.", 1, "c#1", 0.0), ("last", 2, None, None),
    ]  # fmt: skip


def test_a_conversation_that_states_nothing_is_one_row(sent: Sent) -> None:  # noqa: F811
    done = worker().process(
        batch(said("Hi! How are you?"), said("", messages=[{"role": "assistant", "content": "I am fine."}]))
    )
    assert [(type(e), e.cause.offset) for e in sent.events()] == [(NothingStated, 0), (NothingStated, 1)]
    assert done.fields["dead_letters"] == 0


def test_what_has_no_rare_words_is_left_out(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Unless the record has a threshold of its own. To the stand-in only "porto" is rare."""

    def encoded(text: str) -> FactEncoding:
        words = split(text)
        priors = [7.1 + CONVERSATIONS.min_worth if word.term == "porto" else 1.0 for word in words]
        ones = np.ones(len(words), np.float32)
        return FactEncoding(
            text, "e", 2.0, 1.0, 1.0, np.array(priors, np.float32), ones, np.zeros((len(words), 0), np.uint8)
        )

    made = worker()
    monkeypatch.setattr(made._encoder, "encode_each", lambda texts, stop: [encoded(text) for text in texts])
    made.process(
        batch(said("I moved to Porto. It has trams. I like tea.", min_loss_delta=None), said("I like tea."))
    )
    # What stands before "It" is not what this sentence tells.
    assert sent.texts() == ["Ana moved to Porto.", "Ana likes tea."]


def test_the_rows_of_a_record_are_never_parted(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(messages, "ROWS", 4)
    worker().process(
        batch(b'{"text": "one"}', b'{"text": "two"}', said("I like tea. " * 6), said("I like tea. " * 2))
    )
    offsets = [[row["offset"] for row in decode_batch(r.value).to_pylist()] for r in sent.records]
    assert offsets == [[0, 1], [2] * 6, [3, 3]]


def test_a_conversation_is_refused_whole(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    bad = [
        said("I like tea. I have a long cat."),
        said("I like tea. I have an odd cat."),
        said("I like tea. " * 300),
    ]
    worker().process(batch(*bad, said("I like tea.")))
    assert list(sent.reasons().values()) == ["too-long", "not-measurable", "invalid-field"]
    assert sent.texts() == ["Ana likes tea."]
    limit = {topics.MEMORY_CHANGELOG: 2**20, topics.FACT_ENCODINGS: 2 * BATCH_OVERHEAD_BYTES + 300}
    monkeypatch.setattr(KafkaSettings, "max_bytes", lambda self, name: limit.get(name, 2**20))
    worker().process(batch(said("I like tea. " * 9), said("I like milk.")))
    assert sent.texts() == ["Ana likes tea.", "Ana likes milk."]


def test_the_labels_of_a_conversation_count_for_its_size(
    sent: Sent,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each fact has them, so together they are more than a record holds, and the producer would end the encoder."""
    monkeypatch.setattr(KafkaSettings, "max_bytes", lambda self, name: 2 * BATCH_OVERHEAD_BYTES + 10_000)
    worker().process(batch(said("I like tea. " * 9, metadata={"note": "x" * 2_000}), said("I like milk.")))
    assert list(sent.reasons().values()) == ["too-large"] and sent.texts() == ["Ana likes milk."]


def test_an_encoding_is_not_taken_from_the_next_record(sent: Sent) -> None:  # noqa: F811
    """A record that is refused for its first sentence has taken the encodings of all."""
    worker().process(batch(said("I have a long cat. I like tea."), b'{"text": "mine"}'))
    assert [(f.encoding.text, f.cause.offset) for f in sent.facts()] == [("mine", 1)]
