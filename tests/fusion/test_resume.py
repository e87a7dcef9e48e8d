"""An answer with an open gate goes on from what was read to choose its facts."""

from pathlib import Path
from typing import Any

import pytest

from pipeline import MemoryLM
from tests.fusion.test_engine import ASKED, FACTS, PROMPTS
from tests.helpers.weights import encoder_of


def test_the_stream_after_the_facts_is_not_read_for_its_first_token(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = MemoryLM(encoder_of(llama, dtype="float32"))
    lm.learn(FACTS, min_loss_delta=0)
    prompts = [PROMPTS[0], ASKED[0]]
    alone = [lm.generate([prompt])[0].text for prompt in prompts]
    decoder = lm.encoder.backbone.decoder
    assert decoder is not None
    prefill, rows = decoder.prefill, list[int]()

    def counted(before: Any, ids: Any) -> Any:
        rows.append(len(ids))
        return prefill(before, ids)

    monkeypatch.setattr(decoder, "prefill", counted)
    together = lm.generate(prompts)
    assert [any(memory.gate > 0 for memory in one.memories) for one in together] == [False, True]
    # Its tokenizer begins a text, but not what the ranker reads: so the bare stream of the second is read, too.
    assert rows == [1, 1] and [one.text for one in together] == alone
