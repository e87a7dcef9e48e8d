"""factstream encode: shards and repetitions together write each file of a job once, and nothing else."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from pipeline.ingest.encoder import Encoder
from pipeline.ingest.encoding import Stopped
from tests.bulk.stack import AT
from tests.encode.test_encoder import Model
from workers.bulk import job as jobs
from workers.bulk.encode import Done, encode
from workers.bulk.job import Shard
from workers.cli.app import app

RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
ROWS = 600  # in three files


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    file = tmp_path / "facts.jsonl"
    file.write_text("".join(f'{{"text": "Lake {n} is deep."}}\n' for n in range(ROWS)))
    return file


def part(
    facts: Path, shard: str = "0/1", stop: Callable[[], bool] = lambda: False, model: Any = None
) -> Done:
    encoder: Any = model or Model()
    return encode(facts, facts.parent / "out", encoder, AT, Shard.parse(shard), stop)


def texts(out: Path) -> list[str]:
    return [
        text
        for path in sorted((out / "encodings").iterdir())
        for text in pq.read_table(path)["text"].to_pylist()
    ]


def test_shards_share_the_files_and_a_repetition_adds_nothing(facts: Path) -> None:
    whole = part(facts)
    assert (whole.rows, whole.before, whole.refused) == (ROWS, 0, 0)
    before = {path: path.read_bytes() for path in (facts.parent / "out").rglob("*.*")}
    (facts.parent / "out").rename(facts.parent / "first")
    done = [part(facts, shard) for shard in ("1/2", "0/2")]
    assert [one.rows for one in done] == [256, 344]
    assert texts(facts.parent / "out") == [f"Lake {n} is deep." for n in range(ROWS)]
    assert {path.read_bytes() for path in (facts.parent / "out").rglob("*.*")} == set(before.values())
    again = part(facts)
    assert (again.rows, again.before, again.job) == (ROWS, ROWS, whole.job)


@pytest.mark.parametrize("calls", range(1, 4))
def test_a_part_that_was_stopped_goes_on(facts: Path, calls: int) -> None:
    def times(count: int) -> Iterator[bool]:
        yield from [False] * count
        while True:
            yield True

    asked = times(calls)
    if calls < 3:
        with pytest.raises(Stopped):
            part(facts, stop=lambda: next(asked))
        assert len(list((facts.parent / "out" / "encodings").iterdir())) == calls  # whole ones, and no other
    assert part(facts, "0/1").before == (256 * calls if calls < 3 else 0)
    assert texts(facts.parent / "out") == [f"Lake {n} is deep." for n in range(ROWS)]


def test_a_kill_while_a_file_is_written_leaves_none(facts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(pq, "write_table", lambda *_, **__: 1 / 0)
        part(facts)
    assert jobs.missing(facts.parent / "out", jobs.read(facts.parent / "out")) == {0, 1, 2}
    assert part(facts).before == 0


def test_a_folder_belongs_to_one_input_and_one_encoder(facts: Path) -> None:
    class Other(Model):
        encoder_id = "f"

    part(facts)
    with pytest.raises(ValueError, match="by another model"):
        part(facts, model=Other())
    facts.write_text('{"text": "a"}\n')
    with pytest.raises(ValueError, match="of another input"):
        part(facts)
    (facts.parent / "out" / "job.json").write_text('{"version": 1}')
    with pytest.raises(ValueError, match=r"job\.json: cannot be read"):
        part(facts)


@pytest.mark.parametrize("wrong", ["4/4", "1", "-1/2", "0/0", "a/b", "1/2/3"])
def test_a_wrong_shard_is_told(wrong: str) -> None:
    with pytest.raises(ValueError, match="the first is 0/4"):
        Shard.parse(wrong)


def run(*arguments: str, code: int = 0) -> tuple[str, str]:
    result = RUNNER.invoke(app, ["encode", *arguments])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def test_the_command_tells_what_it_did(facts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "load", lambda *_: Model())
    out = str(facts.parent / "out")
    assert f"{ROWS} facts encoded, 0 of them before" in run("--in", str(facts), "--out", out)[0]
    facts.write_text('{"text": "a", "typo": 1}\n{\n{"text": "a long one"}\n')
    other = str(facts.parent / "other")
    told, errors = run("--in", str(facts), "--out", other, code=1)
    assert "fields left out: typo" in told
    assert (
        "row 2: not JSON" in errors
        and "row 3: too many tokens" in errors
        and "2 facts were refused" in errors
    )
    done = json.loads(run("--in", str(facts), "--out", other, "--json")[0])
    assert (done["rows"], done["before"], done["refused"]) == (3, 3, 0)
    assert "pip install 'factstream[ray]'" in without_ray(facts, other, monkeypatch)
    assert "the first is 0/4" in run("--in", str(facts), "--out", other, "--shard", "9/4", code=1)[1]


def without_ray(facts: Path, out: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("workers.cli.bulk.encoding.find_spec", lambda _: None)
    return run("--in", str(facts), "--out", out, "--ray-actors", "1", code=1)[1]
