"""The words that tokens belong to, and the prompts that are kept."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.ingest import encoder
from pipeline.ingest.encoder import Encoder, words_of_tokens
from pipeline.text.words import split


def test_tokens_belong_to_the_words_that_they_are_parts_of() -> None:
    words = split("ab cde, f")
    assert words_of_tokens([(0, 1), (1, 2), (3, 6), (6, 7), (8, 9)], words).tolist() == [0, 0, 1, -1, 2]


def test_the_last_prompts_are_not_computed_again(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "PROMPTS_KEPT", 2)
    own, computed = Encoder.load(str(llama)), list[str]()
    compute = own._encode_prompts

    def counted(prompts: list[str]) -> object:
        computed.extend(prompts)
        return compute(prompts)

    monkeypatch.setattr(own, "_encode_prompts", counted)
    first, again, other = own.encode_prompts(["Ines leads", "Ines leads", "Milo works"])
    assert again is first and computed == ["Ines leads", "Milo works"]
    assert own.encode_prompts(["Ines leads"]) == [first], "and is the last used one now"
    own.encode_prompts(["The lamp"])
    assert [kept in own._prompts for kept in ("Ines leads", "Milo works", "The lamp")] == [True, False, True]
    assert np.allclose(own.encode_prompts(["Milo works"])[0].vectors, other.vectors, atol=1e-5)
