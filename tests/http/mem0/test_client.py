"""The unmodified client of mem0, in an environment of its own: its calls, and the page's program."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.served import Served, served

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent.parent
PAGE = (ROOT / "docs" / "mem0.md").read_text(encoding="utf-8")
VERSION = "2.2.1"


@pytest.fixture(scope="module")
def stack(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(llama, tmp_path_factory.mktemp("client")) as running:
        yield running


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of an environment that has mem0ai and nothing of ours; MEM0_PYTHON names one that is there already."""
    if ready := os.environ.get("MEM0_PYTHON"):
        return ready
    folder = tmp_path_factory.mktemp("mem0ai")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run([*install, f"mem0ai=={VERSION}"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs a package index: {done.stderr.strip()[-200:]}")
    return str(folder / "bin" / "python")


def run(python: str, code: list[str], stack: Served, home: Path) -> str:
    env = {"MEM0_TELEMETRY": "false", "HOME": str(home), "PATH": os.environ["PATH"]}
    done = subprocess.run([python, *code], capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.timeout(600)
def test_every_call_of_the_client_works_or_is_refused(stack: Served, python: str, tmp_path: Path) -> None:
    program = str(Path(__file__).parent / "program.py")
    assert run(python, [program, stack.url], stack, tmp_path).endswith("done\n")


@pytest.mark.timeout(600)
def test_the_program_of_the_page_runs(stack: Served, python: str, tmp_path: Path) -> None:
    (code,) = re.findall(r"<!-- client: mem0ai -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    printed = run(python, ["-c", code.replace("http://127.0.0.1:8642", stack.url)], stack, tmp_path)
    assert (
        "ADD Ana moved to Porto" in printed
        and "is made of oak." in printed
        and "['ADD', 'UPDATE']" in printed
    )
