"""deploy/kubernetes: every overlay renders, keeps to the schemas, and names only what is there."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.deploy.custom import SCHEMAS
from tests.deploy.render import (
    CLUSTER_SECRET,
    COMPONENT,
    INSTANCE,
    KUBERNETES,
    OVERLAYS,
    ROOT,
    Object,
    container,
    environment,
    kustomize,
    name,
    of_kind,
    overlay,
    pod,
    workloads,
)
from workers.kafka.config import KafkaSettings

VERSIONS = ("1.29", kubernetes_validate.latest_version())
"""The oldest Kubernetes that the page promises, and the newest that has schemas here."""
EVERY = pytest.mark.parametrize("which", OVERLAYS)


def check(found: Object, version: str) -> None:
    if found["kind"] in SCHEMAS:
        jsonschema.validate(found, SCHEMAS[found["kind"]])
    else:
        kubernetes_validate.validate(found, version, strict=True)


def with_component(which: str, folder: Path) -> list[Object]:
    """The production overlay with one more component, as an operator would add it."""

    def path(to: Path) -> str:
        return os.path.relpath(to, folder.resolve())

    (folder / "kustomization.yaml").write_text(
        f"resources: [{path(KUBERNETES / 'overlays' / 'production')}]\n"
        f"components: [{path(KUBERNETES / 'components' / which)}]\n"
    )
    return kustomize(folder)


@EVERY
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_keeps_to_its_schema(which: str, version: str) -> None:
    for found in overlay(which):
        check(found, version)


def test_the_schemas_refuse_unknown_fields_and_wrong_values() -> None:
    kinds = {found["kind"]: found for found in overlay("production")}
    for found in kinds.values():
        where = "data" if found["kind"] == "ConfigMap" else "spec"
        for broken in (found | {"spek": {}}, found | {where: "text"}):
            with pytest.raises(jsonschema.ValidationError):
                check(broken, VERSIONS[0])


def test_with_gpu_only_the_two_that_hold_a_model_get_one(tmp_path: Path) -> None:
    objects = with_component("gpu", tmp_path)
    for found in objects:
        check(found, VERSIONS[0])
    gpus = {
        component: (
            container(workload)["resources"]["limits"].get("nvidia.com/gpu"),
            environment(workload, objects).get("FACTSTREAM_DEVICE"),
        )
        for component, workload in workloads(objects).items()
    }
    assert gpus["encoder"] == gpus["generator"] == (1, "cuda")
    assert gpus["writer"] == gpus["ui"] == (None, None)


def test_partitioned_generators_may_send_requests_on(tmp_path: Path) -> None:
    objects = with_component("partitioned", tmp_path)
    for found in objects:
        check(found, VERSIONS[0])
    for component, workload in workloads(objects).items():
        (source,) = container(workload)["envFrom"]
        (settings,) = (found for found in objects if name(found) == source["configMapRef"]["name"])
        assert settings["data"]["FACTSTREAM_REPLICA"] == KafkaSettings(replica="partitioned").replica, (
            component
        )
    users = {name(user): user["spec"]["authorization"]["acls"] for user in of_kind(objects, "KafkaUser")}
    before = {
        name(u): u["spec"]["authorization"]["acls"] for u in of_kind(overlay("production"), "KafkaUser")
    }
    added = {"resource": {"type": "topic", "name": "generation-requests"}, "operations": ["Write"]}
    assert users.pop("factstream-generator") == [*before.pop("factstream-generator"), added]
    assert users == before


@EVERY
def test_every_overlay_has_the_workers_and_a_namespace(which: str) -> None:
    objects = overlay(which)
    assert set(workloads(objects)) == {"encoder", "writer", "generator", "ui"}
    assert {found["metadata"]["namespace"] for found in objects} == {"factstream"}


@EVERY
def test_claims_secrets_and_mounts_are_there(which: str) -> None:
    objects = overlay(which)
    claims = {name(found) for found in of_kind(objects, "PersistentVolumeClaim")}
    secrets = {name(found) for found in of_kind(objects, "KafkaUser")} | {CLUSTER_SECRET}
    used = set()
    for workload in workloads(objects).values():
        volumes = {volume["name"]: volume for volume in pod(workload)["volumes"]}
        assert {mount["name"] for mount in container(workload)["volumeMounts"]} == set(volumes)
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                used.add(volume["persistentVolumeClaim"]["claimName"])
            elif "secret" in volume:
                assert volume["secret"]["secretName"] in secrets
    assert used == claims
    for login in of_kind(objects, "TriggerAuthentication"):
        assert {ref["name"] for ref in login["spec"]["secretTargetRef"]} <= secrets


@EVERY
def test_volumes_can_be_mounted_by_all_that_mount_them(which: str) -> None:
    objects = overlay(which)
    writer = workloads(objects)["writer"]
    modes = {mode for c in of_kind(objects, "PersistentVolumeClaim") for mode in c["spec"]["accessModes"]}
    if modes == {"ReadWriteMany"}:
        return
    assert modes == {"ReadWriteOnce"} and writer["spec"]["replicas"] == 1
    for workload in of_kind(objects, "Deployment"):
        affinity = pod(workload)["affinity"]["podAffinity"]
        (rule,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]
        assert rule["topologyKey"] == "kubernetes.io/hostname"
        assert finds(rule["labelSelector"], writer)


def finds(selector: Object, workload: Object) -> bool:
    labels = workload["spec"]["template"]["metadata"]["labels"]
    return selector["matchLabels"].items() <= labels.items() and all(
        rule["operator"] == "In" and labels.get(rule["key"]) in rule["values"]
        for rule in selector.get("matchExpressions", [])
    )


def selectors(found: Object) -> Iterator[dict[str, Any]]:
    """The selectors by which an object finds pods that are its own."""
    if found["kind"] in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
        yield found["spec"]["selector"]
    if found["kind"] == "Service":
        yield {"matchLabels": found["spec"]["selector"]}


def test_no_selector_finds_pods_of_another_kind_or_installation() -> None:
    objects = overlay("production") + overlay("next-model")
    pods = of_kind(objects, "Deployment", "StatefulSet")
    for found in objects:
        for selector in selectors(found):
            (own,) = (workload for workload in pods if finds(selector, workload))
            assert name(own) == name(found)
    budgets = {name(found) for found in of_kind(objects, "PodDisruptionBudget")}
    assert budgets == {name(w) for w in pods if w["metadata"]["labels"][COMPONENT] != "ui"}
    assert {w["metadata"]["labels"][INSTANCE] for w in pods} == {"factstream", "next"}


def test_metrics_of_all_installations_have_the_job_of_the_alerts() -> None:
    objects = overlay("production") + overlay("next-model")
    (monitor,) = of_kind(objects, "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for component, workload in (
        pair for o in ("production", "next-model") for pair in workloads(overlay(o)).items()
    ):
        assert finds(monitor["spec"]["selector"], workload)
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert labels[monitor["spec"]["jobLabel"]] == "factstream"  # the alert WorkerDown asks for it
        ports = {port["name"] for port in container(workload).get("ports", [])}
        assert ports == (set() if component == "ui" else {endpoint["port"]})


def test_config_maps_have_the_dashboard_and_the_alerts_as_they_are() -> None:
    maps = {name(found): found for found in of_kind(overlay("production"), "ConfigMap")}
    dashboard, alerts = maps["factstream-dashboard"], maps["factstream-alerts"]
    assert dashboard["data"] == {"factstream.json": (ROOT / "deploy/grafana/factstream.json").read_text()}
    assert dashboard["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert alerts["data"] == {"alerts.yml": (ROOT / "deploy/prometheus/alerts.yml").read_text()}


@pytest.mark.parametrize("which", ["production", "next-model"])
def test_network_lets_metrics_in_and_each_pod_out_to_what_it_needs(which: str) -> None:
    objects = overlay(which)
    for component, workload in workloads(objects).items():
        settings = KafkaSettings(bootstrap=environment(workload, objects)["FACTSTREAM_BOOTSTRAP"])
        policies = [
            p["spec"] for p in of_kind(objects, "NetworkPolicy") if finds(p["spec"]["podSelector"], workload)
        ]
        ways_in = [way for policy in policies for way in policy.get("ingress", [])]
        assert [way["ports"] for way in ways_in] == [[{"protocol": "TCP", "port": "metrics"}]]
        ways_out = [port for policy in policies for way in policy["egress"] for port in way["ports"]]

        def reaches(port: int, ports: list[dict[str, Any]] = ways_out) -> bool:
            return any(p["port"] <= port <= p.get("endPort", p["port"]) for p in ports)

        assert all(reaches(port) for _, port in settings.hosts())
        assert reaches(53) and reaches(4317) and reaches(4318)
        assert reaches(443) == (component in ("encoder", "generator"))  # where models come from
