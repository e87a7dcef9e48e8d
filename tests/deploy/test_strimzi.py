"""Topics, users, quotas and scalers of deploy/kubernetes agree with the code and docs/operating.md."""

import inspect
import re

import pytest

from schemas.topics import TOPICS
from tests.deploy.render import ROOT, WORKERS, name, of_kind, overlay, workloads
from workers.generate.worker import BATCH
from workers.kafka.admin import topic_configs
from workers.kafka.config import KafkaSettings
from workers.runtime import loop
from workers.runtime.stack.drain import CONSUMED

ACCESS = (ROOT / "docs" / "operating.md").read_text().split("## Access control")[1].split("\n## ")[0]
ROLES = {
    "producer that waits (`publish --wait`)": "producer-that-waits",
    "loader (`load`)": "loader",
    "observer (`watch`, `ui`)": "observer",
}
"""The user of each role of the page, where it has another name."""
INSTALLATIONS = {"production": KafkaSettings(), "next-model": KafkaSettings(topic_prefix="next.")}
EVERY = pytest.mark.parametrize("which", INSTALLATIONS)
Right = tuple[str, str, str]


@EVERY
def test_topics_are_those_that_the_workers_would_create(which: str) -> None:
    settings = INSTALLATIONS[which]
    found = {t["spec"]["topicName"]: t["spec"]["config"] for t in of_kind(overlay(which), "KafkaTopic")}
    assert found == {settings.topic(topic.name): topic_configs(settings, topic) for topic in TOPICS}


@EVERY
def test_topics_have_equal_partitions_and_no_worker_is_one_too_many(which: str) -> None:
    objects = overlay(which)
    (partitions,) = {topic["spec"]["partitions"] for topic in of_kind(objects, "KafkaTopic")}
    assert workloads(objects)["writer"]["spec"]["replicas"] <= partitions
    assert {s["spec"]["maxReplicaCount"] for s in of_kind(objects, "ScaledObject")} == {partitions}


def names(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:-[a-z]+)*", text)


def in_page() -> dict[str, set[Right]]:
    """By user, the rights that the page lists: the table, and what is said below it."""
    found: dict[str, set[Right]] = {}
    for line in ACCESS.split("\n\n")[2].splitlines()[2:]:
        role, groups, reads, writes = (cell.strip() for cell in line.strip("|").split("|"))
        found[ROLES.get(role, role)] = {
            *(("group", group, "Read") for group in names(groups)),
            *(("topic", topic, "Read") for topic in names(reads)),
            *(("topic", topic, "Write") for topic in names(writes)),
        }
    assert "An observer needs Describe on the three groups" in ACCESS
    found["observer"] |= {("group", f"factstream-{worker}", "Describe") for worker in WORKERS}
    assert "A loader needs Describe on the group factstream-writer" in ACCESS
    found["loader"].add(("group", "factstream-writer", "Describe"))
    assert "The web page also needs the rights of an application and of a producer" in ACCESS
    found["ui"] = found["observer"] | found["application"] | found["producer"]
    (scaled,) = re.findall(r"An autoscaler needs Describe on (.*)\.", ACCESS)
    found["scaler"] = {
        ("group" if n.startswith("factstream-") else "topic", n, "Describe")
        for n in names(scaled)
        if n != "and"
    }
    return found


@EVERY
def test_users_have_the_rights_that_the_page_lists(which: str) -> None:
    prefix = INSTALLATIONS[which].topic_prefix
    suffix = "-next" if which == "next-model" else ""
    found: dict[str, set[Right]] = {}
    for user in of_kind(overlay(which), "KafkaUser"):
        rights = [
            (acl["resource"]["type"], acl["resource"]["name"], operation)
            for acl in user["spec"]["authorization"]["acls"]
            for operation in acl["operations"]
        ]
        assert len(rights) == len(set(rights))
        found[name(user).removeprefix("factstream-").removesuffix(suffix)] = set(rights)
    assert found == {
        user: {(kind, prefix + resource, operation) for kind, resource, operation in rights}
        for user, rights in in_page().items()
    }


def test_who_sends_or_reads_from_outside_has_a_quota() -> None:
    for user in of_kind(overlay("production"), "KafkaUser"):
        spec = user["spec"]
        may = {operation for acl in spec["authorization"]["acls"] for operation in acl["operations"]}
        ours = name(user).removeprefix("factstream-") in (*WORKERS, "scaler")
        assert ("quotas" in spec) != ours
        if not ours:
            assert ("producerByteRate" in spec["quotas"]) == ("Write" in may)
            assert ("consumerByteRate" in spec["quotas"]) == ("Read" in may)


@EVERY
def test_scalers_follow_the_lag_of_their_workers(which: str) -> None:
    objects, settings = overlay(which), INSTALLATIONS[which]
    batches = {"encoder": inspect.signature(loop.run).parameters["max_records"].default, "generator": BATCH}
    deployments = {name(w): component for component, w in workloads(objects).items()}
    scaled = {}
    for scaler in of_kind(objects, "ScaledObject"):
        component = scaled[scaler["spec"]["scaleTargetRef"]["name"]] = deployments[
            scaler["spec"]["scaleTargetRef"]["name"]
        ]
        assert (
            "replicas" not in workloads(objects)[component]["spec"]
        )  # or each `apply` would undo the scaling
        (trigger,) = scaler["spec"]["triggers"]
        said = trigger["metadata"]
        assert said["consumerGroup"] == settings.group(component)
        assert [said["topic"]] == [settings.topic(topic) for topic in CONSUMED[component]]
        assert said["lagThreshold"] == str(batches[component])
        assert said["offsetResetPolicy"] == "earliest"
        (login,) = of_kind(objects, "TriggerAuthentication")
        assert trigger["authenticationRef"]["name"] == name(login)
    assert set(scaled.values()) == {"encoder", "generator"}
