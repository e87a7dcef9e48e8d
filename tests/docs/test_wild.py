"""The scenarios in examples/wild: their checker finds no fault in them, and each in a broken copy."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.wild import check

WILD = Path(__file__).parent.parent.parent / "examples" / "wild"
Domain = dict[str, Any]
FAULTS: list[tuple[str, Callable[[Domain], object]]] = [
    ("unknown fields note", lambda domain: domain.update(note="later")),
    ("asks is not a list", lambda domain: domain.update(asks={})),
    ("silent 1: not an object", lambda domain: domain["silent"].insert(0, "Who?")),
    ("facts 1: text is not a str, or empty", lambda domain: domain["facts"][0].update(text="")),
    ("facts 1: day is not a int", lambda domain: domain["facts"][0].update(day="Monday")),
    ("facts 1: beside is not a str", lambda domain: domain["facts"][0].update(beside=["f2"])),
    ("facts 1: unknown fields replace", lambda domain: domain["facts"][0].update(replace="f1")),
    ("asks 1: answers holds something else", lambda domain: domain["asks"][0].update(answers=[22])),
    ("29 facts, fewer than 30", lambda domain: domain.update(facts=domain["facts"][:29])),
    ("f3: an id twice", lambda domain: domain["facts"][1].update(id="f3")),
    ("f2: day is before", lambda domain: domain["facts"][1].update(day=0)),
    ("f1: same_as names no earlier", lambda domain: domain["facts"][0].update(same_as="f2")),
    ("f2: beside names no earlier", lambda domain: domain["facts"][1].update(beside="f2")),
    ("f2: replaces a fact of the same", lambda domain: domain["facts"][1].update(replaces="f1", day=1)),
    ("kind or form unknown", lambda domain: domain["asks"][0].update(kind="hard")),
    ("kind or form unknown", lambda domain: domain["asks"][0].update(form="rhyme")),
    ("names facts that are not there", lambda domain: domain["asks"][0].update(facts=["f99"])),
    ("a later one replaces", lambda domain: domain["asks"][0].update(facts=["f9"])),
    ('etcd?": asks for a fact that a later', lambda domain: domain["facts"][19].update(replaces="f19")),
    ("no answer stands in its facts", lambda domain: domain["asks"][0].update(answers=["twenty-two"])),
    ("stands in what is asked", lambda domain: domain["asks"][0].update(answers=["murrelet"])),
    ("without a question mark", lambda domain: domain["asks"][0].update(text="How many nodes")),
    ("ends like a sentence", lambda domain: domain["asks"][1].update(text="The nodes are ")),
    ("asked twice", lambda domain: domain["asks"].append({**domain["asks"][0], "form": "chat"})),
    ("why unknown", lambda domain: domain["silent"][0].update(why="hard")),
    ("silent, and an ask", lambda domain: domain["silent"][0].update(text=domain["asks"][0]["text"].upper())),
    ("silent twice", lambda domain: domain["silent"].append(domain["silent"][0])),
    ("mail.net: an address", lambda domain: domain["facts"][0].update(text="22, ask bo@mail.net")),
    ("hall.io: an address", lambda domain: domain["silent"][0].update(text="https://hall.io/x is")),
]


def test_the_scenarios_have_no_fault() -> None:
    wrong, counts = check.check(WILD)
    assert not wrong
    assert set(check.KINDS) == {name for group, name in counts if group == "kind"}


def test_the_readme_has_the_counts_that_the_checker_prints() -> None:
    run = subprocess.run([sys.executable, WILD / "check.py"], capture_output=True, text=True, check=True)
    readme = (WILD / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^(\w+): (.+)$", run.stdout, re.M) == re.findall(r"^    (\w+): (.+)$", readme, re.M)


@pytest.fixture(scope="module")
def first() -> str:
    return (WILD / "computing.jsonl").read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.parametrize("fault, breaks", FAULTS, ids=[fault for fault, _ in FAULTS])
def test_the_checker_finds_each_fault(
    tmp_path: Path, first: str, fault: str, breaks: Callable[[Domain], object]
) -> None:
    domain = json.loads(first)
    breaks(domain)
    (tmp_path / "broken.jsonl").write_text(json.dumps(domain), encoding="utf-8")
    wrong, _ = check.check(tmp_path)
    assert any(fault in found for found in wrong)


def test_a_copy_with_a_fault_fails_the_command(tmp_path: Path) -> None:
    shutil.copytree(WILD, tmp_path / "wild")
    with (tmp_path / "wild" / "play.jsonl").open("a", encoding="utf-8") as file:
        file.write("{not JSON}\n")
    run = subprocess.run(
        [sys.executable, WILD / "check.py", tmp_path / "wild"], capture_output=True, text=True
    )
    assert run.returncode == 1
    assert run.stdout.startswith("WRONG play.jsonl:6: no JSON")


def test_a_name_twice_and_too_little_data_are_faults(tmp_path: Path, first: str) -> None:
    (tmp_path / "dev.jsonl").write_text(f"{first}\n{first}\n", encoding="utf-8")
    wrong, counts = check.check(tmp_path)
    assert not counts
    assert [found.split(": ")[-1] for found in wrong] == [
        "a domain's name twice",
        "0 domains besides dev.jsonl, fewer than 40",
        "0 prompts besides dev.jsonl, fewer than 5000",
    ]
