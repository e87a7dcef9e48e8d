"""The queries behind the pages, on a small history."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from pipeline.decide.decide import decide_fact
from pipeline.history import log as history
from pipeline.ingest.encoding import FactEncoding
from pipeline.memory.bank import Bank
from pipeline.memory.events import NewFact, SourceOffset
from pipeline.query.projection import pca
from pipeline.text.words import split
from workers.http import pages


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A history with a fact a minute: three learned, one of them superseding another, and one skipped."""
    bank, rows = Bank(), []
    begin = datetime(2026, 3, 1, 12, tzinfo=UTC)
    dice = np.random.default_rng(7)
    facts = [
        ("The Zephyr kettle ships from Gdansk.", 4.0), ("The Zephyr kettle ships from Tromso.", 4.0),
        ("Milo's job is 'glaciologist'.", 6.0), ("Paris is in France.", 0.01),
    ]  # fmt: skip
    for n, (text, delta) in enumerate(facts):
        now = begin + timedelta(minutes=n)
        words = len(split(text))
        ones = np.ones(words, np.float32)
        vectors = dice.integers(0, 256, (words, 4), np.uint8)
        encoding = FactEncoding(text, "model", 5.0, 5.0 - delta, delta, ones, ones, vectors)
        cause = SourceOffset("facts", "id", 0, n)
        fact = NewFact(
            "default", encoding, now, now - timedelta(seconds=2), cause, category="c" if n < 2 else None
        )
        for row in decide_fact(bank, fact, now):
            bank.apply(row)
            rows.append(row)
    history.append(tmp_path, 0, 0, rows)
    return tmp_path


def test_the_table_has_each_memorys_state(data: Path) -> None:
    rows, count = pages.memories(data, pages.Filter(state="all", sort="learned", down=False))
    assert count == len(rows) == 3
    gdansk, tromso, milo = rows
    assert [row["state"] for row in rows] == ["superseded", "remembered", "remembered"]
    assert tromso["replaces"] and not milo["replaces"]
    for words, found in (("milo's", [milo]), ("SHIPS from", [tromso]), ("' or ''='", []), ("%", [])):
        assert pages.memories(data, pages.Filter(words=words))[0] == [
            row | {"total": len(found)} for row in found
        ]
    assert [row["text"] for row in pages.memories(data, pages.Filter(state="superseded"))[0]] == [
        gdansk["text"]
    ]
    assert pages.memories(data, pages.Filter(category="c"))[1] == 1
    assert pages.memories(data, pages.Filter(page=2))[0] == []
    events = pages.life(data, "default", gdansk["memory_id"])
    assert [(e["outcome"], e["own"]) for e in events] == [("learned", True), ("superseded", False)]
    assert pages.life(data, "default", tromso["memory_id"])[0]["nearest_text"] == gdansk["text"]
    assert pages.life(data, "elsewhere", tromso["memory_id"]) == []
    decided = pages.decision(data, "id", 0, 1)
    assert decided and decided["outcome"] == "superseded" and decided["nearest_text"] == gdansk["text"]
    assert pages.decision(data, "id'", 0, 1) is None


def test_decisions_are_counted_by_interval(data: Path) -> None:
    seen = pages.over_time(data)
    assert seen["width_s"] == 5 and seen["buckets"][-1] - seen["buckets"][0] == 180
    assert json.dumps(seen)
    counted = {(row["bucket"], row["outcome"]): row["count"] for row in seen["outcomes"]}
    assert sum(counted.values()) == 4 and {bucket for bucket, _ in counted} <= set(seen["buckets"])
    assert {outcome for _, outcome in counted} == {"learned", "superseded", "skipped"}
    assert all(row["median"] == pytest.approx(2.0) for row in seen["learning"])
    assert sorted(row["category"] for row in seen["categories"]) == ["c", "c", "none"]


def test_the_map_has_every_memory_at_a_fixed_place(data: Path) -> None:
    points = pages.atlas(data)
    assert len(points) == 2 and points == pages.atlas(data)
    assert points[0]["x"] == -points[1]["x"] and abs(points[0]["x"]) == 1


def test_the_map_shows_the_plane_in_which_points_differ_most() -> None:
    dice = np.random.default_rng(1)
    wide = dice.exponential(9.0, 200), dice.exponential(3.0, 200)
    x = np.zeros((200, 5), np.float32)
    x[:, 3], x[:, 1] = wide[0], -wide[1]
    places = pca(list(x))
    for n in (0, 1):
        assert np.corrcoef(places[:, n], wide[n])[0, 1] > 0.99 and np.abs(
            places[:, n]
        ).max() == pytest.approx(1)
    assert (
        pca([]).shape == (0, 2)
        and pca([x[0]]).tolist() == [[0, 0]]
        and pca([x[0, :1], x[1, :1]]).shape == (2, 2)
    )


def test_the_number_of_intervals_is_bounded() -> None:
    for seconds in (0.5, 100, 86400, 400 * 86400, 20 * 365 * 86400):
        assert any(seconds / width < pages.BUCKETS for width in pages.WIDTHS_S), seconds
