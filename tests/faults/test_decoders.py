"""Decoders against hypothesis and a fuzzer: any record is decoded or refused with BadMessage."""

import json
import os
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import topics
from schemas.common import BadMessage
from tests.faults import fuzz
from tests.helpers import hostile

ROOT = Path(__file__).parent.parent.parent

DECODERS = fuzz.decoders()
NAMES = st.sampled_from(
    [
        *sorted({name for body in hostile.GOOD.values() for name in body}),
        "forget",
        "messages",
        "role",
        "forget_key",
        "forget_all",
        "restore",
        "erase",
    ]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["default", hostile.ID])
)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=20,
)
VALUES = (
    st.none() | st.binary(max_size=400) | JSON.map(lambda body: json.dumps(body).encode("utf-8", "replace"))
)


@pytest.mark.parametrize("topic", hostile.CONSUMED)
@given(
    key=st.none() | st.binary(max_size=80) | st.sampled_from(sorted(set(hostile.KEYS.values()))), value=VALUES
)
def test_any_record_is_decoded_or_refused(topic: str, key: bytes | None, value: bytes | None) -> None:
    with suppress(BadMessage):
        DECODERS[topic](key, value)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DECODERS, fuzz.BATCHES])
def test_any_fuzzed_record_is_decoded_or_refused(name: str, tmp_path: Path) -> None:
    """A short run of the fuzzer; `make fuzz` is a longer one."""
    pytest.importorskip("atheris", reason="atheris comes for Linux on x86-64")
    command = [sys.executable, "-m", "tests.faults.fuzz", name, "-runs=3000", "-seed=1", "-verbosity=0"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("topic", sorted(hostile.GOOD))
@given(data=st.data())
def test_a_good_body_with_any_field_value_is_decoded_or_refused(topic: str, data: Any) -> None:
    body = hostile.GOOD[topic] | {data.draw(NAMES): data.draw(JSON)}
    with suppress(BadMessage):
        DECODERS[topic](hostile.KEYS[topic], json.dumps(body).encode("utf-8", "replace"))


@given(st.sampled_from([topic for topic in hostile.CONSUMED if topic != topics.DEAD_LETTERS]), st.integers(0))
def test_every_hostile_message_is_refused(topic: str, seed: int) -> None:
    with pytest.raises(BadMessage):
        DECODERS[topic](*hostile.message(random.Random(seed), topic))
