"""The measurements of what is stored: that they run on what they say, whatever the figures are."""

from pathlib import Path

import pytest

from pipeline.bench import query as bench_query
from pipeline.bench.synthetic.facts import made_up_stream
from workers.bench import replica as bench_replica
from workers.bench import write as bench_write


def quiet(*_: object) -> None: ...


def test_made_up_facts_are_new_ones_updates_and_repetitions() -> None:
    facts = list(made_up_stream(300, 1))
    texts = [fact.encoding.text for fact in facts]
    assert (
        texts
        == [fact.encoding.text for fact in made_up_stream(300, 1)]
        != [fact.encoding.text for fact in made_up_stream(300, 2)]
    )
    assert 10 < len(texts) - len(set(texts)) < 60
    assert all(len(f.encoding.priors) == len(f.encoding.vectors) > 2 for f in facts)
    assert len({fact.cause.offset for fact in facts}) == 300


def test_write_decides_in_both_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_write, "ROUNDS", 1)
    monkeypatch.setattr(bench_write, "SMALL", 60)
    found = bench_write.measure(tmp_path, 600, 1, quiet)
    assert found.memories >= 600 and found.rounds == 1 and found.facts >= 600
    assert min(found.facts_s, found.small_facts_s, found.cpu_facts_s, found.ratio) > 0


def test_query_is_of_a_compacted_history_with_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_query, "REPEATS", 1)
    found = bench_query.measure(
        tmp_path, 14_000, 50, 1, quiet
    )  # it checks the memories that SQL counts itself
    assert found.files_written == 280 and found.files < 150 and found.memories > 100
    assert len(list(tmp_path.rglob("snapshot-*.parquet"))) == bench_query.PARTITIONS
    assert {name: a.ratio > 0 for name, a in found.analyses.items()} == dict.fromkeys(
        bench_query.ANALYSES, True
    )


def test_replica_takes_over_what_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_replica, "REPEATS", 1)
    found = bench_replica.measure(tmp_path, 100, 1, quiet)  # it counts what was read and taken over itself
    assert found.memories == 100 and found.megabytes > 0.05 and found.ratio > 0
