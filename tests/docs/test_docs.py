"""docs/: every command and program of the pages is run against a real stack, in the order of a page.

What cannot be run here says why, in a comment before it; of that the commands and options are checked. The pages of queries
(tests/query/test_analytics.py) and of promises, whose commands are tests, have theirs.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import yaml
from prometheus_client import REGISTRY
from typer.testing import CliRunner

from schemas.changelog import Outcome
from schemas.fact import Fact
from schemas.topics import FACT_ENCODINGS, FACTS, MEMORY_HITS
from tests.conftest import wait_until
from workers.cli.app import app
from workers.kafka.config import KafkaSettings
from workers.kafka.offsets import lag
from workers.observe import metrics
from workers.runtime.embedded_broker import free_port

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = (
    "quickstart",
    "publishing",
    "sources",
    "consuming",
    "serving",
    "assistant",
    "export",
    "reencode",
    "mirror",
    "frameworks",
    "operating",
)  # in this order, on one stack
BLOCKS = {
    ("python", "run"), ("json", "connect"),
    ("python", "client: confluent-kafka"), ("python", "client: aiokafka"),  # tests/client/test_clean_clients.py
}  # fmt: skip
PRINTED = {
    "quickstart": ["2 learned, 1 skipped", "without memory", "walnut", "1 superseded", "oak", "forgotten: "],
    "publishing": ["2 decided: 2 learned", "1 superseded", "Counter({'learned': 1})"],
    "sources": ["is made of oak", "price: unchanged", "There are 3 of Harlow desk lamp."],
    "consuming": ["walnut", "['The Harlow desk lamp is made of walnut.']", '"finish_reason"', "Juniper"],
    "serving": ["walnut", '"gate":', "learned True", "417"],
    "assistant": ["learned: Ana's dog is called Rex", "Gonzalo", "1 decided: 1 learned"],
    "export": [
        '"state":"superseded"',
        "1 memories, 1 superseded ones",
        "2 decided: 2 duplicate",
        "1 were decided here before",
        "tin",
    ],
    "reencode": ["2 of 2 facts loaded", "superseded", "The Vardo clock is made of tin.", "'kind': 'fact'"],
    "mirror": ["facts", "learned"],
    "frameworks": [],
    "operating": ["ready\n", "factstream_decisions_total{"],
}


class Block(NamedTuple):
    mark: str
    kind: str
    code: str


def blocks(page: str) -> list[Block]:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return [
        Block(*found) for found in re.findall(r"(?:<!-- (.+?) -->\n)?```(\w+)\n(.*?)```", text, re.DOTALL)
    ]


class Stack(NamedTuple):
    bootstrap: str
    metrics_port: int
    http_port: int
    env: dict[str, str]
    folder: Path


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("docs")
    command = folder / "bin" / "factstream"  # as pip makes it, of this very tree
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m workers.cli "$@"\n')
    command.chmod(0o755)
    first = free_port(
        row=6
    )  # the metrics of three workers and of the HTTP server, then the broker, then the server
    port, http_port = first + 4, first + 5
    env = os.environ | {
        "PATH": f"{command.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "200",
        "FACTSTREAM_DATA": str(folder / "data"), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    up: list[str | Path] = [
        command,
        "up",
        "--port",
        str(port),
        "--metrics-port",
        str(first),
        "--http",
        str(http_port),
    ]
    process = subprocess.Popen(up, env=env, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready")
    bootstrap = f"127.0.0.1:{port}"
    yield Stack(bootstrap, first, http_port, env | {"FACTSTREAM_BOOTSTRAP": bootstrap}, folder)
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == 0


def everything_is_decided(stack: Stack) -> None:
    settings = KafkaSettings(stack.bootstrap)
    asker, admin = settings.consumer(), settings.admin()
    behind = partial(lag, admin, asker, settings)
    wait_until(lambda: behind("encoder", [FACTS]) == {FACTS: 0})
    wait_until(lambda: not any(behind("writer", [FACT_ENCODINGS, MEMORY_HITS]).values()))
    asker.close(autocommit=False)
    admin.close()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_and_programs_of_a_page_run_in_its_order(stack: Stack, page: str) -> None:
    folder, printed = stack.folder / page, ""
    folder.mkdir()
    if page == "operating":  # a backup has what is decided, so all of the pages before it must be
        everything_is_decided(stack)
    for block in blocks(page):
        if block.mark.startswith(("not run: ", "client: ")) or block.kind not in ("sh", "python"):
            continue
        code = block.code.replace("127.0.0.1:9092", stack.bootstrap)
        code = code.replace("127.0.0.1:8642", f"127.0.0.1:{stack.http_port}")
        for n in range(3):
            code = code.replace(f":{9464 + n}/", f":{stack.metrics_port + n}/")
        command = ["sh", "-euc", code] if block.kind == "sh" else [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=folder, env=stack.env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{block.code}\n{done.stdout}\n{done.stderr}"
        printed += done.stdout
    for words in PRINTED[page]:
        assert words in printed, printed
    if page == "operating":  # the digests of the history and of its backup
        first, second = re.findall(r"^[0-9a-f]{64}$", printed, re.MULTILINE)
        assert first == second


@pytest.mark.parametrize("page", PAGES)
def test_blocks_that_are_not_run_use_existing_commands_and_options(page: str) -> None:
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    for block in blocks(page):
        for line in re.findall(r"factstream ([a-z][^|>\n]*)", block.code) if block.kind == "sh" else []:
            words = line.split()
            path = words[: 2 if words[0] in ("memories", "model", "schemas", "bench") else 1]
            result = runner.invoke(app, [*path, "--help"])
            assert result.exit_code == 0, line
            for option in (word for word in words if word.startswith("--")):
                assert option in result.output, line


def test_every_block_is_run_or_says_why_not() -> None:
    for page in PAGES:
        for block in blocks(page):
            if block.kind == "sh":
                assert not block.mark or block.mark.startswith("not run: ")
            else:
                assert (block.kind, block.mark) in BLOCKS


@pytest.mark.parametrize("block", [b for b in blocks("publishing") if b.kind == "json"])
def test_a_connector_produces_valid_facts(block: Block) -> None:
    config: dict[str, Any] = json.loads(block.code)["config"]
    assert FACTS in (config.get("topic"), config.get("topic.prefix"))
    assert config["value.converter"].endswith(".JsonConverter")
    assert (
        config["value.converter.schemas.enable"] == "false"
    )  # else schema and payload are fields of the fact
    names = config["transforms"].split(",")
    assert {key.split(".")[1] for key in config if key.startswith("transforms.")} == set(names)
    if query := config.get("query"):
        inner = query.split("(select ")[1].split(" from product")[0]
        columns = {re.split(r"\s", column.strip())[-1] for column in inner.split(", ")}
        assert columns - {config["transforms.drop.exclude"]} <= set(Fact.model_fields)


def test_the_fields_of_a_fact_and_the_outcomes_are_those_of_the_code() -> None:
    table = (DOCS / "publishing.md").read_text().split("| field | | |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| (\w+) \|", table, re.MULTILINE)) == set(Fact.model_fields)
    named = re.findall(r"^\| (\w+) \| ", (DOCS / "concepts.md").read_text(), re.MULTILINE)
    assert set(named) - {"outcome"} == set(get_args(Outcome)) - {"evicted", "forgotten", "erased", "used"}


def test_every_metric_is_in_the_page() -> None:
    page = (DOCS / "operating.md").read_text()
    assert metrics.LAG  # they are registered
    known = {f.name for f in REGISTRY.collect() if f.name.startswith("factstream_")}
    named = {re.sub("_total$", "", name) for name in re.findall(r"\bfactstream_[a-z_]+\b", page)}
    assert named == known


def test_the_site_has_every_page_and_its_links_and_pictures_exist() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    named = [path for entry in site["nav"] for path in entry.values()]
    assert sorted(named) == sorted(page.name for page in DOCS.glob("*.md"))
    for page in DOCS.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
            assert link.startswith("https://") or (DOCS / link).is_file(), f"{page.name}: {link}"
        assert not re.findall(r"!\[[^]]*\]\(http", text)  # nothing is fetched from elsewhere
        for included in re.findall(r'--8<-- "([^":]+)', text):
            assert (ROOT / included).is_file()
    for picture in (DOCS / "pictures").glob("*.svg"):
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", picture.read_text()) == []
