"""Importance: what is stored, and the readable figure that it decays to."""

from datetime import UTC, datetime, timedelta

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import BankConfig
from pipeline.decide.importance import decayed, grown, learned_weight
from pipeline.query import views

HALF_LIFE = 30.0
AT = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.lists(st.tuples(st.integers(0, 400), st.floats(0.05, 9)), min_size=1, max_size=20))
def test_the_decayed_importance_is_the_sum_of_its_decayed_weights(gains: list[tuple[int, float]]) -> None:
    gains = sorted(gains)
    stored = None
    for days, weight in gains:
        stored = grown(stored, weight, AT + timedelta(days=days), HALF_LIFE)
    last = gains[-1][0]
    expected = sum(weight * 2 ** ((days - last) / HALF_LIFE) for days, weight in gains)
    assert stored is not None
    assert decayed(stored, AT + timedelta(days=last), HALF_LIFE) == pytest.approx(expected, rel=1e-3)


def test_an_importance_halves_after_each_half_life() -> None:
    stored = grown(None, learned_weight(4.0), AT, HALF_LIFE)
    assert decayed(stored, AT, HALF_LIFE) == pytest.approx(5.0, rel=1e-4)
    assert decayed(stored, AT + timedelta(days=HALF_LIFE), HALF_LIFE) == pytest.approx(2.5, rel=1e-4)


def test_the_views_compute_the_same_figure_in_sql() -> None:
    half_life, now = BankConfig().half_life_days, AT + timedelta(days=12, hours=5)
    stored = grown(None, learned_weight(4.0), AT, half_life)
    at = f"TIMESTAMPTZ '{now.isoformat()}'"
    [figure] = duckdb.connect().execute(f"SELECT {views.decayed(str(stored), at)}").fetchone() or [None]
    assert figure == pytest.approx(decayed(stored, now, half_life))


def test_the_weight_of_learning_is_bounded() -> None:
    assert [learned_weight(delta) for delta in (-3.0, 0.0, 2.5, 8.0, 90.0)] == [1.0, 1.0, 3.5, 9.0, 9.0]
