"""The measurements of storage: each times the work that it reports, whatever the figures are."""

from pathlib import Path

import duckdb
import pytest

from pipeline.bench import query as bench_query
from pipeline.history import log as history
from pipeline.memory import bank
from pipeline.query import run as query
from workers.bench import replica as bench_replica
from workers.bench import write as bench_write


def no_progress(*_: object) -> None: ...


def test_write_decides_in_a_small_and_a_large_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_write, "ROUNDS", 1)
    monkeypatch.setattr(bench_write, "SMALL", bench_write.ROWS)
    result = bench_write.measure(tmp_path, 600, 1, no_progress)
    decisions = [decision for _, rows in history.read(tmp_path, 0) for decision in rows]
    folded = bank.fold(iter(decisions))
    assert result.memories == folded.size("large") >= 600 and folded.size("small-0") >= bench_write.ROWS
    assert result.rounds == 1 and result.small_memories == bench_write.ROWS
    assert result.facts == sum(decision.outcome != "evicted" for decision in decisions)


def test_query_compares_a_compacted_history_with_a_flat_file_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_query, "REPEATS", 1)
    result = bench_query.measure(tmp_path, 14_000, 50, 1, no_progress)
    assert result.files_written == 280 and result.files < 150 and result.memories > 100
    assert len(list(tmp_path.rglob("snapshot-*.parquet"))) == bench_query.PARTITIONS
    assert list(result.analyses) == list(bench_query.ANALYSES)
    counts = "select outcome, count(*) as n from {} group by outcome order by outcome"
    by_history = query.run(tmp_path / "data", counts.format("history")).to_pydict()
    by_file = duckdb.execute(counts.format(f"'{tmp_path / 'flat.parquet'}'")).fetchall()
    assert list(zip(by_history["outcome"], by_history["n"], strict=True)) == by_file
    assert sum(by_history["n"]) == 14_000


def test_replica_loads_every_published_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_replica, "REPEATS", 1)
    published: list[int] = []
    result = bench_replica.measure(
        tmp_path, 100, 1, lambda what, more, total: published.append(total) if "loaded" in what else None
    )  # it compares the counts of records read and memories loaded itself
    assert published == [1] and result.memories == 100 and result.megabytes > 0.05


def test_replica_refuses_to_time_a_changelog_that_lacks_a_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = bench_replica._publish
    monkeypatch.setattr(
        bench_replica, "_publish", lambda settings, memories, *rest: publish(settings, memories - 1, *rest)
    )
    with pytest.raises(ValueError, match="99 records were read, and 100 sent"):
        bench_replica.measure(tmp_path, 100, 1, no_progress)
