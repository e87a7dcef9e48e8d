"""Partitioned replicas: three generators answer as a full one, hold a third each, survive a kill."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Settings
from schemas.fact import Fact
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse
from tests.conftest import wait_until
from tests.helpers.weights import NUMBERS, install
from workers import client
from workers.kafka.config import KafkaSettings
from workers.kafka.partitioner import partition_for
from workers.runtime import embedded_broker as broker
from workers.runtime.processes import stop_process

pytestmark = pytest.mark.slow

PARTITIONS = 6
SPACES = [
    name
    for number in range(PARTITIONS)
    for name in [f"team-{n}" for n in range(200) if partition_for(f"team-{n}", PARTITIONS) == number][:2]
]  # two in each partition
THINGS = ("lamp", "kettle", "bridge", "violin", "anchor")
SEARCH: dict[str, Any] = {"task": "retrieve", "limit": 10}  # all that a namespace has
MATERIALS = ("walnut", "copper", "granite", "spruce", "bronze", "velvet", "amber", "slate")


@dataclass
class Group:
    """A writer, an encoder, and the generators that the tests start, each a process with metrics."""

    settings: KafkaSettings
    model: Path
    folder: Path
    env: dict[str, str]

    def __post_init__(self) -> None:
        self.processes: dict[str, tuple[subprocess.Popen[bytes], int]] = {}

    def start(self, kind: str, name: str, settings: KafkaSettings | None = None) -> None:
        port = broker.free_port()
        options = ["--data", str(self.folder), "--model", str(self.model), "--metrics-port", str(port)]
        with open(self.folder / f"{name}.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers.cli", "worker", kind, *options], stderr=log,
                env=os.environ | self.env | (settings or self.settings).env(),
            )  # fmt: skip
        self.processes[name] = process, port

    def ready(self, name: str) -> bool:
        process, _ = self.processes[name]
        assert process.poll() is None, (self.folder / f"{name}.log").read_text()[-2000:]
        return self.page(name, "readyz") == "ready\n"

    def page(self, name: str, path: str) -> str:
        with suppress(OSError):
            address = f"http://127.0.0.1:{self.processes[name][1]}/{path}"
            return str(urllib.request.urlopen(address, timeout=5).read().decode())
        return ""

    def metric(self, name: str, metric: str) -> dict[str, float]:
        """By labels."""
        found = re.findall(rf"^{metric}(?:{{(.*)}})? (\S+)$", self.page(name, "metrics"), re.MULTILINE)
        return {labels: float(value) for labels, value in found}

    def memories(self, *names: str) -> list[int]:
        """The memories that each of these generators says to hold."""
        return [int(sum(self.metric(name, "factstream_memories").values())) for name in names]

    def follows(self, name: str) -> set[int]:
        """The partitions of the changelog whose lag it tells."""
        labels = self.metric(name, "factstream_lag_records")
        return {
            int(re.findall(r'partition="(\d+)"', one)[0]) for one in labels if '"memory-changelog"' in one
        }

    def end(self, name: str, how: int = signal.SIGTERM) -> None:
        process, _ = self.processes.pop(name)
        process.send_signal(how)
        process.wait(40)


@pytest.fixture(scope="module")
def group(
    request: pytest.FixtureRequest,
    kafka: str | None,
    llama: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Group]:
    bootstrap = kafka or request.getfixturevalue("embedded").bootstrap
    settings = KafkaSettings(bootstrap, f"apart{os.getpid()}.", PARTITIONS)
    folder, cache = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("cache")
    install(llama, cache, NUMBERS)
    started = Group(settings, llama, folder, {"FACTSTREAM_CACHE": str(cache)})
    started.start("encoder", "encoder")
    started.start("writer", "writer")
    yield started
    for process, _ in started.processes.values():
        stop_process(process, 20)


def facts(kind: int) -> list[tuple[str, Fact]]:
    return [
        (space, Fact(text=f"The {thing} of {space} is made of {MATERIALS[(n + m + kind) % 8]} number {n}{m}{kind}.", min_loss_delta=-99.0))
        for n, space in enumerate(SPACES)
        for m, thing in enumerate(THINGS)
    ]  # fmt: skip


def requests(after: Any) -> list[GenerationRequest]:
    """Two for each namespace, one of them a search; the last one names two namespaces of one partition."""
    wanted = [
        GenerationRequest(prompt=f"The {thing} of {space} is made of", namespace=space, after=after, max_new_tokens=4, **more)
        for n, space in enumerate(SPACES)
        for thing, more in ((THINGS[n % 5], {}), (THINGS[(n + 1) % 5], SEARCH))
    ]  # fmt: skip
    both = GenerationRequest(
        prompt="The lamp is made of", namespace=SPACES[:2], after=after, max_new_tokens=4
    )
    return [*wanted, both]


def ask(settings: KafkaSettings, wanted: list[GenerationRequest]) -> list[Any]:
    with client.Client(settings) as asker:
        return [seen(asker.submit(request, timeout_s=60).result()) for request in wanted]


def seen(answer: GenerationResponse) -> Any:
    """What two answers have in common, besides their ids and times, and what each use of a memory changes a little: the
    scores, and the order of those memories that do not answer."""
    assert answer.error is None, answer.error
    found = [(m.memory_id, m.namespace, m.text, round(m.gate, 3)) for m in answer.memories]
    rest = found if len(found) > Settings.memories else [one for one in found if one[-1]]
    return answer.text, answer.finish_reason, found[0], sorted(rest)


@pytest.mark.timeout(900)
def test_three_generators_answer_as_one_does_with_a_third_of_its_memory_each(group: Group) -> None:
    full, apart = group.settings, replace(group.settings, replica="partitioned")
    names = ["one", "two", "three"]
    wait_until(lambda: group.ready("encoder") and group.ready("writer"), 240)
    learned = client.publish(full, facts(0), wait=True)
    assert learned.outcomes.total() == len(SPACES) * len(THINGS) == 60
    group.start("generator", "full")
    wait_until(lambda: group.ready("full"), 120)
    expected = ask(full, requests(learned.after))
    assert len({str(one) for one in expected}) == len(expected)
    (total,) = group.memories("full")
    group.end("full")

    for name in names:
        group.start("generator", name, apart)
    wait_until(lambda: all(group.ready(name) for name in names), 240)
    wait_until(lambda: [len(group.follows(name)) for name in names] == [2, 2, 2])
    assert set.union(*map(group.follows, names)) == set(range(PARTITIONS))
    assert group.memories(*names) == [total // 3] * 3
    assert ask(apart, requests(learned.after)) == expected
    forwarded = [group.metric(name, "factstream_forwarded_requests_total") for name in names]
    assert not sum(value for one in forwarded for value in one.values()), "our clients find the partition"
    assert ask(full, requests(learned.after)) == expected, "others are sent on"
    forwarded = [group.metric(name, "factstream_forwarded_requests_total") for name in names]
    assert sum(value for one in forwarded for value in one.values()) > 5

    distant = GenerationRequest(prompt="The lamp", namespace=[SPACES[0], SPACES[-1]], max_new_tokens=1)
    with client.Client(apart) as asker:
        refused = asker.submit(distant).result(60)
        assert refused.error and refused.error.reason == "namespaces-apart"
        bare = distant.model_copy(update={"use_memory": False})
        assert asker.submit(bare).result(60).error is None

    # What was just learned is waited for, in the partition that has it.
    newer = client.publish(full, facts(1), wait=True)
    told = ask(apart, requests(newer.after))
    assert [one[3] for one in told] != [one[3] for one in expected]

    # One is killed while it answers: the others take over its partitions.
    answers: list[Future[GenerationResponse]] = []
    with client.Client(apart) as asker:
        for n, request in enumerate(requests(newer.after) * 4):
            answers.append(asker.submit(request, timeout_s=120))
            if n == 40:
                group.end("three", signal.SIGKILL)
        assert [seen(answer.result()) for answer in answers] == told * 4, "none unanswered, none otherwise"
    wait_until(lambda: all(len(group.follows(name)) == 3 for name in names[:2]), 60)
    assert group.follows("one") | group.follows("two") == set(range(PARTITIONS))
    held = sum(group.memories(*names[:2]))
    wait_until(lambda: all(group.ready(name) for name in names[:2]))
    assert held == sum(group.memories("writer"))

    # And back: what moves away is freed.
    group.start("generator", "three", apart)
    wait_until(lambda: group.ready("three"), 120)
    wait_until(lambda: [len(group.follows(name)) for name in names] == [2, 2, 2], 60)
    wait_until(lambda: sum(group.memories(*names)) == sum(group.memories("writer")))
    assert max(group.memories(*names)) < 0.4 * sum(group.memories("writer"))
    assert ask(apart, requests(newer.after)) == told
