"""Conversations in the writer: the facts of one record are decided together, and once."""

from pathlib import Path

from pipeline.history import layout
from schemas.changelog import PositionRecord
from schemas.common import decode
from tests.write.local_writer import HOME, agree, batch, decided, message, row, writer

TALK = [row(1, "Ana moved to Porto."), row(1, "Ana has a cat called Miso."), row(1, "Ana is a nurse.")]


def nothing(offset: int) -> dict[str, object]:
    return (
        row(offset, "")
        | dict.fromkeys(("text", "priors", "surprisals", "vectors", "observed_at"))
        | {"kind": "nothing"}
    )


def test_the_facts_of_a_record_are_decided_together_and_once(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    values = (
        message(row(0, "The lamp is made of walnut."), *TALK),
        message(row(2, "Orla Venn was from Perth.")),
    )
    worker.process(batch(*values))
    assert [(d.cause.offset, d.outcome) for d in decided(tmp_path)] == [
        (0, "learned"),
        *[(1, "learned")] * 3,
        (2, "learned"),
    ]
    assert layout.last_version(tmp_path, HOME) == 0
    agree(sent, tmp_path)
    position = decode(PositionRecord, sent.compacted()[b"default/"])
    assert [d.offset for d in position.decided] == [0, 1, 1, 1, 2]
    worker.process(batch(*values))  # delivered again, to this writer
    after, _ = writer(tmp_path)
    after.process(batch(*values))  # and to the next one
    assert len(decided(tmp_path)) == 5


def test_a_conversation_that_states_nothing_is_decided(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    worker.process(batch(message(nothing(3))))
    (decision,) = decided(tmp_path)
    assert (decision.outcome, decision.rule, decision.text, decision.cause.offset) == (
        "skipped",
        "nothing_stated",
        None,
        3,
    )
    position = decode(PositionRecord, sent.compacted()[b"default/"])
    assert [(d.offset, d.outcome) for d in position.decided] == [(3, "skipped")]
    worker.process(batch(message(nothing(3))))
    assert len(decided(tmp_path)) == 1


def test_rows_of_a_record_that_stand_apart_are_decided_once(tmp_path: Path) -> None:
    """As no encoder sends them: what comes later belongs to a record that was decided."""
    worker, _ = writer(tmp_path)
    worker.process(batch(message(TALK[0], row(2, "Orla Venn was from Perth."), TALK[1])))
    assert [d.cause.offset for d in decided(tmp_path)] == [1, 2]
