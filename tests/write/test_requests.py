"""Keyed facts and requests through the writer: the changelog follows every memory that they change."""

from pathlib import Path

from pipeline.memory.bank import fold, memory_id
from tests.write.local_writer import HOME, agree, batch, decided, message, row, writer

HOMES = ["Ola lives in Temmin.", "Ola has moved to Brask.", "Ola is back."]


def test_updates_restores_and_sweeps_reach_the_changelog(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    first = memory_id("default", HOMES[0], "ola:home")
    rows = [
        row(0, HOMES[0], key="ola:home", metadata='{"n":1}'),
        row(1, HOMES[1], key="ola:home"),
        row(2, "", kind="restore", forget=first),
        row(3, HOMES[2], key="ola:home"),
        row(4, "The lamp is old."),
        row(5, "", kind="forget_key", key="ola:home", observed_at=None),
        row(6, HOMES[0], key="ola:home"),
        row(7, "", kind="forget_all", observed_at=None),
        row(8, "The lamp is new."),
    ]
    texts = []
    for offset, one in enumerate(rows):
        worker.process(batch(message(one), start=offset))
        agree(sent, tmp_path)
        texts.append([memory.text for memory in worker._held[HOME].bank.memories("default")])
        if offset == 0:
            assert b'"metadata":{"n":1}' in sent.compacted()[f"default/{first}".encode()]
    assert texts == [
        [HOMES[0]], [HOMES[1]], [HOMES[0]], [HOMES[2]], [HOMES[2], "The lamp is old."], ["The lamp is old."],
        ["The lamp is old.", HOMES[0]], [], ["The lamp is new."],
    ]  # fmt: skip
    assert [d.outcome for d in decided(tmp_path)] == [
        "learned", "superseded", "restored", "superseded", "learned", "forgotten", "learned", "forgotten", "learned",
    ]  # fmt: skip
    assert fold(decided(tmp_path)).digest() == worker._held[HOME].bank.digest()


def test_one_batch_leads_to_the_changelog_of_many(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    rows = [row(n, text, key="k") for n, text in enumerate(HOMES)]
    rows += [row(3, "", kind="forget_all", observed_at=None), row(4, HOMES[1], key="k")]
    worker.process(batch(message(*rows)))
    agree(sent, tmp_path)
    assert [memory.text for memory in worker._held[HOME].bank.memories("default")] == [HOMES[1]]
