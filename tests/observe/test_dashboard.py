"""The dashboard, the alerts and the scrape: every query names metrics and labels that exist."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from workers.observe import health, metrics

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "factstream.json").read_text())
ALERTS: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][
    0
]["rules"]
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [t["expr"] for panel in PANELS for t in panel["targets"]] + [rule["expr"] for rule in ALERTS]
OF_PROMETHEUS = {"job", "instance"}


def exposed() -> dict[str, set[str]]:
    """Every name that /metrics shows, with its labels; and `up`, which Prometheus adds."""
    names: dict[str, set[str]] = {"up": set(OF_PROMETHEUS)}
    kinds = (Counter, Gauge, Histogram)
    for metric in (m for m in vars(metrics).values() if isinstance(m, kinds)):
        labels = set(metric._labelnames) | OF_PROMETHEUS
        name = metric._name
        if isinstance(metric, Histogram):
            names |= {f"{name}_sum": labels, f"{name}_count": labels, f"{name}_bucket": labels | {"le"}}
        else:
            names[f"{name}_total" if isinstance(metric, Counter) else name] = labels
    for family in REGISTRY.collect():
        for sample in family.samples:
            names.setdefault(sample.name, set(OF_PROMETHEUS))
    return names


def parsed(query: str) -> Any:
    return promql_parser.parse(query.replace("$__rate_interval", "5m").replace("$__range", "1h"))


def nodes(node: Any) -> Iterator[Any]:
    yield node
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if getattr(node, name, None) is not None:
            yield from nodes(getattr(node, name))
    for argument in getattr(node, "args", []):
        yield from nodes(argument)


def wrong(query: str) -> list[str]:
    """The metrics and labels of a query that nothing has."""
    known, found = exposed(), list(nodes(parsed(query)))
    selectors = [node for node in found if isinstance(node, promql_parser.VectorSelector)]
    assert selectors, f"no metric is read by {query}"
    names = [str(selector.name) for selector in selectors]
    said = [name for name in names if name not in known]
    labels = {m.name for selector in selectors for m in selector.matchers.matchers}
    for node in found:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            labels |= set(node.modifier.labels)
    return said + [
        label for label in sorted(labels) if not any(label in known.get(name, set()) for name in names)
    ]


@pytest.mark.parametrize("query", QUERIES)
def test_query_names_metrics_and_labels_that_exist(query: str) -> None:
    assert wrong(query) == []


def test_query_of_an_unknown_metric_is_found() -> None:
    assert wrong("rate(factstream_batch_records_total[5m])") == ["factstream_batch_records_total"]
    assert wrong('sum by (colour) (factstream_memories{model="x"}) > 1') == ["colour", "model"]
    with pytest.raises(ValueError):
        parsed("sum by (factstream_memories")


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {
        re.sub("_(total|sum|count|bucket)$", "", str(n.name))
        for query in QUERIES[: -len(ALERTS)]
        for n in nodes(parsed(query))
        if isinstance(n, promql_parser.VectorSelector)
    }
    kinds = (Counter, Gauge, Histogram)
    assert {m._name for m in vars(metrics).values() if isinstance(m, kinds)} <= shown


def test_panels_do_not_overlap_and_have_unique_ids() -> None:
    cells = [
        (x, y)
        for p in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(p["x"], p["x"] + p["w"])
        for y in range(p["y"], p["y"] + p["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_every_alert_has_a_severity_and_a_summary_and_is_documented() -> None:
    operating = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("critical", "warning") and rule["annotations"]["summary"]
        assert f"| {rule['alert']} |" in operating


def test_prometheus_scrapes_every_worker_of_the_compose_file() -> None:
    (scrape,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    (found,) = scrape["dns_sd_configs"]
    workers = {n: s for n, s in COMPOSE["services"].items() if s["image"] == "factstream"}
    assert set(found["names"]) == set(workers) and scrape["job_name"] == "factstream"
    for service in workers.values():
        where = service["command"][service["command"].index("--metrics-port") + 1]
        assert health.address(where) == ("0.0.0.0", found["port"])
        assert "ports" not in service  # the compose network's only


def test_compose_profile_mounts_existing_files() -> None:
    files = {name: re.sub(r"\$\{[A-Z]+:-(.*)\}", r"\1", c["file"]) for name, c in COMPOSE["configs"].items()}
    sources = {name: ROOT / file for name, file in files.items()}
    assert all(path.is_file() for path in sources.values())
    mounted: dict[str, str] = {}
    for name in ("prometheus", "grafana"):
        service = COMPOSE["services"][name]
        assert service["profiles"] == ["metrics"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        mounted |= {config["source"]: config["target"] for config in service["configs"]}
    assert set(mounted) == set(sources) - {"sources"}  # which the source worker reads
    kubernetes = {DEPLOY / "kubernetes", *DEPLOY.rglob("kustomization.yaml")}
    files_here = {p for p in DEPLOY.rglob("*") if p.is_file() and not kubernetes & {p, *p.parents}}
    assert files_here == set(sources.values())
    (rules,) = yaml.safe_load(sources["prometheus"].read_text())["rule_files"]
    assert rules == mounted["alerts"]
    (provider,) = yaml.safe_load(sources["grafana-dashboards"].read_text())["providers"]
    assert mounted["grafana-factstream"].startswith(provider["options"]["path"] + "/")
    (source,) = yaml.safe_load(sources["grafana-datasources"].read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in PANELS} == {source["uid"]}
