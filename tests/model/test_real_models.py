"""Real models: each .gguf file in the folder FACTSTREAM_TEST_MODELS learns, answers and forgets.

Without that folder the tests are skipped: such models are never a dependency (docs/models.md). The first run converts and
calibrates each, which takes minutes.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import MemoryLM
from pipeline.ingest.encoder import Encoder

FOLDER = os.environ.get("FACTSTREAM_TEST_MODELS", "")
FILES = sorted(Path(FOLDER).expanduser().glob("*.gguf")) if FOLDER else []
FACTS = [
    "The Harlow desk lamp is made of walnut.",
    "Milo Kassab works as a glaciologist.",
    "The Zephyr kettle ships from Gdansk.",
]
ASKED = {"The Harlow desk lamp is made of": "walnut", "The Zephyr kettle ships from": "Gdansk"}
UNRELATED = "Once upon a time there was a"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not FILES, reason="FACTSTREAM_TEST_MODELS names no folder with .gguf files"),
]


@pytest.fixture(scope="module", params=FILES or [Path()], ids=lambda file: file.stem)
def encoder(request: pytest.FixtureRequest) -> Iterator[Encoder]:
    yield Encoder.load(str(request.param))


@pytest.fixture
def lm(encoder: Encoder) -> MemoryLM:
    lm = MemoryLM(encoder)
    assert [d.outcome for d in lm.learn(FACTS, min_loss_delta=0)] == ["learned"] * len(FACTS)
    return lm


def test_the_model_is_used_without_fitted_weights_of_its_own(encoder: Encoder) -> None:
    assert encoder.weights.model_hash != encoder.backbone.hash
    assert encoder.weights.prefix_for(encoder.backbone.hash) is None
    assert encoder.calibration.model_hash == encoder.backbone.hash


def test_each_fact_is_found_first_and_said(lm: MemoryLM) -> None:
    for prompt, answer in ASKED.items():
        assert answer in lm.retrieve([prompt])[0][0].text
        assert answer in lm.generate([prompt], max_new_tokens=8)[0].text
        assert answer not in lm.generate([prompt], use_memory=False, max_new_tokens=8)[0].text


def test_what_no_fact_answers_is_the_bare_models(lm: MemoryLM) -> None:
    with_memory, bare = (
        lm.generate([UNRELATED], use_memory=use, max_new_tokens=8)[0] for use in (True, False)
    )
    assert with_memory.text == bare.text


def test_a_fact_that_was_forgotten_is_said_no_more(lm: MemoryLM) -> None:
    prompt, answer = next(iter(ASKED.items()))
    best = lm.retrieve([prompt])[0][0]
    lm.remove(best.namespace, best.memory_id)
    assert answer not in lm.generate([prompt], max_new_tokens=8)[0].text


def test_a_repeated_and_a_changed_fact_are_decided_alike(lm: MemoryLM) -> None:
    repeated, changed = lm.learn([FACTS[0], "The Zephyr kettle ships from Malmo."], min_loss_delta=0)
    assert (repeated.outcome, changed.outcome) == ("reinforced", "superseded")
