"""`bench scale`: its formulas against cases by hand and real histories, its probe, its command."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kafka import TopicPartition
from typer.testing import CliRunner

from pipeline.bench.synthetic.facts import BEGIN, made_up_stream
from pipeline.history import layout
from pipeline.history import log as history
from pipeline.history.layout import DataFile
from pipeline.ingest.encoding import FactEncoding
from pipeline.memory.codec import facts_to_batch
from pipeline.memory.events import NewFact, SourceOffset
from schemas import topics
from schemas.encoding import encode_batch
from workers.bench import replica as bench_replica
from workers.bench import report
from workers.bench import write as bench_write
from workers.bench.scale import model, probe, result
from workers.bench.scale.model import FULL, PARTITIONED, Costs, Load, Prices
from workers.bench.write import TOPIC_IDS, _NoCluster
from workers.cli.app import app
from workers.kafka.partitioner import partition_for
from workers.write.worker import WriterWorker

COSTS = Costs(
    encode_facts_s=20, write_facts_s=4000, put_s=0.05, load_memories_s=4000, fold_memories_s=10_000, answers_s=4,
    model_bytes=1e9, memory_bytes=2000, changelog_bytes=2500, fact_bytes=2000, use_bytes=100, file_bytes=5000,
)  # fmt: skip
LOAD = Load(1_000_000, 10, 1_000_000, 2_592_000, namespace_memories=1_000_000)
"""One namespace, so that one partition has everything; an answer a second."""


def test_one_namespace_is_one_partition_whatever_their_number() -> None:
    assert model.busiest_share(LOAD) == 1.0 and model.used_partitions(LOAD) == 1
    spread = replace(LOAD, namespace_memories=10_000)
    counts = [partition_for(f"namespace-{n}", 10) for n in range(100)]
    assert model.busiest_share(spread) == max(map(counts.count, range(10))) / 100
    assert model.used_partitions(spread) == 10


def test_uses_by_hand() -> None:
    found = model.uses(LOAD, COSTS, FULL)
    facts_s = 1_000_000 / 2_592_000
    assert LOAD.answers_s == 1 and LOAD.facts_s == facts_s
    rows_s = facts_s + 1
    assert found == {
        "encoding": pytest.approx(facts_s / 20),
        "writing": pytest.approx(rows_s / 4000 + rows_s / (1 + rows_s) * 0.05),
        "writer's memory": pytest.approx(2e9 / 64e9),
        "writer's start": pytest.approx(100 / 600),
        "answering": pytest.approx(1 / (10 * 4)),
        "generator's memory": pytest.approx(3e9 / 64e9),
        "generator's start": pytest.approx(250 / 600),
    }
    assert model.binds(LOAD, COSTS, FULL) == ("generator's start", found["generator's start"])
    apart = replace(LOAD, namespace_memories=10_000)
    share = model.busiest_share(apart)
    divided = model.uses(apart, COSTS, PARTITIONED)
    assert divided["generator's start"] == pytest.approx(share * 250 / 600)
    assert divided["generator's memory"] == pytest.approx((1e9 + share * 2e9) / 64e9)
    assert divided["answering"] == pytest.approx(share / 4)
    assert model.uses(apart, COSTS, FULL)["answering"] == pytest.approx(1 / 40)


def test_processes_by_hand() -> None:
    large = replace(LOAD, memories=100_000_000, facts_month=100_000_000, answers_month=25_920_000)
    assert model.encoders(large, COSTS) == 2  # 38.6 facts a second, 20 an encoder
    assert model.generators(large, COSTS, FULL) == 3  # 10 answers a second, 4 a generator
    assert model.generators(large, COSTS, PARTITIONED) == 42  # 2.4 million are loaded in ten minutes
    assert model.generators(replace(large, start_s=36_000), COSTS, PARTITIONED) == 4  # 200 GB, 63 a machine
    assert model.generators_bytes(large, COSTS, FULL) == 3 * 201e9
    assert model.generators_bytes(large, COSTS, PARTITIONED) == 242e9
    assert model.learning_days(LOAD, COSTS) == pytest.approx(1_000_000 / 20 / 86_400)


def test_appends_wait_for_rows_and_are_bounded() -> None:
    assert model.appends_s(0) == 0
    assert model.appends_s(1) == 0.5  # a row opens a batch, which takes another in its second
    assert model.appends_s(999) == pytest.approx(0.999)
    assert model.appends_s(20_000) == 4  # of 5,000 rows each


def test_files_by_hand() -> None:
    def files(versions: int) -> tuple[int, int]:
        found = model.files_after(versions, 1, 100, 1000)
        return found.live, found.merges

    assert [files(n) for n in (0, 1, 32)] == [(0, 0), (1, 0), (32, 0)]
    assert files(33) == (2, 1)  # 32 of them are merged, and the last stays
    assert files(65) == (3, 2)
    assert files(32 * 32 + 1) == (33, 32) and files(32 * 32 + 17) == (
        18,
        33,
    )  # 32 merged ones are merged in the next step
    assert model.files_after(33, 10, 100, 1000).bytes == 2 * 1000 + 330 * 100


def test_large_files_are_not_merged_again() -> None:
    mib = 1024 * 1024
    found = model.files_after(49, 1, 20 * mib, 0)  # four of them are 64 MiB
    assert found.merges == 3 and found.live == 49 - 3 * 3, "one merge in 16 appends"
    assert model.files_after(49, 1, 64 * mib, 0) == model.Files(49, 0, 49.0 * 64 * mib)


def test_a_month_by_hand() -> None:
    load = replace(LOAD, facts_month=0.0)
    found = model.month(load, COSTS, Prices(gb_month=0.02, put_1000=0.005, get_1000=0.0004))
    assert found.appends == 1_296_000  # one every two seconds: each waits a second for the next row
    tiers = [1_296_000 // 32**k for k in (1, 2, 3)]
    assert abs(found.merges - sum(tiers)) <= 3 and found.moves == found.lists == 30
    assert found.puts == found.appends + 2 * found.merges + 30
    old = math.ceil(2e9 / (64 * 1024 * 1024))
    assert old + 1 < found.objects < old + 1 + 32 * 5
    assert found.gigabytes == pytest.approx((2e9 + 2_592_000 * 100 + (found.objects - 1) * 5000) / 1e9)
    assert found.put_dollars == pytest.approx((found.puts + 30) * 0.005 / 1000)
    assert found.gets == 30 * found.objects and found.get_dollars == pytest.approx(found.gets * 4e-7)
    assert found.dollars == found.storage_dollars + found.put_dollars + found.get_dollars


def alike(count: int, seed: int, namespace: str) -> Iterator[NewFact]:
    """Facts about different things, whose rows have the same size."""
    noise, informative = np.random.default_rng(seed), np.full(9, 10.0, np.float32)
    for n in range(count):
        text = f"Crate {noise.integers(10**9)} stands in hall {noise.integers(10**9)} of row {n}."
        states = noise.integers(0, 256, (9, 144), np.uint8)
        encoding = FactEncoding(text, "made-up", 5.0, 1.0, 4.0, informative, informative, states)
        at, cause = BEGIN + timedelta(seconds=n), SourceOffset("facts", "bench", 0, n)
        yield NewFact(namespace, encoding, at, at, cause, fact_id=f"{namespace}-{n}")


def written(folder: Path, seed: int, polls: int, rows: int) -> list[list[DataFile]]:
    """The live files of four partitions of a real writer, to which each poll brings so many facts, 16 in a message."""
    folder.mkdir()
    worker = WriterWorker(_NoCluster(), folder)
    worker.start(SimpleNamespace(partitions_for_topic=lambda _: set(range(4))), TOPIC_IDS)
    owned = [TopicPartition(topic, n) for topic in worker.topics for n in range(4)]
    worker.assigned(owned)
    spaces = [next(s for s in map(str, range(99)) if partition_for(s, 4) == n) for n in range(4)]
    streams = [alike(polls * rows, seed + n, space) for n, space in enumerate(spaces)]
    for offset in range(polls):
        batch = {}
        for number, stream in enumerate(streams):
            messages = [
                encode_batch(facts_to_batch(list(islice(stream, 16)), "made-up")) for _ in range(rows // 16)
            ]
            batch[TopicPartition(topics.FACT_ENCODINGS, number)] = [
                SimpleNamespace(partition=number, offset=offset + n, key=spaces[number].encode(), value=value, headers=[])
                for n, value in enumerate(messages)
            ]  # fmt: skip
        worker.process(batch)
    worker.close()
    return [layout.live_files(folder, number) for number in range(4)]


def size(files: list[DataFile]) -> int:
    return sum(file.path.stat().st_size for file in files)


@pytest.mark.parametrize("polls", [4, 34])
def test_a_real_history_has_the_files_and_bytes_that_are_computed(tmp_path: Path, polls: int) -> None:
    """The bytes of a row and of a file are those of other facts, which were written in other numbers."""
    few, many = (sum(map(size, written(tmp_path / f"{n}", 50, 1, n))) / 4 for n in (32, 512))
    row_bytes = (many - few) / (512 - 32)
    computed = model.files_after(polls, 32, row_bytes, few - 32 * row_bytes)
    found = written(tmp_path / "data", 1, polls, 32)
    assert [len(files) for files in found] == [computed.live] * 4
    assert sum(map(size, found)) == pytest.approx(4 * computed.bytes, rel=0.05)


def test_bytes_of_the_probe_are_those_of_a_history(tmp_path: Path) -> None:
    encodings = [fact.encoding for fact in made_up_stream(200, 3)]
    fact_bytes, use_bytes, file_bytes, put_s = probe._stored(tmp_path / "a", encodings)
    facts, used = probe.decisions([fact.encoding for fact in made_up_stream(400, 4)])
    learned = history.append(tmp_path / "b", 0, 0, facts).stat().st_size
    assert learned == pytest.approx(file_bytes + len(facts) * fact_bytes, rel=0.1)
    few, many = (
        history.append(tmp_path / "b", n, 0, used[:n]).stat().st_size for n in (len(used) // 4, len(used))
    )
    assert (many - few) / (len(used) - len(used) // 4) == pytest.approx(use_bytes, rel=0.3)
    assert fact_bytes > 10 * use_bytes > 0 and put_s > 0


def run(*options: str) -> Any:
    return CliRunner(env={"NO_COLOR": "1", "TERM": "dumb"}).invoke(app, ["bench", "scale", *options])


def test_the_command_computes_from_costs_of_an_earlier_run(tmp_path: Path) -> None:
    file = tmp_path / "scale.json"
    file.write_text(json.dumps({"costs": asdict(COSTS)}))
    printed = run("--costs", str(file), "--json", "--partitions", "12", "--memories", "100000")
    assert printed.exit_code == 0, printed.output
    found = json.loads(printed.stdout)
    assert found["costs"] == asdict(COSTS)
    (scale,) = found["scales"]
    assert scale["load"]["partitions"] == 12 and scale["load"]["facts_month"] == 100_000
    full, apart = scale["full"], scale["partitioned"]
    assert full["uses"]["generator's memory"] > apart["uses"]["generator's memory"] > 0
    assert full["used"] == max(full["uses"].values()) == full["uses"][full["binds_first"]]
    file.write_text(printed.stdout)
    assert json.loads(run("--costs", str(file), "--json").stdout)["costs"] == asdict(COSTS)


def test_the_tables_fit_in_a_hundred_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report.console, "width", 100)  # else that of the first test that imported it
    file = tmp_path / "scale.json"
    file.write_text(json.dumps({"costs": asdict(COSTS)}))
    printed = run("--costs", str(file))
    assert printed.exit_code == 0, printed.output
    lines = printed.stdout.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 100
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert len(rows) == 3 * 9 and all(cell for row in rows for cell in row), "a cell was wrapped"
    scale = result._scale(Load(10**8, 100, 1e8, 1e8), COSTS, Prices())
    first, processes, month = (row for row in rows if row[:2] == ["100,000,000", "100"])
    assert first[3] == f"{scale.full.binds_first} {scale.full.used:.2g}"
    assert processes[2:4] == [f"{scale.encoders:,}", f"{scale.full.generators:,}"]
    assert month[-1] == f"{scale.month_dollars:,.2f}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not the output"),
        ("[]", "not the output"),
        ('{"costs": {}}', "not the output"),
        (json.dumps({"costs": asdict(COSTS) | {"put_s": 0}}), "costs.put_s must be"),
        (json.dumps({"costs": asdict(COSTS) | {"fact_bytes": "many"}}), "costs.fact_bytes must be"),
    ],
)
def test_a_bad_file_of_costs_is_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    refused = run("--costs", str(tmp_path / "bad.json"))
    assert refused.exit_code == 1 and said in refused.output and "Traceback" not in refused.output


@pytest.mark.slow
def test_the_probe_measures_everything(tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MEMORIES", 2_000)
    monkeypatch.setattr(probe, "LOADED", 200)
    monkeypatch.setattr(bench_replica, "REPEATS", 1)
    monkeypatch.setattr(bench_write, "ROUNDS", 1)
    monkeypatch.setattr(bench_write, "SMALL", bench_write.ROWS)
    costs = probe.measure(tmp_path, str(llama), "cpu", lambda *_: None)
    assert all(value > 0 for value in asdict(costs).values()), costs
    assert costs.model_bytes > costs.changelog_bytes > costs.use_bytes
