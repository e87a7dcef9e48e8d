"""The objects of deploy/kubernetes as kustomize renders them, and what their pods run."""

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
WORKERS = ("encoder", "writer", "generator")
COMPONENT, INSTANCE = "app.kubernetes.io/component", "app.kubernetes.io/instance"
CLUSTER_SECRET = "kafka-cluster-ca-cert"
"""The Secret with the authority of a Strimzi cluster named kafka."""

Object = dict[str, Any]


@cache
def overlay(name: str) -> list[Object]:
    return kustomize(KUBERNETES / "overlays" / name)


def kustomize(folder: Path) -> list[Object]:
    kubectl = shutil.which("kubectl", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert kubectl, "kubectl renders the manifests: make install has it"
    command = [kubectl, "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [found for found in objects if found["kind"] in kinds]


def name(found: Object) -> str:
    return str(found["metadata"]["name"])


def workloads(objects: list[Object]) -> dict[str, Object]:
    """By component: encoder, writer, generator and ui."""
    found = of_kind(objects, "Deployment", "StatefulSet")
    return {w["metadata"]["labels"][COMPONENT]: w for w in found}


def pod(workload: Object) -> Object:
    return dict(workload["spec"]["template"]["spec"])


def container(workload: Object) -> Object:
    (only,) = pod(workload)["containers"]
    return dict(only)


def environment(workload: Object, objects: list[Object]) -> dict[str, str]:
    """The variables of a container, as Kubernetes makes them: its own win over those of the ConfigMap."""
    maps = {name(found): found["data"] for found in of_kind(objects, "ConfigMap")}
    found = dict[str, str]()
    for source in container(workload)["envFrom"]:
        found |= maps[source["configMapRef"]["name"]]
    for variable in container(workload).get("env", []):
        found[variable["name"]] = variable["value"] if "value" in variable else _value(variable, workload)
    return found


def _value(variable: Object, workload: Object) -> str:
    source = variable["valueFrom"]
    if "fieldRef" in source:
        assert source["fieldRef"] == {"fieldPath": "metadata.name"}
        return f"{name(workload)}-0"
    assert source["resourceFieldRef"]["containerName"] == container(workload)["name"]
    kind, resource = source["resourceFieldRef"]["resource"].split(".")
    return str(container(workload)["resources"][kind][resource])
