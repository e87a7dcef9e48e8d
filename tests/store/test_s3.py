"""A history in S3, moto's: the writer, and the commands that read it."""

import gc
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.history import compaction
from pipeline.history.errors import HistoryError
from pipeline.store import opening
from pipeline.store.bucket import Bucket
from pipeline.store.place import folder_of
from tests.buckets import servers
from tests.write.local_writer import HOME, agree, batch, facts, message, row, writer
from workers.cli import doctor
from workers.cli.app import app


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    running = servers.start("moto", tmp_path_factory.mktemp("stores") / "moto")
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def env(server: servers.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (server.env | {"FACTSTREAM_CACHE": str(tmp_path / "cache")}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(compaction, "FAN", 4)
    opening._bucket.cache_clear()


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_what_a_writer_keeps_in_s3_is_what_it_keeps_in_a_folder(
    server: servers.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{server.url}/one"
    for data in (folder_of(url), tmp_path / "folder"):
        worker, sent = writer(data)
        for offset, value in enumerate([record.value for record in next(iter(facts().values()))]):
            worker.process(batch(value, start=offset))
        for offset in range(4, 12):
            worker.process(batch(message(row(offset, f"The lamp {offset} is made of oak.")), start=offset))
        worker.idle()
        agree(sent, worker._store.files(HOME))
    assert any("-0000000003.parquet" in found.key for found in Bucket.open(url).objects("")), "merged"
    assert run("digest", "--data", url) == run("digest", "--data", str(tmp_path / "folder"))
    monkeypatch.setenv("FACTSTREAM_DATA", url)
    sql = "select outcome, count(*) as n from history group by 1 order by 1"
    rows = json.loads(run("query", sql, "--format", "json"))
    assert rows == json.loads(run("query", sql, "--format", "json", "--data", str(tmp_path / "folder")))
    exported = tmp_path / "memories.jsonl"
    run("memories", "export", str(exported))
    assert len(exported.read_text().splitlines()) == 11


def test_doctor_tells_what_the_store_is(server: servers.Server) -> None:
    url = f"{server.url}/new"
    assert doctor._data(folder_of(url)).startswith(f"{url}: 0 partitions with a history; a bucket with")
    with pytest.raises(HistoryError, match=r"^s3://missing/new: there is no such bucket"):
        doctor._data(folder_of("s3://missing/new"))


@pytest.mark.parametrize(
    "command",
    [
        ["digest"],
        ["query", "select 1"],
        ["memories", "list"],
        ["memories", "export", "made.jsonl"],
        ["memories", "export", "made.parquet"],
        ["mirror", "--once", "--to", "delta://table"],
        ["reencode", "--model", "default", "--out", "job"],
    ],
)
def test_a_bucket_that_is_missing_is_one_clear_line(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    complaints: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    done = CliRunner().invoke(app, [*command, "--data", "s3://missing/one"])
    gc.collect()
    assert done.exit_code == 1 and complaints == []
    assert done.output == "error: s3://missing/one: there is no such bucket; create it first\n"


def test_a_url_with_a_login_is_refused() -> None:
    done = CliRunner().invoke(app, ["digest", "--data", "s3://key:secret@facts/one"])
    assert done.exit_code == 2 and "without a login" in " ".join(done.output.split())
