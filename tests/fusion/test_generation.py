"""Continuous batching: rows that join late or leave early say what they say alone, and their text is that of their tokens."""

import pytest
from transformers import DynamicCache

from pipeline import MemoryLM
from pipeline.fusion.engine import Batch, Row, _text, generate
from pipeline.memory_lm import Job

PROMPTS = ["The lamp of the", "Question: what is", "Bado and rit are in " * 4, "It"]
LENGTHS = [24, 3, 12, 1]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def lm(request: pytest.FixtureRequest) -> MemoryLM:
    return MemoryLM.load(str(request.getfixturevalue(request.param)), "cpu", "float32")


def rows(lm: MemoryLM) -> list[Row]:
    jobs = [Job(p, max_new_tokens=n) for p, n in zip(PROMPTS, LENGTHS, strict=True)]
    return [row for row, _ in lm.prepare(jobs)]


def alone(lm: MemoryLM) -> list[Row]:
    made = rows(lm)
    for row in made:
        generate(lm.encoder.backbone, [row])
    return made


def test_rows_that_join_a_running_batch_say_what_they_say_alone(lm: MemoryLM) -> None:
    waiting, batch, ended, most = rows(lm), lm.batch(), list[Row](), 0
    expected = alone(lm)
    arrivals = iter(list(waiting))
    while waiting or batch.rows:
        if waiting and (row := next(arrivals, None)):  # one more at each step
            ended += batch.join([row])
            waiting.remove(row)
        most = max(most, len(batch.rows))
        ended += batch.step()
    assert most > 1 and len(ended) == len(PROMPTS)
    for row in ended:
        (same,) = [one for one in expected if one.ids == row.ids]
        assert (row.tokens, row.text, row.finish_reason) == (same.tokens, same.text, same.finish_reason)


def test_a_row_leaves_when_it_ends_and_takes_its_padding_with_it(lm: MemoryLM) -> None:
    made = rows(lm)
    batch = lm.batch()
    (last,) = batch.join(made)
    assert last is made[3] and batch.rows == made[:3]
    widths = []
    while batch.rows:
        assert batch._decoding is not None
        widths.append(batch._decoding.mask.shape[1])
        shapes = {layer.keys.shape[:1] + layer.keys.shape[2:3] for layer in batch._decoding.cache.layers}  # type: ignore[union-attr]
        assert shapes == {batch._decoding.mask.shape}
        for row in batch.step():
            assert row.finish_reason and row not in batch.rows
    assert max(widths) > widths[-1], "the longest prompt went with its row"


def test_a_cache_that_cannot_be_joined_is_not(lm: MemoryLM) -> None:
    batch = lm.batch()
    batch.join(rows(lm)[:1])
    assert batch.open and batch._decoding is not None

    class Other(type(batch._decoding.cache.layers[0])):  # type: ignore[misc]
        """As a sliding window or a recurrent state is: more than the keys and values of all tokens."""

    cache = DynamicCache()
    cache.layers = [Other() for _ in batch._decoding.cache.layers]
    batch._decoding.cache = cache
    assert not batch.open


def test_a_text_is_that_of_all_tokens_however_they_are_cut(lm: MemoryLM) -> None:
    backbone = lm.encoder.backbone
    ids = backbone.tokenize(["naïve 東京 🦊 two  blanks\nand a line; " * 9])[0].ids
    (row,) = rows(lm)[:1]
    for n, token in enumerate(ids, 1):
        row.tokens.append(token)
        assert _text(backbone, row) == backbone.decode(ids[:n])
    assert row.settled[0] > len(ids) - 40


def test_pieces_make_up_the_text(lm: MemoryLM) -> None:
    pieces: list[str] = []
    (row,) = rows(lm)[:1]
    row.send = lambda piece: not pieces.append(piece)  # type: ignore[func-returns-value]
    batch = Batch(lm.encoder.backbone)
    batch.join([row])
    while batch.rows:
        batch.step()
    assert "".join(pieces) == row.text and len(pieces) > 1


def test_a_row_that_is_told_to_end_ends_alone(lm: MemoryLM) -> None:
    first, _, other, _ = rows(lm)
    first.send = lambda _: False
    expected = alone(lm)[2]
    generate(lm.encoder.backbone, [first, other])
    assert first.finish_reason == "stop" and len(first.tokens) <= 3 and other.tokens == expected.tokens
