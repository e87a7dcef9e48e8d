"""Least privilege: with the rights that docs/operating.md lists, and no others, every role works."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
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
from workers.client.watch import Observer
from workers.kafka.admin import ensure_topics, topic_ids, writable_partitions
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import TopicsMismatch, TopicsMissing
from workers.runtime.processes import stop_process
from workers.runtime.signals import Stop

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

PAGE = Path(__file__).parent.parent.parent / "docs" / "operating.md"
USERS = {"producer that waits (`publish --wait`)": "waiting", "observer (`watch`, `ui`)": "observer"}
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
    for worker in ("encoder", "writer", "generator"):  # the text below the table says so
        found["observer"].append((ResourceType.GROUP, f"factstream-{worker}", ACLOperation.DESCRIBE))
    return found


def grant(admin: KafkaAdminClient) -> None:
    admin.create_acls([
        ACL(f"User:{user}", "*", operation, ACLPermissionType.ALLOW, ResourcePattern(kind, name))
        for user, own in rights().items()
        for kind, name, operation in own
    ])  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    if not guarded.JARS.is_dir():
        pytest.skip(MISSING)
    running = guarded.start(tmp_path_factory.mktemp("guarded"))
    administrator = KafkaSettings(running.plain)
    ensure_topics(administrator)
    admin = administrator.admin()
    grant(admin)
    admin.close()
    wait_until(lambda: sees(of(running, "observer")), 60)  # the broker takes new rights up with a delay
    yield running
    running.stop()


def of(cluster: Guarded, user: str) -> KafkaSettings:
    return KafkaSettings(
        cluster.passwords, security_protocol="SASL_PLAINTEXT", sasl_mechanism="PLAIN", username=user, password=PASSWORD
    )  # fmt: skip


def sees(settings: KafkaSettings) -> bool:
    """Whether this user may describe all topics."""
    with closing(settings.admin()) as admin, suppress(TopicsMismatch):
        return bool(topic_ids(admin, settings))
    return False


@pytest.mark.timeout(600)
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
        wait_until(lambda: all(" ready " in log.read_text() for log in logs.values()), 240)
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


def test_observer_and_rights_on_a_reply_topic(cluster: Guarded) -> None:
    observer = Observer(of(cluster, "observer"))
    assert set(observer.tick(0.5, Stop())["lag"]) > {"facts", "generation-requests"}
    observer.close()
    admin = of(cluster, "application").admin()
    assert writable_partitions(admin, "generation-requests") == 4
    for topic, said in (
        ("generation-responses", "may not write"),
        ("facts", "Authorization"),
        ("none", "none: "),
    ):
        with pytest.raises(TopicsMissing, match=said):
            writable_partitions(admin, topic)
    admin.close()
    with pytest.raises(TopicsMismatch, match=r"may not describe the topic facts.*Access control"):
        ensure_topics(of(cluster, "application"), ("facts",))
