"""Least privilege: with the rights that docs/operating.md lists, and no others, every role works."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ResourcePattern,
    ResourceType,
)

from schemas.fact import Fact
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse
from tests.conftest import wait_until
from tests.helpers import guarded
from tests.helpers.apache import MISSING
from tests.helpers.guarded import PASSWORD, Guarded
from workers import client
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import TopicsMismatch
from workers.runtime.processes import stop_process

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

PAGE = Path(__file__).parent.parent.parent / "docs" / "operating.md"
USERS = {"producer that waits (`publish --wait`)": "waiting"}
"""The user of each role, where it is not the role's own name."""


def rights() -> dict[str, list[tuple[ResourceType, str, ACLOperation]]]:
    """By user, the rights in the table of the page."""
    table = PAGE.read_text().split("## Access control")[1].split("\n\n")[2]
    found = {}
    for line in table.splitlines()[2:]:
        role, group, reads, writes = (cell.strip() for cell in line.strip("|").split("|"))
        found[USERS.get(role, role)] = [
            (kind, name, operation)
            for kind, names, operation in (
                (ResourceType.GROUP, group, ACLOperation.READ),
                (ResourceType.TOPIC, reads, ACLOperation.READ),
                (ResourceType.TOPIC, writes, ACLOperation.WRITE),
            )
            for name in re.findall(r"[a-z-]+", names)
        ]
    return found


def grant(admin: KafkaAdminClient) -> None:
    admin.create_acls([
        ACL(f"User:{user}", "*", operation, ACLPermissionType.ALLOW, ResourcePattern(kind, name))
        for user, own in rights().items()
        if user in guarded.USERS
        for kind, name, operation in own
    ])  # fmt: skip


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Guarded]:
    if not guarded.JARS.is_dir():
        pytest.skip(MISSING)
    running = guarded.start(tmp_path)
    administrator = KafkaSettings(running.plain)
    ensure_topics(administrator)
    admin = administrator.admin()
    grant(admin)
    admin.close()
    yield running
    running.stop()


def of(cluster: Guarded, user: str) -> KafkaSettings:
    return KafkaSettings(
        cluster.passwords, security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", username=user, password=PASSWORD
    )  # fmt: skip


@pytest.mark.timeout(400)
def test_every_role_works_with_its_rights_alone(cluster: Guarded, llama: Path, tmp_path: Path) -> None:
    workers: list[subprocess.Popen[bytes]] = []
    logs = {name: tmp_path / f"{name}.log" for name in ("encoder", "writer", "generator")}
    try:
        for name, log in logs.items():
            options = ["--model", str(llama), "--data", str(tmp_path / "data")]
            command = [sys.executable, "-m", "workers.cli", "worker", name, *options]
            with log.open("wb") as errors:
                env = os.environ | of(cluster, name).env()
                workers.append(subprocess.Popen(command, env=env, stderr=errors))
        wait_until(lambda: all(" ready " in log.read_text() for log in logs.values()), 180)
        fact = Fact(text="The Harlow lamp is made of walnut.", min_loss_delta=0.0)
        done = client.publish(of(cluster, "waiting"), [("default", fact)], wait=True)
        assert done.outcomes == {"learned": 1}
        assert client.publish(of(cluster, "producer"), [("default", fact)]).sent == 1
        with client.Client(of(cluster, "application")) as asker:
            answer = asker.submit(GenerationRequest(prompt="The Harlow lamp is", max_new_tokens=2)).result(60)
        assert isinstance(answer, GenerationResponse) and answer.error is None
    finally:
        for process in workers:
            stop_process(process, 20)
        print(*(log.read_text()[-1500:] for log in logs.values()), sep="\n")
    with pytest.raises(TopicsMismatch, match=r"may not describe the topic facts.*Access control"):
        ensure_topics(of(cluster, "application"), ("facts",))
