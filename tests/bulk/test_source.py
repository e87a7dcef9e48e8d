"""The input of a job: facts in JSON Lines and Parquet, numbered in the order of the files."""

from collections.abc import Iterable
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas.fact import decode_fact
from schemas.files.encoded import FACT_RECORDS, Job
from schemas.files.exported import EXPORTED
from tests.bulk.stack import AT
from workers.bulk.source import files_of_records, scan


def job(rows: int, rows_a_file: int = 3) -> Job:
    return Job(
        version=1,
        job_id=f"job-{'0' * 32}",
        encoder_id="e",
        rows=rows,
        rows_a_file=rows_a_file,
        published_at=AT,
    )


def read(path: Path, rows_a_file: int = 3, wanted: Iterable[int] = range(99)) -> dict[int, list[bytes]]:
    source = scan(path)
    files = files_of_records(source, job(source.rows, rows_a_file), frozenset(wanted).__contains__)
    found = {}
    for number, table in files:
        assert table.schema.equals(FACT_RECORDS)
        offsets = table["offset"].to_pylist()
        assert offsets == list(range(number * rows_a_file, number * rows_a_file + len(offsets)))
        found[number] = table["value"].to_pylist()
    return found


def test_the_facts_of_all_files_are_numbered_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "3"}\n\n{"text": "4"}\r\n{"text": "5"}')
    pq.write_table(pa.table({"text": ["0", "1", "2"]}), tmp_path / "a.parquet")
    (tmp_path / "notes.txt").write_text("not one of them")
    found = read(tmp_path, 4)
    assert [decode_fact(None, v).message.text for f in found.values() for v in f] == list("012345")  # type: ignore[union-attr]
    assert [len(values) for values in found.values()] == [4, 2]
    assert read(tmp_path, 4, [1]) == {1: found[1]}


def test_a_row_of_parquet_is_what_a_producer_would_send(tmp_path: Path) -> None:
    columns = {
        "text": ["a", "b"], "namespace": ["n", None], "metadata": ['{"x": [1]}', None], "fact_id": [7, None],
        "observed_at": [AT, None], "colour": ["red", "blue"],
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert scan(tmp_path).left_out == ("colour",)
    first, second = (decode_fact(None, value) for value in read(tmp_path)[0])
    assert first.namespace == "n" and second.namespace == "default"
    fact = first.message.model_dump(exclude_none=True)
    assert fact == {"text": "a", "namespace": "n", "metadata": {"x": [1]}, "fact_id": "7", "observed_at": AT}


def test_a_dump_of_the_topic_is_read_as_it_is(tmp_path: Path) -> None:
    for name, kind in (("a", pa.binary()), ("b", pa.string())):
        column = pa.array([f'{{"text": "{name}"}}', "{", None], kind)
        pq.write_table(pa.table({"value": column, "key": ["k"] * 3}), tmp_path / f"{name}.parquet")
    assert scan(tmp_path).left_out == ()
    assert list(read(tmp_path).values()) == [[b'{"text": "a"}', b"{", None], [b'{"text": "b"}', b"{", None]]


def test_an_endless_line_is_one_record_and_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "' + b"x" * 3_000_000 + b'"}\n{"text": "b", "typo": 1}\n')
    assert scan(tmp_path).left_out == ("typo",)
    [values] = read(tmp_path).values()
    assert len(values[0]) < 300_000 and orjson.loads(values[1])["text"] == "b"


def test_what_is_no_input_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no Parquet or JSON Lines"):
        scan(tmp_path)
    cases = {"text": {"txt": ["a"]}, "export of memories": EXPORTED.empty_table()}
    for words, content in cases.items():
        pq.write_table(pa.table(content), tmp_path / "a.parquet")
        with pytest.raises(ValueError, match=words):
            scan(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        scan(tmp_path)
    (tmp_path / "a.csv").touch()
    with pytest.raises(ValueError, match="names end with"):
        scan(tmp_path / "a.csv")


def test_an_input_that_grows_meanwhile_is_told(tmp_path: Path) -> None:
    (file := tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    source = scan(file)
    file.write_text('{"text": "a"}\n{"text": "b"}\n')
    with pytest.raises(ValueError, match="had 1 rows when the job began, and has 2"):
        list(files_of_records(source, job(1), lambda _: True))
