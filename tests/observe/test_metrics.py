"""Metrics as the workers record them."""

from prometheus_client import Counter, Gauge, Histogram

from workers.observe import metrics


def lag_shown() -> dict[str, float]:
    (family,) = metrics.LAG.collect()
    return {s.labels["partition"]: s.value for s in family.samples if s.labels["topic"] == "facts"}


def test_lag_forgets_partitions_that_are_no_longer_owned() -> None:
    metrics.lag("encoder", {("facts", 0): 6, ("facts", 1): 6})
    assert lag_shown() == {"0": 6, "1": 6}
    metrics.lag("encoder", {("facts", 1): 9}, complete=False)
    assert lag_shown() == {"0": 6, "1": 9}
    metrics.lag("encoder", {("facts", 1): 6})
    assert lag_shown() == {"1": 6}


def test_every_metric_has_a_help_text_that_is_a_sentence() -> None:
    collectors = [value for value in vars(metrics).values() if isinstance(value, Counter | Gauge | Histogram)]
    helps = [family.documentation for collector in collectors for family in collector.collect()]
    assert len(helps) >= 14
    assert all(text[0].isupper() and text.endswith(".") and len(text.split()) >= 2 for text in helps)
