"""The pods of deploy/kubernetes: what they run, how they are watched, and what they may do."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.core import TyperGroup

import workers.http
from tests.deploy.render import (
    OVERLAYS,
    ROOT,
    WORKERS,
    container,
    environment,
    name,
    of_kind,
    overlay,
    pod,
    workloads,
)
from workers.cli import app as cli
from workers.kafka.config import STATIC_SESSION_MS, KafkaSettings
from workers.observe import health
from workers.observe.health import Health

DOCKERFILE = (ROOT / "Dockerfile").read_text()
EVERY = pytest.mark.parametrize("which", OVERLAYS)


def in_image(variable: str) -> str:
    return str(re.findall(rf"\b{variable}=(\S+)", DOCKERFILE)[0])


@EVERY
def test_commands_are_ones_that_the_command_line_takes(which: str) -> None:
    group = typer.main.get_command(cli.app)
    assert isinstance(group, TyperGroup)
    for component, workload in workloads(overlay(which)).items():
        arguments = container(workload)["args"]
        assert "command" not in container(workload)  # the image's own: factstream
        with group.make_context("factstream", list(arguments)) as context:
            _, command, rest = group.resolve_command(context, list(arguments))
            assert command is not None
            with command.make_context(command.name, rest, parent=context) as own:
                assert own.params.get("name", command.name) == component


@EVERY
def test_settings_are_ones_that_the_workers_read(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "".join(
        f.read_text() for package in ("pipeline", "workers") for f in (ROOT / package).rglob("*.py")
    )
    read = set(re.findall(r"FACTSTREAM_[A-Z_]+", source)) | set(KafkaSettings().env())
    objects = overlay(which)
    for component, workload in workloads(objects).items():
        variables = environment(workload, objects)
        assert {v for v in variables if v.startswith("FACTSTREAM_")} <= read
        with monkeypatch.context() as patch:
            for variable, value in variables.items():
                patch.setenv(variable, value)
            settings = KafkaSettings.from_env()
        assert settings.bootstrap == variables["FACTSTREAM_BOOTSTRAP"]
        assert settings.security_protocol == ("PLAINTEXT" if which == "one-node" else "SSL")
        assert settings.instance == (f"{name(workload)}-0" if component == "writer" else None)
        if component == "writer":  # a static member, whose pod has that long to come back
            assert workload["kind"] == "StatefulSet" and settings.session_timeout_ms == STATIC_SESSION_MS
        if component in ("encoder", "generator"):
            assert variables["OMP_NUM_THREADS"] == container(workload)["resources"]["requests"]["cpu"]


@EVERY
def test_certificates_are_read_where_they_are_mounted(which: str) -> None:
    objects = overlay(which)
    for workload in workloads(objects).values():
        variables = environment(workload, objects)
        files = {v for k, v in variables.items() if re.fullmatch("FACTSTREAM_(CA|CERT|KEY)_FILE", k)}
        mounted = {m["mountPath"]: m for m in container(workload)["volumeMounts"]}
        assert {str(Path(file).parent) for file in files} == {p for p in mounted if p.startswith("/etc/")}
        assert all(mounted[str(Path(file).parent)]["readOnly"] for file in files)
        # the names that Strimzi's operators give the parts of their Secrets
        assert {Path(file).name for file in files} in (set(), {"ca.crt", "user.crt", "user.key"})


def answer(of: Health, path: str) -> int:
    status: list[str] = []

    def start_response(line: str, _: Any, __: Any = None) -> Any:
        status.append(line)

    list(health.app(of)({"PATH_INFO": path, "REQUEST_METHOD": "GET"}, start_response))
    return int(status[0].split()[0])


@EVERY
def test_probes_ask_the_pages_that_the_workers_serve(which: str) -> None:
    for component in WORKERS:
        worker = container(workloads(overlay(which))[component])
        host, port = health.address(worker["args"][worker["args"].index("--metrics-port") + 1])
        assert (host, worker["ports"]) == ("0.0.0.0", [{"name": "metrics", "containerPort": port}])
        paths = {
            probe: worker[probe]["httpGet"]["path"]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe")
        }
        assert {worker[probe]["httpGet"]["port"] for probe in paths} == {"metrics"}
        loading, turning, stalled = Health(), Health(), Health(turned_at=-health.STALL_S, ready=True)
        turning.turned(ready=True)
        answers = {
            probe: [answer(h, path) for h in (loading, turning, stalled)] for probe, path in paths.items()
        }
        assert answers == {
            "startupProbe": [503, 200, 503], "readinessProbe": [503, 200, 503], "livenessProbe": [200, 200, 503],
        }  # fmt: skip
        start = worker["startupProbe"]
        assert start["periodSeconds"] * start["failureThreshold"] == 15 * 60  # as docker-compose.yml has it
        for probe in paths:
            assert (
                worker[probe]["timeoutSeconds"] >= health.CLIENT_TIMEOUT_S
            )  # which a silent client may hold it up


def test_page_listens_in_its_pod_only_and_is_asked_there() -> None:
    objects = overlay("production")
    page = container(workloads(objects)["ui"])
    port = page["args"][page["args"].index("--port") + 1]
    assert "--host" not in page["args"] and "ports" not in page
    for probe in ("livenessProbe", "readinessProbe"):
        python, option, code = page[probe]["exec"]["command"]
        assert (python, option) == ("python", "-c")
        compile(code, "probe", "exec")
        (path,) = re.findall(rf"http://127\.0\.0\.1:{port}(/static/\S+?)'", code)
        assert (Path(workers.http.__path__[0]) / path.removeprefix("/")).is_file()
    services = of_kind(objects, "Service")
    assert [service["spec"].get("clusterIP") for service in services] == ["None"]


@EVERY
def test_pods_keep_to_the_restricted_security_standard(which: str) -> None:
    uid = int(re.findall(r"useradd --uid (\d+)", DOCKERFILE)[0])
    for workload in workloads(overlay(which)).values():
        spec = pod(workload)
        context = spec["securityContext"]
        assert context["runAsNonRoot"] and context["runAsUser"] == context["fsGroup"] == uid
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container(workload)["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert not spec["automountServiceAccountToken"] and not spec["enableServiceLinks"]
        assert spec["shareProcessNamespace"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        kinds = {kind for volume in spec["volumes"] for kind in volume} - {"name"}
        assert kinds <= {"emptyDir", "persistentVolumeClaim", "secret"}


@EVERY
def test_what_a_pod_writes_is_mounted_and_bounded(which: str) -> None:
    data, cache = in_image("FACTSTREAM_DATA"), in_image("FACTSTREAM_CACHE")
    assert in_image("HF_HOME").startswith(f"{cache}/")
    for component, workload in workloads(overlay(which)).items():
        mounts = {mount["mountPath"]: mount for mount in container(workload)["volumeMounts"]}
        assert {"/tmp", data} <= set(mounts)
        assert (cache in mounts) == (component in ("encoder", "generator"))
        assert mounts[data].get("readOnly", False) == (component == "ui")
        assert all("sizeLimit" in v["emptyDir"] for v in pod(workload)["volumes"] if "emptyDir" in v)
        resources = container(workload)["resources"]
        assert set(resources["requests"]) == {"cpu", "memory"} and "memory" in resources["limits"]


@EVERY
def test_history_answers_and_page_share_a_folder(which: str) -> None:
    def claim(component: str) -> str | None:
        (volume,) = (v for v in pod(workloads(overlay(which))[component])["volumes"] if v["name"] == "data")
        return (
            str(volume["persistentVolumeClaim"]["claimName"]) if "persistentVolumeClaim" in volume else None
        )

    assert claim("writer") == claim("generator") == claim("ui") is not None
    assert claim("encoder") is None  # it has a heartbeat only
