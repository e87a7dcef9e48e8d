"""Calibration: written once for all, the same on any number of cores, or from a user's own texts."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config import CALIBRATION
from pipeline.model import calibration
from pipeline.model.backbone import Backbone
from pipeline.model.calibration import (
    Calibration,
    calibrate,
    calibration_of,
    calibration_path,
    drawn,
    ensure,
    lines,
    replace,
    written,
)
from pipeline.model.errors import ModelError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACTSTREAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def backbone(llama: Path) -> Backbone:
    return Backbone.load(llama, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def texts(backbone: Backbone) -> list[list[int]]:
    return written(backbone)


def test_the_states_of_the_texts_become_white(backbone: Backbone, texts: list[list[int]]) -> None:
    made = Calibration.from_bytes(calibrate(backbone, texts), "here")
    states = [
        backbone.hidden.after(torch.tensor([backbone.lead + text]), made.layer)[0, len(backbone.lead) :]
        for text in texts
    ]
    flat = torch.cat(states).numpy().astype(np.float64)
    assert np.allclose(made.mean, flat.mean(0), atol=1e-4)
    covariance = np.cov((flat - made.mean) @ made.basis.astype(np.float64), rowvar=False)
    off = covariance - np.diag(np.diag(covariance))
    assert np.abs(off).max() < 0.02 and np.diag(covariance).max() < 1.01
    assert np.diag(covariance)[:4].min() > 0.7, "the shrinkage takes little from the largest"


def test_the_texts_do_not_depend_on_the_number_of_cores(backbone: Backbone, texts: list[list[int]]) -> None:
    cores = torch.get_num_threads()
    try:
        torch.set_num_threads(3 if cores != 3 else 2)
        assert written(backbone) == texts
    finally:
        torch.set_num_threads(cores)
    assert len(texts) > CALIBRATION.texts / 2 and len({tuple(text) for text in texts}) > len(texts) * 0.9


def test_a_token_is_drawn_as_likely_as_the_model_says() -> None:
    chances = torch.tensor([0.0, 0.5, 0.0, 0.125, 0.375, 0.0])
    rows = drawn(chances.log().expand(8000, -1), torch.Generator().manual_seed(3))
    shares = torch.bincount(rows, minlength=6) / 8000
    assert torch.allclose(shares, chances, atol=0.02)
    assert not shares[[0, 2, 5]].any()


def test_processes_that_start_together_calibrate_once(
    backbone: Backbone, texts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    together, written_by = threading.Barrier(3), list[int]()

    def write(*_: object) -> list[list[int]]:
        written_by.append(threading.get_ident())
        return texts

    def start(_: int) -> Calibration:
        together.wait(30)
        return calibration_of(backbone)

    monkeypatch.setattr(calibration, "written", write)
    with ThreadPoolExecutor(3) as pool:
        found = {made.sha256 for made in pool.map(start, range(3))}
    assert len(found) == len(written_by) == 1
    assert ensure(backbone) == calibration_path(backbone) and len(written_by) == 1


def test_progress_tells_the_share_and_the_time_left(backbone: Backbone) -> None:
    said, now = list[str](), [0.0]
    step = lines(backbone, said.append, lambda: now[0])
    for seconds in (0, 2, 6, 7, 12):
        now[0] = seconds
        step("writing samples", 1, 20)
    assert said == [
        f"calibrating {backbone.name}, once: the file is kept",
        "writing samples: 15%, 34 s left",
        "writing samples: 25%, 36 s left",
    ]


def test_every_sample_is_a_step(backbone: Backbone) -> None:
    steps: dict[str, list[tuple[int, int]]] = {}
    ensure(backbone, lambda what, more, total: steps.setdefault(what, []).append((more, total)))
    assert set(steps) == {"writing samples", "reading samples"}
    for told in steps.values():
        assert sum(more for more, _ in told) == told[0][1] and len({total for _, total in told}) == 1


def test_a_users_texts_take_the_place_of_the_written_ones(backbone: Backbone) -> None:
    before = calibration_of(backbone).sha256
    texts = [f"The lamp number {n} on shelf {n % 7} is made of walnut." for n in range(40)]
    assert replace(backbone, texts) == calibration_path(backbone)
    after = calibration_of(backbone)
    assert after.sha256 != before and after.model_hash == backbone.hash
    replace(backbone, texts)
    assert calibration_of(backbone).sha256 == after.sha256


def test_too_few_samples_are_refused(backbone: Backbone) -> None:
    with pytest.raises(ModelError, match=r"the samples have \d+ tokens .* needs 64 or more"):
        replace(backbone, ["A lamp is here.", "a"])
    assert not calibration_path(backbone).exists()


def test_many_samples_are_read_in_part(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MOST_TOKENS", 500)
    monkeypatch.setattr(calibration, "GIVEN_TOKENS", 10)
    found = calibration.given(backbone, [f"{n} lamps are made of walnut, and so on." * 3 for n in range(100)])
    assert 250 <= sum(map(len, found)) <= 500 and max(map(len, found)) == 10
    assert backbone.decode(found[0]).startswith("0 lamp") and backbone.decode(found[-1])[0] in "89"


def test_an_interrupted_calibration_ends_at_once(backbone: Backbone) -> None:
    steps = list[str]()

    def step(what: str, more: int, total: int) -> None:
        steps.append(what)
        if len(steps) in (3, 30):  # the second, if the first came while an error of its thread is ignored
            os.kill(os.getpid(), signal.SIGINT)  # raised in the thread that waits for those that write

    with pytest.raises(KeyboardInterrupt):
        ensure(backbone, step)
    assert len(steps) < CALIBRATION.tokens and not calibration_path(backbone).exists()
