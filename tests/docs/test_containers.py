"""The wheel, Dockerfile and docker-compose.yml, checked without a container engine."""

import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.core import TyperGroup

from workers.cli import app as cli
from workers.kafka.config import KafkaSettings
from workers.observe.health import STALL_S, Health, address, serve
from workers.runtime.embedded_broker import free_port
from workers.source.config import load

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("schemas", "pipeline", "workers")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
WORKERS: dict[str, dict[str, Any]] = {
    name: service for name, service in COMPOSE["services"].items() if service["image"] == "factstream"
}


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


# --- docker-compose.yml ---


def test_compose_file_keeps_to_the_compose_specification() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    done = run(sys.executable, "-m", "check_jsonschema", *schema, ROOT / "docker-compose.yml")
    assert done.returncode == 0, done.stdout


def test_compose_file_needs_nothing_set() -> None:
    text = re.sub(r"^\s*#.*$", "", COMPOSE_TEXT, flags=re.MULTILINE).replace("$$", "")
    variables = re.findall(r"\$\{[^}]*\}|\$\w+", text)
    assert "${MODEL:-gpt2}" in variables
    assert [v for v in variables if not re.fullmatch(r"\$\{[A-Z_]+:-[^}]*\}", v)] == []


def test_compose_file_runs_one_of_each_worker_and_two_of_them_on_gpu() -> None:
    def workers(profiles: list[str]) -> set[str]:
        return {s["command"][1] for s in WORKERS.values() if s.get("profiles", []) == profiles}

    assert workers([]) == {"encoder", "writer", "generator"}
    assert workers(["gpu"]) == {"encoder", "generator"}
    assert workers(["source"]) == {"source"}
    for service in WORKERS.values():
        on_gpu = service.get("profiles") == ["gpu"]
        assert on_gpu == (service["environment"].get("FACTSTREAM_DEVICE") == "cuda")
        devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        assert [device["capabilities"] for device in devices] == ([["gpu"]] if on_gpu else [])


@pytest.mark.parametrize("name", sorted(WORKERS))
def test_command_is_one_that_the_command_line_takes(name: str) -> None:
    group = typer.main.get_command(cli.app)
    assert isinstance(group, TyperGroup)
    with group.make_context("factstream", list(WORKERS[name]["command"])) as context:
        _, command, arguments = group.resolve_command(context, WORKERS[name]["command"])
        assert command is not None and command.name == "worker"
        command.make_context("worker", arguments, parent=context)  # raises what a wrong option or name would


@pytest.mark.parametrize("name", sorted(WORKERS))
def test_health_check_asks_the_page_of_the_worker_wherever_its_history_is(name: str) -> None:
    command, health, port = WORKERS[name]["command"], Health(), free_port()
    _, served = address(command[command.index("--metrics-port") + 1])
    kind, python, *code = WORKERS[name]["healthcheck"]["test"]
    assert (kind, python) == ("CMD", "python")
    code = [part.replace(f":{served}/", f":{port}/") for part in code]
    env = {"FACTSTREAM_DATA": "s3://facts/production", "http_proxy": "http://127.0.0.1:1"}

    def healthy() -> bool:
        return run(sys.executable, *code, env=env).returncode == 0

    assert not healthy()  # nobody listens yet
    server = serve(str(port), health)
    try:
        assert not healthy()  # it loads
        health.turned(ready=True)
        assert healthy()
        health.turned_at = time.monotonic() - STALL_S
        assert not healthy()
    finally:
        server.shutdown()
        server.server_close()


def test_workers_wait_for_a_healthy_broker_and_outlive_a_crash() -> None:
    assert "healthcheck" in COMPOSE["services"]["kafka"]
    for service in WORKERS.values():
        assert service["depends_on"] == {"kafka": {"condition": "service_healthy"}}
        assert service["restart"] == "unless-stopped"


def test_volumes_are_declared_and_lie_where_the_image_keeps_things() -> None:
    used = {
        name: dict(reversed(volume.split(":")) for volume in service.get("volumes", []))
        for name, service in COMPOSE["services"].items()
    }
    assert {volume for mounts in used.values() for volume in mounts.values()} == set(COMPOSE["volumes"])
    data, cache = (re.findall(rf"FACTSTREAM_{name}=(\S+)", DOCKERFILE)[0] for name in ("DATA", "CACHE"))
    assert used["writer"][data] == used["generator"][data] == "data"
    assert {used[name].get(cache) for name in WORKERS if name not in ("writer", "source")} == {"models"}


def test_source_worker_has_a_configuration_that_it_can_read() -> None:
    (config,) = WORKERS["source"]["configs"]
    assert config["target"] in WORKERS["source"]["command"]
    assert COMPOSE["configs"][config["source"]]["file"] == "${SOURCES:-deploy/sources.yaml}"
    assert load(ROOT / "deploy" / "sources.yaml").sources
    (extras,) = re.findall(r"whl\)\[([a-z,-]+)\]", DOCKERFILE)
    assert (
        set(extras.split(","))
        == {"fast", "object-store", "otlp", "sources"}
        <= set(PROJECT["optional-dependencies"])
    )


def test_environment_is_one_that_the_workers_read() -> None:
    source = "".join(f.read_text() for package in PACKAGES for f in (ROOT / package).rglob("*.py"))
    read = set(re.findall(r"FACTSTREAM_[A-Z_]+", source)) | set(KafkaSettings().env())
    named = set(re.findall(r"FACTSTREAM_[A-Z_]+", DOCKERFILE))
    for service in WORKERS.values():
        named |= {name for name in service["environment"] if name.startswith("FACTSTREAM_")}
    assert named - read == set()


# --- the wheel and the image ---


def test_every_dependency_is_pinned_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    assert pins["torch"] == "2.13.0", "a build suffix would fit one kind of machine only"
    for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), line


def test_image_starts_the_console_command_as_a_plain_user() -> None:
    final = DOCKERFILE.split("\nFROM ")[-1]
    assert re.findall(r"^USER (.*)$", final, re.MULTILINE) == ["factstream"]
    entrypoints = re.findall(r"^ENTRYPOINT (.*)$", final, re.MULTILINE)
    assert [json.loads(entrypoint) for entrypoint in entrypoints] == [list(PROJECT["scripts"])]


def test_wheel_of_the_docker_context_is_whole(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for name in (line[1:] for line in ignored if line.startswith("!")):
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, context)
    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path)
    done = run(sys.executable, *build, context)
    assert done.returncode == 0, done.stdout + done.stderr

    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = archive.read(f"factstream-{PROJECT['version']}.dist-info/entry_points.txt").decode()
    assert "factstream = workers.cli:main" in entry_points
    content = {name for name in names if ".dist-info/" not in name}
    assert content == {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and file.parent.name != "__pycache__"
    }
