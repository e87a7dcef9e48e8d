"""Other client libraries, each alone in a clean environment: the programs of the docs get answers."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.kafka.config import KafkaSettings
from workers.runtime.supervisor import running

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
CONSUMING = (ROOT / "docs" / "consuming.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
VERSIONS = {"kafka-python": "3.0.12", "confluent-kafka": "2.16.1", "aiokafka": "0.14.0"}
NO_CODECS = "import importlib.util as u; assert not any(map(u.find_spec, ('lz4', 'snappy', 'cramjam', 'zstandard')))\n"
"""A client that unpacks only what Python itself can."""


@pytest.fixture(scope="module")
def stack(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaSettings]:
    """The real workers, with a small model, and the topic replies."""
    with pytest.MonkeyPatch.context() as env:
        env.setenv("FACTSTREAM_REPLY_TOPICS", "replies")
        with running(tmp_path_factory.mktemp("clients"), str(llama), "cpu") as (settings, _):
            admin = settings.admin()
            admin.create_topics({"replies": {"num_partitions": 6, "replication_factor": -1}})
            admin.close()
            yield settings


@pytest.fixture(params=VERSIONS)
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The name of a client library, and the Python of an environment that has nothing else."""
    library, folder = request.param, tmp_path_factory.mktemp(request.param)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    done = subprocess.run([*install, f"{library}=={VERSIONS[library]}"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs a package index: {done.stderr.strip()[-200:]}")
    return library, str(folder / "bin" / "python")


def program(text: str, mark: str) -> str:
    found: list[str] = re.findall(rf"<!-- {mark} -->\n```python\n(.*?)```", text, re.DOTALL)
    return found[0]


@pytest.mark.timeout(400)
def test_a_client_alone_asks_and_gets_its_answer(stack: KafkaSettings, python: tuple[str, str]) -> None:
    library, interpreter = python
    code = program(CONSUMING, "run" if library == "kafka-python" else f"client: {library}")
    code = code.replace("127.0.0.1:9092", stack.bootstrap)
    command = [interpreter, "-c", NO_CODECS + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
    if library == "kafka-python":
        reads_as_the_readme_says(stack, interpreter)


def reads_as_the_readme_says(stack: KafkaSettings, interpreter: str) -> None:
    """The README's consumer goes on for ever: it is ended after its first line."""
    code = program(README, "consumer").replace("127.0.0.1:9092", stack.bootstrap)
    command = [interpreter, "-uc", NO_CODECS + code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        process.terminate()
        assert line, process.stderr.read()
