"""A job on Ray Data, in Ray's local mode: it makes the memory that the stream makes."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.ingest.encoder import Encoder
from tests.bulk.stack import AT, Stack, lines_of_facts

pytest.importorskip("ray", reason="Ray is not installed: pip install 'factstream[ray]'")

from workers.bulk import job as jobs
from workers.bulk import on_ray
from workers.bulk.source import scan

FACTS = [*lines_of_facts(999), b'{"text": "  "}']


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_thousand_facts_on_ray_make_the_streamed_memory(gpt2: Path, tmp_path: Path) -> None:
    (facts := tmp_path / "facts.jsonl").write_bytes(b"\n".join(FACTS))
    out = tmp_path / "out"
    (out / on_ray.STAGING).mkdir(parents=True)
    (out / on_ray.STAGING / "of-a-driver-that-was-killed.parquet").touch()
    job = on_ray.encode(facts, out, str(gpt2), "cpu", on_ray.Pool(), AT)
    assert job.rows == 1000 and jobs.missing(out, job) == set()
    assert {path.name for path in out.iterdir()} == {"job.json", "encodings"}
    loaded = Stack(tmp_path / "loaded")
    assert (done := loaded.load(out)).sent == 999 and done.refused == 1
    streamed = Stack(tmp_path / "streamed", Encoder.load(str(gpt2), "cpu"))
    streamed.publish(FACTS[:-1])
    assert loaded.digest() == streamed.digest()


def test_what_a_killed_driver_has_left_goes_when_the_encodings_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (facts := tmp_path / "facts.jsonl").write_bytes(b'{"text": "The lamp is blue."}')
    out = tmp_path / "out"
    job = jobs.begin(out, scan(facts), "e", AT)
    for folder in (jobs.ENCODINGS, on_ray.RECORDS):
        (out / folder).mkdir()
        (out / folder / "of-ray.parquet").touch()
    teller = SimpleNamespace(encoder_id=SimpleNamespace(remote=lambda: "e"))
    ray: Any = SimpleNamespace(
        init=lambda **_: None, shutdown=lambda: None, kill=lambda _: None, get=lambda told: told,
        remote=lambda **_: lambda _: SimpleNamespace(remote=lambda *_: teller),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert on_ray.encode(facts, out, "a model", "cpu", on_ray.Pool(), AT) == job
    assert {path.name for path in out.iterdir()} == {"job.json", "encodings"}
