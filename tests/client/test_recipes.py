"""The recipes for LangChain and LlamaIndex, with the packages as they are."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.kafka.config import KafkaSettings
from workers.runtime.supervisor import running

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
VERSIONS = {"langchain": "langchain-core==1.8.3", "llamaindex": "llama-index-core==0.14.25"}
LAMP = "The Harlow desk lamp is made of walnut."
PRINTED = {
    "langchain": [
        f"user {LAMP}", f"These facts are known:\n{LAMP}", f"Human: {LAMP}\nAI: I will remember that.\nHuman: Thanks, why?\n"
        "Human: What is the Harlow desk lamp made of?",
    ],
    "llamaindex": [
        f"user {LAMP}", f"user: Thanks, why?\nuser: {LAMP}\nassistant: I will remember that.\n[", "'llamaindex-ana']",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def stack(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaSettings, Path]]:
    """The real workers, with a small model, and their data folder."""
    data = tmp_path_factory.mktemp("recipes")
    with running(data, str(llama), "cpu") as (settings, _):
        yield settings, data


@pytest.mark.timeout(900)
@pytest.mark.parametrize("library", VERSIONS)
def test_a_recipe_retrieves_and_keeps_a_conversation(
    stack: tuple[KafkaSettings, Path], library: str, tmp_path: Path
) -> None:
    """What was said is found by the retriever, and read back in order; only what the user stated is a memory."""
    settings, data = stack
    python = environment(tmp_path / library, VERSIONS[library])
    env = {
        "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "FACTSTREAM_BOOTSTRAP": settings.bootstrap,
        "FACTSTREAM_DATA": str(data), "HOME": str(tmp_path),
    }  # fmt: skip
    for _ in range(2):  # it clears its session first
        command = [python, str(ROOT / "examples" / f"{library}_memory.py")]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        for words in PRINTED[library]:
            assert words in done.stdout, done.stdout
        assert "assistant I will" not in done.stdout


def environment(folder: Path, package: str) -> str:
    """The Python of an environment with the package and what it asks for; factstream's own are found behind them."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", package]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs a package index: {done.stderr.strip()[-200:]}")
    where = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    Path(site, "factstream.pth").write_text(sysconfig.get_paths()["purelib"])
    return python
