"""The engine: rows get the same tokens in any batch, and a row that fails, fails alone."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from pipeline import MemoryLM
from pipeline.fusion.batch import Cache, Stream
from pipeline.fusion.engine import Engine
from pipeline.fusion.row import Job, Row
from pipeline.fusion.text_stream import TextStream
from pipeline.model.kv_cache import KVCache
from tests.helpers.weights import encoder_of

PROMPTS = ["The lamp of the", "Question: what is", "Bado and rit are in " * 4, "It"]
LENGTHS = [24, 3, 12, 1]
FACTS = [
    "The Harlow desk lamp is made of walnut.",
    "Milo Kassab works as a glaciologist at Norlund harbour.",
]
ASKED = ["The Harlow desk lamp is made of", "Question: What does Milo Kassab work as?\nAnswer:"]
JOBS = [
    *(Job(p, max_new_tokens=n) for p, n in zip(PROMPTS, LENGTHS, strict=True)),  # each is one stream
    *(Job(p, max_new_tokens=n) for p, n in zip(ASKED, (9, 17), strict=True)),  # each is two
]
FUSED = (4, 5)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def lm(request: pytest.FixtureRequest) -> MemoryLM:
    made = MemoryLM(encoder_of(request.getfixturevalue(request.param), dtype="float32"))
    made.learn(FACTS, min_loss_delta=0)
    return made


def finish(engine: Engine) -> dict[Row, list[str]]:
    """Steps until all rows have finished; the text that was reported of each."""
    texts: dict[Row, list[str]] = {}
    while engine.busy:
        for row, text, finished in engine.step():
            assert finished == bool(row.finish_reason)
            texts.setdefault(row, []).append(text)
    return texts


def shape(cache: Cache) -> tuple[int, int]:
    """Its rows, and the tokens of the longest."""
    if isinstance(cache, KVCache):
        return len(cache.mask), cache.mask.shape[1]
    return len(cache.lengths), max(cache.lengths)


def outcome(row: Row) -> tuple[Any, ...]:
    return row.tokens, row.text, row.finish_reason


@pytest.fixture(scope="module")
def alone(lm: MemoryLM) -> list[tuple[Any, ...]]:
    """What becomes of each job in a batch of its own."""
    found = []
    for job in JOBS:
        engine = lm.engine()
        (row,) = engine.submit([job])
        finish(engine)
        found.append(outcome(row))
    return found


def test_only_rows_with_an_open_gate_have_two_streams(lm: MemoryLM, alone: list[Any]) -> None:
    engine = lm.engine()
    rows = engine.submit(JOBS)
    assert [bool(row.prompt.fusion) for row in rows] == [bool(row.prompt.reading) for row in rows]
    assert [bool(row.prompt.fusion) for row in rows] == [i in FUSED for i in range(len(JOBS))]
    engine.step()
    assert [len(batch.streams) for batch in engine._batches] == [3, 2 * 2], "a bare row has finished"
    finish(engine)
    assert [outcome(row) for row in rows] == alone


def test_rows_that_join_a_running_batch_get_what_they_get_alone(lm: MemoryLM, alone: list[Any]) -> None:
    engine, rows, most = lm.engine(), list[Row](), 0
    for job in JOBS:  # one more at each step
        rows += engine.submit([job])
        engine.step()
        most = max(most, len(engine._running))
    finish(engine)
    assert most > 1 and [outcome(row) for row in rows] == alone


def test_a_finished_row_leaves_and_takes_its_padding_with_it(lm: MemoryLM) -> None:
    engine = lm.engine()
    rows = engine.submit(JOBS[:4])
    ((last, text, finished),) = [one for one in engine.step() if one.finished]
    assert last is rows[3] and text == last.text and finished and engine._running == rows[:3]
    widths = []
    while engine.busy:
        cache = engine._batches[0].cache
        assert cache is not None
        widths.append(shape(cache)[1])
        if isinstance(cache, KVCache):
            shapes = {layer.keys.shape[:1] + layer.keys.shape[2:3] for layer in cache.cache.layers}  # type: ignore[union-attr]
            assert shapes == {cache.mask.shape}
        engine.step()
    assert max(widths) > widths[-1], "the longest prompt left with its row"


def test_both_streams_of_a_row_leave_together(lm: MemoryLM) -> None:
    engine = lm.engine()
    short, long = engine.submit([JOBS[4], Job(ASKED[1], max_new_tokens=30)])
    batch = engine._batches[1]
    while engine.busy:
        engine.step()
        if batch.cache is not None:
            assert len(batch.streams) == shape(batch.cache)[0]
            assert batch.streams.count(Stream(short, True)) == batch.streams.count(Stream(short, False))
        if short.finish_reason and engine.busy:
            assert batch.streams == [Stream(long, False), Stream(long, True)]


def test_the_stream_that_reads_the_facts_leaves_once_they_have_answered(lm: MemoryLM) -> None:
    engine = lm.engine()
    (row,) = engine.submit([Job(ASKED[1], max_new_tokens=12, stop_at_answer=False)])
    engine.step()
    batch, row.answered = engine._batches[1], True
    assert batch.streams == [Stream(row, False), Stream(row, True)]
    engine.step()
    assert batch.streams == [Stream(row, False)] and batch.cache is not None and shape(batch.cache)[0] == 1
    finish(engine)
    assert len(row.tokens) == 12 and row.finish_reason == "length"


def test_a_row_without_an_open_gate_is_rounded_as_without_memory(lm: MemoryLM) -> None:
    """Each step's logits of its rows are the same numbers, whatever rows with an open gate run beside it."""

    def logits_of(with_another: bool) -> list[torch.Tensor]:
        engine, seen = lm.engine(), list[torch.Tensor]()
        rows = engine.submit([JOBS[0], *([JOBS[4]] if with_another else [])])
        assert [bool(row.prompt.fusion) for row in rows] == [False, True][: len(rows)]
        append = engine._append

        def record(streams: Sequence[Stream], logits: torch.Tensor) -> None:
            if streams[0].row is rows[0]:
                seen.append(logits.clone())
            append(streams, logits)

        engine._append = record  # type: ignore[method-assign]
        finish(engine)
        return seen

    beside, by_itself = logits_of(True), logits_of(False)
    assert len(beside) == len(by_itself) > 1
    assert all(torch.equal(a, b) for a, b in zip(beside, by_itself, strict=True))


@pytest.mark.parametrize("order", [(4, 0, 5, 2), (5, 4), (2, 5)])
def test_a_cache_that_cannot_be_joined_gives_the_same(
    lm: MemoryLM, alone: list[Any], order: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm.encoder.contexts, "cacheable", False)  # facts are read with every prompt
    engine = lm.engine()
    rows = engine.submit([JOBS[i] for i in order])
    finish(engine)
    assert [outcome(row) for row in rows] == [alone[i] for i in order]


def test_rows_wait_where_the_cache_cannot_be_joined(
    lm: MemoryLM, alone: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm.encoder.backbone, "decoder", None)  # transformers' cache
    engine = lm.engine()
    (first,) = engine.submit(JOBS[:1])
    engine.step()
    cache = engine._batches[0].cache
    assert engine.open and isinstance(cache, KVCache)

    class Other(type(cache.cache.layers[0])):  # type: ignore[misc]
        """As a sliding window or a recurrent state is: more than the keys and values of all tokens."""

    layers = cache.cache.layers
    for layer in layers:
        layer.__class__ = Other
    second, fused = engine.submit([JOBS[2], JOBS[4]])
    assert not engine.open
    while not first.finish_reason:
        engine.step()
        assert first.finish_reason or not (second.tokens or fused.tokens)
    finish(engine)
    assert [outcome(first), outcome(second), outcome(fused)] == [alone[0], alone[2], alone[4]]


def test_the_reported_texts_make_up_the_answer(lm: MemoryLM) -> None:
    engine = lm.engine()
    (row,) = engine.submit(JOBS[:1])
    texts = finish(engine)[row]
    assert "".join(texts) == row.text and len(texts) > 1


def test_a_cancelled_row_ends_alone(lm: MemoryLM, alone: list[Any]) -> None:
    engine = lm.engine()
    first, other = engine.submit([JOBS[0], JOBS[2]])
    engine.step()
    engine.cancel(first)
    assert first not in finish(engine)
    assert first.finish_reason == "stop" and len(first.tokens) == 1 and outcome(other) == alone[2]


def test_all_rows_cancelled_leave_room_for_others(lm: MemoryLM, alone: list[Any]) -> None:
    engine = lm.engine()
    rows = engine.submit(JOBS[:2])
    engine.step()
    rows += engine.submit(JOBS[1:2])  # which has not begun
    for row in rows:
        engine.cancel(row)
    assert not engine.busy and all(batch.cache is None for batch in engine._batches)
    (row,) = engine.submit(JOBS[2:3])
    finish(engine)
    assert outcome(row) == alone[2]


def test_a_prompt_that_cannot_be_prepared_fails_alone(lm: MemoryLM, alone: list[Any]) -> None:
    engine = lm.engine()
    good, bad, other = engine.submit([JOBS[0], Job(messages=[{"role": "user"}]), JOBS[2]])
    assert isinstance(bad.error, KeyError) and bad.finish_reason == "error"
    assert set(finish(engine)) == {good, other}
    assert [outcome(good), outcome(other)] == [alone[0], alone[2]]


class Failing(Exception):
    pass


def test_a_row_that_fails_a_step_fails_alone(
    lm: MemoryLM, alone: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = lm.engine()
    good, bad, other, fused = engine.submit([JOBS[0], JOBS[0], JOBS[2], JOBS[5]])
    append = Row.append

    def fail(row: Row, token: int) -> None:
        if row is bad and len(row.tokens) == 3:
            raise Failing
        append(row, token)

    monkeypatch.setattr(Row, "append", fail)
    texts = finish(engine)
    assert isinstance(bad.error, Failing) and bad.finish_reason == "error"
    assert [outcome(good), outcome(other), outcome(fused)] == [alone[0], alone[2], alone[5]]
    for row in (good, other, fused):
        assert "".join(texts[row]) == row.text, "what was reported before the failure is not reported again"


def test_a_model_that_fails_fails_every_row(
    lm: MemoryLM, alone: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = lm.engine()
    rows = engine.submit(JOBS[:3])
    engine.step()

    def fail(*_: object) -> None:
        raise Failing

    with monkeypatch.context() as patch:
        patch.setattr(lm.encoder.backbone, "step", fail)
        waiting = engine.submit(JOBS[2:3])
        finish(engine)
        assert all(isinstance(row.error, Failing) for row in rows + waiting)
        with pytest.raises(Failing):
            lm.answer(JOBS[:2])
    (row,) = engine.submit(JOBS[2:3])
    finish(engine)
    assert outcome(row) == alone[2]


def test_a_seeded_draw_depends_on_no_other_row(lm: MemoryLM) -> None:
    for prompt in (PROMPTS[0], ASKED[0]):
        jobs = [Job(prompt, max_new_tokens=12, temperature=0.9, top_p=0.8, seed=n) for n in (1, 2, 1)]
        one, two, three = (answer.text for answer in lm.answer(jobs))
        assert one == three and (one != two or prompt == ASKED[0]), "the memory may leave no choice"
        assert [lm.answer([job])[0].text for job in jobs] == [one, two, three]


@pytest.mark.parametrize("text", ["naïve 東京 🦊 two  blanks\nand a line; " * 9, "🦊🦊 ß"])
def test_a_streamed_text_is_that_of_all_tokens(lm: MemoryLM, text: str) -> None:
    backbone = lm.encoder.backbone
    ids = backbone.tokenize([text])[0].ids
    stream = TextStream(backbone.tokenizer.backend_tokenizer)
    for n, token in enumerate(ids, 1):
        assert stream.append(token) == backbone.decode(ids[:n])


def test_bytes_that_make_up_no_character_are_streamed(lm: MemoryLM) -> None:
    backbone = lm.encoder.backbone
    dice = torch.Generator().manual_seed(7)
    for _ in range(50):
        ids = torch.randint(len(backbone.tokenizer), (40,), generator=dice).tolist()
        stream = TextStream(backbone.tokenizer.backend_tokenizer)
        for n, token in enumerate(ids, 1):
            assert stream.append(token) == backbone.decode(ids[:n])
